"""`lorica report`: what a run changed, and how sure that is."""

from pathlib import Path
from typing import Annotated

import typer

from lorica.cli.arguments import Json


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    as_json: Json = False,
) -> None:
    """Print the report of a run; the page is report.html in its folder."""
    from rich.console import Console

    from lorica.cli.terminal import print_json
    from lorica.evaluation.terminal import print_report
    from lorica.run.reopen import read_report

    content = read_report(run)
    if as_json:
        print_json(content)
    else:
        print_report(content, Console())
