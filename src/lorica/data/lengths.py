"""What happens to examples longer than `max_length`, and what each policy would cost, counted while rows stream past.

No policy is silent: all of them are counted in rows and supervised tokens, and the one in force is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lorica.data.encoding import decode, encode, header
from lorica.data.examples import Example
from lorica.data.findings import Findings

Policy = Literal["error", "drop", "truncate", "truncate_left", "truncate_right", "split"]
TOO_LONG, FITTED = "too long", "made to fit"


@dataclass
class Costs:
    """Supervised tokens that each policy loses in the examples that are too long; `pieces` is what split makes."""

    examples: int = 0
    supervised: int = 0
    longest: int = 0
    drop: int = 0
    truncate_left: int = 0
    truncate_right: int = 0
    pieces: int = 0

    def of(self, policy: str) -> int:
        """Supervised tokens that `policy` loses; error loses none."""
        lost = {"drop": self.drop, "truncate_left": self.truncate_left}
        return lost.get(policy, self.truncate_right if policy in ("truncate", "truncate_right") else 0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class LengthPolicy:
    """Applies `too_long` to encoded examples over `max_length` tokens; `costs` and `supervised` sum over all seen.

    drop leaves the example out. truncate_right (truncate) keeps its beginning, truncate_left its end and `bos`, if it
    begins with that. split makes of it several examples: each after the first begins with `bos` and the token before it
    as context, so that every supervised token is still trained, once, but with the rest of its context lost. error
    keeps it whole.
    """

    def __init__(self, max_length: int, too_long: Policy, bos: int | None) -> None:
        self.max_length, self.too_long, self.bos = max_length, too_long, bos
        self.costs = Costs()
        self.supervised = 0

    @property
    def finding(self) -> str:
        """The name of what is found of examples that are too long."""
        return TOO_LONG if self.too_long == "error" else FITTED

    def fit(self, encoded: bytes, source: str, findings: Findings) -> list[bytes]:
        """What is left of an example: usually itself. Pieces that would train nothing are left out."""
        told = header(encoded)
        self.supervised += told.supervised
        if told.tokens <= self.max_length:
            return [encoded]
        findings.add(self.finding, source, "")
        example = decode(encoded, source)
        pieces = {
            policy: list(self._pieces(example, policy)) for policy in ("truncate_left", "truncate_right", "split")
        }
        self._count(example, pieces)
        if self.too_long == "error":
            return [encoded]
        chosen = pieces.get("truncate_right" if self.too_long == "truncate" else self.too_long, [])
        return [encode(piece) for piece in chosen]

    def message(self, examples: int) -> str:
        """What was too long among all `examples`, what is done about it, and what each choice costs."""
        costs = self.costs
        done = {"error": "Choose what to do", "drop": "They are dropped", "split": "They are split"}
        return (
            f"{costs.examples:,} of {examples:,} examples are longer than max_length = {self.max_length:,} tokens "
            f"(the longest has {costs.longest:,}). {done.get(self.too_long, 'They are cut')}. Of {self.supervised:,} "
            f"supervised tokens, data.too_long=drop loses {costs.drop:,}, truncate_right {costs.truncate_right:,}, "
            f"truncate_left {costs.truncate_left:,} (and the oldest context), split none (the later of its "
            f"{costs.pieces:,} parts lack what came before them); a larger data.max_length loses nothing."
        )

    def _count(self, example: Example, pieces: dict[str, list[Example]]) -> None:
        costs = self.costs
        costs.examples += 1
        costs.supervised += example.supervised
        costs.longest = max(costs.longest, len(example.input_ids))
        costs.drop += example.supervised
        costs.truncate_left += example.supervised - sum(piece.supervised for piece in pieces["truncate_left"])
        costs.truncate_right += example.supervised - sum(piece.supervised for piece in pieces["truncate_right"])
        costs.pieces += len(pieces["split"])

    def _pieces(self, example: Example, policy: str) -> Iterator[Example]:
        length = len(example.input_ids)
        if policy == "truncate_left":
            spans = [(length - self.max_length + self._prefix(example), length)]
        elif policy == "truncate_right":
            spans = [(0, self.max_length)]
        else:
            spans = self._windows(example, length)
        for start, end in spans:
            piece = self._cut(example, start, end)
            if piece.supervised:
                yield piece

    def _prefix(self, example: Example) -> int:
        """How many first tokens (BOS, or nothing) belong before every part of the example."""
        return int(self.bos is not None and example.input_ids[0] == self.bos and self.max_length > 2)

    def _windows(self, example: Example, length: int) -> list[tuple[int, int]]:
        """Ranges that overlap by one token, which a later piece has as context only."""
        step = self.max_length - self._prefix(example)
        windows, start = [(0, self.max_length)], self.max_length - 1
        while start < length - 1:
            windows.append((start, min(start + step, length)))
            start += step - 1
        return windows

    def _cut(self, example: Example, start: int, end: int) -> Example:
        """Tokens `start` to `end`, after BOS, up to the last supervised one; the first of them is context."""
        prefix = self._prefix(example) if start else 0
        ids = example.input_ids[:prefix] + example.input_ids[start:end]
        weights = [0.0] * prefix + [0.0, *example.weights[start + 1 : end]]
        end = next((at + 1 for at in range(len(weights) - 1, -1, -1) if weights[at]), 0)
        begins = None if example.completion_start is None else example.completion_start - start + prefix
        if begins is not None and not prefix < begins < end:
            begins = None
        return replace(example, input_ids=ids[:end], weights=weights[:end], completion_start=begins)
