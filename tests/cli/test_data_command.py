"""`lorica data`: what it prints, how it ends, and that it needs no weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from outcomes import SMALL, Cli

from bases import byte_tokenizer, chats, sums, write_base, write_rows

CHECK_KEYS = {"ok", "rows", "tokens", "supervised_tokens", "findings"}
PREVIEW_KEYS = {"text", "tokens"}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", chats())


@pytest.fixture
def tokenizer_only(tmp_path: Path) -> Path:
    """A model's directory without its weights and config."""
    folder = write_base(tmp_path / "tokenizer")
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / name).unlink()
    return folder


def test_check(cli: Cli, tiny_base: Path, rows: Path) -> None:
    outcome = cli("data", "check", "--model", tiny_base, "--data", rows, "--json")
    found = outcome.json
    assert outcome.code == 0 and set(found) >= CHECK_KEYS
    assert (found["ok"], found["rows"], found["format"], found["findings"]) == (True, 40, "messages", [])
    assert found["examples"] == {"training": 32, "held_out": 8}
    assert sum(found["lengths"]["histogram"]["counts"]) == 40
    assert 0 < found["supervised_share"] == found["supervised_tokens"] / found["tokens"] < 1
    assert 0 < found["packing"]["efficiency"] <= 1 and found["packing"]["capacity"] == 96
    table = cli("data", "check", "--model", tiny_base, "--data", rows)
    assert table.code == 0 and "nothing found" in table.out and "40 rows as messages" in table.out


def test_check_of_bad_rows(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    bad = chats(20) + [{"messages": [{"role": "user", "content": "x"}]}] * 2
    bad += [{"messages": [{"role": "user", "content": "y"}, {"role": "assistant", "content": "long " * 90}]}]
    path = write_rows(tmp_path / "bad.jsonl", bad)
    outcome = cli("data", "check", "--model", tiny_base, "--data", path, "--json")
    found = {finding["gate"]: finding for finding in outcome.json["findings"]}
    assert outcome.code == 1 and outcome.json["ok"] is False
    assert list(found) == ["too_long", "trains_nothing"]
    assert [finding["severity"] for finding in found.values()] == ["error", "warn"]
    assert [row.rpartition(":")[2] for row in found["trains_nothing"]["rows"]] == ["21", "22"]
    assert outcome.json["too_long"]["examples"] == 1 and outcome.json["too_long"]["pieces"] > 1
    table = cli("data", "check", "--model", tiny_base, "--data", path)
    assert table.code == 1 and "too_long" in table.out and "error" in table.out
    let = cli("data", "check", "--model", tiny_base, "--data", path, "data.too_long=truncate_right", "--json")
    assert let.code == 1 and [f["gate"] for f in let.json["findings"] if f["severity"] == "error"] == ["truncation"]
    consent = ["data.too_long=truncate_right", "data.gates={truncation: warn}"]
    assert cli("data", "check", "--model", tiny_base, "--data", path, *consent, "--json").code == 0


def test_train_refuses_what_check_refuses(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bad.jsonl", [*sums(8), {"prompt": "café\n", "completion": "x", "weight": 500}])
    options = ["--model", tiny_base, "--data", path, "--out", tmp_path / "run", *SMALL]
    outcome = cli("train", *options, "data.gates={huge_weight: error}")
    assert outcome.code == 1 and not (tmp_path / "run").exists()
    assert "huge weight: 1 row" in outcome.err and "bad.jsonl:9" in outcome.err and "\n\n" not in outcome.err


def test_neither_weights_nor_config_are_needed(cli: Cli, tokenizer_only: Path, rows: Path) -> None:
    found = cli("data", "check", "--model", tokenizer_only, "--data", rows, "--json").json
    assert found["ok"] and found["max_length"] == 2048
    assert cli("data", "preview", "--model", tokenizer_only, "--data", rows, "--json").json["text"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "absent.jsonl"], "absent.jsonl"),
        (["--model", "absent"], "the model absent does not exist"),
        (["data.gates={truncaton: warn}"], "did you mean truncation"),
        (["data.chat_template=absent.jinja"], "absent.jinja"),
        (["--row", "9999"], "no row 9,999"),
    ],
)
def test_wrong_input_is_told(cli: Cli, tiny_base: Path, rows: Path, arguments: list[str], told: str) -> None:
    given = {"--model": tiny_base, "--data": rows}
    rest = [value for name, value in given.items() if name not in arguments for value in (name, value)]
    command = "preview" if "--row" in arguments else "check"
    outcome = cli("data", command, *rest, *arguments, "--json")
    said = outcome.json.get("error") or json.dumps(outcome.json["findings"])
    assert outcome.code == 1 and told in said


