"""`lorica config show` and `lorica config schema`, as a user runs them."""

import json

import pytest
from typer.testing import CliRunner

from lorica.cli.config import app
from lorica.config import LEAVES, ConfigError, json_schema

FILE = "model: m\ndata: '[red]x'\ntrain: {lr: 3e-4, steps: 5}\n"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_show_prints_every_setting_with_its_origin(write) -> None:
    lines = {
        line.split()[0]: line.split() for line in run("show", str(write(FILE)), "lora.r=8").splitlines() if line.strip()
    }
    assert lines.keys() == {"setting", *LEAVES}
    assert lines["train.lr"] == ["train.lr", "0.0003", "run.yaml:3"]
    assert lines["lora.r"] == ["lora.r", "8", "command", "line"]
    assert lines["data.path"] == ["data.path", "[red]x", "run.yaml:2"]
    assert " ".join(lines["train.epochs"]) == "train.epochs 1.0 has no effect when train.steps is given"
    assert "Rank of the adapter matrices" in run("show", "run.yaml", "--describe")


def test_show_as_json_is_one_object(write) -> None:
    rows = {row["key"]: row for row in json.loads(run("show", str(write(FILE)), "--json"))["settings"]}
    assert list(rows) == list(LEAVES)
    assert rows["train.lr"] == {
        "key": "train.lr",
        "value": 0.0003,
        "origin": "run.yaml:3",
        "description": LEAVES["train.lr"].description,
        "unused": None,
    }
    assert rows["train.epochs"]["unused"].startswith("has no effect")


def test_show_works_without_a_file() -> None:
    assert '"value": "tiny", "origin": "command line"' in run("show", "model=tiny", "data=d", "--json")


def test_show_raises_the_full_report_for_the_command_line_to_print(write) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:4:1 lr: unknown key; did you mean train\.lr\?"):
        run("show", str(write(FILE + "lr: 3\n")))


def test_schema_is_printed_as_json() -> None:
    assert json.loads(run("schema")) == json_schema()
