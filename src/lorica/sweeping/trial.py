"""What a trial of a sweep leaves in its folder, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lorica.config import Resolved
from lorica.evaluation.scores import Scores
from lorica.files import read_json, write_atomically, write_json
from lorica.sweeping.grid import Trial
from lorica.training.checkpoint import Progress, load_newest, save_checkpoint
from lorica.training.lanes import LaneRun
from lorica.training.run_folder import RunFolder, metrics_line

SCORES = "scores.json"


@dataclass
class TrialState:
    """A trial on its way. `scores` are of its held-out rows, by the step they were measured at; `failed` says why it
    was stopped where its loss or gradient was no number."""

    trial: Trial
    resolved: Resolved
    folder: Path
    scores: dict[int, Scores] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    failed: str | None = None

    @property
    def name(self) -> str:
        return self.trial.name

    @property
    def run(self) -> RunFolder:
        """Its folder, laid out as that of a run."""
        return RunFolder(self.folder)

    def loss(self, step: int) -> float | None:
        """Held-out loss (nats a token) at this step, None where it was not measured or the trial failed."""
        return self.scores[step].loss if self.failed is None and step in self.scores else None

    @property
    def last_loss(self) -> float | None:
        """The held-out loss that was measured last."""
        return self.scores[max(self.scores)].loss if self.scores else None

    def save(self, run: LaneRun, tensors: dict[str, Tensor]) -> None:
        """Its metrics and a checkpoint that a run of its own could be resumed from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.run.metrics, "".join(map(metrics_line, run.records)).encode())
        save_checkpoint(self.run.checkpoints, run.progress, tensors, keep=1)
        self.progress, self.failed = run.progress, run.failed
        self._save_scores()

    def save_scores(self, step: int, scores: Scores) -> None:
        self.scores[step] = scores
        self._save_scores()

    def _save_scores(self) -> None:
        values = {str(step): found.to_dict() for step, found in self.scores.items()}
        write_json(self.folder / SCORES, {"scores": values, "failed": self.failed})

    def load(self) -> None:
        """Take up what an earlier process left of it."""
        if (self.folder / SCORES).is_file():
            held = read_json(self.folder / SCORES)
            self.scores = {int(step): Scores.from_dict(values) for step, values in held["scores"].items()}
            self.failed = held["failed"]
        found = self.checkpoint()
        if found is not None:
            self.progress = found[0]

    def checkpoint(self) -> tuple[Progress, dict[str, Tensor]] | None:
        """The newest whole one; None where the trial has not begun."""
        return load_newest(self.run.checkpoints, lambda text: None)

    def records(self, step: int) -> list[dict[str, Any]]:
        """Its metrics up to a step."""
        return [record for record in self.run.read_metrics() if record["step"] <= step]
