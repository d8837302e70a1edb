"""How the loss of a microbatch is computed: by the model as transformers wrote it, or with the loss in chunks, over the
model's own layers or the lean ones. The result is the same; `choose_engine` picks the leanest that gives it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.data.batches import Batch, microbatches
from lorica.data.examples import Example
from lorica.data.lanes import side_by_side
from lorica.kernels.documents import Documents
from lorica.lean import LeanBody, NotLeanError, Policy, find_body
from lorica.lora import Adapter
from lorica.lora.dropout import TokenKeys
from lorica.lora.weights import dtype_of, vocabulary_of
from lorica.models.decoder import decoder_of
from lorica.quant import PackedLinear
from lorica.training.head import LossHead, find_head
from lorica.training.loss import accepts, token_losses

# Losses of the same documents, computed in another order; a wrong mask, scale or norm differs by far more.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}

ROWS_COMPILED = 32


class Engine(Protocol):
    """Computes the loss of a model as it stands: with its adapter, or without where that is switched off."""

    @property
    def description(self) -> str:
        """What the user is told of it."""

    @property
    def body(self) -> LeanBody | None:
        """What lean layers are in, if any are."""

    def loss(self, batch: Batch, coefficients: Tensor) -> Tensor:
        """`sum(coefficients * losses)` () fp32 over the batch's supervised tokens, to be differentiated."""

    def lane_losses(self, batch: Batch, coefficients: Tensor, lanes: Tensor) -> Tensor:
        """As `loss`, summed by lane (lanes,) over the rows of a batch; `lanes` (supervised,) is that of each token."""

    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood (nats, fp32) and argmax hit (bool) of each supervised token."""


@dataclass(frozen=True)
class PlainEngine:
    """The model's own forward pass, logits and all: the reference."""

    model: nn.Module
    description: str = "plain path"
    body: None = None

    def loss(self, batch: Batch, coefficients: Tensor) -> Tensor:
        return (token_losses(self.model, batch)[0] * coefficients).sum()

    def lane_losses(self, batch: Batch, coefficients: Tensor, lanes: Tensor) -> Tensor:
        weighted = token_losses(self.model, batch)[0] * coefficients
        return torch.zeros(len(batch.input_ids), device=weighted.device).index_add(0, lanes, weighted)

    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return token_losses(self.model, batch)


@dataclass(frozen=True)
class HeadedEngine:
    """`hidden` gives the final hidden states (supervised, hidden) of a packed row where it is supervised, and `head`
    their loss. `body` is what lean layers are in, if any are. On a CPU batches of one lane are rounded up to a
    `multiple`."""

    hidden: Callable[[Batch], Tensor]
    head: LossHead
    description: str
    body: LeanBody | None = None
    multiple: int = 1

    def loss(self, batch: Batch, coefficients: Tensor) -> Tensor:
        whole = self.whole(batch)
        if whole is not batch:
            coefficients = F.pad(coefficients, (0, len(whole.labels) - len(batch.labels)))
        return self.head.loss(self.hidden(whole), whole.labels, coefficients)

    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        whole = self.whole(batch)
        losses, hits = self.head.token_losses(self.hidden(whole), whole.labels)
        return losses[: len(batch.labels)], hits[: len(batch.labels)]

    def whole(self, batch: Batch) -> Batch:
        ids = batch.input_ids
        rounds = self.multiple > 1 and len(ids) == 1 and ids.device.type == "cpu"
        return batch.rounded(self.multiple) if rounds else batch

    def lane_losses(self, batch: Batch, coefficients: Tensor, lanes: Tensor) -> Tensor:
        return self.head.lane_losses(self.hidden(batch), batch.labels, coefficients, lanes, len(batch.input_ids))


