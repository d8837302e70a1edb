"""Time and peak memory of exports: a random Llama of a given shape, with an adapter of rank 16 on all linear layers.

python benchmarks/exporting.py                     SmolLM2-135M's shape, bf16, in shards of 64 MB
python benchmarks/exporting.py --layers 4          a shorter one

Each export runs in a process of its own, without its proof; memory is the rise above where reading the headers left it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TARGETS = {
    "merged": ("merged", None),
    "gguf Q8_0": ("gguf", "Q8_0"),
    "gguf Q4_K_M": ("gguf", "Q4_K_M"),
    "gguf-adapter": ("gguf-adapter", None),
}


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


def export(adapter: Path, out: Path, to: str, kind: str | None) -> None:
    """In the process of its own: prints seconds and bytes."""
    from lorica.exporting.options import Options
    from lorica.exporting.targets import TARGETS as WRITERS
    from lorica.exporting.targets import checked
    from lorica.exporting.weights import read_weights_of
    from lorica.run.source import open_source

    source = open_source(adapter)
    weights = read_weights_of(source)
    torch.addmm(*torch.ones(3, 700, 700))
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak(), time.perf_counter()
    out.mkdir()
    WRITERS[to].write(source, weights, out, checked(Options(to, kind)), None)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(json.dumps({"seconds": time.perf_counter() - start, "grew": peak() - before, "size": size}))


def make(folder: Path, layers: int) -> Path:
    from lorica import attach, load
    from lorica.demo.settings import BASE

    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    with torch.device("cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base", max_shard_size="64MB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "base" / name).write_bytes((BASE / name).read_bytes())
    adapter = attach(load(folder / "base"), r=16, alpha=32, init_lora_weights=False)
    adapter.save(folder / "adapter")
    return folder / "adapter"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--one", nargs=4, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        adapter, out, to, kind = arguments.one
        export(Path(adapter), Path(out), to, None if kind == "-" else kind)
        return
    with tempfile.TemporaryDirectory() as folder:
        adapter = make(Path(folder), arguments.layers)
        stored = sum(file.stat().st_size for file in (Path(folder) / "base").glob("*.safetensors"))
        shard = max(file.stat().st_size for file in (Path(folder) / "base").glob("*.safetensors"))
        print(f"base {stored / 1e6:.0f} MB, largest shard {shard / 1e6:.0f} MB, one thread\n")
        print("| export | seconds | memory above headers, MB | written, MB |\n| --- | --- | --- | --- |")
        for name, (to, kind) in TARGETS.items():
            out = Path(folder) / name.replace(" ", "-")
            command = [sys.executable, __file__, "--one", str(adapter), str(out), to, kind or "-"]
            told = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            print(
                f"| {name} | {told['seconds']:.1f} | {told['grew'] / 1e6:.0f} | {told['size'] / 1e6:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
