"""Eight lanes in one pass beside eight runs alone: python benchmarks/lanes.py --json RESULT.json --page docs/results.md

The shape is SmolLM2-135M's but for its vocabulary, with random weights, LoRA of rank 16 on all linear layers, every
token supervised, one row a step and lane. A step of the lanes (forward, backward, clipping, optimiser) alternates with
eight steps of a run alone, so that other work on the machine hits both; a point is the median of the ratios of their
times, between the lowest and the highest. The base is dense fp32, or packed as Q4_K, which for rows
of 576 columns is Q5_0, as in llama.cpp.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import surroundings
from packed_base import SHAPE
from tables import table, write_section
from transformers import LlamaConfig, LlamaForCausalLM

from lorica.config import TrainConfig
from lorica.data.batches import microbatches
from lorica.data.examples import Example
from lorica.lora import attach
from lorica.quant import codec, fallback, pack_model
from lorica.training.lanes import LaneLoop, LaneRun
from lorica.training.optimiser import Optimiser
from lorica.training.subject import Subject, subject_of

LANES = 8
VOCABULARY = 8192  # a sixth of the model's, so that fewer layers are not mostly head
BASES = ("dense", "Q4_K")
CONFIG = TrainConfig(batch_size=1, warmup=0.0, schedule="constant")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 256, 1024], help="of a lane")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=BASES)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=20, help="of measuring a point, and three alternations at least"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="Markdown page whose section between the lanes marks is replaced")
    parser.add_argument("--chart", type=Path, help="the curve as SVG")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    told = {key: str(value) for key, value in vars(arguments).items()}
    content: dict[str, Any] = surroundings() | {"arguments": told, "rows": []}
    for name in arguments.bases:
        alone, together = subjects(name, arguments)
        for tokens in arguments.tokens:
            row = {"base": name, "tokens": tokens} | measured(alone, together, tokens, arguments.seconds)
            content["rows"].append(row)
            print(
                f"{name}, {tokens} tokens: {row['ratio']:.3f} ({row['lowest']:.3f} … {row['highest']:.3f})", flush=True
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    if arguments.chart:
        arguments.chart.write_text(chart(content["rows"]))
    if arguments.page:
        write_section(arguments.page, "lanes", lanes_table(content))


def subjects(name: str, arguments: argparse.Namespace) -> list[Subject]:
    """One run, and the lanes, each over a copy of the same base."""
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE | {"vocab_size": VOCABULARY}, num_hidden_layers=1))
    if name != "dense":
        pack_model(model, lambda _, module: codec(fallback(name, module.weight.shape[1])))
    # Packing is slow beside what is measured, so that one layer's weights are every layer's.
    layers = [copy.deepcopy(model.model.layers[0]) for _ in range(arguments.layers)]
    for number, layer in enumerate(layers):
        layer.self_attn.layer_idx = number
    model.model.layers, model.config.num_hidden_layers = torch.nn.ModuleList(layers), arguments.layers
    bases = (model, copy.deepcopy(model))
    return [subject_of(base, attach(base, r=16, alpha=32, lanes=n)) for base, n in zip(bases, (1, LANES), strict=True)]


def measured(alone: Subject, together: Subject, tokens: int, seconds: float) -> dict[str, Any]:
    rows = [[example(tokens, 100 * lane + number) for number in range(4)] for lane in range(LANES)]
    solo = solo_step(alone, rows[0][0])
    runs = [LaneRun(str(lane), own, CONFIG, 1e-4, 10**6) for lane, own in enumerate(rows)]
    lanes = LaneLoop(together, runs, tokens)
    pairs: list[tuple[float, float]] = []
    timed(lanes.step), timed(solo)  # to warm up
    began = time.perf_counter()
    while len(pairs) < 3 or time.perf_counter() - began < seconds:
        pairs.append((timed(lanes.step), sum(timed(solo) for _ in range(LANES))))
    ratios = [one / eight for one, eight in pairs]
    one, eight = (statistics.median(column) for column in zip(*pairs, strict=True))
    found = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return found | {"lanes_seconds": one, "alone_seconds": eight, "alternations": len(pairs)}


def solo_step(alone: Subject, row: Example) -> Callable[[], None]:
    [batch] = microbatches([row], len(row.input_ids))
    optimiser = Optimiser.of(alone.parameters, CONFIG, 1e-4, joined=True)

    def step() -> None:
        alone.engine.loss(batch, batch.weights / batch.weights.sum()).backward()
        optimiser.clip(CONFIG.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()

    return step


def example(tokens: int, seed: int) -> Example:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (tokens,), generator=draw).tolist()
    return Example(str(seed), ids, [0.0] + [1.0] * (tokens - 1))


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def lanes_table(content: dict[str, Any]) -> str:
    given = content["arguments"]
    told = (
        f"{content['date']}, commit {content['commit']}, {content['cores']} cores of {content['processor']}, load "
        f"average {content['load_average']} before the start, {given['threads']} threads; 135M shape, "
        f"{given['layers']} layers."
    )
    rows = [
        [
            row["base"],
            f"{row['tokens']:,}",
            f"{row['alone_seconds']:.2f}",
            f"{row['lanes_seconds']:.2f}",
            f"{row['ratio']:.2f} ({row['lowest']:.2f} … {row['highest']:.2f})",
        ]
        for row in content["rows"]
    ]
    heads = ["base", "tokens a lane", "eight steps alone, s", "a step of eight lanes, s", "ratio (lowest … highest)"]
    return f"{told}\n\n{table(heads, rows)}"


def chart(rows: list[dict[str, Any]]) -> str:
    """Ratio against tokens a lane, one line a base; the dotted line is equal time."""
    width, height, left, bottom = 640, 300, 50, 40
    tokens = sorted({row["tokens"] for row in rows})
    top = max(1.2, max(row["ratio"] for row in rows) * 1.05)

    def x(count: int) -> float:
        return left + tokens.index(count) * (width - left - 90) / max(1, len(tokens) - 1)

    def y(ratio: float) -> float:
        return 10 + (height - bottom - 10) * (1 - ratio / top)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">']
    parts += ['<rect width="100%" height="100%" fill="#fbfaf7"/><g font-size="12" fill="#666d75">']
    for mark in (0, 0.25, 0.5, 0.75, 1.0):
        dash = ' stroke-dasharray="4 4" stroke="#666d75"' if mark == 1 else ' stroke="#e4e1da"'
        parts.append(f'<line x1="{left}" x2="{width - 90}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"{dash}/>')
        parts.append(f'<text x="{left - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for count in tokens:
        parts.append(f'<text x="{x(count):.1f}" y="{height - 20}" text-anchor="middle">{count:,}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">tokens a lane</text></g>')
    for name, colour in zip(BASES, ("#2b5fb3", "#c7681c"), strict=True):
        own = [row for row in rows if row["base"] == name]
        if not own:
            continue
        points = " ".join(f"{x(row['tokens']):.1f},{y(row['ratio']):.1f}" for row in own)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for row in own:
            place, ends = x(row["tokens"]), (y(row["lowest"]), y(row["highest"]))
            parts.append(
                f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke="{colour}"/>'
            )
        last = own[-1]
        place = f'x="{x(last["tokens"]) + 10:.1f}" y="{y(last["ratio"]) + 4:.1f}"'
        parts.append(f'<text {place} font-size="12" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