def test_preview_of_a_row(cli: Cli, tiny_base: Path, rows: Path) -> None:
    outcome = cli("data", "preview", "--model", tiny_base, "--data", rows, "--row", 3, "--json")
    told = outcome.json
    assert outcome.code == 0 and set(told) >= PREVIEW_KEYS
    question, answer = (message["content"] for message in chats()[2]["messages"])
    assert told["text"] == f"<|user|>{question}<|end|><|assistant|>{answer}<|end|>"
    assert "".join(token["text"] for token in told["tokens"] if token["weight"]) == f"{answer}<|end|>"
    assert told["examples"][0]["source"].endswith("rows.jsonl:3")
    shown = cli("data", "preview", "--model", tiny_base, "--data", rows, "--row", 3)
    assert question in shown.out and "rows.jsonl:3" in shown.out


def test_preview_of_a_row_that_trains_nothing(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "idle.jsonl", [{"messages": [{"role": "user", "content": "alone"}]}, *chats(4)])
    told = cli("data", "preview", "--model", tiny_base, "--data", path, "--json").json
    assert told["examples"][0]["findings"][0]["name"] == "trains nothing"
    assert "alone" in told["text"] and not any(token["weight"] for token in told["tokens"])


def test_preview_of_the_worst(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": "alone"}]}]
    path = write_rows(tmp_path / "odd.jsonl", [*chats(30), *odd])
    page = tmp_path / "worst.html"
    arguments = ["data", "preview", "--model", tiny_base, "--data", path, "--worst", 3]
    told = cli(*arguments, "--html", page, "--json").json
    assert told["examples"][0]["source"].endswith(":31")
    assert len(told["examples"]) == 3 and told["summary"]["rows"] == 31
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert cli(*arguments, "--html", page).out.strip() == str(page)


def test_preview_of_a_microbatch(cli: Cli, tiny_base: Path, rows: Path) -> None:
    told = cli("data", "preview", "--model", tiny_base, "--data", rows, "--packed", "--json").json
    assert told["packed"] and len(told["examples"]) > 1
    assert sum(len(one["tokens"]) for one in told["examples"]) <= 96
    again = cli("data", "preview", "--model", tiny_base, "--data", rows, "--packed", "--json").json
    assert again == told


def test_one_choice_of_rows(cli: Cli, tiny_base: Path, rows: Path) -> None:
    assert cli("data", "preview", "--model", tiny_base, "--data", rows, "--row", 1, "--packed").code == 2


def test_gates_are_listed(cli: Cli) -> None:
    told = cli("data", "gates", "--json").json["gates"]
    assert {"gate": "truncation", "severity": "error"}.items() <= next(
        g for g in told if g["gate"] == "truncation"
    ).items()
    assert "held_out_row_in_training" in cli("data", "gates").out


def test_the_cache_is_shown_and_cleared(cli: Cli, tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cli("data", "check", "--model", tiny_base, "--data", rows, f"system.cache={folder}")
    held = cli("data", "cache", folder, "--json").json
    assert held["files"] == 1 and held["bytes"] > 1000
    assert cli("data", "cache", folder, "--clear", "--json").json["freed_bytes"] == held["bytes"]
    assert "0 B in 0 files" in cli("data", "cache", folder).out
    cli("data", "check", "--model", tiny_base, "--data", rows, "system.cache=none")
    assert list(folder.iterdir()) == []


def test_stopping_while_rows_are_read(
    cli: Cli, tiny_base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lorica.data.gates.tokens.TokenGates.look_at", interrupted)
    options = ["--model", tiny_base, "--data", rows, f"system.cache={tmp_path / 'cache'}"]
    for command in (["data", "check"], ["train", "--out", tmp_path / "run"]):
        outcome = cli(*command, *options)
        assert (outcome.code, outcome.out) == (130, "") and not (tmp_path / "run").exists()
    monkeypatch.undo()
    assert cli("data", "check", *options).code == 0


def test_sources_with_weights(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    one, other = write_rows(tmp_path / "a.jsonl", sums(20)), write_rows(tmp_path / "b.jsonl", chats(30)[20:])
    sources = [{"path": str(one), "weight": 3.0}, {"path": str(other)}]
    config = tmp_path / "config.json"
    options = {"evaluate": {"enabled": False}, "system": {"cache": str(tmp_path / "cache")}}
    config.write_text(json.dumps({"model": str(tiny_base), "data": {"path": sources}} | options), encoding="utf-8")
    found = cli("data", "check", config, "--json").json
    assert (found["rows"], found["format"]) == (30, "prompt-completion and messages")
    assert found["examples"]["training"] == 3 * 20 + 10 and found["findings"] == []


def test_rows_of_tokens_are_checked_shown_and_trained(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    stop = byte_tokenizer().eos_token_id
    ids = [[10 + n % 7, 20 + n, 30, stop if n == 2 else 40 + n, stop] for n in range(30)]
    rows = [{"input_ids": one, "labels": [-100, -100, *one[2:]]} for one in ids]
    rows[2]["attention_mask"], rows[2]["labels"][-1] = [1, 1, 1, 1, 0], -100
    options = ["--model", tiny_base, "--data", write_rows(tmp_path / "rows.jsonl", rows)]
    found = cli("data", "check", *options, "--json").json
    assert (found["format"], found["tokens"], found["supervised_tokens"]) == ("tokens", 5 * 30 - 1, 3 * 30 - 1)
    told = cli("data", "preview", *options, "--row", 3, "--json").json
    assert [token["id"] for token in told["tokens"]] == ids[2][:4]
    assert [token["weight"] for token in told["tokens"]] == [0, 0, 1, 1]
    outcome = cli("train", *options, "--out", tmp_path / "run", *SMALL, "train.steps=2", "--json")
    assert outcome.code == 0 and outcome.json["steps"] == 2


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"prompt": "one plus\n", "chosen": "two", "rejected": "three"}, ["chosen", "rejected"]),
        (
            {"prompt": [{"role": "user", "content": "one"}], "chosen": "two", "rejected": "three"},
            ["chosen", "rejected"],
        ),
        ({"messages": chats(1)[0]["messages"], "label": False}, ["undesirable"]),
    ],
)
def test_judged_rows_are_checked_and_shown_but_not_trained(
    cli: Cli, tiny_base: Path, tmp_path: Path, row: dict[str, Any], names: list[str]
) -> None:
    options = ["--model", tiny_base, "--data", write_rows(tmp_path / "rows.jsonl", [row])]
    found = cli("data", "check", *options, "--json").json
    assert found["ok"] and "no_loss_for_this_format" in [finding["gate"] for finding in found["findings"]]
    told = cli("data", "preview", *options, "--json").json
    assert [one["title"] for one in told["examples"]] == names
    assert all(any(token["weight"] for token in one["tokens"]) for one in told["examples"])
    outcome = cli("train", *options, "--out", tmp_path / "run", *SMALL)
    assert outcome.code == 1 and "there is no loss for that yet" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_csv_with_names_of_its_own(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    lines = "".join(f'"{row["prompt"]}",{row["completion"]}\n' for row in sums(20))
    path = tmp_path / "odd.csv"
    path.write_text("Frage,Antwort\n" + lines, encoding="utf-8")
    options = ["--model", tiny_base, "--data", path]
    refused = cli("data", "check", *options)
    assert refused.code == 1 and "It has the keys Frage, Antwort" in refused.out.replace("\n", " ")
    mapped = cli(
        "data", "check", "--model", tiny_base, "--data", path, "data.columns={prompt: Frage, completion: Antwort}"
    )
    assert mapped.code == 0 and "20 rows as prompt-completion" in mapped.out
