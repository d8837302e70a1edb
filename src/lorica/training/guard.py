"""A step whose loss or gradient is not a number ends the run before it harms the weights, and names the rows."""

import torch
from torch import Tensor

from lorica.data.batches import microbatches
from lorica.data.examples import Example
from lorica.data.findings import listing
from lorica.training.feed import Step
from lorica.training.subject import Subject


class NonFiniteError(ValueError):
    """The loss or the gradient of a step is NaN or infinite. Nothing was changed by that step."""

    def __init__(self, step: int, loss: float, norm: float, culprits: list[str], rows: int) -> None:
        if len(culprits) == rows:
            which = "Every row of the step gives one by itself: the weights have run away, or the base cannot be used."
        elif culprits:
            which = f"The rows that cause it: {listing(culprits)}."
        else:
            which = "No row causes it alone; together they overflow."
        super().__init__(
            f"step {step} gave a loss or gradient that is not finite (loss {loss}, gradient norm {norm}). {which} "
            "The step was not applied, and the checkpoints are intact. Look at the rows, lower train.lr or set "
            "model.dtype=fp32, and start a new run."
        )


def rows_not_finite(subject: Subject, step: Step, seed: int) -> list[str]:
    """Sources of the step's rows that alone give a loss or gradient that is not finite."""
    return [
        example.source
        for row, example in zip(step.rows, step.examples, strict=True)
        if not _is_finite(subject, example, row, seed, step.number)
    ]


def _is_finite(subject: Subject, example: Example, row: int, seed: int, step: int) -> bool:
    [batch] = microbatches([example], len(example.input_ids))
    batch = batch.to(subject.device)
    subject.prepare(batch, [row], seed, step)
    loss = subject.engine.loss(batch, batch.weights)
    gradients = torch.autograd.grad(loss, list(subject.parameters.values()), allow_unused=True)
    tensors: list[Tensor] = [loss, *(gradient for gradient in gradients if gradient is not None)]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
