"""`lorica export` on runs: what it prints, its exit codes, and that the run itself stays as it was."""

import json
from pathlib import Path

import pytest
import torch
from outcomes import EXPORT_KEYS, PROOF_KEYS, Cli
from transformers import AutoModelForCausalLM

from lorica.files import sha256


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


RUNS = [
    ("chat_run", "peft"),
    ("text_run", "merged"),
    ("full_run", "merged"),
    ("text_run", "gguf"),
    ("full_run", "gguf"),
]


@pytest.mark.parametrize(("run_name", "to"), RUNS)
def test_a_run(cli: Cli, request: pytest.FixtureRequest, tmp_path: Path, run_name: str, to: str) -> None:
    run = request.getfixturevalue(run_name)
    before = contents(run)
    outcome = cli("export", run, "--to", to, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0 and set(outcome.json) >= EXPORT_KEYS and set(outcome.json["proof"]) >= PROOF_KEYS
    assert outcome.json["ok"] is True and outcome.json["proof"]["rows"] == 8  # the held-out rows
    assert sorted(outcome.json["files"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == outcome.json
    assert contents(run) == before
    prompt = ["--prompt", "three plus 4 is", "--max-new-tokens", 8, "--json"]
    if to != "peft":
        assert (
            cli("generate", tmp_path / "out", *prompt, "--raw").json["token_ids"]
            == (cli("generate", run, *prompt, "--raw").json["token_ids"])
        )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model:" in card and "| train.lr |" in card


def test_a_full_fine_tune_goes_back_to_the_base_s_precision(cli: Cli, full_run: Path, tmp_path: Path) -> None:
    assert cli("export", full_run, "--to", "merged", "--type", "F16", "--out", tmp_path / "out").code == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    trained = AutoModelForCausalLM.from_pretrained(full_run / "model", dtype=torch.float32)
    for (name, found), (_, wanted) in zip(model.named_parameters(), trained.named_parameters(), strict=True):
        assert torch.equal(found, wanted.half()), name
    refused = cli("export", full_run, "--to", "peft", "--json")
    assert refused.code == 1 and "--to merged" in refused.json["error"]


def test_the_table(cli: Cli, text_run: Path, tmp_path: Path) -> None:
    outcome = cli("export", text_run, "--to", "merged", "--type", "BF16", "--out", tmp_path / "out")
    assert outcome.code == 0
    for told in ("greedy agreement", "KL to base and adapter", "surviving share of the delta", str(tmp_path)):
        assert told in outcome.out.replace("\n", " ") or told == str(tmp_path)


def test_the_rows_are_gone(cli: Cli, text_run: Path, tmp_path: Path) -> None:
    rows = text_run.parent / "rows.jsonl"
    aside = rows.rename(text_run.parent / "moved.jsonl")
    try:
        outcome = cli("export", text_run, "--to", "peft", "--out", tmp_path / "out", "--json")
    finally:
        aside.rename(rows)
    assert outcome.code == 0 and "general text" in outcome.json["proof"]["notes"][0]
    assert outcome.json["proof"]["metric_change"] == {}


def test_usage(cli: Cli, text_run: Path) -> None:
    assert cli("export", text_run, "--json").code == 2
    outcome = cli("export", text_run, "--to", "coreml", "--json")
    assert outcome.code == 1 and "peft, merged, gguf" in outcome.json["error"]


def test_quantize(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "base.gguf"
    told = cli("quantize", tiny_base, "--type", "q8_0", "--out", out, "--measure", "--json").json
    assert set(told) >= {"path", "mixture", "bytes", "bits_per_weight", "types", "measured", "notes"}
    assert told["mixture"] == "Q8_0" and told["bytes"] == out.stat().st_size
    assert told["types"]["F16"]["relative_error"] < 1e-3  # rows of 24 and 40 do not divide into blocks of 32
    assert told["measured"]["kl"] < 1e-4 and told["measured"]["greedy_agreement"] > 0.98
    assert any("F16 instead of Q8_0" in note for note in told["notes"])
    shown = cli("quantize", tiny_base, "--type", "Q8_0", "--out", out, "--overwrite", "--measure")
    assert shown.code == 0 and "relative error" in shown.out and "bits a weight" in shown.out
    assert cli("quantize", tiny_base, "--type", "Q8_0", "--out", out).code == 1
