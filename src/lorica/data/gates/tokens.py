"""Gates that look at the tokens of one example after another, and at what all of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lorica.data.encoding import header, token_ids, weight_runs
from lorica.data.findings import NAMED, Findings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUGE_WEIGHT = 100.0
UNKNOWN_SHARE = 0.1
FEW = 4  # examples; fewer may well have one answer in common


class TokenGates:
    """Sees every example that will be trained. `vocabulary` is how many tokens the model has embeddings for."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], vocabulary: int | None, findings: Findings
    ) -> None:
        self._tokenizer, self._findings, self._vocabulary = tokenizer, findings, vocabulary
        self._bos, self._unknown = tokenizer.bos_token_id, tokenizer.unk_token_id
        self._stops = {id for id in (*stop_ids, tokenizer.eos_token_id) if id is not None}
        self._unstopped: list[str] = []
        self._generative = self._stopped = 0
        self._answer: bytes | None = None
        self._answers_differ = False

    def look_at(self, encoded: bytes, source: str) -> None:
        """Notes what is wrong with one example."""
        ids = token_ids(encoded)
        if len(ids) == 0:
            return
        self._look_at_ids(ids, source)
        lengths, weights = weight_runs(encoded)
        if weights.max() >= HUGE_WEIGHT:
            self._findings.add("huge weight", source, f"A loss weight of {weights.max():g}; 1 is the usual.")
        if header(encoded).completion_start is not None:
            self._look_at_end(ids, source)
            if not self._answers_differ:
                self._compare_answers(ids[np.repeat(weights, lengths) != 0].tobytes())

    def conclude(self) -> None:
        """Notes what is wrong with all of them."""
        told = self._findings.rows("stop token is not the tokenizer's")
        if self._generative and not self._stopped and self._stops and not told:
            names = ", ".join(repr(self._tokenizer.convert_ids_to_tokens(id)) for id in sorted(self._stops))
            self._findings.add_rows(
                "stop token never trained",
                self._unstopped,
                self._generative,
                f"No trained answer ends with a token on which the server stops ({names}), so answers would never end. "
                "Give a template that ends turns with it; or, where answers are cut, another data.too_long or a larger "
                "data.max_length.",
            )
        if self._generative >= FEW and not self._answers_differ:
            self._findings.add_rows(
                "all answers identical",
                [],
                self._generative,
                "Every answer is the same, so that is all the model can learn. Check which field is the answer.",
            )

    def _look_at_ids(self, ids: np.ndarray, source: str) -> None:
        highest = int(ids.max())
        if self._vocabulary is not None and highest >= self._vocabulary:
            self._findings.add(
                "token outside the vocabulary",
                source,
                f"The tokenizer gives token {highest:,} ({self._tokenizer.convert_ids_to_tokens(highest)!r}), but the "
                f"model has embeddings for {self._vocabulary:,} tokens only. The tokenizer belongs to another model, "
                "or tokens were added to it without resizing the embedding (model.resize_token_embeddings).",
            )
        if self._bos is not None and len(ids) > 1 and ids[0] == self._bos == ids[1]:
            self._findings.add(
                "double BOS",
                source,
                f"The text begins with {self._tokenizer.bos_token!r} twice. The model never saw that; remove one from "
                "the text or from the chat template.",
            )
        if self._unknown is not None and np.count_nonzero(ids == self._unknown) > UNKNOWN_SHARE * len(ids):
            self._findings.add(
                "unknown tokens",
                source,
                f"More than a tenth of the tokens are {self._tokenizer.unk_token!r}: the tokenizer has no tokens for "
                "this text, and nothing can be learnt from it. Is it the right model for this language?",
            )

    def _look_at_end(self, ids: np.ndarray, source: str) -> None:
        self._generative += 1
        if int(ids[-1]) in self._stops:
            self._stopped += 1
        elif len(self._unstopped) < NAMED:
            self._unstopped.append(source)

    def _compare_answers(self, answer: bytes) -> None:
        self._answers_differ = self._answer is not None and answer != self._answer
        self._answer = answer
