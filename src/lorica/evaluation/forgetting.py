"""Forgetting: the loss on a general text that has nothing to do with the task, before and after.

The text is the user's, or `general.txt` beside this file: eight kilobytes of plain English prose written for this
package. It is scored passage by passage; passages are the units that the bootstrap resamples. Loss per byte is given
beside loss per token because only the former can be compared between models with different tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorica.data.examples import Example
from lorica.evaluation.bootstrap import ratio
from lorica.evaluation.scores import Progress, Scores, score
from lorica.training.engine import Engine

LIMIT_BYTES = 200_000


@dataclass(frozen=True)
class GeneralText:
    """Passages of a general text, where they came from, and how much of the file was left aside for time."""

    name: str
    passages: list[str]
    bytes_left_aside: int = 0


@dataclass(frozen=True)
class GeneralLoss:
    """Loss on a general text: `scores` has one row a passage, `byte_counts` (passages,) what each row predicts."""

    text: str
    scores: Scores
    byte_counts: np.ndarray
    bytes_left_aside: int = 0

    @property
    def loss_per_byte(self) -> float:
        """Nats per UTF-8 byte."""
        return float(ratio(self.byte_statistics.sum(0)))

    @property
    def byte_statistics(self) -> np.ndarray:
        return np.stack([self.scores.loss_sums, self.byte_counts], axis=1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "scores": self.scores.to_dict(),
            "byte_counts": self.byte_counts.tolist(),
            "bytes_left_aside": self.bytes_left_aside,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneralLoss:
        counts = np.array(values["byte_counts"], dtype=np.float64)
        return cls(values["text"], Scores.from_dict(values["scores"]), counts, values["bytes_left_aside"])


def general_loss(
    model: torch.nn.Module,
    tokenizer: Any,
    text: GeneralText,
    max_length: int,
    capacity: int,
    device: torch.device | str,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> GeneralLoss:
    """Scores every passage, cut where needed into pieces of at most `max_length` tokens. `engine` as in `score`."""
    pieces = [piece for passage in text.passages for piece in _fitting(passage, tokenizer, max_length)]
    examples = [_example(piece, number, tokenizer) for number, piece in enumerate(pieces, start=1)]
    counts = [_predicted_bytes(piece, example, tokenizer) for piece, example in zip(pieces, examples, strict=True)]
    scores = score(model, examples, capacity, device, progress, engine)
    return GeneralLoss(text.name, scores, np.array(counts, dtype=np.float64), text.bytes_left_aside)


def read_general_text(source: str) -> GeneralText:
    """Reads "auto" (the bundled text), a .txt file (passages between blank lines) or a .jsonl file (its "text" fields).

    Only the first 200 kB are used: forgetting needs a stable number, not a long evaluation.
    """
    if source == "auto":
        return _limited("bundled English text", _paragraphs(_bundled()))
    path = Path(source)
    passages = _read_lines(path) if path.suffix == ".jsonl" else _paragraphs(_read(path))
    if not passages:
        raise ValueError(f"The general text {path} is empty; evaluate.forgetting needs some text to measure loss on.")
    return _limited(str(path), passages)


def _bundled() -> str:
    return files("lorica.evaluation").joinpath("general.txt").read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Cannot read the general text {path} (evaluate.forgetting): {error}. Expected a UTF-8 .txt file, a .jsonl "
            f'file with a "text" field in each row, or "auto" for the bundled text.'
        ) from error


def _read_lines(path: Path) -> list[str]:
    passages = []
    for number, line in enumerate(_read(path).split("\n"), start=1):  # JSON may hold the line ends of Unicode
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number} is not valid JSON: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(f'{path}:{number} has no "text" field with a string, which evaluate.forgetting reads.')
        passages.append(row["text"])
    return [passage for passage in passages if passage.strip()]


def _paragraphs(text: str) -> list[str]:
    blocks = text.replace("\r\n", "\n").split("\n\n")
    return [block.strip() for block in blocks if block.strip()]


def _limited(name: str, passages: list[str]) -> GeneralText:
    """Whole passages, or the beginning of a first one that is longer than the limit."""
    sizes = np.cumsum([len(passage.encode()) for passage in passages])
    kept = passages[: int(np.searchsorted(sizes, LIMIT_BYTES, side="right"))]
    kept = kept or [passages[0].encode()[:LIMIT_BYTES].decode(errors="ignore")]
    return GeneralText(name, kept, int(sizes[-1]) - sum(len(passage.encode()) for passage in kept))


def _fitting(passage: str, tokenizer: Any, max_length: int) -> list[str]:
    """The passage, halved at a space until every piece and its start token fit into `max_length` tokens."""
    if len(_ids(passage, tokenizer)) <= max_length or len(passage) < 2:
        return [passage]
    middle = len(passage) // 2
    space = passage.find(" ", middle)
    cut = space if 0 < space < len(passage) - 1 else middle
    halves: Sequence[str] = (passage[:cut], passage[cut:])
    return [piece for half in halves for piece in _fitting(half, tokenizer, max_length)]


def _ids(text: str, tokenizer: Any) -> list[int]:
    """Start token, so that the first word is predicted too; the end token stands in for it as in common harnesses."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    prefix = [] if start is None else [start]
    return prefix + tokenizer(text, add_special_tokens=False)["input_ids"]


def _example(piece: str, number: int, tokenizer: Any) -> Example:
    ids = _ids(piece, tokenizer)
    return Example(f"general text, passage {number}", ids, [0.0] + [1.0] * (len(ids) - 1), None)


def _predicted_bytes(piece: str, example: Example, tokenizer: Any) -> int:
    """Without any start token the first token is given, not predicted, and its bytes do not count."""
    starts = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    given = "" if example.input_ids[0] in starts else tokenizer.decode(example.input_ids[:1])
    return len(piece.encode()) - len(given.encode())
