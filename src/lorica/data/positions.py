"""Which token stands at a character of a text.

Prompts begin behind an added token and turns end with one. The added tokens among the ids are those that are written in
the text, in the same order, so that finding their names tells where they stand. Where it does not, or another place is
asked for, the tokenizer has to say it of each token.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tokenizers import Encoding


class Tokens(Protocol):
    """The tokens of a text, and what is asked about the characters they cover."""

    @property
    def ids(self) -> list[int]: ...

    def added_before(self, character: int) -> tuple[int, int]:
        """The last added token that ends by `character`: its index and first character; zeros where there is none."""

    def starting_from(self, character: int) -> int:
        """The first token that starts at or after `character`."""


@dataclass(frozen=True, slots=True)
class Anchored:
    """Tokens of which only the added ones are known by their characters: which they are, where they begin and end."""

    ids: list[int]
    added: list[int]
    starts: list[int]
    ends: list[int]

    @classmethod
    def of(cls, text: str, ids: list[int], names: Mapping[int, str]) -> Anchored | None:
        """The tokens of a text; `names` are those of added tokens. None where one is not written, as <unk> is not."""
        added = [at for at, id in enumerate(ids) if id in names]
        starts, ends, end = list[int](), list[int](), 0
        for at in added:
            name = names[ids[at]]
            start = text.find(name, end)
            if start < 0:
                return None
            end = start + len(name)
            starts.append(start)
            ends.append(end)
        return cls(ids, added, starts, ends)

    def with_rest(self, cut: int, rest: Anchored) -> Anchored | None:
        """The tokens of a text that begins like this one up to `cut`, and of which `rest` are those from there on. None
        unless an added token begins there in both: what stands before one has no part in the tokens behind it."""
        at = bisect_left(self.starts, cut)
        if self.starts[at : at + 1] != [cut] or rest.added[:1] != [0] or self.ids[self.added[at]] != rest.ids[0]:
            return None
        first = self.added[at]
        return Anchored(
            self.ids[:first] + rest.ids,
            self.added[:at] + [first + token for token in rest.added],
            self.starts[:at] + [cut + start for start in rest.starts],
            self.ends[:at] + [cut + end for end in rest.ends],
        )

    def added_before(self, character: int) -> tuple[int, int]:
        last = bisect_right(self.ends, character) - 1
        return (self.added[last], self.starts[last]) if last >= 0 else (0, 0)

    def starting_from(self, character: int) -> int:
        """As above, of the end of an added token or, behind them all, of the text."""
        if not self.ends or character > self.ends[-1]:
            return len(self.ids)
        return self.added[bisect_left(self.ends, character)] + 1


@dataclass(frozen=True, slots=True)
class Located:
    """Tokens whose characters the tokenizer knows. It is asked by bisection: lists of it all would cost much more."""

    ids: list[int]
    encoding: Encoding
    names: Mapping[int, str]
    text: str

    def added_before(self, character: int) -> tuple[int, int]:
        at = bisect_right(range(len(self.ids)), character, key=self._end) - 1
        while at > 0 and not self._is_written(at):
            at -= 1
        return (at, self._start(at)) if at > 0 else (0, 0)

    def starting_from(self, character: int) -> int:
        return bisect_left(range(len(self.ids)), character, key=self._start)

    def _is_written(self, at: int) -> bool:
        """Whether a token is an added one that the text has; <unk> often is one, and stands for other text."""
        name = self.names.get(self.ids[at])
        return name is not None and name in self.text[self._start(at) : self._end(at)]

    def _start(self, token: int) -> int:
        return self._characters(token)[0]

    def _end(self, token: int) -> int:
        return self._characters(token)[1]

    def _characters(self, token: int) -> tuple[int, int]:
        found: tuple[int, int] = self.encoding.token_to_chars(token) or (0, 0)
        return found
