"""Lorica: fine-tune language models with low-rank adapters.

The public Python API. Names are imported when they are first used, so that `import lorica` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorica.exporting import ExportResult, export
    from lorica.lora import Adapter, attach, load_adapter
    from lorica.models import Base, load
    from lorica.run import RunResult, evaluate, train
    from lorica.run.plan import plan

__all__ = [
    "Adapter",
    "Base",
    "ExportResult",
    "RunResult",
    "attach",
    "evaluate",
    "export",
    "load",
    "load_adapter",
    "plan",
    "train",
]

_ROOMS = {
    "Adapter": "lorica.lora",
    "Base": "lorica.models",
    "ExportResult": "lorica.exporting",
    "RunResult": "lorica.run",
    "attach": "lorica.lora",
    "evaluate": "lorica.run",
    "export": "lorica.exporting",
    "load": "lorica.models",
    "load_adapter": "lorica.lora",
    "plan": "lorica.run.plan",
    "train": "lorica.run",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'lorica' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
