"""A base alone, packed into a GGUF file with llama.cpp's mixtures."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lorica.exporting.comparing import agreement, divergence, logits_of, loss
from lorica.exporting.gguf_form import Errors, form_of
from lorica.exporting.gguf_model import Plan, plan_converted, plan_onto_file
from lorica.exporting.gguf_tensors import DENSE, check_importances
from lorica.exporting.imatrix import read_imatrix
from lorica.exporting.probes import text_probes
from lorica.exporting.weights import Nf4Tensor, Weights, base_weights
from lorica.gguf.types import named
from lorica.models import load
from lorica.models.facts import read_facts
from lorica.models.locate import gguf_file, model_folder
from lorica.quant.mixtures import mixture
from lorica.run.watch import Watcher


@dataclass(frozen=True)
class Packed:
    """What one type holds. `relative_error` is ||packed - weights|| / ||weights||, None where nothing was packed."""

    tensors: int
    bytes: int
    relative_error: float | None


@dataclass(frozen=True)
class Measured:
    """Both models on the general text: loss in nats a token, and how far the packed one is from the other."""

    loss_before: float
    loss_after: float
    kl: float
    greedy_agreement: float
    tokens: int


@dataclass(frozen=True)
class QuantiseResult:
    path: str
    mixture: str
    bytes: int
    bits_per_weight: float
    types: dict[str, Packed]
    measured: Measured | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def quantise(
    model: str | Path,
    type: str,
    out: str | Path,
    *,
    imatrix: str | Path | None = None,
    measure: bool = False,
    overwrite: bool = False,
    requantise: bool = False,
    watcher: Watcher | None = None,
) -> QuantiseResult:
    """Pack a transformers directory, hub id or GGUF file into the GGUF file `out`, as a Q4_K_M and the like.

    Raises ValueError for an unknown type, a model without a GGUF form, one that is packed already (unless
    `requantise`), something at `out` (unless `overwrite`), importances of another model, and a full disk.
    """
    watcher, kind, out = watcher or Watcher(), mixture(type), Path(out)
    if out.exists() and not (overwrite and out.is_file()):
        raise ValueError(f"{out} exists already; give another --out, or --overwrite to replace the file.")
    name = str(model)
    base = gguf_file(name) or model_folder(name)
    weights = base_weights(base, name, partial(watcher.stage, "reading the base"))
    importances = read_imatrix(imatrix) if imatrix is not None else {}
    plan = _plan(weights, kind, base, requantise, bool(importances))
    check_importances(plan.tensors, importances)
    errors = Errors()
    out.parent.mkdir(parents=True, exist_ok=True)
    plan.write(out, importances, partial(watcher.stage, "packing tensors"), errors)
    measured = _measure(base, out, watcher) if measure else None
    values = sum(tensor.numel for tensor in plan.tensors)
    bits = 8 * plan.bytes / values
    return QuantiseResult(str(out), kind, out.stat().st_size, bits, _by_type(plan, errors), measured, plan.notes)


def _plan(weights: Weights, kind: str, base: Path, requantise: bool, imatrix: bool) -> Plan:
    form = form_of(weights.skeleton.model.config, weights.file)
    types = sorted(_packed_types(weights))
    if types and not requantise:
        raise ValueError(
            f"{base} is packed already ({', '.join(types)}), and packing it again adds to its error. Give the F16, "
            "BF16 or F32 file, or the dense model's directory; or --requantize to do it all the same."
        )
    if weights.file is None:
        return plan_converted(weights, form, kind, base.resolve().name, read_facts(str(base)), imatrix)
    return plan_onto_file(weights, form, kind, imatrix, again=True)


def _packed_types(weights: Weights) -> set[str]:
    if weights.file is None:
        return {"NF4" for stored in weights.stored.values() if isinstance(stored, Nf4Tensor)}
    return {info.type.name for info in weights.file.tensors.values()} - {*DENSE.values()}


def _by_type(plan: Plan, errors: Errors) -> dict[str, Packed]:
    relative, found = errors.relative(), {}
    for kind in sorted(set(plan.types.values())):
        tensors = [tensor for tensor in plan.tensors if plan.types[tensor.name] == kind]
        size = sum(named(kind).size(tensor.shape[::-1], tensor.name) for tensor in tensors)
        found[kind] = Packed(len(tensors), size, relative.get(kind))
    return found


def _measure(base: Path, out: Path, watcher: Watcher) -> Measured:
    """The two are in memory one after the other."""
    before = load(base, dtype="fp32")
    probes = text_probes(before)
    wanted = logits_of(before, probes, partial(watcher.stage, "running the base"))
    del before
    after = load(out, dtype="fp32")
    found = logits_of(after, probes, partial(watcher.stage, "running the packed model"))
    tokens = sum(len(probe.positions) for probe in probes)
    losses = loss(probes, wanted), loss(probes, found)
    return Measured(*losses, divergence(wanted, found), agreement(wanted, found), tokens)
