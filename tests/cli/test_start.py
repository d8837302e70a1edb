"""What happens before a command works: imports, help, exit codes, completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from outcomes import Cli
from typer.testing import CliRunner

from lorica.cli import app

HEAVY = ("torch", "transformers", "pydantic", "numpy", "safetensors", "rich", "tokenizers")
COMMANDS = [
    "train",
    "report",
    "generate",
    "chat",
    "inspect",
    "doctor",
    "demo",
    "config",
    "config show",
    "config schema",
]


def imported(code: str) -> set[str]:
    """Top-level packages that running `code` in a fresh process imports."""
    show = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_help_and_the_package_import_nothing_heavy() -> None:
    with_help = imported("import lorica.cli; sys.argv = ['lorica', '--help']; lorica.cli.main()")
    assert "typer" in with_help and not with_help & set(HEAVY[:5])
    package = imported("import lorica; dir(lorica)")
    assert "lorica" in package and not package & set(HEAVY)


def test_the_program_is_installed() -> None:
    program = Path(sys.executable).with_name("lorica")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lorica 0.")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    outcome = cli(*command.split(), "--help")
    assert outcome.code == 0 and outcome.err == ""
    assert outcome.out.startswith(f"Usage: lorica {command}".rstrip())


def test_python_names_resolve() -> None:
    names: dict[str, object] = {}
    exec("from lorica import *", names)  # the statement itself is what is tested
    import lorica

    assert set(lorica.__all__) <= names.keys() and set(lorica.__all__) <= set(dir(lorica))
    assert all(callable(names[name]) for name in lorica.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        lorica.trian  # noqa: B018


USAGES = ("trian", "train --modle x", "train a.yaml b.yaml", "generate", "generate x", "inspect", "report")


@pytest.mark.parametrize("arguments", [*USAGES, "generate x --prompt y --max-new-tokens 0", "chat x --temperature -1"])
def test_wrong_usage_is_2(cli: Cli, arguments: str) -> None:
    outcome = cli(*arguments.split())
    assert outcome.code == 2 and outcome.out == "" and outcome.err.startswith("Usage: lorica")
    told = cli(*arguments.split(), "--json")
    assert told.code == 2 and set(told.json) == {"error"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "absent.yaml"],
        ["train", "--model", "/absent", "--data", "/absent.jsonl"],
        ["train", "--resume", "/absent"],
        ["report", "/absent"],
        ["generate", "/absent", "--prompt", "x"],
        ["inspect", "/absent"],
        ["config", "show", "absent.yaml"],
    ],
)
def test_refused_is_1_with_one_paragraph(cli: Cli, arguments: list[str]) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 1 and outcome.out == ""
    assert outcome.err.startswith("error: ") and "absent" in outcome.err and "\n\n" not in outcome.err
    told = cli(*arguments, "--json")
    assert told.code == 1 and told.json == {"error": outcome.err.removeprefix("error: ").removesuffix("\n")}


def test_settings_complete() -> None:
    """Through the shell's own protocol, as bash asks."""
    environment = {"_LORICA_COMPLETE": "complete_bash", "COMP_WORDS": "lorica train train.l", "COMP_CWORD": "2"}
    outcome = CliRunner().invoke(app, [], prog_name="lorica", env=environment)
    assert outcome.output.split() == ["train.lr=", "train.loraplus_lr_ratio="]


def test_a_terminal_without_our_characters(tmp_path: Path) -> None:
    """Such as Windows' code pages: what it lacks is replaced, and JSON stays JSON."""
    (tmp_path / "ö-文.yaml").write_text("model: m\ndata: d\n")
    program = [Path(sys.executable).with_name("lorica"), "config", "show", tmp_path / "ö-文.yaml"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(program, capture_output=True, env=environment, check=True)
    assert b"model.path" in shown.stdout and shown.stdout.isascii() and shown.stderr == b""
    told = subprocess.run([*program, "--json"], capture_output=True, env=environment, check=True)
    assert json.loads(told.stdout)


def test_output_that_nobody_reads_ends_quietly() -> None:
    """As with `lorica config schema | head -1`."""
    program = Path(sys.executable).with_name("lorica")
    with subprocess.Popen([program, "config", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
