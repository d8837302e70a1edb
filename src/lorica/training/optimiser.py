"""AdamW over the trained parameters, with LoRA+'s separate learning rate for B (Hayou et al. 2024,
arXiv:2402.12354)."""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Self

import torch
from torch import Tensor, nn

from lorica.config.schema import TrainConfig
from lorica.training.buffers import Buffer, join


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019), fused, with clipping by the norm of all gradients.

    `buffers` come by their learning rates. With `joined`, parameters of one learning rate share a buffer, and a step is
    one kernel for each rate however many layers there are; one that the data does not reach then has a gradient of zero
    rather than none. Without, which is for the weights of a whole model, nothing is copied and such a parameter is left
    alone.
    """

    def __init__(self, buffers: list[tuple[float, list[Buffer]]], config: TrainConfig, joined: bool) -> None:
        self.buffers, self.joined = buffers, joined
        self.adamw = torch.optim.AdamW(
            [{"params": [b.value for b in buffers], "lr": rate, "peak_lr": rate} for rate, buffers in self.buffers],
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=all(buffer.value.device.type in ("cpu", "cuda") for buffer in self.all_buffers()),
        )

    @classmethod
    def of(cls, parameters: dict[str, nn.Parameter], config: TrainConfig, lr: float, joined: bool) -> Self:
        """Over the parameters of one run."""
        groups = _by_rate(parameters, lr, config.loraplus_lr_ratio)
        return cls([(rate, _buffers(members, joined)) for rate, members in groups], config, joined)

    def all_buffers(self) -> list[Buffer]:
        return list(chain.from_iterable(buffers for _, buffers in self.buffers))

    def clip(self, limit: float | None) -> float:
        """Scale the gradient down to a norm of `limit`; returns its norm before. Waits for the device."""
        values = [buffer.value for buffer in self.all_buffers()]
        return float(torch.nn.utils.clip_grad_norm_(values, math.inf if limit is None else limit))

    def set_learning_rate(self, factor: float) -> float:
        """Scale every group's peak rate; returns the first group's rate, which is A's."""
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return float(self.adamw.param_groups[0]["lr"])

    def step(self) -> None:
        self.adamw.step()

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=not self.joined)

    def state(self) -> dict[str, Tensor]:
        """The moments by parameter name: "exp_avg/NAME", "exp_avg_sq/NAME", "step/NAME". Empty before the first
        step."""
        state: dict[str, Tensor] = {}
        for buffer in self.all_buffers():
            for key, value in self.adamw.state.get(buffer.value, {}).items():
                parts = buffer.views(value) if value.dim() else dict.fromkeys(buffer.shapes, value)
                state |= {f"{key}/{name}": part for name, part in parts.items()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave, bit for bit."""
        for buffer in self.all_buffers():
            if not any(f"step/{name}" in state for name in buffer.shapes):
                continue
            held = self.adamw.state[buffer.value]
            for key in ("exp_avg", "exp_avg_sq"):
                held[key] = torch.zeros_like(buffer.value)
                for name, part in buffer.views(held[key]).items():
                    part.copy_(state[f"{key}/{name}"])
            # AdamW's step counter stays where the fused kernel wants it: beside the parameter.
            held["step"] = state[f"step/{next(iter(buffer.shapes))}"].to(buffer.value.device).clone()


def _by_rate(
    parameters: dict[str, nn.Parameter], lr: float, ratio: float
) -> list[tuple[float, dict[str, nn.Parameter]]]:
    """Groups of a learning rate; A and everything else come before B."""
    if ratio == 1.0:
        return [(lr, parameters)]
    others, up = down_and_up(parameters)
    return [(rate, members) for rate, members in ((lr, others), (lr * ratio, up)) if members]


def down_and_up(
    parameters: Mapping[str, nn.Parameter],
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """A and everything else, and B, which LoRA+ gives a rate of its own."""
    up = {name: p for name, p in parameters.items() if name.endswith(".lora_B")}
    return {name: p for name, p in parameters.items() if name not in up}, up


def _buffers(members: dict[str, nn.Parameter], joined: bool) -> list[Buffer]:
    return [join(members)] if joined else [Buffer({name: p.shape}, {name: 0}, p) for name, p in members.items()]
