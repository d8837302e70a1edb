"""One model and adapter computed both ways: by transformers' own layers and autograd, and by lean layers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import tiny_models
from lorica.data import Example
from lorica.data.batches import Batch, microbatches
from lorica.kernels.documents import Documents
from lorica.lean import LeanBody, Policy, find_body
from lorica.lora import Adapter, attach
from lorica.lora.dropout import token_keys
from lorica.training.loss import supervised_logits

LENGTHS = (11, 1, 6, 17)


def batch_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Batch:
    """Documents packed into one row, the first token of each and every fifth of the others untrained."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for length in lengths:
        ids = torch.randint(tiny_models.VOCABULARY, (length,), generator=generator).tolist()
        weights = torch.rand(length, generator=generator) * (torch.arange(length) % 5 != 0)
        examples.append(Example("", ids, weights.tolist()))
    [batch] = microbatches(examples, sum(lengths))
    return batch


@dataclass
class Sides:
    """`body` shares the parameters of `model`."""

    model: Any
    adapter: Adapter
    body: LeanBody

    def plain(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and every adapter gradient by the model's own forward pass."""
        return self._gradients(batch, supervised_logits(self.model, batch))

    def lean(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = self.hidden(batch)
        logits = self.model.lm_head(hidden)
        scaling = getattr(self.model.config, "logits_scaling", 1.0)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        logits = logits / scaling
        return self._gradients(batch, logits if cap is None else torch.tanh(logits / cap) * cap)

    def hidden(self, batch: Batch) -> Tensor:
        documents = documents_of(batch)
        keys = self.adapter.token_keys.keys
        return self.body.hidden(batch.input_ids, batch.position_ids, documents, batch.predict_at, keys)

    def hidden_before_norm(self, batch: Batch) -> Tensor:
        """What the last layer gives."""
        body = replace(self.body, final=lambda x: x)
        return body.hidden(batch.input_ids, batch.position_ids, documents_of(batch), keys=self.adapter.token_keys.keys)

    def keep(self, policy: Policy) -> None:
        self.body.set_policies([policy] * len(self.body.layers))

    def _gradients(self, batch: Batch, logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses = torch.nn.functional.cross_entropy(logits.double(), batch.labels, reduction="none")
        loss = (losses * batch.weights).sum() / batch.weights.sum()
        named = self.adapter.named_parameters()
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return loss.detach(), {k: g for k, g in zip(named, found, strict=True) if g is not None}


def documents_of(batch: Batch, lanes: int = 1) -> Documents:
    return Documents.of(batch.lengths * lanes, batch.input_ids.device)


def sides(make: Any = tiny_models.llama, batch: Batch | None = None, **lora: Any) -> Sides:
    """A tiny model with an adapter whose every value was moved away from its start; in training mode."""
    model = make()
    adapter = tiny_models.randomise(attach(model, **{"r": 3, "alpha": 5, **lora}))
    adapter.eval()
    body = find_body(model)
    adapter.train()
    if batch is not None and adapter.config.dropout:
        adapter.token_keys.keys = token_keys(0, 1, torch.tensor(0), batch.position_ids[0])
    return Sides(model, adapter, body)


def kept_bytes(model: Any, compute: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that autograd keeps for `compute`, the model's parameters aside."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = compute()
    assert y.requires_grad
    return sum(size for address, size in storages.items() if address not in own)


def relative_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference of any tensor, relative to that tensor's own norm."""
    assert left.keys() == right.keys() and left
    return max(float((left[k].double() - right[k].double()).norm() / right[k].double().norm()) for k in right)


def adapter_gradients(adapter: Adapter, *hidden: Tensor) -> list[dict[str, Tensor]]:
    """Of every trained parameter, from one random gradient of each of the `hidden` states."""
    weights = torch.randn(hidden[0].shape, generator=torch.Generator().manual_seed(0))
    named = adapter.named_parameters()
    return [
        dict(zip(named, torch.autograd.grad((side * weights).sum(), list(named.values())), strict=True))
        for side in hidden
    ]
