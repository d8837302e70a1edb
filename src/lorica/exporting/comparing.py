"""Two models on the same tokens: logits, and how far they are apart."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lorica.evaluation.scores import evaluating
from lorica.exporting.probes import Probe
from lorica.models import Base


def logits_of(base: Base, probes: Sequence[Probe], tell: Callable[[int, int], None] | None = None) -> list[Tensor]:
    """The model as it stands: (positions, vocabulary) fp32 of every probe, on the CPU."""
    found = []
    with evaluating(base.model), torch.inference_mode():
        for done, probe in enumerate(probes, 1):
            ids = torch.tensor([probe.ids], device=base.device)
            logits = base.model(input_ids=ids, use_cache=False).logits[0]
            found.append(logits[probe.positions].float().cpu())
            if tell is not None:
                tell(done, len(probes))
    return found


def divergence(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Mean KL(wanted || found) in nats a position."""
    total, count = 0.0, 0
    for a, b in zip(wanted, found, strict=True):
        p, q = a.double().log_softmax(1), b.double().log_softmax(1)
        total += float((p.exp() * (p - q)).sum())
        count += a.shape[0]
    return max(0.0, total / max(count, 1))


def agreement(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Share of positions where both rank the same token first."""
    same = [a.argmax(1) == b.argmax(1) for a, b in zip(wanted, found, strict=True)]
    return float(torch.cat(same).float().mean())


def largest_difference(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))


def loss(probes: Sequence[Probe], logits: Sequence[Tensor]) -> float:
    """Mean negative log-likelihood of the tokens that follow, nats."""
    total, count = 0.0, 0
    for probe, rows in zip(probes, logits, strict=True):
        places = [place for place in probe.positions if place + 1 < len(probe.ids)]
        followed = torch.tensor([probe.ids[place + 1] for place in places])
        likely = rows[: len(places)].double().log_softmax(1)
        total -= float(likely.gather(1, followed[:, None]).sum())
        count += len(places)
    return total / max(count, 1)
