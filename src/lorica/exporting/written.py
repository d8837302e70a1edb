"""What an exporter hands to the proof."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lorica.run.reopen import Opened


@dataclass(frozen=True)
class WrittenWeight:
    """One weight that the fine-tune changes, fp32 and all of one shape: the base's, what base and adapter come to, and
    both as they are served in the written `type`."""

    name: str
    type: str
    base: Tensor
    tuned: Tensor
    served_base: Tensor
    exported: Tensor


@dataclass(frozen=True)
class Written:
    """`files` are in the folder; `notes` what the user should know. `weights` reads back what was written, `reopen`
    opens it to be run in a precision (fp32, bf16, auto). `exact`: nothing was rounded, so that the export has to
    compute what was trained."""

    files: list[Path]
    weights: Callable[[], Iterator[WrittenWeight]]
    reopen: Callable[[str], Opened]
    exact: bool
    notes: list[str] = field(default_factory=list)
