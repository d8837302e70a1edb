"""What is rehearsed without weights is what a real step allocates."""

from typing import Any

import pytest
import torch
from counted import config_of, counted, documents, rehearsed, run_config

from lorica.lean import Policy
from lorica.planning.model import PlannedModel
from lorica.planning.rehearsal import Rehearsal

ALL, ATTENTION, INPUT, CHUNKS = Policy(), Policy("attention"), Policy("input"), Policy("input", mlp_tokens=16)
LADDER = (ALL, ATTENTION, INPUT, CHUNKS)
FP32, BF16 = torch.float32, torch.bfloat16


def difference(
    name: str, run: Any, policies: list[Policy], capacity: int = 48, dtype: torch.dtype = FP32, **fields: Any
) -> float:
    """Of the rehearsed peak from the counted one, relative."""
    rows = documents()
    config = config_of(name, len(policies), **fields)
    real = counted(config, run, rows, capacity, policies, dtype)
    found = rehearsed(config_of(name, len(policies), **fields), run, rows, capacity, policies, dtype)
    return found.peak.bytes / real - 1


@pytest.mark.parametrize("name", ["llama", "gemma2", "smollm3"])
def test_lean_layers_under_mixed_policies(name: str) -> None:
    assert abs(difference(name, run_config(), [INPUT, ATTENTION, ALL, ALL])) < 0.01


@pytest.mark.parametrize("name", ["mixtral", "gated_attention"])
def test_layers_lean_in_half_under_mixed_policies(name: str) -> None:
    assert abs(difference(name, run_config(), [INPUT, ATTENTION, ALL, ALL])) < 0.01


def test_the_models_own_layers() -> None:
    assert abs(difference("gpt2", run_config(), [ALL] * 4)) < 0.01


def test_the_plain_path() -> None:
    assert abs(difference("llama", run_config(engine="plain", checkpointing="full"), [ALL] * 3)) < 0.01


def test_full_fine_tuning_over_several_microbatches() -> None:
    assert abs(difference("qwen2", run_config("full"), [ALL] * 3)) < 0.01


SLOW = [
    (name, run, policies, {"capacity": capacity, "dtype": dtype})
    for name in ("llama", "tied_llama", "qwen3", "gemma3", "phi3", "granite", "mistral", "olmo2")
    for run in (
        {"lora": {"r": 8, "alpha": 4}},
        {"lora": {"r": 3, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}},
    )
    for policies, capacity, dtype in (([ALL] * 5, 48, FP32), ([INPUT, INPUT, ATTENTION, ALL], 90, BF16))
    if name != "phi3" or "dropout" not in run["lora"]
] + [
    ("mixtral", {}, [ALL] * 3, {}),
    ("qwen3_moe", {}, [ALL] * 3, {}),
    ("mixtral", {}, [INPUT] * 4, {}),
    ("qwen2_moe", {}, [CHUNKS, ATTENTION, ALL, ALL], {}),
    ("gated_attention", {"lora": {"r": 4, "dropout": 0.1}}, [Policy("all", mlp_tokens=16)] * 4, {"capacity": 90}),
    ("qwen3_5", {}, [INPUT, ALL], {}),
    ("lfm2", {}, [ALL] * 2, {}),
    ("llama", {"lora": {"r": 4, "modules_to_save": ["1.mlp"]}}, [INPUT] * 3, {}),
    ("llama", {"lora": {"r": 4, "use_dora": True}}, [ALL] * 4, {}),
    ("llama", {"lora": {"r": 4, "init_lora_weights": "olora"}}, [ATTENTION] * 4, {}),
    ("llama", {"lora": {"r": 4, "modules_to_save": ["lm_head"]}}, [ALL] * 3, {}),
    ("llama", {"lora": {"r": 4, "trainable_token_indices": [1, 2, 5]}}, [ALL] * 3, {}),
    ("llama", {"lora": {"r": 4, "layers_to_transform": [1, 2]}}, [ALL] * 5, {}),
    ("llama", {"lora": {"r": 4, "rank_pattern": {"layers.2.mlp.up_proj": 9}}}, [ALL] * 5, {}),
    ("gpt2", {"lora": {"r": 4, "dropout": 0.2}}, [ALL] * 3, {}),
    ("llama", {"method": "full", "checkpointing": "full"}, [ALL] * 4, {}),
    ("qwen2", {"method": "full", "engine": "plain"}, [ALL] * 4, {"capacity": 200}),
    ("gemma2", {"method": "full"}, [ALL] * 4, {}),
    ("gpt2", {"method": "full"}, [ALL] * 3, {}),
    ("mistral", {"engine": "plain"}, [ALL] * 4, {"capacity": 30}),
    ("qwen3", {"checkpointing": "full", "engine": "plain"}, [ALL] * 4, {}),
    ("llama", {"train": {"loraplus_lr_ratio": 4.0}}, [CHUNKS] * 4, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run", "policies", "options"), SLOW)
def test_many_configurations(name: str, run: dict[str, Any], policies: list[Policy], options: dict[str, Any]) -> None:
    assert len(SLOW) >= 40
    assert abs(difference(name, run_config(**run), policies, **options)) < 0.01


def test_the_engine_is_told_of_the_whole_model() -> None:
    def engine(name: str, layers: int, **fields: Any) -> str:
        model = PlannedModel("model", config_of(name, layers, **fields), FP32)
        return Rehearsal.of(model, run_config(), FP32, torch.device("cpu")).engine

    assert engine("llama", 5) == "5/5 layers lean"
    assert engine("mixtral", 5) == "5/5 layers lean in half"
    assert engine("qwen3_moe", 6, mlp_only_layers=[0, 1]) == "2/6 layers lean, 4 in half"
    assert engine("gpt2", 2) == "the model's own layers, loss in chunks"


WIDE = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 300, "head_dim": 64}


def test_a_packed_base() -> None:
    assert abs(difference("llama", run_config(weights="q4_k_m"), [INPUT, ALL, ALL], **WIDE)) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights"),
    [("llama", w) for w in ("nf4", "nf4_dq", "q8_0", "q6_k", "q5_k_m", "q4_0", "q3_k_m", "q2_k", "iq4_nl")]
    + [("tied_llama", "q4_k_m"), ("qwen3", "nf4")],
)
def test_packed_bases(name: str, weights: str) -> None:
    run = run_config(weights=weights)
    assert abs(difference(name, run, [INPUT, ATTENTION, ALL, ALL], dtype=BF16, **WIDE)) < 0.01


def test_the_peak_is_told_term_by_term() -> None:
    rows, run = documents(), run_config()
    found = rehearsed(config_of("llama", 4), run, rows, 48, [ALL] * 4, FP32)
    terms = found.peak.peak
    model = 4 * (2 * 24 * 24 + 2 * 24 * 12 + 3 * 24 * 40 + 2 * 24) + 2 * 61 * 24 + 24
    assert terms["base weights"] == 4 * model + 2 * 4 * 3  # two copies of the rotary frequencies
    trained = 4 * 4 * (2 * (24 + 24) + 2 * (24 + 12) + 3 * (24 + 40))
    assert terms["adapters"] == terms["gradients"] == 4 * trained
    assert terms["optimiser"] == 8 * trained
    assert terms["kept for backward"] > terms["working memory"] > 0
