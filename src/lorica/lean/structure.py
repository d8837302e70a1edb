"""The parts of a decoder layer, recognised by how data flows through them while it runs, never by their names.

A layer is two halves, `y = x + m * post(f(pre(x)))`, where f is a module, or several that read one tensor. A norm is
known by the module whose input it gives or whose output it takes. Inside a half, linear layers that read one tensor are
a group: attention has two, the first of q, k and v (or all three fused), the second of attention's output; a gated MLP
has gate and up (or both fused), and what reads their product. What this cannot tell, such as how heads are turned, is
left to trying (`lorica.lean.recognise`).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Why a model, a layer or half of one is none that a lean one can stand in for."""


@dataclass(frozen=True)
class HalfParts:
    """The modules of a half, the norms before and after them, and what they call inside."""

    modules: list[Call]
    pre: Call | None
    post: Call | None
    inside: list[Call]

    @property
    def names(self) -> str:
        return " and ".join(call.name for call in self.modules)

    def stays(self, why: str) -> str:
        """What is said of a half that is not lean."""
        return f"{self.names} {'stays' if len(self.modules) == 1 else 'stay'} the model's own: {why}"


@dataclass(frozen=True)
class AttentionParts:
    """The modules of attention by what they do."""

    qkv: list[Call]
    o: Call
    pre: Norm | None
    post: Norm | None
    q_norm: Norm | None
    k_norm: Norm | None


@dataclass(frozen=True)
class MlpParts:
    """The modules of a gated MLP by what they do, and the activations that it may have, each with whether the first of
    the pair, or the first half of a fused one, is up."""

    gate_up: list[Call]
    down: Call
    pre: Norm | None
    post: Norm | None
    activations: list[tuple[str, bool]]


def find_halves(layer: nn.Module, x: Tensor, calls: list[Call]) -> list[HalfParts]:
    """The two halves of `layer`, from the calls it made when given hidden states `x`. Raises NotLeanError."""
    outer = [call for call in calls if "." not in call.name and not same(call.input, call.hidden)]
    norms = [call for call in outer if looks_like_norm(call.module)]
    groups = by_shared_input([call for call in outer if call not in norms])
    if len(groups) != 2:
        check_frozen("", layer)
        raise NotLeanError(f"its {', '.join(call.name for call in outer)} are not two halves between RMS norms")
    halves = []
    for modules in groups:
        pre = next((call for call in norms if same(call.output, modules[0].input)), None)
        post = next((call for call in norms if same(call.input, modules[0].hidden)), None)
        within = tuple(f"{call.name}." for call in modules)
        halves.append(HalfParts(modules, pre, post, [call for call in calls if call.name.startswith(within)]))
    left = [call for call in norms if not any(call in (half.pre, half.post) for half in halves)]
    if left:
        raise NotLeanError(f"its {left[0].name} norms something else than a half's input or output")
    check_nothing_left(layer, "", outer)
    if not same((halves[0].pre or halves[0].modules[0]).input, x):
        raise NotLeanError(f"its {halves[0].names} reads something else than the layer's input or its norm")
    return halves


def find_attention(half: HalfParts) -> AttentionParts:
    """Raises NotLeanError."""
    pre, post = known_norms(half)
    qkv, [o] = linear_groups(half, [[3, 1], [1, 1]])
    inner = [call for call in half.inside if looks_like_norm(call.module)]
    reading = [[norm for norm in inner if begin_together(norm.input, call.output)] for call in qkv[:2]]
    q, k = ([*found, None][0] for found in (reading if len(qkv) == 3 else [[], []]))
    check_nothing_left(half.modules[0].module, half.names, [*qkv, o, q, k])
    return AttentionParts(qkv, o, pre, post, known_norm(q), known_norm(k))


def find_mlp(half: HalfParts) -> MlpParts:
    """Raises NotLeanError."""
    pre, post = known_norms(half)
    gate_up, [down] = linear_groups(half, [[2, 1], [1, 1]])
    check_nothing_left(half.modules[0].module, half.names, [*gate_up, down])
    return MlpParts(gate_up, down, pre, post, find_activations(half.inside, gate_up, down))


