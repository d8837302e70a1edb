"""A preview as one HTML file that needs nothing else, with every text of the user's escaped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lorica.data.preview.marks import visible
from lorica.data.preview.shown import Preview, ShownToken
from lorica.pages import fill

FAINTEST = 0.25  # of the green behind a token of the least weight


def render_page(preview: Preview) -> str:
    """The page."""
    supervised = sum(example.supervised for example in preview.examples)
    tokens = sum(len(example.tokens) for example in preview.examples)
    return fill(
        "lorica.data.preview",
        preview=preview,
        summary=preview.summary,
        bars=list(_bars(preview.summary)),
        share=supervised / max(1, tokens),
        tokens=tokens,
        visible=visible,
        opacity=_opacity,
        kind=_kind,
    )


def _kind(token: ShownToken, index: int) -> str:
    """CSS classes of a token; `odd` tells it apart from its neighbours."""
    kinds = ["stop"] if token.stop else ["trained"] if token.weight else ["context"]
    return " ".join(kinds + ["special"] * token.special + ["odd"] * (index % 2))


def _opacity(weight: float) -> float:
    """How strong the green is: full from a weight of 2 on, half at 1."""
    return round(FAINTEST + (1 - FAINTEST) * min(weight, 2.0) / 2, 3)


def _bars(summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The length histogram, each bar as a share of the highest."""
    histogram = summary.get("lengths", {}).get("histogram", {"counts": [], "edges": []})
    counts, edges = histogram["counts"], histogram["edges"]
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        yield {"count": count, "low": low, "high": high, "share": count / max(counts)}
