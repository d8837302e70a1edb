"""The length policy: refuse, drop or truncate, with honest counts."""

import pytest

from lorica.data import Example
from lorica.data.findings import Findings
from lorica.data.lengths import fit_lengths


def example(length: int, prompt: int) -> Example:
    return Example(f"rows:{length}", list(range(length)), [0.0] * prompt + [1.0] * (length - prompt), prompt)


EXAMPLES = [example(5, 2), example(9, 3), example(12, 10)]


def test_within_the_limit_nothing_happens() -> None:
    findings = Findings()
    assert fit_lengths(EXAMPLES, 12, "error", findings) == EXAMPLES and findings.all() == []


def test_error_says_how_many_and_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 examples are longer.* 8 tokens: rows:9 \(9 tokens\), rows:12"):
        fit_lengths(EXAMPLES, 8, "error", Findings())
    with pytest.raises(ValueError, match=r"the longest needs 12.*data.too_long=drop"):
        fit_lengths(EXAMPLES, 8, "error", Findings())


def test_drop_counts_rows_and_supervised_tokens() -> None:
    findings = Findings()
    assert fit_lengths(EXAMPLES, 8, "drop", findings) == EXAMPLES[:1]
    [finding] = findings.all()
    assert finding.rows == ["rows:9", "rows:12"] and "8 supervised tokens" in finding.message


def test_truncate_cuts_the_end() -> None:
    findings = Findings()
    short, cut, emptied = fit_lengths(EXAMPLES, 8, "truncate", findings)
    assert short == EXAMPLES[0]
    assert (cut.input_ids, cut.weights, cut.completion_start) == (list(range(8)), [0.0] * 3 + [1.0] * 5, 3)
    assert emptied.supervised == 0 and emptied.completion_start is None
    [finding] = findings.all()
    assert "loses 3 supervised tokens" in finding.message
