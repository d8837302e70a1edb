"""What `lorica plan` says of a run's memory and speed on a CPU beside what the run takes.

Bases of random weights are trained for a few steps, each in a process of its own; the plan is the one in the run's
report, the measurement the process's resident peak and the speed of its steps.

python benchmarks/plan_resident.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROWS, WORDS = 48, 2000
SIZES = {"small": (256, 704, 6, 8000), "middle": (512, 1408, 8, 16000), "large": (768, 2048, 12, 32000)}
RUNS: list[dict[str, Any]] = [
    {"size": "small", "length": 200},
    {"size": "small", "length": 200, "settings": ["method=full"]},
    {"size": "middle", "length": 400, "settings": ["system.tokens_per_microbatch=2048"]},
    {"size": "middle", "length": 400, "settings": ["system.tokens_per_microbatch=2048", "system.checkpointing=full"]},
    {"size": "middle", "length": 1000, "settings": ["system.engine=plain"]},
    {"size": "middle", "length": 200, "settings": ["method=full"]},
    {"size": "large", "length": 500},
    {"size": "large", "length": 1000, "settings": ["lora.r=64", "system.tokens_per_microbatch=4000"]},
    {"size": "large", "length": 500, "settings": ["model.weights=q8_0"]},
    {"size": "large", "length": 500, "settings": ["method=full"]},
]


def write_base(folder: Path, hidden: int, intermediate: int, layers: int, vocabulary: int) -> None:
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i + 3 for i in range(WORDS)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, vocab_size=vocabulary,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, max_position_embeddings=8192,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def write_rows(path: Path, length: int) -> None:
    rows = [{"text": " ".join(f"w{(i * 7 + n) % WORDS}" for i in range(length - 1))} for n in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, number: int, size: str, length: int, settings: list[str] | None = None) -> dict[str, Any]:
    """The report of a run of four steps."""
    base, rows, out = folder / size, folder / f"{length}.jsonl", folder / f"run-{number}"
    if not base.is_dir():
        write_base(base, *SIZES[size])
    write_rows(rows, length)
    fixed = [
        "train.steps=4",
        "train.batch_size=8",
        "evaluate.samples=0",
        "evaluate.forgetting=null",
        "system.cache=none",
    ]
    command = [
        "train",
        "--json",
        "--model",
        str(base),
        "--data",
        str(rows),
        "--out",
        str(out),
        *fixed,
        *(settings or []),
    ]
    done = subprocess.run([sys.executable, "-m", "lorica", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)["report"]
    return report


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for number, options in enumerate(RUNS):
            report = run(Path(name), number, **options)
            planned, measured = report["plan"], report["measured"]
            cells = [f"{options['size']} {options['length']} {' '.join(options.get('settings', []))}".ljust(80)]
            for left, right in (("peak_bytes", "peak_memory_bytes"), ("tokens_per_second", "tokens_per_second")):
                cells.append(
                    f"{planned[left]:14,.0f} {measured[right]:14,.0f} {planned[left] / measured[right] - 1:+7.1%}"
                )
            cells.append(f"tensors {planned['tensor_bytes']:,}")
            print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
