"""Markdown tables from a benchmark's JSON: python benchmarks/tables.py RESULT.json PAGE.md"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

Run = dict[str, Any]


def engine_tables(result: dict[str, Any]) -> str:
    parts = [preface(result), peers_table(result), parity_line(result)]
    if result["growth"]:
        parts.append(growth_table(result["growth"]))
    return "\n\n".join(parts)


def preface(result: dict[str, Any]) -> str:
    task, versions = result["task"], result["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items() if number and name != "lorica")
    return (
        f"{result['date']}, commit {result['commit']}, {result['cores']} cores of {result['processor']}, load average "
        f"{result['load_average']} before the start, {task['threads']} threads; {packages}. "
        f"{task['counted_rows']} rows ({task['counted_tokens']:,} tokens, {task['supervised_tokens']:,} supervised) in "
        f"steps of {task['batch_size']}, after {task['warm_up']} to warm up."
    )


def peers_table(result: dict[str, Any]) -> str:
    task, peers = result["task"], result["peers"]
    default = peers.get("PEFT + TRL, default")
    rows = []
    for name, runs in peers.items():
        speeds = per_run(runs, task, "seconds", lambda seconds: task["counted_tokens"] / seconds)
        cpu = median(per_run(runs, task, "cpu_seconds", lambda seconds: 1000 * seconds / task["counted_tokens"]))
        rows.append(
            [
                name,
                f"{median(speeds):,.0f} ({min(speeds):,.0f} … {max(speeds):,.0f})",
                f"{median(speeds) * task['counted_rows'] / task['counted_tokens']:.2f}",
                f"{cpu:.2f}",
                ratio(default, runs, task, "seconds"),
                ratio(default, runs, task, "cpu_seconds"),
                ratio(products_for(name, peers), runs, task, "cpu_seconds", "{:.0%}"),
                ratio(with_attention(products_for(name, peers)), runs, task, "cpu_seconds", "{:.0%}"),
                "" if name.startswith("matrix") else f"{median(run['peak_rss_bytes'] for run in runs) / 1e9:.2f}",
            ]
        )
    heads = ["", "tokens/s (range)", "rows/s", "CPU s per 1,000 tokens", "times default, by the clock"]
    heads += ["times default, by CPU time", "of the matrix products, by CPU time", "of these and attention's"]
    heads += ["peak resident GB"]
    return table(heads, rows)


def per_run(runs: list[Run], task: dict[str, Any], key: str, of: Callable[[float], float]) -> list[float]:
    return [of(sum(run[key][task["warm_up"] :])) for run in runs]


def ratio(reference: list[Run] | None, runs: list[Run], task: dict[str, Any], key: str, form: str = "{:.1f}") -> str:
    """How many times as long the reference takes."""
    if not reference:
        return ""
    theirs, ours = (median(per_run(each, task, key, float)) for each in (reference, runs))
    return form.format(theirs / ours)


def products_for(name: str, peers: dict[str, list[Run]]) -> list[Run] | None:
    """Those that a LoRA step of this type of base needs; TRL's default computes in bf16 by autocast."""
    if name.startswith("all weights"):
        return None
    return peers.get(f"matrix products, {'bf16' if 'bf16' in name or 'default' in name else 'fp32'}")


def with_attention(products: list[Run] | None) -> list[Run] | None:
    """The bare products with those of attention."""
    if products is None:
        return None
    pairs = [zip(run["cpu_seconds"], run["attention_cpu_seconds"], strict=True) for run in products]
    return [{"cpu_seconds": [sum(pair) for pair in each]} for each in pairs]


def parity_line(result: dict[str, Any]) -> str:
    told = "; ".join(f"{pair}: {difference:.1e}" for pair, difference in result["parity"].items())
    return f"Largest difference of a step's loss: {told or 'not compared'}."


def growth_table(growth: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{point['tokens']:,}",
            *(f"{1000 * point[key]['attention'] / point['tokens']:.2f}" for key in ("one", "many")),
            *(
                f"{1000 * (point[key]['step'] - point[key]['attention']) / point['tokens']:.2f}"
                for key in ("one", "many")
            ),
            f"{point['peak_bytes'] / 1e9:.2f}",
            f"{point['formula_bytes'] / 1e9:.2f}",
        ]
        for point in growth
    ]
    heads = ["tokens of the pack", "attention, one document: ms a token", "documents of 128"]
    heads += [
        "the rest, one document: ms a token",
        "documents of 128",
        "memory grown by, GB",
        "what the formula keeps, GB",
    ]
    return table(heads, rows) + "\n\n" + slopes(growth)


def slopes(growth: list[dict[str, Any]]) -> str:
    first, last = growth[0], growth[-1]
    tokens = last["tokens"] - first["tokens"]
    measured, formula = ((last[key] - first[key]) / tokens for key in ("peak_bytes", "formula_bytes"))
    return f"Memory grows by {measured / 1e3:,.0f} KB a token; kept for the backward pass are {formula / 1e3:,.0f} KB."


def table(heads: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between the marks `<!-- NAME -->` and `<!-- /NAME -->` of a page."""
    before, opening, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not opening or not closing:
        raise SystemExit(f"{page} has no section between <!-- {name} --> and <!-- /{name} -->.")
    page.write_text(f"{before}{opening}\n{text}\n\n{closing}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_section(Path(sys.argv[2]), "engine", engine_tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
