"""benchmarks/quality at its smallest: the whole command, on rows made up in the published formats."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "quality" / "run.py"


@pytest.mark.slow
def test_the_command_fills_its_table_and_runs_nothing_twice(tmp_path: Path) -> None:
    data = tmp_path / "data" / "gsm8k"
    data.mkdir(parents=True)
    for name, count in (("train", 40), ("test", 8)):
        rows = [{"question": f"{name}: {i} and {i}?", "answer": f"{i} + {i} = {2 * i}"} for i in range(count)]
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text("<!-- quality -->\n<!-- /quality -->\n")
    command = [
        sys.executable, str(SCRIPT), "--data", str(data.parent), "--tasks", "gsm8k", "--rows", "16", "--methods",
        "full fine-tuning", "LoRA r 16", "LoRA r 16, PEFT library", "--work", str(tmp_path / "work"),
        "--out", str(tmp_path / "result.json"), "--page", str(page),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    methods = json.loads((tmp_path / "result.json").read_text())["tasks"]["gsm8k"]["methods"]
    for method in methods.values():
        assert method["loss"] < method["base_loss"] and len(method["loss_by_seed"]) == 3
        assert min(method["loss_by_lr"].values()) == method["loss_by_seed"][0]
    ours, theirs = methods["LoRA r 16"], methods["LoRA r 16, PEFT library"]
    assert abs(ours["loss"] - theirs["loss"]) < 0.2 * (ours["base_loss"] - ours["loss"])
    assert "| LoRA r 16, PEFT library | " in page.read_text()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ": done" not in again.stderr
