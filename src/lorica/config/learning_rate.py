"""The learning rate when the user gives none: from the width of the model.

Thinking Machines' published rule (tinker-cookbook, `hyperparam_utils.py`) for LoRA with AdamW. It was calibrated on
Llama and Qwen only; for any other model it is a starting point, and the reason says so. Full fine-tuning takes a tenth:
the best LoRA rate was measured to be about ten times the best full one ("LoRA Without Regret", 2025).
"""

from typing import Literal

REFERENCE_WIDTH = 2000
REFERENCE_RATE = 5e-4
QWEN_EXPONENT = 0.0775
LLAMA_EXPONENT = 0.781
FULL_SHARE = 0.1
LARGEST_RATE = 1.0


def default_learning_rate(hidden_size: int, model_type: str, method: Literal["lora", "full"]) -> tuple[float, str]:
    """Peak learning rate for a model of this width, and the reason to show beside it.

    `hidden_size` is the width of the residual stream in features; `model_type` is transformers' name ("llama",
    "qwen3", ...).
    """
    assert hidden_size > 0, hidden_size
    exponent = QWEN_EXPONENT if model_type.startswith("qwen") else LLAMA_EXPONENT
    rate = REFERENCE_RATE * (REFERENCE_WIDTH / hidden_size) ** exponent
    reason = f"{REFERENCE_RATE:g} * ({REFERENCE_WIDTH} / hidden size {hidden_size})^{exponent}"
    if method == "full":
        rate *= FULL_SHARE
        reason += f", times {FULL_SHARE:g} for method full"
    return min(rate, LARGEST_RATE), f"{reason}; {_calibration(model_type)}"


def _calibration(model_type: str) -> str:
    if model_type.startswith(("llama", "qwen")):
        return "calibrated for llama and qwen"
    return f"calibrated for llama and qwen only, not for {model_type}: a starting point"
