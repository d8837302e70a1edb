"""`lorica adapters`: several adapters as one, or one at a smaller rank."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lorica.cli.arguments import Json

app = typer.Typer(name="adapters", help="Combine and shrink trained adapters.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", help="Folder of the adapter to write; it must not exist.")]


@app.command("merge")
def merge(
    adapters: Annotated[list[Path], typer.Argument(help="Folders of two adapters or more, of one base.")],
    out: Out,
    weights: Annotated[
        str | None, typer.Option(help="A factor for each, such as 0.7,0.3; all equal if left out.")
    ] = None,
    method: Annotated[str, typer.Option(help="linear (exact sum), svd, ties or dare.")] = "linear",
    rank: Annotated[int | None, typer.Option(help="Rank of the result of svd, ties and dare.")] = None,
    density: Annotated[float, typer.Option(help="Share of entries that ties and dare keep.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Decides which entries dare keeps.")] = 0,
    allow_other_base: Annotated[bool, typer.Option(help="Merge adapters of different bases.")] = False,
    as_json: Json = False,
) -> None:
    """Combine adapters of one base into one.

    lorica adapters merge runs/a/adapter runs/b/adapter --weights 0.7,0.3 --out merged
    """
    from lorica.adapters import merge_adapters

    _check_free(out)
    factors = None if weights is None else [_number(text) for text in weights.split(",")]
    found = merge_adapters(
        adapters, out, factors, method=method, rank=rank, density=density, seed=seed, allow_other_base=allow_other_base
    )
    _show(found | {"path": str(out)}, as_json)


@app.command("resize")
def resize(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    out: Out,
    rank: Annotated[int | None, typer.Option(help="Rank of every module.")] = None,
    keep: Annotated[float | None, typer.Option(help="Share of each module's change to keep, such as 0.99.")] = None,
    as_json: Json = False,
) -> None:
    """Shrink an adapter to a smaller rank.

    lorica adapters resize runs/a/adapter --keep 0.99 --out smaller
    """
    from lorica.adapters import resize_adapter

    _check_free(out)
    _show(resize_adapter(adapter, out, rank=rank, keep=keep) | {"path": str(out)}, as_json)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; name another --out, or remove it.")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"--weights holds {text!r}; expected numbers with commas between them, such as 0.7,0.3."
        ) from None


def _show(found: dict[str, Any], as_json: bool) -> None:
    from lorica.cli.terminal import print_json

    if as_json:
        print_json(found)
        return
    for module in found["modules"]:
        similarity = module.get("similarity")
        told = f"  similarity {similarity:+.2f}" if similarity is not None else ""
        typer.echo(f"{module['module']:<44} rank {module['rank']:<4} kept {module['kept']:.2%}{told}")
    typer.echo(f"{found['path']}: {found['kept']:.2%} of what was asked for is in it")
