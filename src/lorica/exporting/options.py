"""What an export is asked to be."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorica.exporting.imatrix import read_imatrix


@dataclass(frozen=True)
class Options:
    """The target, and what some targets can be told. `type` is as the target writes it."""

    to: str
    type: str | None = None
    profile: str | None = None
    imatrix: str | Path | None = None

    @property
    def folder(self) -> str:
        """What the export's folder is called, if it is not said."""
        parts = (self.to, self.profile, None if self.type is None else self.type.lower())
        return "-".join(part for part in parts if part)

    def importances(self) -> dict[str, Tensor]:
        """Of the imatrix, empty without one. Raises ValueError as `read_imatrix`."""
        return {} if self.imatrix is None else read_imatrix(self.imatrix)
