"""The length policies, against the slow obvious way: which supervised tokens are still there, and after what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.data import Example
from lorica.data.encoding import decode, encode
from lorica.data.findings import Findings
from lorica.data.lengths import LengthPolicy

BOS = 99


def example(length: int, prompt: int) -> Example:
    return Example(f"rows:{length}", list(range(length)), [0.0] * prompt + [1.0] * (length - prompt), prompt)


EXAMPLES = [example(5, 2), example(9, 3), example(12, 10)]


def fit(policy: LengthPolicy, examples: list[Example]) -> tuple[list[Example], Findings]:
    findings = Findings()
    fitted = [decode(piece, one.source) for one in examples for piece in policy.fit(encode(one), one.source, findings)]
    return fitted, findings


def test_within_the_limit_nothing_happens() -> None:
    for policy in ("error", "drop", "truncate", "truncate_left", "truncate_right", "split"):
        kept, findings = fit(LengthPolicy(12, policy, None), EXAMPLES)
        assert kept == EXAMPLES and findings.all() == []


@pytest.mark.parametrize(
    ("policy", "lost", "kept"),
    [
        ("error", 0, [(5, 3), (9, 6), (12, 2)]),
        ("drop", 8, [(5, 3)]),
        ("truncate", 3, [(5, 3), (8, 5)]),  # the third has its prompt left only, and is dropped
        ("truncate_right", 3, [(5, 3), (8, 5)]),
        ("truncate_left", 0, [(5, 3), (8, 6), (8, 2)]),
        ("split", 0, [(5, 3), (8, 5), (2, 1), (5, 2)]),
    ],
)
def test_what_is_kept_and_what_is_lost(policy: str, lost: int, kept: list[tuple[int, int]]) -> None:
    lengths = LengthPolicy(8, policy, None)
    fitted, findings = fit(lengths, EXAMPLES)
    assert [(len(one.input_ids), one.supervised) for one in fitted] == kept
    assert lengths.costs.of(policy) == lost and lengths.supervised == 11
    assert findings.rows("too long" if policy == "error" else "made to fit") == ["rows:9", "rows:12"]
    told = lengths.message(3)
    assert told.startswith("2 of 3 examples are longer than max_length = 8 tokens (the longest has 12)")
    assert "drop loses 8, truncate_right 3, truncate_left 0" in told and "later of its 3 parts" in told


SIZES = st.integers(2, 9)


@given(SIZES, st.integers(2, 40), st.booleans(), st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=40, max_size=40))
def test_split_trains_every_token_once_after_the_token_before_it(
    limit: int, length: int, bos: bool, weights: list[float]
) -> None:
    ids = [BOS, *range(1, length)] if bos else list(range(length))
    whole = Example("r", ids, [0.0, *weights[1:length]], None)
    pieces, _ = fit(LengthPolicy(limit, "split", BOS), [whole])
    trained = [
        (p.input_ids[t - 1], p.input_ids[t], p.weights[t])
        for p in pieces
        for t in range(1, len(p.weights))
        if p.weights[t]
    ]
    assert trained == [(ids[t - 1], ids[t], weights[t]) for t in range(1, length) if weights[t]]
    assert all(len(piece.input_ids) <= limit or length <= limit for piece in pieces)
    if bos and limit > 2:
        assert all(piece.input_ids[0] == BOS for piece in pieces)


@given(SIZES, st.integers(2, 40), st.integers(1, 39))
def test_truncate_left_keeps_the_end(limit: int, length: int, prompt: int) -> None:
    prompt = min(prompt, length - 1)
    whole = Example("r", [BOS, *range(1, length)], [0.0] * prompt + [1.0] * (length - prompt), prompt)
    pieces, _ = fit(LengthPolicy(limit, "truncate_left", BOS), [whole])
    for piece in pieces:
        assert len(piece.input_ids) == min(limit, length)
        assert piece.input_ids[0] == BOS or limit == 2 < length
        assert piece.input_ids[1:] == whole.input_ids[len(whole.input_ids) - len(piece.input_ids) + 1 :]
        if piece.completion_start is not None:
            assert piece.input_ids[piece.completion_start :] == whole.input_ids[prompt:]
