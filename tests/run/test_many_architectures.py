"""Models of the architectures of transformers, tiny and with random weights: each trains by the command's own function,
and what PEFT makes of the saved adapter is what Lorica makes of it."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

import lorica
from bases import write_rows
from lorica.demo import BASE
from lorica.models.directory import auto_class
from lorica.quant import PackedEmbedding, PackedLinear
from lorica.run.watch import Watcher

COMMON: dict[str, Any] = {
    "vocab_size": 3072, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2,
}  # fmt: skip
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 8}
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}  # fmt: skip
EYES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
SPACE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
EYES_OF_QWEN = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
LATENT = {
    "n_routed_experts": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4,
    "head_dim": 8,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "bloom": {"n_head": 4, "n_layer": 2},
    "codegen": GPT,
    "deepseek_v3": EXPERTS | LATENT,
    "gemma2": {"sliding_window": 8},
    "gemma3": {"text_config": COMMON | {"sliding_window": 8}, "vision_config": EYES, "mm_tokens_per_image": 4},
    "gemma3_text": {"sliding_window": 8},
    "glm4_moe": EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "gemma4_text": {"vocab_size_per_layer_input": 3072, "hidden_size_per_layer_input": 8},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {"num_hidden_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gpt_oss": EXPERTS,
    "gptj": GPT,
    "granitemoe": EXPERTS,
    "jamba": EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"]},
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "head_dim": 16, "num_heads": 8, "n_groups": 1},
    "mistral3": {"text_config": COMMON | {"model_type": "mistral"}, "vision_config": EYES},
    "mixtral": EXPERTS,
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128, "expansion_ratio": 2},
    "olmoe": EXPERTS,
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "phimoe": EXPERTS,
    "exaone_moe": EXPERTS,
    "qwen2_5_vl": {"text_config": COMMON | SPACE, "vision_config": EYES_OF_QWEN},
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "qwen3_vl": {
        "text_config": COMMON | SPACE,
        "vision_config": EYES_OF_QWEN | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
}
LEAN = [
    "cwm", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3", "gemma3_text", "glm", "glm4", "granite", "helium",
    "hyperclovax", "internlm3", "iquestcoder", "llama", "ministral", "ministral3", "mistral", "mistral3", "olmo2",
    "olmo3", "phi3", "qwen2", "qwen3", "qwen3_vl", "seed_oss", "smollm3", "vaultgemma",
]  # fmt: skip
HALF = [
    "apertus", "arcee", "diffllama", "exaone_moe", "flex_olmo", "glm4_moe", "granite_swa", "granitemoe",
    "hunyuan_v1_dense", "jamba", "lfm2", "lfm3", "minimax_m2", "mixtral", "olmo_hybrid", "olmoe", "qwen2_5_vl",
    "qwen2_moe", "qwen3_5_text", "qwen3_moe",
]  # fmt: skip
PLAIN = [
    "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2", "deepseek_v3", "falcon_h1", "gemma4_text", "gpt2",
    "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "jais2", "llama4_text", "mamba", "mamba2", "mpt",
    "nemotron", "olmo", "opt", "persimmon", "phi", "phimoe", "recurrent_gemma", "stablelm", "starcoder2", "xglm",
]  # fmt: skip
# PEFT takes the names of their dense layers' matrices for the experts'; the run says so.
MISREAD = {name: ["gate_proj", "up_proj", "down_proj"] for name in ("deepseek_v3", "exaone_moe", "glm4_moe")}
QUICK = {"gemma3", "mistral3", "opt", "mamba2", "phimoe", "glm4_moe", "helium", "lfm2", "qwen3_moe"}

CASES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in (*LEAN, *HALF, *PLAIN)]


class Notices(Watcher):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        self.texts.append(text)


def base(name: str, folder: Path) -> Path:
    if name not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(COMMON | OWN.get(name, {})))
    model = auto_class(config).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3 if parameter.dim() > 1 else 1  # as they are drawn the layers hardly matter
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / file, folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_it_trains_and_peft_agrees(name: str, tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": f"Say {i}: ", "completion": f"nümber {i}"} for i in range(12)]
    )
    folder, notices = base(name, tmp_path / "base"), Notices()
    lorica.train(
        model={"path": str(folder), "dtype": "fp32"},
        data=str(rows),
        out=str(tmp_path / "run"),
        lora={"r": 4, "alpha": 10, "exclude_modules": MISREAD.get(name)},
        train={"steps": 2, "batch_size": 4, "lr": 0.01, "warmup": 0},
        evaluate={"enabled": False},
        system={"threads": 1},
        watcher=notices,
    )
    assert leanness(notices.texts) == ("lean" if name in LEAN else "half" if name in HALF else "plain"), notices.texts
    ids = torch.randint(3, 3000, (2, 19), generator=torch.Generator().manual_seed(1))
    ours = lorica.load(folder, dtype="fp32").model
    lorica.load_adapter(ours, tmp_path / "run" / "adapter")
    theirs = PeftModel.from_pretrained(
        auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, dtype=torch.float32),
        tmp_path / "run" / "adapter",
    ).eval()
    with torch.no_grad():
        expected = theirs(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(ours(input_ids=ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
        with theirs.disable_adapter():
            assert (theirs(input_ids=ids, use_cache=False).logits - expected).norm() > 0.01 * expected.norm()


def leanness(texts: list[str]) -> str:
    """Whether every layer is said to be lean, every one at least in half, or not."""
    found = [match for text in texts if (match := re.search(r"; (\d)/(\d) layers lean( in half)?(, \d)?", text))]
    [(lean, layers, all_halves, halves)] = [match.groups() for match in found] or [("0", "1", None, None)]
    if lean == layers:
        return "half" if all_halves else "lean"
    return "half" if halves and int(lean) + int(halves[2:]) == int(layers) else "plain"


@pytest.mark.parametrize("weights", ["nf4", "q4_k_m"])
@pytest.mark.parametrize("name", ["falcon_h1", "gpt_neox", "mamba2", "mixtral", "mpt", "opt", "phimoe"])
def test_packed_as_it_is_loaded(name: str, weights: str, tmp_path: Path) -> None:
    """The logits are those of transformers' own model with the matrices' unpacked values: nothing else has changed,
    whether tensors have other names in the files (mixtral) or buffers come from the config alone (falcon_h1)."""
    folder = base(name, tmp_path / "base")
    packed = lorica.load(folder, dtype="fp32", weights=weights).model
    dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    matrices = {
        n: part.matrix for n, part in packed.named_modules() if isinstance(part, PackedLinear | PackedEmbedding)
    }
    with torch.no_grad():
        for part, matrix in matrices.items():
            weight = dense.get_submodule(part).weight
            assert (weight - matrix.dense(torch.float32)).norm() < 0.15 * weight.norm()
            weight.copy_(matrix.dense(torch.float32))
        ids = torch.randint(3, 3000, (1, 17), generator=torch.Generator().manual_seed(1))
        found, expected = (model(input_ids=ids, use_cache=False).logits for model in (packed, dense))
    assert len(matrices) >= 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_peft_takes_for_experts_is_told(tmp_path: Path) -> None:
    folder = base("glm4_moe", tmp_path / "base")
    notes = lorica.attach(lorica.load(folder, dtype="fp32"), r=2).notes
    assert any("PEFT may take down_proj, gate_proj, up_proj for the experts' own" in note for note in notes)
    assert not any("PEFT may" in note for note in lorica.attach(lorica.load(base("llama", tmp_path / "b")), r=2).notes)


def test_a_matrix_that_a_kernel_reads_itself_is_refused(tmp_path: Path) -> None:
    model = lorica.load(base("mamba2", tmp_path / "base"), dtype="fp32")
    with pytest.raises(ValueError, match=r"out_proj: the kernels of Mamba layers read its weight .*exclude_modules"):
        lorica.attach(model, r=2, target_modules=["in_proj", "out_proj"])
