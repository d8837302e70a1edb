"""The parts of a decoder layer, recognised by how data flows through them while it runs, never by their names.

Linear layers that read one tensor are a group. A decoder layer that can be lean has four: the first reads q, k and v
(or all three fused), the second attention's output, the third gate and up (or both fused), the last their product. A
norm is known by the group whose input it gives or whose output it takes. What this cannot tell, such as how heads are
turned, is left to trying (`lorica.lean.recognise`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorica.kernels import ACTIVATIONS
from lorica.kernels.gated import activate
from lorica.lean.frozen import is_projection
from lorica.lean.group import Group
from lorica.lean.norm import Norm, find_norm, looks_like_norm
from lorica.lean.trace import Call, begin_together, same
from lorica.lora.layer import LoraLinear
from lorica.lora.trainable import TrainableCopy, TrainableRows


class NotLeanError(Exception):
    """Why a layer, or a model, is not one that a lean layer can stand in for."""


@dataclass(frozen=True)
class Parts:
    """The modules of a layer by what they do."""

    qkv: list[Call]
    o: Call
    gate_up: list[Call]
    down: Call
    norms: Norms
    activation: str
    up_first: bool


@dataclass(frozen=True)
class Norms:
    before_attention: Norm | None
    after_attention: Norm | None
    before_mlp: Norm | None
    after_mlp: Norm | None
    q: Norm | None
    k: Norm | None


def find_parts(layer: nn.Module, x: Tensor, calls: list[Call]) -> Parts:
    """The parts of `layer`, from the calls it made when given hidden states `x`. Raises NotLeanError."""
    check_frozen(layer)
    groups = by_shared_input([call for call in calls if is_linear(call.module)])
    if [len(group) for group in groups] not in ([3, 1, 2, 1], [1, 1, 2, 1], [3, 1, 1, 1], [1, 1, 1, 1]):
        sizes = ", ".join(str(len(group)) for group in groups) or "none"
        raise NotLeanError(f"its linear layers share inputs as {sizes}; expected 3, 1, 2, 1 (or fused)")
    qkv, [o], gate_up, [down] = groups
    norms = find_norms(x, calls, qkv, o, gate_up, down)
    activation, up_first = find_activation(calls, gate_up, down)
    parts = Parts(qkv, o, gate_up, down, norms, activation, up_first)
    check_nothing_left(layer, parts)
    return parts


def is_linear(module: nn.Module) -> bool:
    return is_projection(module.base) if isinstance(module, LoraLinear) else is_projection(module)


def check_frozen(layer: nn.Module) -> None:
    """Only low-rank pairs may be trained: nothing here has a gradient for anything else."""
    for name, module in layer.named_modules():
        if isinstance(module, TrainableCopy | TrainableRows):
            raise NotLeanError(f"its {name} is trained whole")
        own = [] if isinstance(module, LoraLinear) else module.parameters(recurse=False)
        if any(parameter.requires_grad for parameter in own):
            raise NotLeanError(f"its {name or 'own weight'} is trained")


def by_shared_input(calls: list[Call]) -> list[list[Call]]:
    groups: list[list[Call]] = []
    for call in calls:
        group = next((group for group in groups if same(group[0].input, call.input)), None)
        if group is None:
            groups.append([call])
        else:
            group.append(call)
    return groups


def find_norms(x: Tensor, calls: list[Call], qkv: list[Call], o: Call, gate_up: list[Call], down: Call) -> Norms:
    left = [call for call in calls if looks_like_norm(call.module)]

    def taken(found: Call | None) -> Norm | None:
        if found is None:
            return None
        left.remove(found)
        norm = find_norm(found.module)
        if norm is None:
            raise NotLeanError(f"its {found.name} is no RMS norm that is known")
        return norm

    def giving(value: Tensor) -> Norm | None:
        return taken(next((call for call in left if same(call.output, value)), None))

    def taking(value: Tensor) -> Norm | None:
        return taken(next((call for call in left if begin_together(call.input, value)), None))

    q, k = (qkv[0].output, qkv[1].output) if len(qkv) == 3 else (None, None)
    norms = Norms(
        before_attention=giving(qkv[0].input),
        after_attention=taking(o.output),
        before_mlp=giving(gate_up[0].input),
        after_mlp=taking(down.output),
        q=None if q is None else taking(q),
        k=None if k is None else taking(k),
    )
    if left:
        raise NotLeanError(f"its {left[0].name} norms something else than a half's input, output, q or k")
    if norms.before_attention is None and not same(qkv[0].input, x):
        raise NotLeanError("attention reads something else than the layer's input or its norm")
    return norms


def find_activation(calls: list[Call], gate_up: list[Call], down: Call) -> tuple[str, bool]:
    """Its name, and whether the first of the pair, or the first half of a fused one, is up."""
    width = down.input.shape[-1]
    first = gate_up[0].output
    second = gate_up[1].output if len(gate_up) == 2 else first[..., width:]
    for call in calls:
        for up_first, gate in ((False, first), (True, second)):
            inner = not any(True for _ in call.module.parameters()) and begin_together(call.input, gate)
            if inner and call.input.shape[-1] == width:
                return activation_name(call), up_first
    raise NotLeanError("its activation is not a module that reads one of two linear layers")


def activation_name(call: Call) -> str:
    x = torch.linspace(-6, 6, 97)
    expected: Tensor = call.module(x)
    for name in ACTIVATIONS:
        if torch.allclose(activate(x, name), expected, rtol=1e-6, atol=1e-7):
            return name
    raise NotLeanError(f"its activation {call.name} is none of {', '.join(ACTIVATIONS)}")


def check_nothing_left(layer: nn.Module, parts: Parts) -> None:
    """Every parameter of the layer belongs to a part."""
    norms = [norm.module for norm in vars(parts.norms).values() if norm is not None]
    linears = [call.module for call in (*parts.qkv, parts.o, *parts.gate_up, parts.down)]
    known = {id(parameter) for module in norms + linears for parameter in module.parameters()}
    for name, parameter in layer.named_parameters():
        if id(parameter) not in known:
            raise NotLeanError(f"its {name} belongs to no part that a lean layer has")


def group_of(calls: list[Call], widths: tuple[int, ...]) -> Group:
    """The group of `calls`; `widths` are its outputs', which one fused layer gives side by side."""
    return Group(tuple(call.module for call in calls), widths if len(calls) == 1 else ())


def constant(module: nn.Module, name: str, default: Any) -> Any:
    """A number that a module of transformers keeps under `name`."""
    value = getattr(module, name, None)
    return default if value is None else value
