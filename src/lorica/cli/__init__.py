"""The command line. Commands only parse, call and print; nothing heavy is imported before a command needs it.

Exit codes: 0 done, 1 refused or failed (one paragraph with a remedy), 2 wrong usage, 128 + signal interrupted (a run
that was training has written a checkpoint). With `--json` stdout carries one JSON object and everything else goes to
stderr.
"""

import io
import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from lorica.cli import (
    adapters,
    chat,
    compare,
    config,
    data,
    demo,
    doctor,
    export,
    generate,
    inspect,
    plan,
    quantize,
    report,
    sweep,
    train,
)
from lorica.cli.version import version_option


class _StoppedError(Exception):
    """A command was stopped by a signal; its cause says how."""


class _Commands(TyperGroup):
    """Typer answers a KeyboardInterrupt with 130, whatever it says and whichever signal raised it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _StoppedError from stop


app = typer.Typer(
    name="lorica",
    cls=_Commands,
    help="Fine-tune language models with low-rank adapters.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    callback=version_option,
)
app.command("train")(train.train_command)
app.command("plan")(plan.plan_command)
app.command("report")(report.report)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("export")(export.export_command)
app.command("quantize")(quantize.quantize_command)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.command("compare")(compare.compare_command)
app.command("sweep")(sweep.sweep_command)
app.command("demo")(demo.demo)
app.add_typer(adapters.app, name="adapters")
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")

# Recent versions of typer bring their own click, earlier ones use the installed one; this is the UsageError of either.
USAGE_ERROR: Any = typer.BadParameter.__base__


def main() -> None:
    """The `lorica` program."""
    if _machine_is_busy():
        # OpenMP reads this when torch is loaded: idle threads sleep rather than spin. Beside other work, spinning makes
        # each small operation wait for a time slice, a hundred times slower at its worst; on an idle machine it is
        # faster (benchmarks/busy_machine.py).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a character shows a question mark
    sys.exit(run(sys.argv[1:]))


def _machine_is_busy() -> bool:
    """Whether more processes than there are cores have wanted to run in the last minute."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code. Errors that a user can mend are told in one paragraph, without a
    traceback."""
    as_json = "--json" in arguments
    try:
        outcome = typer.main.get_command(app).main(arguments, prog_name="lorica", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except USAGE_ERROR as error:
        error.show()
        return _failed(error.format_message(), as_json, error.exit_code)
    except _StoppedError as stopped:
        return _stopped(stopped.__cause__, as_json)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _failed(str(error), as_json, 1)


def _stopped(stop: BaseException | None, as_json: bool) -> int:
    """Says how to go on, where what was stopped is kept in a folder."""
    message = str(stop) or "interrupted"
    print(message, file=sys.stderr)
    folder = getattr(stop, "run", None)
    kept = {} if folder is None else {"run": str(folder)}
    return _failed(message, as_json, 128 + getattr(stop, "signal", signal.SIGINT), **kept)


def _failed(message: str, as_json: bool, code: int, **more: str) -> int:
    if as_json:
        with suppress(OSError):  # a full disk has been told on stderr
            print(json.dumps({"error": message, **more}, ensure_ascii=False), flush=True)
    return code
