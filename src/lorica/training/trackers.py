"""Metrics to where a team watches them, besides the run folder. Each tracker is an optional extra, imported when
used."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from lorica.training.run_folder import RunFolder


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError if a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(
                f'system.trackers has {name}, which is not installed; install it with: pip install "lorica[track]"'
            )


class Trackers:
    """Context manager over the chosen trackers: wandb, trackio, tensorboard."""

    def __init__(self, names: Sequence[str], run: RunFolder, settings: Mapping[str, Any]) -> None:
        self.names, self.run, self.settings = names, run, dict(settings)
        self.open: list[Any] = []

    def __enter__(self) -> Self:
        self.open = [self._start(name) for name in self.names]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self.open:
            tracker.close() if hasattr(tracker, "close") else tracker.finish()

    def _start(self, name: str) -> Any:
        project, run_name = "lorica", self.run.path.name
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            return SummaryWriter(str(self.run.path / "tensorboard"))
        if name == "wandb":
            import wandb

            return wandb.init(project=project, name=run_name, config=self.settings)
        import trackio

        return trackio.init(project=project, name=run_name, config=self.settings)

    def log(self, record: Mapping[str, float | int]) -> None:
        """One line of metrics.jsonl."""
        step = int(record["step"])
        values = {name: value for name, value in record.items() if name != "step"}
        for tracker in self.open:
            if hasattr(tracker, "add_scalar"):
                for name, value in values.items():
                    tracker.add_scalar(name, value, step)
            else:
                tracker.log(values, step=step)
