"""The default learning rate, against values computed by hand."""

import pytest

from lorica.config import default_learning_rate


@pytest.mark.parametrize(
    ("width", "model_type", "method", "rate"),
    [
        (2000, "llama", "lora", 5e-4),
        (2000, "qwen3", "lora", 5e-4),
        (2000, "llama", "full", 5e-5),
        (4000, "llama", "lora", 5e-4 * 0.58196),  # 2^-0.781
        (1000, "qwen2", "lora", 5e-4 * 1.05519),  # 2^0.0775
        (64, "llama", "lora", 7.354e-3),
        (64, "qwen3_moe", "full", 6.529e-5),
    ],
)
def test_rates_follow_the_width(width: int, model_type: str, method: str, rate: float) -> None:
    assert default_learning_rate(width, model_type, method)[0] == pytest.approx(rate, rel=1e-3)


def test_the_reason_shows_the_sum_and_how_far_to_trust_it() -> None:
    assert default_learning_rate(64, "llama", "lora")[1] == (
        "0.0005 * (2000 / hidden size 64)^0.781; calibrated for llama and qwen"
    )
    assert default_learning_rate(64, "gpt2", "full")[1] == (
        "0.0005 * (2000 / hidden size 64)^0.781, times 0.1 for method full; "
        "calibrated for llama and qwen only, not for gpt2: a starting point"
    )


def test_the_rate_of_the_narrowest_model_is_still_allowed() -> None:
    assert 0 < default_learning_rate(1, "llama", "lora")[0] <= 1
