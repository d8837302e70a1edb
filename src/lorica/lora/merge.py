"""Add an adapter into the base's weights, and take it out again bit for bit.

The sum is formed in fp32 and rounded once to the base's dtype. Each merged module gets a new weight, and keeps the old
one until `unmerge` puts it back: subtracting a rounded delta would not restore it. A new weight also unties a tied
pair.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorica.lora.adapter import Adapter
from lorica.lora.layer import LoraLayer
from lorica.lora.trainable import TrainableCopy, TrainableRows
from lorica.lora.weights import dense_weight, is_packed, is_transposed


@dataclass(frozen=True)
class MergedModule:
    """One module's merge. `relative_delta` is ||delta|| / ||W||; `survival` is the share of the intended change that
    the rounded weight still holds, <stored - W, delta> / ||delta||^2: 1 in fp32, near 0 when rounding erased the
    adapter."""

    name: str
    relative_delta: float
    survival: float


@dataclass(frozen=True)
class MergeReport:
    modules: list[MergedModule]

    @property
    def relative_delta(self) -> float:
        """Largest over the modules."""
        return max((module.relative_delta for module in self.modules), default=0.0)

    @property
    def survival(self) -> float:
        """Smallest over the modules."""
        return min((module.survival for module in self.modules), default=1.0)


def merge(adapter: Adapter, lane: int = 0) -> MergeReport:
    """Merge one lane into the base. The model's forward pass is then the base's own, with the changed weights.

    Raises ValueError if already merged, if the lane does not exist, if the base is packed, or if a merged weight is not
    finite.
    """
    if any(part.merged for _, part in adapter.parts()):
        raise ValueError("this adapter is merged already; unmerge it first.")
    packed = next((name for name, part in adapter.parts() if is_packed(part.base)), None)
    if packed is not None:
        raise ValueError(
            f"{packed} is packed, and rounding the merged weight to the same few levels would erase most of the "
            "adapter. Serve the base with the adapter beside it, or export (lorica export), which merges into other "
            "weights than these."
        )
    adapter.check_lane(lane)
    report = MergeReport([])
    for name, part in adapter.parts():
        if isinstance(part, LoraLayer):
            merged = merged_weight(part, lane)
            report.modules.append(_compare(name, part, merged))
            _swap(part, merged)
        elif isinstance(part, TrainableCopy):
            _swap_copy(part)
        else:
            _swap_rows(part)
        if not all(torch.isfinite(value).all() for value in part.base.parameters()):
            _restore(adapter)
            raise ValueError(f"merging gives NaN or infinite weights in {name}; the base was left as it was.")
    return report


def unmerge(adapter: Adapter) -> None:
    """Undo `merge`. Raises ValueError if the adapter is not merged."""
    if not any(part.merged for _, part in adapter.parts()):
        raise ValueError("this adapter is not merged.")
    _restore(adapter)


def _restore(adapter: Adapter) -> None:
    for _, part in adapter.parts():
        for name, original in part.unmerged.items():
            parent, _, leaf = name.rpartition(".")
            setattr(part.base.get_submodule(parent), leaf, original)
        part.unmerged, part.merged = {}, False


def merged_weight(layer: LoraLayer, lane: int = 0) -> Tensor:
    """The weight that serves alone what base and adapter serve together: (out, in), fp32."""
    with torch.no_grad():
        weight = dense_weight(layer.base).float() + layer.delta(lane)
        if layer.magnitude is not None:
            # The norm of the sum itself: weight_norm() is the same number by the identity, up to rounding.
            weight *= (layer.magnitude[lane].float() / weight.norm(dim=1))[:, None]
        return weight


def _compare(name: str, layer: LoraLayer, merged: Tensor) -> MergedModule:
    base = dense_weight(layer.base)
    delta = merged - base.float()
    stored = merged.to(base.dtype).float() - base.float()
    squared = float(delta.square().sum())
    survival = float((stored * delta).sum()) / squared if squared > 0 else 1.0
    return MergedModule(name, float(delta.norm() / base.float().norm().clamp_min(1e-30)), survival)


def _swap(part: LoraLayer | TrainableRows, merged: Tensor) -> None:
    """Give the part's base the weight `merged` (out, in), remembering its own."""
    original = part.base.get_parameter("weight")
    stored = (merged.t() if is_transposed(part.base) else merged).to(original.dtype).contiguous()
    part.unmerged = {"weight": original}
    part.base.weight = nn.Parameter(stored, requires_grad=False)
    part.merged = True


def _swap_copy(part: TrainableCopy) -> None:
    trained = dict(part.trained.named_parameters())
    part.unmerged = dict(part.base.named_parameters())
    for name, original in part.unmerged.items():
        parent, _, leaf = name.rpartition(".")
        value = nn.Parameter(trained[name].detach().to(original.dtype), requires_grad=False)
        setattr(part.base.get_submodule(parent), leaf, value)
    part.merged = True


def _swap_rows(part: TrainableRows) -> None:
    weight = (
        part.base.get_parameter("weight").detach().clone()
    )  # (vocabulary, dim), of an embedding and of a tied head alike
    weight[part.tokens] = part.rows.detach().to(weight.dtype)
    _swap(part, weight.t() if is_transposed(part.base) else weight)
