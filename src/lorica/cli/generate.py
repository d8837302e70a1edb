"""`lorica generate`: one answer."""

import sys
from typing import Annotated

import typer

from lorica.cli.arguments import Adapter, AllowOtherBase, Json


def generate(
    path: Annotated[str, typer.Argument(help="A run, an adapter, or a model.", metavar="RUN")],
    prompt: Annotated[str, typer.Option(help="What to answer; - reads stdin.")],
    adapter: Adapter = None,
    base: Annotated[bool, typer.Option("--base", help="Answer with the untouched base.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Give the prompt as it is, without the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    allow_other_base: AllowOtherBase = False,
    as_json: Json = False,
) -> None:
    """Answer a prompt with a run's adapter, or without it."""
    from lorica.cli.terminal import print_json, quiet_libraries
    from lorica.run.answer import answer
    from lorica.run.reopen import open_for_answers

    quiet_libraries()
    text = _from_stdin() if prompt == "-" else prompt
    opened = open_for_answers(path, allow_other_base=allow_other_base, base_only=base, adapter=adapter)
    messages = [{"role": "user", "content": text}]
    prompt_given = text if raw or not opened.conversational else messages
    told = None if as_json else _write
    given = answer(opened, prompt_given, max_new_tokens, temperature, seed, on_text=told)
    if as_json:
        print_json({"prompt": given.prompt, "completion": given.completion, "token_ids": given.token_ids})
    else:
        typer.echo()


def _from_stdin() -> str:
    if sys.stdin is None:
        raise ValueError("--prompt - reads the prompt from stdin, which is closed. Give the text, or pipe it in.")
    return sys.stdin.read()


def _write(piece: str) -> None:
    typer.echo(piece, nl=False)
    sys.stdout.flush()
