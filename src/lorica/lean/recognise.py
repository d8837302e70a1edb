"""From a model's decoder layer to the lean layer that computes the same, settled by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lorica.lean.attention import Attention, Rotary
from lorica.lean.half import lean_half
from lorica.lean.layer import LeanLayer
from lorica.lean.mlp import Mlp
from lorica.lean.own import HalfLeanLayer, OwnHalf, OwnModule
from lorica.lean.pack import Pack
from lorica.lean.residual import Residual
from lorica.lean.structure import (
    AttentionParts,
    HalfParts,
    MlpParts,
    NotLeanError,
    constant,
    find_attention,
    find_halves,
    find_mlp,
    group_of,
)
from lorica.lean.trace import Call, first, parts_of, recorded

# Relative differences of results computed in another order; a wrong mask, scale or norm differs by far more.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}


@dataclass(frozen=True)
class Trial:
    """A layer of the model, and what the model calls it with for the documents of `pack`. `window` gives that of its
    attention, or raises NotLeanError for attention of another kind; `own` makes what calls a part of it again."""

    layer: nn.Module
    x: Tensor  # (lanes, tokens, hidden)
    kwargs: dict[str, Any]
    pack: Pack
    table: int | None
    window: Callable[[], int | None]
    own: Callable[[Call], OwnModule]

    def original(self, x: Tensor) -> Tensor:
        """Of rows (rows, hidden), as everywhere here."""
        return first(self.layer(x.view(self.x.shape), **self.kwargs)).flatten(0, 1)

    @property
    def multiplier(self) -> float:
        return float(constant(self.layer, "residual_multiplier", 1.0))


def lean_layer(trial: Trial, verify: bool = True) -> LeanLayer | HalfLeanLayer:
    """The leanest layer that gives the original's own output and gradients; without `verify`, the likeliest. Raises
    NotLeanError."""
    with torch.no_grad(), recorded(parts_of(trial.layer)) as calls:
        trial.original(trial.x.flatten(0, 1))
    reasons: list[str] = []
    for candidate in candidates(trial, find_halves(trial.layer, trial.x, calls), reasons):
        if not verify:
            return candidate
        try:
            check(trial, candidate)
        except NotLeanError as error:
            reasons.append(str(error))
        else:
            return candidate
    raise NotLeanError(reasons[0])


def candidates(trial: Trial, halves: list[HalfParts], reasons: Sequence[str]) -> Iterator[LeanLayer | HalfLeanLayer]:
    """Every layer that these halves can make, both lean before one alone, and each time the likeliest first; `reasons`
    tell why those before were refused. Raises NotLeanError for halves neither of which can be."""
    attentions, why_attention = found(lambda: attention_candidates(trial, find_attention(halves[0])))
    mlps, why_mlp = found(lambda: mlp_candidates(trial, find_mlp(halves[1])))
    if not attentions and not mlps:
        raise NotLeanError(f"{why_attention}; {why_mlp}")
    yield from (LeanLayer(attention, mlp) for attention in attentions for mlp in mlps)
    own = own_half(trial, halves[0]), own_half(trial, halves[1])
    for mlp in mlps:
        yield HalfLeanLayer(trial.layer, own, mlp, 1, halves[0].stays(why_attention or reasons[0]))
    for attention in attentions:
        yield HalfLeanLayer(trial.layer, own, attention, 0, halves[1].stays(why_mlp or reasons[0]))


T = TypeVar("T")


def found(make: Callable[[], Iterable[T]]) -> tuple[list[T], str]:
    """Candidates for a half, or none and why."""
    try:
        return list(make()), ""
    except NotLeanError as error:
        return [], str(error)


def attention_candidates(trial: Trial, parts: AttentionParts) -> Iterator[Attention]:
    owner = trial.layer.get_submodule(parts.qkv[0].name.rpartition(".")[0])
    head_dim = constant(owner, "head_dim", None)
    if head_dim is None:
        raise NotLeanError("its attention names no head_dim")
    query, key = head_features(parts, head_dim)
    window = trial.window()
    for rotary in rotaries(trial, owner):
        yield Attention(
            qkv=group_of(parts.qkv, (query, key, key)),
            o=group_of([parts.o], ()),
            residual=Residual(parts.pre, parts.post, trial.multiplier),
            q_norm=parts.q_norm,
            k_norm=parts.k_norm,
            head_dim=head_dim,
            scale=float(constant(owner, "scaling", head_dim**-0.5)),
            rotary=rotary,
            window=window,
            softcap=float(constant(owner, "attn_logit_softcapping", 0.0)),
        )


def mlp_candidates(trial: Trial, parts: MlpParts) -> Iterator[Mlp]:
    width = parts.down.input.shape[-1]
    residual = Residual(parts.pre, parts.post, trial.multiplier)
    gate_up, down = group_of(parts.gate_up, (width, width)), group_of([parts.down], ())
    for activation, up_first in parts.activations:
        yield Mlp(gate_up, down, residual, activation, up_first)


def own_half(trial: Trial, half: HalfParts) -> OwnHalf:
    pre, post = (None if call is None else call.module for call in (half.pre, half.post))
    return OwnHalf([trial.own(call) for call in half.modules], pre, post, trial.multiplier)


def head_features(parts: AttentionParts, head_dim: int) -> tuple[int, int]:
    """The features of all query heads, and of all key heads. Raises NotLeanError where values have other sizes."""
    query, outputs = parts.o.input.shape[-1], [call.output.shape[-1] for call in parts.qkv]
    key = (outputs[0] - query) // 2 if len(outputs) == 1 else outputs[1]
    fits = outputs in ([query + 2 * key], [query, key, key])
    if not fits or key < head_dim or key % head_dim or query % key:
        sizes = ", ".join(map(str, outputs))
        raise NotLeanError(f"attention projects to {sizes} and reads {query}, no heads of {head_dim} features alike")
    return query, key


def rotaries(trial: Trial, attention: nn.Module) -> list[Rotary | None]:
    """How heads may be turned: in halves (Llama), interleaved (GLM, Cohere), or not at all (layers of SmolLM3)."""
    if trial.table is None:
        return [None]
    interleaved = [Rotary(trial.table, interleaved=True, doubled=doubled) for doubled in (False, True)]
    kinds: list[Rotary | None] = [Rotary(trial.table), None, *interleaved]
    return kinds if constant(attention, "use_rope", True) else [None, *kinds]


def check(trial: Trial, layer: LeanLayer | HalfLeanLayer) -> None:
    """Raises NotLeanError if an output or a gradient differs from the model's own. A half that is lean is held against
    the model's own half: what follows may magnify rounding, as where it sends a token to another expert."""
    x, pack = trial.x.flatten(0, 1), trial.pack
    if isinstance(layer, LeanLayer):
        compare(trial, lambda x: layer(x, pack), trial.original, x)
        return
    before, after = layer.own
    compare(trial, lambda x: after(before(x, pack), pack), trial.original, x)
    with torch.no_grad():
        x = x if layer.place == 0 else before(x, pack)
    compare(trial, lambda x: lean_half(layer.lean, x, pack), lambda x: layer.own[layer.place](x, pack), x)


def compare(trial: Trial, lean: Callable[[Tensor], Tensor], own: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Of rows `x`. Raises NotLeanError."""
    with torch.no_grad():
        error = difference(lean(x), own(x))
    if not error < TOLERANCE[x.dtype]:
        raise NotLeanError(f"its output differs by {error:.1e} from the model's own")
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    parameters = [parameter for parameter in trial.layer.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        found, expected = (
            torch.autograd.grad(compute(x), [x, *parameters], dy, allow_unused=True) for compute in (lean, own)
        )
    for f, e in zip(found, expected, strict=True):
        error = 0.0 if f is None and e is None else float("inf") if f is None or e is None else difference(f, e)
        if not error < TOLERANCE[x.dtype]:
            raise NotLeanError(f"a gradient of it differs by {error:.1e} from autograd's")


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))
