"""The directions in which a model's inputs vary, from which EVA starts (Paischer et al. 2024,
https://arxiv.org/abs/2410.07170): A begins as the leading principal directions of what its layer is given, B as zero.

They are gathered while a sample of rows runs through the untouched base. As in PEFT, only trained tokens count,
and a layer's mean input is taken off. Ranks are those that were asked for (EVA's rho of 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorica.lora.adapter import Adapter
from lorica.lora.layer import LoraEmbedding
from lorica.lora.leading import randomised_svd
from lorica.lora.packing_error import Directions, Source

# Directions kept while gathering, twice the rank, since what is cut off in one update is lost to the next. One number
# for ranks up to 64, so that lanes of several ranks begin as they would alone.
LEAST = 128


@dataclass(frozen=True)
class Tokens:
    """Rows to run: `input_ids` and `position_ids` (rows, tokens) int64; `chosen` are the places that count, (n,) int64,
    in the flattened rows; None is all of them, and the model's own positions."""

    input_ids: Tensor
    position_ids: Tensor | None = None
    chosen: Tensor | None = None


class PrincipalDirections:
    """Incremental principal component analysis (Ross et al. 2008), of which `keep` directions are remembered.

    With `keep` of at least the number of features nothing is cut off, and the result is that of all rows at once, in
    fp32. Decompositions are randomised ones, from a fixed seed: whole ones cost several times the model's own pass.
    """

    def __init__(self, keep: int) -> None:
        self.keep, self.count = keep, 0
        self.mean = torch.zeros(0)
        self.scaled = torch.zeros(0)  # (kept, features): singular values times directions of the centred rows

    def update(self, rows: Tensor) -> None:
        """`rows`: (n, features)."""
        rows, new = rows.to("cpu" if rows.device.type == "mps" else rows.device, torch.float32), len(rows)
        if not new:
            return
        mean = rows.mean(0)
        stacked = rows - mean
        if self.count:
            apart = (self.count * new / (self.count + new)) ** 0.5 * (self.mean - mean)
            stacked = torch.cat([self.scaled, stacked, apart[None]])
            mean = (self.count * self.mean + new * mean) / (self.count + new)
        _, values, directions = randomised_svd(stacked, self.keep, 2, torch.Generator().manual_seed(self.count))
        scaled = values[: self.keep, None] * directions[: self.keep]
        self.scaled, self.mean, self.count = scaled, mean, self.count + new

    def leading(self, rank: int) -> tuple[Tensor, Tensor]:
        """Singular values (rank,) and directions (rank, features); each direction's largest entry is positive."""
        values = self.scaled[:rank].norm(dim=1)
        directions = self.scaled[:rank] / values.clamp_min(torch.finfo(values.dtype).tiny)[:, None]
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        return values, directions * largest.sign()


def input_directions(adapter: Adapter, sample: Iterable[Tokens] | None) -> Source:
    """A function from a module's name to the leading directions of its inputs over `sample`, or None for a module that
    saw none of it, of which a line is added to the adapter's notes.

    Raises ValueError without a sample, for one of fewer directions than the rank, and for embeddings.
    """
    if any(layer.lora_A.is_meta for layer in adapter.layers.values()):
        return lambda name: None  # a plan's layers have shapes alone
    if sample is None:
        raise ValueError(
            "init_lora_weights: eva starts from what rows do inside the model: give attach some of them (sample), as "
            "lorica train does by itself."
        )
    tables = [name for name, layer in adapter.layers.items() if isinstance(layer, LoraEmbedding)]
    if tables:
        raise ValueError(
            f"init_lora_weights: eva starts from the inputs of linear layers, and {tables[0]} is an embedding, whose "
            "inputs are token ids. Leave it out of lora.target_modules, or use another start."
        )
    found = _Listener(adapter).listen(sample)
    unheard = [name for name in adapter.layers if name not in found]
    if len(unheard) == len(adapter.layers):
        raise ValueError("init_lora_weights: eva: the sample has no token that counts; give other rows.")
    if unheard:
        adapter.notes.append(f"{len(unheard)} modules saw none of EVA's sample and start plainly: {unheard[0]} ...")

    def directions(name: str) -> Directions | None:
        if name not in found:
            return None
        rank = adapter.layers[name].r
        values, right = found[name].leading(rank)
        if len(values) < rank or not values[-1] > 1e-5 * values[0]:
            held = int((values > 1e-5 * values[0]).sum())
            raise ValueError(
                f"init_lora_weights: eva: the inputs of {name} vary in {held} directions over the "
                f"{found[name].count} tokens of the sample, fewer than the rank {rank}. Use a smaller lora.r, or "
                "more rows."
            )
        return values.new_zeros(0), values, right

    return directions


class _Listener:
    """Hooks on an adapter's layers. Those that are given the same tensor (q, k and v) share what is gathered."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.keep = max(LEAST, 2 * max(layer.r for layer in adapter.layers.values()))
        self.found: dict[str, PrincipalDirections] = {}
        self.latest: tuple[Tensor, PrincipalDirections] | None = None
        self.chosen: Tensor | None = None
        self.tokens = 0

    @torch.no_grad()
    def listen(self, sample: Iterable[Tokens]) -> dict[str, PrincipalDirections]:
        model = self.adapter.model
        body = _without_head(model, self.adapter.layers)
        device = next(iter(self.adapter.layers.values())).lora_A.device
        handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in self.adapter.layers.items()]
        self.adapter.eval()
        try:
            with self.adapter.disable():
                for part in sample:
                    self.tokens = part.input_ids.numel()
                    self.chosen = None if part.chosen is None else part.chosen.to(device)
                    places = {} if part.position_ids is None else {"position_ids": part.position_ids.to(device)}
                    body(input_ids=part.input_ids.to(device), use_cache=False, **places)
                    self.latest = None
        finally:
            for handle in handles:
                handle.remove()
        return self.found

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hear(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0]
            if self.latest is not None and self.latest[0] is x and self.found.get(name) in (None, self.latest[1]):
                self.found[name] = self.latest[1]
            elif x.shape[:-1].numel() == self.tokens:  # else it is given some of the tokens only: one of many experts
                rows = x.reshape(-1, x.shape[-1])
                gathered = self.found.setdefault(name, PrincipalDirections(self.keep))
                gathered.update(rows if self.chosen is None else rows[self.chosen])
                self.latest = (x, gathered)

        return hear


def _without_head(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """The part of the model that all of `names` lie in: logits of a whole vocabulary are large, and not needed."""
    prefix = getattr(model, "base_model_prefix", "")
    inside = bool(prefix) and hasattr(model, prefix) and all(name.startswith(f"{prefix}.") for name in names)
    return model.get_submodule(prefix) if inside else model
