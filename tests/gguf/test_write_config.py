"""Configs as metadata and back."""

from collections.abc import Callable
from typing import Any

import gguf
import pytest
import torch

import tiny_models as tiny
from gguf_files import ARCHITECTURES as THEIRS
from gguf_files import permuted
from lorica.gguf.architectures import NAMES, architecture_of_type, deinterleave, interleave
from lorica.gguf.metadata import Metadata
from lorica.gguf.read import TensorInfo
from lorica.gguf.read_config import read_config
from lorica.gguf.types import named
from lorica.gguf.values import Value
from lorica.gguf.write_config import write_config

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.5, 2.0],
    "long_factor": [1.0, 3.0, 4.0],
    "original_max_position_embeddings": 32,
    "attention_factor": 1.25,
}
GEMMA3 = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
OLMO3 = {
    "full_attention": YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e6},
}
MINISTRAL = YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.25}
MINISTRAL |= {"beta_fast": 4.0, "beta_slow": 2.0}
WIDE = {"hidden_size": 512, "num_attention_heads": 4}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "tied llama": tiny.tied_llama,
    "llama with biases": lambda: tiny.llama(attention_bias=True, mlp_bias=True),
    "llama 3": lambda: tiny.llama(**WIDE, rope_parameters=LLAMA3),
    "llama, linear": lambda: tiny.llama(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}),
    "qwen2": tiny.qwen2,
    "qwen2, yarn": lambda: tiny.qwen2(rope_parameters=YARN | {"beta_fast": 16.0, "beta_slow": 2.0}),
    "qwen3": tiny.qwen3,
    "gemma": tiny.gemma,
    "gemma2": tiny.gemma2,
    "gemma3": lambda: tiny.gemma3(num_hidden_layers=7, rope_parameters=GEMMA3),
    "phi3": lambda: tiny.phi3(original_max_position_embeddings=64),
    "phi3, long": lambda: tiny.phi3(rope_parameters=LONG, original_max_position_embeddings=32),
    "granite": tiny.granite,
    "smollm3": lambda: tiny.smollm3(num_hidden_layers=5, no_rope_layers=None),
    "seed_oss": tiny.seed_oss,
    "olmo2": tiny.olmo2,
    "olmo3": lambda: tiny.olmo3(rope_parameters=OLMO3),
    "exaone4": tiny.exaone4,
    "glm4": tiny.glm4,
    "ernie4_5": tiny.ernie4_5,
    "command-r": tiny.cohere,
    "cohere2": tiny.cohere2,
    "starcoder2": tiny.starcoder2,
    "ministral3": lambda: tiny.ministral3(rope_parameters=MINISTRAL),
}
# fmt: off
COMPARED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps", "vocab_size", "max_position_embeddings", "tie_word_embeddings", "head_dim", "attention_bias",
    "mlp_bias", "sliding_window", "layer_types", "query_pre_attn_scalar", "attn_logit_softcapping", "hidden_act",
    "final_logit_softcapping", "hidden_activation", "rope_parameters", "original_max_position_embeddings",
    "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "logit_scale",
    "layer_norm_eps", "norm_epsilon", "no_rope_layers", "attention_out_bias", "use_bias",
)
# fmt: on