def choose_engine(model: Any, adapter: Adapter | None, recompute: bool = False, verify: bool = True) -> Engine:
    """The leanest engine that gives this model's own losses, with the model as it stands: evaluation mode.

    With `recompute`, lean layers keep their input alone for the backward pass. Without `verify` nothing is compared:
    the engine that a model of this structure gets, for a plan of a model without weights.
    """
    lanes = adapter.lanes if adapter is not None else 1
    head = find_head(model, lanes, verify)
    if isinstance(head, str):
        return PlainEngine(model, f"plain path: {head}")
    decoder = decoder_of(model)
    if decoder is None:
        return PlainEngine(model, "plain path: the model names no part that gives its hidden states")
    if lanes > 1 and not isinstance(head.projection, nn.Linear | PackedLinear):
        return PlainEngine(model, "plain path: lanes share one output layer, and this one is adapted")
    reason = ""
    for engine in candidates(model, decoder, adapter, head, recompute, verify):
        if isinstance(engine, str):
            reason += f" ({engine})"
            continue
        if not verify:
            return replace(engine, description=engine.description + reason)
        difference = loss_difference(model, engine, lanes)
        if difference <= TOLERANCE[dtype_of(model.get_input_embeddings())]:
            return replace(engine, description=engine.description + reason)
        reason += f" ({engine.description}: its loss differs by {difference:.1e} from the model's own)"
    return PlainEngine(model, f"plain path{reason}")


def candidates(
    model: nn.Module, decoder: nn.Module, adapter: Adapter | None, head: LossHead, recompute: bool, verify: bool = True
) -> Iterator[HeadedEngine | str]:
    """Engines, the leanest first, or why there is none of a kind."""
    try:
        body = find_body(model, adapter.lanes if adapter is not None else 1, verify)
    except NotLeanError as error:
        yield f"not lean: {error}"
    else:
        body.set_policies([Policy("input" if recompute else "all")] * len(body.layers))
        hidden = partial(lean_hidden, body, adapter)
        yield HeadedEngine(hidden, head, body.description, body, multiple_of(model))
    hidden = partial(own_hidden, decoder, dtype_of(head.projection))
    yield HeadedEngine(hidden, head, "the model's own layers, loss in chunks")


def multiple_of(model: Any) -> int:
    """What the sizes of a batch on a CPU are rounded up to: oneDNN compiles the products of 16-bit types for each
    number of rows, and keeps what it compiled. By 400 sizes of two products with 256 by 512 weights a process grew by
    620 MB, in fp32 by 9 (AMX, torch 2.13)."""
    sixteen_bits = dtype_of(model.get_input_embeddings()) in (torch.bfloat16, torch.float16)
    return ROWS_COMPILED if sixteen_bits else 1


def lean_hidden(body: LeanBody, adapter: Adapter | None, batch: Batch) -> Tensor:
    """The final hidden states (supervised, hidden) by lean layers."""
    documents = Documents.of(batch.lengths, batch.input_ids.device)
    known = adapter.token_keys if adapter is not None else TokenKeys()
    if known.keys is not None:  # layers that are the model's own look there too
        known.keys = F.pad(known.keys, (0, batch.input_ids.shape[-1] - known.keys.shape[-1]))
    return body.hidden(batch.input_ids, batch.position_ids, documents, batch.predict_at, known.keys)


def own_hidden(decoder: nn.Module, dtype: torch.dtype, batch: Batch) -> Tensor:
    """The final hidden states (supervised, hidden) by the model's own layers, in the output layer's type."""
    wanted: dict[str, Any] = {"position_ids": batch.position_ids, "use_cache": False}
    arguments = {name: value for name, value in wanted.items() if accepts(decoder, name)}
    hidden: Tensor = decoder(input_ids=batch.input_ids, **arguments).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.predict_at).to(dtype)  # Mamba's states stay in fp32


@torch.no_grad()
def loss_difference(model: Any, engine: Engine, lanes: int = 1) -> float:
    """The largest difference of any token's loss from the model's own, over two packed documents in every lane."""
    device = next(model.parameters()).device
    vocabulary = vocabulary_of(model.get_input_embeddings())
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in (13, 6)]
    [batch] = microbatches([Example("", tokens, [0.0] + [1.0] * (len(tokens) - 1)) for tokens in ids], 19)
    batch = side_by_side([batch] * lanes).batch.to(device)
    found, expected = engine.token_losses(batch)[0], token_losses(model, batch)[0]
    return float(((found - expected).abs() / expected.clamp_min(1.0)).max())
