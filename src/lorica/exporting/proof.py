"""The proof of an export: what was written is read back and run beside base and adapter.

All numbers compare distributions over the next token at the same positions: `kl` is KL(base and adapter || export) in
nats a token, and `kl_of_base` the same of the untouched base, which is what losing the whole fine-tune would cost.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lorica.evaluation.evaluation import evaluate
from lorica.exporting.comparing import agreement, divergence, largest_difference, logits_of
from lorica.exporting.probes import Probes, find_probes
from lorica.exporting.survival import HOLDS, Survival, overall, survival_of, surviving_types
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written
from lorica.planning.here import free_bytes
from lorica.run.prepare import metric_names, tokens_per_microbatch
from lorica.run.reopen import Opened, open_trained
from lorica.run.source import Source
from lorica.run.watch import Watcher

METRIC_ROWS = 50
SMALL = 1 << 28  # parameters that fit in fp32 anywhere
EXACT_SHARE = 0.01  # of the fine-tune's own effect: what rounding in the computation may take of an exact export


@dataclass(frozen=True)
class Proof:
    """`ok` is false where the fine-tune is mostly lost; `reasons` say why, and `survives_as` names the types that would
    hold it. `metric_change` is by metric, export less base and adapter; empty without a task metric."""

    max_logit_difference: float
    kl: float
    kl_of_base: float
    greedy_agreement: float
    delta_survival: float
    noise: float
    metric_change: dict[str, float]
    weights: list[Survival]
    tokens: int
    rows: int
    reasons: list[str] = field(default_factory=list)
    survives_as: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "weights"}
        keys = ("name", "type", "relative_delta", "survival", "noise")
        return own | {"weights": [{key: getattr(weight, key) for key in keys} for weight in self.weights]}


@dataclass(frozen=True)
class _Measured:
    """Logits (positions, vocabulary) fp32 of every probe, and the task metrics."""

    logits: list[Tensor]
    metrics: dict[str, float]


def prove(source: Source, weights: Weights, written: Written, watcher: Watcher) -> Proof:
    """Run what was written beside what was trained. The two are in memory one after the other.

    Raises ValueError if what was written cannot be opened, or holds values that are not finite.
    """
    survivals = [survival_of(weight) for weight in written.weights()]
    dtype = _precision(weights)
    base_logits, tuned, probes = _reference(source, dtype, watcher)
    opened = written.reopen(dtype)
    exported = _measure(opened, probes, watcher, "running the export")
    del opened
    survival, noise = overall(survivals)
    kl, kl_of_base = divergence(tuned.logits, exported.logits), divergence(tuned.logits, base_logits)
    reasons = _reasons(survival, kl, kl_of_base, written.exact)
    return Proof(
        max_logit_difference=largest_difference(tuned.logits, exported.logits),
        kl=kl,
        kl_of_base=kl_of_base,
        greedy_agreement=agreement(tuned.logits, exported.logits),
        delta_survival=survival,
        noise=noise,
        metric_change={name: exported.metrics[name] - value for name, value in tuned.metrics.items()},
        weights=survivals,
        tokens=sum(len(probe.positions) for probe in probes.probes),
        rows=len(probes.probes),
        reasons=reasons,
        survives_as=surviving_types(written.weights()) if reasons and not written.exact else [],
        notes=probes.notes,
    )


def _precision(weights: Weights) -> str:
    """fp32, in which only the export's own rounding shows, where a processor has the memory for it."""
    if torch.cuda.is_available():
        return "auto"
    values = sum(parameter.numel() for parameter in weights.skeleton.model.parameters())
    return "fp32" if 1.5 * 4 * values < free_bytes("cpu") or values < SMALL else "auto"


def _reasons(survival: float, kl: float, kl_of_base: float, exact: bool) -> list[str]:
    reasons = []
    if survival < HOLDS:
        reasons.append(f"rounding erased the fine-tune: {survival:.0%} of the change to the weights is left")
    if kl > kl_of_base and kl > 1e-6:
        reasons.append(
            "the export is no nearer to base and adapter than the untouched base is "
            f"(KL {kl:.3g} against {kl_of_base:.3g})"
        )
    elif exact and kl > max(EXACT_SHARE * kl_of_base, 1e-4):
        reasons.append(
            f"nothing was rounded, so the export has to compute what was trained, and does not (KL {kl:.3g})"
        )
    return reasons


def _reference(source: Source, dtype: str, watcher: Watcher) -> tuple[list[Tensor], _Measured, Probes]:
    """The base alone, and what was trained: one model of an adapter, two of a full fine-tune."""
    opened = open_trained(source, dtype)
    probes = find_probes(source, opened.base, watcher)
    tuned = _measure(opened, probes, watcher, "running what was trained")
    if opened.adapter is None:
        opened = open_trained(source, dtype, base_only=True)
    with opened.adapter.disable() if opened.adapter is not None else nullcontext():
        return logits_of(opened.base, probes.probes, partial(watcher.stage, "running the base")), tuned, probes


def _measure(opened: Opened, probes: Probes, watcher: Watcher, stage: str) -> _Measured:
    metrics: dict[str, float] = {}
    if probes.evaluate is not None and metric_names(probes.evaluate) and len(probes.rows) > 0:
        found = evaluate(
            opened.base.model,
            opened.base.tokenizer,
            probes.rows[:METRIC_ROWS],
            capacity=tokens_per_microbatch(opened.base)[0],
            device=opened.base.device,
            metrics=metric_names(probes.evaluate),
            max_new_tokens=probes.evaluate.max_new_tokens,
            generate_rows=METRIC_ROWS,
            forgetting=None,
            stop_ids=sorted(opened.base.stop_ids),
            progress=watcher.stage,
        )
        metrics = {result.name: result.score for result in found.metrics}
    return _Measured(logits_of(opened.base, probes.probes, partial(watcher.stage, stage)), metrics)
