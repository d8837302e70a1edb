"""The command line. Commands only parse, call and print; nothing heavy is imported before a command needs it.

Exit codes: 0 done, 1 refused or failed (one paragraph with a remedy), 2 wrong usage, 128 + signal interrupted (a run
that was training has written a checkpoint). With `--json` stdout carries one JSON object and everything else goes to
stderr.
"""

import json
import os
import sys
from typing import Any

import typer

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

app = typer.Typer(
    name="lorica",
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
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _failed(str(error), as_json, 1)


def _failed(message: str, as_json: bool, code: int) -> int:
    if as_json:
        print(json.dumps({"error": message}, ensure_ascii=False))
    return code
