"""Who watches a run: what it says and how far it is. The default watches in silence; the command line draws bars."""


class Watcher:
    """All methods may be overridden; none has to be."""

    def notice(self, text: str) -> None:
        """A line that the user should see."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A part of the run other than training: `done` of `total` pieces are finished; a total of 0 is not known."""

    def record(self, record: dict[str, float | int], total_steps: int) -> None:
        """One line of metrics.jsonl: a training step (with `loss`), or an evaluation (with `held_out_loss`)."""
