"""The README.md beside an export: what it is, what it was made from, what was measured."""

import json
from pathlib import Path
from typing import Any

from lorica.evaluation.headline import TITLES
from lorica.files import read_json, write_atomically
from lorica.run.source import Source


def write_card(source: Source, folder: Path, use: str, library: str) -> Path:
    """Write the model card; `use` is how to load the export, `library` who reads it."""
    head = [
        "---",
        f"base_model: {json.dumps(source.base_title)}",
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in (["lorica"] if source.whole else ["lorica", "lora"])),
        "---",
        "",
        f"# {source.name}",
        "",
        f"A fine-tune of `{source.base_title}`, made and exported with Lorica.",
        "",
        use,
        "",
    ]
    text = "\n".join([*head, *_provenance(source), *_results(source), *_proof_line()])
    write_atomically(folder / "README.md", text.encode())
    return folder / "README.md"


def _provenance(source: Source) -> list[str]:
    if source.receipt is None:
        return []
    receipt = source.receipt
    chosen = [(key, s["value"]) for key, s in receipt["settings"].items() if _tells(key, s)]
    lines = ["## Made from", "", "| | |", "|---|---|"]
    lines.append(f"| base weights | `{receipt['base']['base']}` |")
    lines.append(f"| training rows | {receipt['rows']['training']:,} (`{receipt['data']['training'][:16]}`) |")
    lines += [f"| {key} | `{value}` |" for key, value in chosen]
    lines += [f"| {name} | {found} |" for name, found in receipt["versions"].items()]
    return [*lines, ""]


def _tells(key: str, setting: dict[str, Any]) -> bool:
    """Settings of method and training that someone chose or the run derived; paths of this machine are left out."""
    return key.split(".")[0] in ("method", "lora", "train") and setting["origin"] != "default"


def _results(source: Source) -> list[str]:
    if source.run is None:
        return []
    report = read_json(source.run.report)
    if "verdict" not in report:
        return []
    return ["## Measured", "", f"{TITLES[report['verdict']]} {report['headline']}", ""]


def _proof_line() -> list[str]:
    return ["How far this export is from what was trained is in `export.json`.", ""]
