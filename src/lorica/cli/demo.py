"""`lorica demo`: the embedded model learns a small task, in a minute or two."""

from pathlib import Path
from typing import Annotated

import typer

from lorica.cli.arguments import Json


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Fine-tune the embedded model to turn messages into tickets, and show it before and after."""
    from lorica.cli.train import run_and_print
    from lorica.demo import fresh_folder, write_demo_run

    folder = fresh_folder(out)
    run_and_print(as_json, str(write_demo_run(folder)), [f"out={folder}"], None, {})
