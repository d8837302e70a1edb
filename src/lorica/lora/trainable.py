"""The parts of an adapter that are not low-rank: whole modules trained as copies, and single rows of the embedding.

Both keep the frozen module beside what is trained, so the adapter can be switched off. Trained values are fp32 masters;
the computation runs in the base's dtype.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lorica.lora.part import AdapterPart
from lorica.lora.weights import device_of, is_embedding, table_rows, vocabulary_of


class TrainableCopy(AdapterPart):
    """A fully trained copy of one module (PEFT's `modules_to_save`)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.trained = copy.deepcopy(base).float()
        self.trained.requires_grad_(True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.in_use:
            return self.base(*args, **kwargs)
        dtypes = {name: parameter.dtype for name, parameter in self.base.named_parameters()}
        cast = {name: parameter.to(dtypes[name]) for name, parameter in self.trained.named_parameters()}
        return functional_call(self.trained, cast, args, kwargs)


class TrainableRows(AdapterPart):
    """Some rows of an embedding or of an output head, trained (PEFT's `trainable_token_indices`).

    `rows`: (number of tokens, dim) fp32, the new values themselves rather than differences, which is how PEFT stores
    them. `tokens`: their ids, in the order of `rows`. A tied head is given the embedding's own `rows`, so that both
    stay one parameter, which is the embedding's (`shared`).
    """

    tokens: Tensor
    slots: Tensor

    def __init__(self, base: nn.Module, tokens: list[int], rows: nn.Parameter | None = None) -> None:
        super().__init__(base)
        device = device_of(base)
        self.register_buffer("tokens", torch.tensor(tokens, device=device), persistent=False)
        slots = torch.full((vocabulary_of(base),), -1, device=device)
        slots[self.tokens] = torch.arange(len(tokens), device=device)
        self.register_buffer("slots", slots, persistent=False)  # (vocabulary,): index into rows, or -1
        self.rows = nn.Parameter(table_rows(base, self.tokens)) if rows is None else rows
        self.shared = rows is not None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if not self.in_use:
            return y
        return self.embed(x, y) if is_embedding(self.base) else self.project(x, y)

    def embed(self, tokens: Tensor, y: Tensor) -> Tensor:
        slots = self.slots[tokens]
        rows = F.embedding(slots.clamp_min(0), self.rows).to(y.dtype)
        factor = getattr(self.base, "embed_scale", None)  # Gemma multiplies the looked-up rows
        if factor is not None:
            rows = rows * torch.as_tensor(factor, dtype=rows.dtype, device=rows.device)
        return torch.where(slots.unsqueeze(-1) >= 0, rows, y)

    def project(self, hidden: Tensor, logits: Tensor) -> Tensor:
        bias = getattr(self.base, "bias", None)
        new = F.linear(hidden, self.rows.to(hidden.dtype), None if bias is None else bias[self.tokens])
        return logits.index_copy(-1, self.tokens, new)