def known_norms(half: HalfParts) -> tuple[Norm | None, Norm | None]:
    """Those around a half that is one module, all of it frozen."""
    if len(half.modules) > 1:
        raise NotLeanError("they are added up")
    for call in (*half.modules, half.pre, half.post):
        if call is not None:
            check_frozen(call.name, call.module)
    return known_norm(half.pre), known_norm(half.post)


def known_norm(call: Call | None) -> Norm | None:
    norm = None if call is None else find_norm(call.module)
    if call is not None and norm is None:
        raise NotLeanError(f"its {call.name} is no RMS norm that is known")
    return norm


def check_frozen(prefix: str, module: nn.Module) -> None:
    """Only low-rank pairs may be trained: nothing here has a gradient for anything else."""
    for name, part in module.named_modules(prefix=prefix):
        if isinstance(part, TrainableCopy | TrainableRows):
            raise NotLeanError(f"its {name} is trained whole")
        own = [] if isinstance(part, LoraLinear) else part.parameters(recurse=False)
        if any(parameter.requires_grad for parameter in own):
            raise NotLeanError(f"its {name or 'own weight'} is trained")


def check_nothing_left(whole: nn.Module, prefix: str, parts: Sequence[Call | None]) -> None:
    """Every parameter of a module belongs to a part."""
    known = {id(parameter) for call in parts if call is not None for parameter in call.module.parameters()}
    for name, parameter in whole.named_parameters(prefix=prefix):
        if id(parameter) not in known:
            raise NotLeanError(f"its {name} belongs to no part that is known")


def linear_groups(half: HalfParts, expected: list[list[int]]) -> list[list[Call]]:
    """The linear layers of a half by what they read."""
    groups = by_shared_input([call for call in half.inside if is_linear(call.module)])
    if [len(group) for group in groups] not in expected:
        sizes = ", ".join(str(len(group)) for group in groups) or "none"
        usual = ", ".join(map(str, expected[0]))
        raise NotLeanError(f"its linear layers share inputs as {sizes}; expected {usual} (or fused)")
    if not same(groups[0][0].input, half.modules[0].input):
        raise NotLeanError(f"its {groups[0][0].name} reads something else than {half.names} does")
    return groups


def is_linear(module: nn.Module) -> bool:
    return is_projection(module.base) if isinstance(module, LoraLinear) else is_projection(module)


def by_shared_input(calls: list[Call]) -> list[list[Call]]:
    groups: list[list[Call]] = []
    for call in calls:
        group = next((group for group in groups if same(group[0].input, call.input)), None)
        if group is None:
            groups.append([call])
        else:
            group.append(call)
    return groups


def find_activations(calls: list[Call], gate_up: list[Call], down: Call) -> list[tuple[str, bool]]:
    """That of the module which reads gate; where none does (LFM2 calls a function), every known one."""
    width = down.input.shape[-1]
    before = gate_up[0].output
    after = gate_up[1].output if len(gate_up) == 2 else before[..., width:]
    for call in calls:
        for up_first, gate in ((False, before), (True, after)):
            inner = not any(True for _ in call.module.parameters()) and begin_together(call.input, gate)
            if inner and call.input.shape[-1] == width:
                return [(activation_name(call), up_first)]
    return [(name, up_first) for up_first in (False, True) for name in ACTIVATIONS]


def activation_name(call: Call) -> str:
    x = torch.linspace(-6, 6, 97)
    expected: Tensor = call.module(x)
    for name in ACTIVATIONS:
        if torch.allclose(activate(x, name), expected, rtol=1e-6, atol=1e-7):
            return name
    raise NotLeanError(f"its activation {call.name} is none of {', '.join(ACTIVATIONS)}")


def group_of(calls: list[Call], widths: tuple[int, ...]) -> Group:
    """The group of `calls`; `widths` are its outputs', which one fused layer gives side by side."""
    return Group(tuple(call.module for call in calls), widths if len(calls) == 1 else ())


def constant(module: nn.Module, name: str, default: Any) -> Any:
    """A number that a module of transformers keeps under `name`."""
    value = getattr(module, name, None)
    return default if value is None else value
