"""From a model's decoder layer to the lean layer that computes the same, settled by trying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorica.lean.attention import Attention, Rotary
from lorica.lean.layer import LeanLayer
from lorica.lean.mlp import Mlp
from lorica.lean.pack import Pack
from lorica.lean.policy import LayerShape
from lorica.lean.residual import Residual
from lorica.lean.structure import NotLeanError, Parts, constant, find_parts, group_of
from lorica.lean.trace import parts_of, recorded

# Relative differences of results computed in another order; a wrong mask, scale or norm differs by far more.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}


@dataclass(frozen=True)
class Trial:
    """A layer of the model, and what the model calls it with for the documents of `pack`."""

    layer: nn.Module
    x: Tensor  # (lanes, tokens, hidden)
    kwargs: dict[str, Any]
    pack: Pack
    table: int | None
    window: int | None

    def original(self, x: Tensor) -> Tensor:
        y = self.layer(x, **self.kwargs)
        found: Tensor = y[0] if isinstance(y, tuple) else y
        return found


def lean_layer(trial: Trial, verify: bool = True) -> LeanLayer:
    """The lean layer that gives the original's own output and gradients; without `verify`, the likeliest. Raises
    NotLeanError."""
    with torch.no_grad(), recorded(parts_of(trial.layer)) as calls:
        trial.original(trial.x)
    parts = find_parts(trial.layer, trial.x, calls)
    errors = []
    for candidate in candidates(trial, parts):
        if not verify:
            return candidate
        with torch.no_grad():
            expected = trial.original(trial.x).flatten(0, 1)
            errors.append(difference(candidate.forward(trial.x.flatten(0, 1), trial.pack), expected))
        if errors[-1] < TOLERANCE[trial.x.dtype]:
            check_gradients(trial, candidate)
            return candidate
    raise NotLeanError(f"its output differs by {min(errors):.1e} from every known kind of layer's")


def candidates(trial: Trial, parts: Parts) -> Iterator[LeanLayer]:
    """Every lean layer that these parts can make, the likeliest first."""
    hidden, width = trial.x.shape[-1], parts.down.input.shape[-1]
    owner = trial.layer.get_submodule(parts.qkv[0].name.rpartition(".")[0])
    head_dim = constant(owner, "head_dim", None)
    if head_dim is None:
        raise NotLeanError("its attention names no head_dim")
    query, key = head_features(parts, head_dim)
    multiplier = float(constant(trial.layer, "residual_multiplier", 1.0))
    softcap = float(constant(owner, "attn_logit_softcapping", 0.0))
    norms = parts.norms
    mlp = Mlp(
        group_of(parts.gate_up, (width, width)),
        group_of([parts.down], ()),
        Residual(norms.before_mlp, norms.after_mlp, multiplier),
        parts.activation,
        parts.up_first,
    )
    posts = sum(norm is not None for norm in (norms.after_attention, norms.after_mlp))
    shape = LayerShape(hidden, query, key, width, query // head_dim, posts)
    for rotary in rotaries(trial, owner):
        attention = Attention(
            qkv=group_of(parts.qkv, (query, key, key)),
            o=group_of([parts.o], ()),
            residual=Residual(norms.before_attention, norms.after_attention, multiplier),
            q_norm=norms.q,
            k_norm=norms.k,
            head_dim=head_dim,
            scale=float(constant(owner, "scaling", head_dim**-0.5)),
            rotary=rotary,
            window=trial.window,
            softcap=softcap,
        )
        yield LeanLayer(attention, mlp, shape)


def head_features(parts: Parts, head_dim: int) -> tuple[int, int]:
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


def check_gradients(trial: Trial, lean: LeanLayer) -> None:
    """Raises NotLeanError if any gradient differs from autograd's through the original layer."""
    generator = torch.Generator().manual_seed(0)
    dy = torch.randn(trial.x.shape, generator=generator).to(trial.x)
    parameters = [parameter for parameter in trial.layer.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        x = trial.x.detach().requires_grad_()
        expected = torch.autograd.grad(trial.original(x), [x, *parameters], dy, allow_unused=True)
        found = torch.autograd.grad(
            lean(x.flatten(0, 1), trial.pack), [x, *parameters], dy.flatten(0, 1), allow_unused=True
        )
    for f, e in zip(found, expected, strict=True):
        error = 0.0 if f is None and e is None else float("inf") if f is None or e is None else difference(f, e)
        if not error < TOLERANCE[trial.x.dtype]:
            raise NotLeanError(f"a gradient of it differs by {error:.1e} from autograd's")


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))
