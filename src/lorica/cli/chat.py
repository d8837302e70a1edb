"""`lorica chat`: a conversation in the terminal."""

import sys
from typing import Annotated, Any

import typer

from lorica.cli.arguments import Adapter, AllowOtherBase

HELP = "/base and /tuned switch the adapter, /reset forgets the conversation, /quit ends it"


def chat(
    path: Annotated[str, typer.Argument(help="A run, an adapter, or a model.", metavar="RUN")],
    adapter: Adapter = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    allow_other_base: AllowOtherBase = False,
) -> None:
    """Talk to a run's model; a model that was not trained on conversations answers line by line."""
    from lorica.cli.terminal import quiet_libraries
    from lorica.run.reopen import open_for_answers

    quiet_libraries()
    opened = open_for_answers(path, allow_other_base=allow_other_base, adapter=adapter)
    typer.echo(HELP, err=True)
    conversation: list[dict[str, Any]] = []
    use_adapter = True
    for line in iter(_ask, None):
        if line in ("/quit", "/exit"):
            return
        if line in ("/base", "/tuned") and opened.adapter is None:
            typer.echo("there is no adapter here to switch off or on", err=True)
        elif line in ("/base", "/tuned"):
            use_adapter = line == "/tuned"
        elif line == "/reset":
            conversation = []
        elif line.startswith("/"):
            typer.echo(HELP, err=True)
        elif line:
            try:
                conversation = _turn(opened, conversation, line, system, max_new_tokens, temperature, use_adapter)
            except ValueError as error:  # such as a conversation that has become too long
                typer.echo(f"error: {error}", err=True)


def _ask() -> str | None:
    """A line of the user's, or None at the end of the input."""
    try:
        return input("> ").strip()
    except EOFError:
        return None


def _turn(
    opened: Any,
    conversation: list[dict[str, Any]],
    line: str,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    use_adapter: bool,
) -> list[dict[str, Any]]:
    from lorica.run.answer import answer

    if not opened.conversational:
        answer(opened, line, max_new_tokens, temperature, use_adapter=use_adapter, on_text=_write)
        typer.echo()
        return conversation
    start = [{"role": "system", "content": system}] if system and not conversation else []
    asked = [*start, *conversation, {"role": "user", "content": line}]
    given = answer(opened, asked, max_new_tokens, temperature, use_adapter=use_adapter, on_text=_write)
    typer.echo()
    return [*asked, {"role": "assistant", "content": given.completion}]


def _write(piece: str) -> None:
    typer.echo(piece, nl=False)
    sys.stdout.flush()
