"""The policy for examples that are longer than `max_length`: refuse, drop or truncate, and always count."""

from __future__ import annotations

from dataclasses import replace

from lorica.data.examples import Example
from lorica.data.findings import SHOWN, Findings


def fit_lengths(examples: list[Example], max_length: int, too_long: str, findings: Findings) -> list[Example]:
    """Applies `too_long` ("error", "drop" or "truncate", which cuts the end) to examples over `max_length` tokens.

    Raises:
        ValueError: the policy is "error" and some are too long; says how many, the first few, and the choices.
    """
    long = [example for example in examples if len(example.input_ids) > max_length]
    if not long:
        return examples
    if too_long == "error":
        raise ValueError(_refusal(long, len(examples), max_length))
    if too_long == "drop":
        message = f"Longer than {max_length} tokens and dropped, with {_lost(long, 0)} supervised tokens."
    else:
        message = f"Cut to {max_length} tokens, which loses {_lost(long, max_length)} supervised tokens."
    for example in long:
        findings.add(f"too long, {too_long}", example.source, message)
    kept = examples if too_long == "truncate" else [e for e in examples if len(e.input_ids) <= max_length]
    return [_cut(example, max_length) for example in kept]


def _lost(long: list[Example], kept: int) -> int:
    return sum(weight != 0.0 for example in long for weight in example.weights[kept:])


def _cut(example: Example, length: int) -> Example:
    if len(example.input_ids) <= length:
        return example
    start = example.completion_start
    return replace(
        example,
        input_ids=example.input_ids[:length],
        weights=example.weights[:length],
        completion_start=start if start is not None and start < length else None,
    )


def _refusal(long: list[Example], count: int, max_length: int) -> str:
    shown = ", ".join(f"{example.source} ({len(example.input_ids)} tokens)" for example in long[:SHOWN])
    longest = max(len(example.input_ids) for example in long)
    return (
        f"{len(long)} of {count} examples are longer than max_length = {max_length} tokens: {shown}"
        f"{' and more' * (len(long) > SHOWN)}. Raise data.max_length (the longest needs {longest}), or choose "
        "data.too_long=drop or data.too_long=truncate; both are counted and shown."
    )
