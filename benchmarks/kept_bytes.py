"""What layers keep for their backward pass, in bytes a token, of published shapes in bf16: python
benchmarks/kept_bytes.py [SHAPE ...]

For every kind of layer, as the model's own and as the engine has it: LoRA of rank 16 on all linear layers, one document
of 1,024 tokens, a GPU. Nothing is computed: the step is rehearsed without values as `lorica plan` does, and its
allocations counted. Prints a Markdown table.
"""

import sys

import torch
from transformers import AutoConfig

from lorica.config.schema import RunConfig
from lorica.data import Example
from lorica.planning.ledger import KEPT
from lorica.planning.model import PlannedModel
from lorica.planning.rehearsal import Rehearsal

TOKENS = 1024
SHAPES = {  # as their publishers' config.json gives them, with layers of each kind enough
    "Qwen3.5-4B": ("qwen3_5_text", {
        "hidden_size": 2560, "intermediate_size": 9216, "num_attention_heads": 16, "num_key_value_heads": 4,
        "head_dim": 256, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "num_hidden_layers": 8, "vocab_size": 4096,
    }),
    "Qwen3-30B-A3B": ("qwen3_moe", {
        "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "num_hidden_layers": 4, "vocab_size": 4096,
    }),
    "LFM2-1.2B": ("lfm2", {
        "hidden_size": 2048, "intermediate_size": 8192, "block_auto_adjust_ff_dim": False, "num_attention_heads": 32,
        "num_key_value_heads": 8, "num_hidden_layers": 6, "vocab_size": 4096,
        "layer_types": ["conv", "conv", "full_attention", "conv", "conv", "full_attention"],
    }),
}  # fmt: skip


def main() -> None:
    print("| shape | layer | the model's own, kB a token | the engine, kB a token | recomputed, kB a token |")
    print("|---|---|---|---|---|")
    for name in sys.argv[1:] or SHAPES:
        kind, sizes = SHAPES[name]
        config = AutoConfig.for_model(kind, **sizes)
        own, engine, full = (kept(config, *how) for how in (("plain", "none"), ("auto", "none"), ("auto", "full")))
        types = getattr(config, "layer_types", None) or ["attention, experts"] * len(own)
        for layer in sorted({types.index(each, 1) for each in types}):
            cells = " | ".join(f"{each[layer] / TOKENS / 1000:.1f}" for each in (own, engine, full))
            print(f"| {name} | {types[layer]} | {cells} |")


def kept(config: object, engine: str, checkpointing: str) -> list[int]:
    """Bytes that each layer's forward pass leaves behind, for the backward pass."""
    system = {"engine": engine, "checkpointing": checkpointing}
    run = RunConfig(model="model", data="rows.jsonl", lora={"r": 16, "alpha": 16}, system=system)
    model = PlannedModel("model", config, torch.bfloat16)  # type: ignore[arg-type]
    rehearsal = Rehearsal.of(model, run, torch.bfloat16, torch.device("cuda"))
    example = Example("", [1] * TOKENS, [0.0] + [1.0] * (TOKENS - 1))
    stages = {stage.name: stage for stage in rehearsal.stages([example], TOKENS)}
    return [stages[f"forward {place}"].change[KEPT] for place in rehearsal.stands_for]


if __name__ == "__main__":
    main()
