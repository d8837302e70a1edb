"""What stands in a module's place while an adapter is attached."""

from typing import Any

from torch import nn


class AdapterPart(nn.Module):
    """Holds the module that it replaced (`base`), so that the adapter can be switched off, merged and taken away."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.enabled, self.merged = True, False
        self.unmerged: dict[str, nn.Parameter] = {}  # the base's own parameters while merged

    def __getattr__(self, name: str) -> Any:
        # Model code reads `weight`, `bias`, `in_features`, `embedding_dim` ... of its modules; the base answers.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":
                raise
            return getattr(super().__getattr__("base"), name)

    @property
    def in_use(self) -> bool:
        return self.enabled and not self.merged
