"""`system.checkpointing` in words and as what each layer keeps."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from lorica.lean import Policy
from lorica.training.subject import Subject, recompute_layers

MLP_TOKENS = 1024
Checkpointing = str | Mapping[Any, int]


def named_policies(on_cpu: bool) -> dict[str, Policy]:
    """What a layer may come to by its name in `system.checkpointing`, the cheapest first. A CPU's layers are in host
    memory already, so there is no offloading."""
    found = {"all": Policy(), "attention": Policy("attention"), "input": Policy("input")}
    if not on_cpu:
        found["offload"] = Policy("input", offload=True)
    found["chunks"] = Policy("input", offload=not on_cpu, mlp_tokens=MLP_TOKENS)
    return found


def policies_of(checkpointing: Checkpointing, layers: int, on_cpu: bool) -> list[Policy]:
    """Every layer's policy, the first layers' the tightest. Raises ValueError for more layers than there are, and for
    what a CPU has not."""
    if isinstance(checkpointing, str):
        return [Policy("input") if checkpointing == "full" else Policy()] * layers
    known = named_policies(on_cpu)
    if "offload" in checkpointing and on_cpu:
        raise ValueError("system.checkpointing: offload moves to host memory, where a CPU computes; use input instead.")
    if sum(checkpointing.values()) > layers:
        raise ValueError(
            f"system.checkpointing counts {sum(checkpointing.values())} layers, and this model has {layers}; lower it."
        )
    tight = [known[name] for name in reversed(known) for _ in range(checkpointing.get(name, 0))]
    return tight + [Policy()] * (layers - len(tight))


def checkpointing_of(policies: Sequence[Policy], lean: bool, on_cpu: bool) -> str | dict[str, int]:
    """The setting that `policies_of` reads."""
    if all(policy == Policy() for policy in policies):
        return "none"
    if not lean or all(policy == Policy("input") for policy in policies):
        return "full"
    names = {policy: name for name, policy in named_policies(on_cpu).items()}
    counts = {names[policy]: len(list(group)) for policy, group in groupby(policies)}
    return {name: count for name, count in counts.items() if name != "all"}


def apply_checkpointing(subject: Subject, checkpointing: Checkpointing) -> None:
    """Have the layers of `subject` keep what the setting says, where they can. Raises ValueError for a mapping, which
    lean layers alone can follow, on the model's own layers."""
    body = subject.engine.body
    if body is not None:
        body.set_policies(policies_of(checkpointing, len(body.layers), subject.device.type == "cpu"))
    elif not isinstance(checkpointing, str):
        raise ValueError(
            f"system.checkpointing is {dict(checkpointing)}, which counts lean layers, and this model runs on "
            f"{subject.engine.description}. Set it to none, full or auto."
        )
    elif checkpointing == "full" and not getattr(subject.model, "is_gradient_checkpointing", True):
        recompute_layers(subject.model)
        with subject.evaluating():
            pass  # leaves the layers in the mode in which they recompute
