"""A step whose loss or gradient is not a number ends the run before it harms the weights, and names the rows."""

import torch
from torch import Tensor

from lorica.data.batches import microbatches
from lorica.data.examples import Example
from lorica.training.loss import token_losses
from lorica.training.subject import Subject


class NonFiniteError(ValueError):
    """The loss or the gradient of a step is NaN or infinite. Nothing was changed by that step."""


def check_step(subject: Subject, examples: list[Example], step: int, loss: float, norm: float) -> None:
    """Raises NonFiniteError naming the rows among `examples`, the step's, that alone give a loss or gradient that is
    none."""
    if torch.isfinite(torch.tensor([loss, norm])).all():
        return
    what = "gradient" if torch.isfinite(torch.tensor(loss)) else "loss"
    rows = [example.source for example in examples if not _is_finite(subject, example)]
    which = f"The rows that cause it: {', '.join(rows)}." if rows else "No row alone causes it; together they overflow."
    raise NonFiniteError(
        f"the {what} of step {step + 1} is not finite (loss {loss}, gradient norm {norm}). {which} The step was "
        "not applied, and "
        "the last checkpoint is intact. Look at those rows, lower train.lr, or use model.dtype=fp32; then resume "
        "or start again."
    )


def _is_finite(subject: Subject, example: Example) -> bool:
    [batch] = microbatches([example], len(example.input_ids))
    batch = batch.to(subject.device)
    losses, _ = token_losses(subject.model, batch)
    gradients = torch.autograd.grad(
        (losses * batch.weights).sum(), list(subject.parameters.values()), allow_unused=True
    )
    tensors: list[Tensor] = [losses, *(gradient for gradient in gradients if gradient is not None)]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
