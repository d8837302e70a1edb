"""The loss of supervised tokens, and nothing else: positions that nobody trains never reach the vocabulary
projection."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.data.batches import Batch, microbatches
from lorica.data.examples import Example
from lorica.lora.weights import vocabulary_of


def token_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood (nats, fp32) and argmax hit (bool) of each supervised token of one packed row.

    Both are (supervised,), in the order of `batch.predict_at`. Documents of the row do not see each other: transformers
    builds a block-diagonal mask from position ids that restart.
    """
    logits = supervised_logits(model, batch).float()  # (supervised, vocabulary)
    return F.cross_entropy(logits, batch.labels, reduction="none"), logits.detach().argmax(-1) == batch.labels


def supervised_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (supervised, vocabulary) in the model's dtype, projected only where they are needed if the model can."""
    wanted: dict[str, Any] = {
        "position_ids": batch.position_ids,
        # One list of positions for all rows, so for a row alone.
        **({"logits_to_keep": batch.predict_at} if len(batch.input_ids) == 1 else {}),
        "use_cache": False,
    }
    arguments = {name: value for name, value in wanted.items() if accepts(model, name)}
    logits: Tensor = model(input_ids=batch.input_ids, **arguments).logits.flatten(0, 1)
    # The first token of a row is never supervised, so there are always fewer supervised positions than tokens.
    return logits if logits.shape[0] == len(batch.predict_at) else logits[batch.predict_at]


def accepts(model: nn.Module, argument: str) -> bool:
    """Whether the model takes `argument` in its forward pass."""
    parameters = inspect.signature(model.forward).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def packing_error(model: Any) -> float:
    """How far the logits of two packed documents are from those of the same documents alone, relative to their spread.

    Near rounding error for a model that honours restarting position ids; of order one for a model that lets documents
    see each other (recurrent state, positions of its own), which then has to train on one document a row.
    """
    device = next(model.parameters()).device
    vocabulary = vocabulary_of(model.get_input_embeddings())
    generator = torch.Generator().manual_seed(0)
    lengths = (11, 7)
    ids = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
    documents = [Example("", tokens, [0.0] + [1.0] * (len(tokens) - 1)) for tokens in ids]
    with torch.no_grad():
        packed = supervised_logits(model, microbatches(documents, sum(lengths))[0].to(device)).float()
        alone = torch.cat([supervised_logits(model, batch.to(device)) for batch in microbatches(documents, 1)]).float()
    return float((packed - alone).abs().max() / alone.std().clamp_min(1e-12))
