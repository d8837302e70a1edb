"""AdamW over the trained parameters, with LoRA+'s separate learning rate for B (Hayou et al. 2024,
arXiv:2402.12354)."""

import torch
from torch import Tensor, nn

from lorica.config.schema import TrainConfig


def build_optimiser(parameters: dict[str, nn.Parameter], config: TrainConfig, lr: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused. Groups keep their peak rate in `peak_lr`; `lr` is set each step."""
    up = [p for name, p in parameters.items() if name.endswith(".lora_B")]
    others = [p for name, p in parameters.items() if not name.endswith(".lora_B")]
    groups = [(others, lr), (up, lr * config.loraplus_lr_ratio)]
    return torch.optim.AdamW(
        [{"params": members, "lr": rate, "peak_lr": rate} for members, rate in groups if members],
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=all(p.device.type in ("cpu", "cuda") for p in parameters.values()),
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, factor: float) -> float:
    """Scale every group's peak rate; returns the first group's rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return float(optimiser.param_groups[0]["lr"])


def optimiser_state(optimiser: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The moments by parameter name: "exp_avg/NAME", "exp_avg_sq/NAME", "step/NAME". Empty before the first step."""
    state: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            state[f"{key}/{name}"] = value
    return state


def restore_optimiser(
    optimiser: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], state: dict[str, Tensor]
) -> None:
    """Put back what `optimiser_state` gave, bit for bit."""
    for key, value in state.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        # AdamW's step counter stays where the fused kernel wants it: beside the parameter.
        optimiser.state[parameter][kind] = value.to(parameter.device).clone()