def written(model: Any) -> tuple[dict[str, Value], dict[str, torch.Tensor], list[str]]:
    found = architecture_of_type(model.config.model_type)
    assert found is not None
    return write_config(model.config, found, shapes(model))


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Of the tensors of its file."""
    found = architecture_of_type(model.config.model_type)
    tied = model.config.tie_word_embeddings
    held = {name: parameter for name, parameter in model.state_dict().items() if not tied or name != "lm_head.weight"}
    return {str(found and found.tensor(name)): tuple(parameter.shape) for name, parameter in held.items()}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_config_survives_the_file(make: Callable[[], Any]) -> None:
    model = make()
    values, factors, notes = written(model)
    held = shapes(model) | {name: tuple(factor.shape) for name, factor in factors.items()}
    tensors = {name: TensorInfo(name, named("F32"), shape, 0, 0) for name, shape in held.items()}
    again = read_config(Metadata("a.gguf", values), tensors, factors.__getitem__)
    assert type(again) is type(model.config) and notes == []
    for field in COMPARED:
        before, after = getattr(model.config, field, None), getattr(again, field, None)
        assert before == after, field


@pytest.mark.parametrize("model_type", THEIRS)
def test_names_are_llama_cpps(model_type: str) -> None:
    model = {"gemma3_text": tiny.gemma3}.get(model_type, getattr(tiny, model_type, None))()
    names = gguf.get_tensor_name_map(THEIRS[model_type], 4)
    found = architecture_of_type(model_type)
    assert found is not None and found.name == gguf.MODEL_ARCH_NAMES[THEIRS[model_type]]
    for parameter in model.state_dict():
        if parameter == "lm_head.weight" and found.head == "tied":
            assert found.tensor(parameter) is None
            continue
        tensor = names.get_name(parameter, (".weight", ".bias"))
        assert found.tensor(parameter) == tensor and found.parameter(str(tensor)) == parameter
    assert found.tensor("model.layers.0.self_attn.rotary_emb.inv_freq") is None
    assert found.parameter("blk.0.ssm_in.weight") is None


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_rows_of_heads_are_interleaved_as_llama_cpp_does(heads: int) -> None:
    rows = torch.arange(24.0).view(24, 1) * torch.ones(3)
    assert torch.equal(interleave(rows, heads), permuted(rows, heads))
    assert torch.equal(deinterleave(interleave(rows, heads), heads), rows)
    assert interleave(torch.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another activation": (lambda: tiny.llama(hidden_act="gelu"), r"hidden_act gelu \(llama.cpp computes with silu\)"),
    "another attention scale": (
        lambda: tiny.gemma2(query_pre_attn_scalar=7),
        r"attn_scalar 7 \(.* with 6\)",
    ),
    "another pattern": (
        lambda: tiny.gemma2(layer_types=["full_attention", "sliding_attention"]),
        "layer_types .*full_attention",
    ),
    "a cap that is left out": (lambda: tiny.gemma2(final_logit_softcapping=None), r"capping None \(.* with 30.0\)"),
    "a window": (
        lambda: tiny.qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=1),
        "use_sliding_window True",
    ),
    "both directions": (lambda: tiny.gemma3(use_bidirectional_attention=True), "use_bidirectional_attention True"),
    "other layers without rotation": (tiny.smollm3, r"no_rope_layers \[1, 0\] \(.* with \[1, 1\]\)"),
    "windows at another depth": (lambda: tiny.exaone4(sliding_window=4), "sliding_window 4"),
    "a tied head": (lambda: tiny.olmo2(tie_word_embeddings=True), "an output head of its own"),
    "another rotation in windows": (
        lambda: tiny.olmo3(rope_parameters=OLMO3 | {"sliding_attention": {"rope_type": "default", "rope_theta": 7.0}}),
        "another rotation in layers with a window",
    ),
    "yarn without rounding": (lambda: tiny.qwen2(rope_parameters=YARN | {"truncate": False}), "truncate: false"),
    "unequal multipliers": (lambda: tiny.ministral3(rope_parameters=MINISTRAL | {"mscale": 2.0}), "equal YaRN"),
    "factors that are not read": (lambda: tiny.qwen2(rope_parameters=LLAMA3), "no factors for frequencies in qwen2"),
    "norms of heads": (lambda: tiny.cohere(use_qk_norm=True), "use_qk_norm True"),
    "another scaling": (
        lambda: tiny.llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        "no rope scaling like transformers' dynamic",
    ),
}


@pytest.mark.parametrize(("make", "told"), REFUSED.values(), ids=REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(make: Callable[[], Any], told: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=told):
        written(model)


def test_a_window_that_llama_cpp_lacks_is_said() -> None:
    model = tiny.mistral()
    _, _, [note] = written(model)
    assert "no sliding window for llama" in note and "5 tokens" in note


def test_every_architecture_is_tested() -> None:
    assert set(NAMES) == {gguf.MODEL_ARCH_NAMES[arch] for arch in THEIRS.values()}
