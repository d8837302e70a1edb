"""`lorica --version`."""

from importlib.metadata import version
from typing import Annotated

import typer


def _show(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lorica {version('lorica')}")
        raise typer.Exit


def version_option(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
