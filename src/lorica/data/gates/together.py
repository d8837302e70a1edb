"""Gates that compare examples with each other, by their content hashes and lengths alone."""

from __future__ import annotations

import numpy as np

from lorica.data.findings import NAMED, Findings
from lorica.data.store import StoredExamples

LONG_SHARE, MANY = 0.1, 100


def look_at_all(examples: StoredExamples, findings: Findings) -> None:
    """Notes duplicates, prompts with several answers, and a row that outweighs all others."""
    _note(_duplicates(examples), examples, findings)
    _note(_several_answers(examples), examples, findings)
    _note(_very_long(examples), examples, findings)


def look_at_held_out(training: StoredExamples, held_out: StoredExamples, findings: Findings) -> None:
    """Notes held-out examples, or their prompts, that are trained on too."""
    trained = np.isin(held_out.contents, training.contents)
    known_prompt = np.isin(held_out.prompts, training.prompts) & (held_out.prompts != 0)
    same = "The same tokens and weights as a training row: the report on these rows measures memory."
    prompt = "The prompt is trained on with another answer: the report on these rows may measure memory in part."
    _note(("held-out row in training", np.flatnonzero(trained), same), held_out, findings)
    _note(("held-out prompt in training", np.flatnonzero(known_prompt & ~trained), prompt), held_out, findings)


def _note(found: tuple[str, np.ndarray, str], examples: StoredExamples, findings: Findings) -> None:
    name, indices, message = found
    if len(indices):
        rows = len(np.unique(examples.rows[indices]))
        named = dict.fromkeys(examples.source(int(i)) for i in indices[:NAMED])
        findings.add_rows(name, list(named), rows, message)


def _duplicates(examples: StoredExamples) -> tuple[str, np.ndarray, str]:
    order, same = _neighbours(examples.contents)
    # Parts of one row, and a row that its source's weight repeats, are no duplicates.
    repeats = np.sort(order[1:][same & (examples.rows[order][1:] != examples.rows[order][:-1])])
    if len(repeats) and same.all():
        message = "Every row has the same tokens and weights: the model would learn this one row by heart."
        return "all rows identical", repeats, message
    return "duplicate", repeats, "The same tokens and weights as an earlier row; kept."


def _several_answers(examples: StoredExamples) -> tuple[str, np.ndarray, str]:
    order, same = _neighbours(examples.contents)
    distinct = np.sort(order[np.concatenate(([True], ~same))]) if len(order) else order
    prompts, rows = examples.prompts[distinct], examples.rows[distinct]
    order, same = _neighbours(prompts)
    other = same & (rows[order][1:] != rows[order][:-1]) & (prompts[order][1:] != 0)
    members = np.concatenate((order[1:][other], order[:-1][other]))
    message = "Other rows have the same prompt and another answer; the model learns how often each comes."
    return "several answers to one prompt", np.unique(distinct[members]), message


def _neighbours(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order that brings equal keys together, and for each in it but the first, whether it equals the one before.

    One sort costs a third of the memory of `np.unique` with its indices.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return order, ordered[1:] == ordered[:-1]


def _very_long(examples: StoredExamples) -> tuple[str, np.ndarray, str]:
    tokens = examples.tokens
    if len(tokens) < MANY:
        return "very long row", tokens[:0], ""
    longest = np.flatnonzero(tokens > LONG_SHARE * tokens.sum())
    message = f"It holds {tokens.max():,} of {tokens.sum():,} tokens; the median row has {int(np.median(tokens)):,}."
    return "very long row", longest, message
