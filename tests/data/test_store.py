"""Examples as bytes and on disk, against the plain list that they stand for."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.data import Example
from lorica.data.encoding import decode, encode, header, token_ids, weight_runs
from lorica.data.store import ExampleWriter, store

WEIGHTS = st.sampled_from([0.0, 1.0, 0.1, 1 / 3, 1e-300, 5e4])


@st.composite
def examples(draw: st.DrawFn) -> Example:
    ids = draw(st.lists(st.integers(0, 2**32 - 1), max_size=30))
    weights = [0.0, *draw(st.lists(WEIGHTS, min_size=max(0, len(ids) - 1), max_size=max(0, len(ids) - 1)))][: len(ids)]
    start = draw(st.none() | st.integers(0, max(0, len(ids))))
    return Example(draw(st.text(max_size=9)), ids, weights, start)


@given(examples())
def test_an_encoded_example_is_the_example(example: Example) -> None:
    encoded = encode(example)
    assert decode(encoded, example.source) == example
    told = header(encoded)
    assert (told.tokens, told.supervised) == (len(example.input_ids), example.supervised)
    assert (told.completion_start, told.fingerprint) == (example.completion_start, example.fingerprint())
    assert token_ids(encoded).tolist() == example.input_ids
    lengths, values = weight_runs(encoded)
    assert np.repeat(values, lengths).tolist() == example.weights
    assert all(one != other for one, other in pairwise(values))


@given(examples(), examples())
def test_equal_prompts_have_equal_hashes(one: Example, other: Example) -> None:
    prompts = [None if e.completion_start is None else e.input_ids[: e.completion_start] for e in (one, other)]
    assert (prompts[0] == prompts[1]) == (header(encode(one)).prompt == header(encode(other)).prompt)


def test_a_token_costs_four_bytes() -> None:
    whole = Example("rows.jsonl:1", list(range(10_000)), [0.0] * 4000 + [0.7] * 6000, 4000)
    assert len(encode(whole)) < 4 * 10_000 + 100


@given(st.lists(examples(), max_size=8), st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([1, 2, -1]))
def test_a_store_reads_as_the_list(listed: list[Example], start: int, stop: int, step: int) -> None:
    kept = store(listed)
    assert len(kept) == len(listed) and list(kept) == listed and kept == listed
    assert kept[start:stop:step] == listed[start:stop:step]
    assert kept.tokens.tolist() == [len(e.input_ids) for e in listed]
    assert kept.supervised.tolist() == [e.supervised for e in listed]
    assert [row.tobytes() for row in kept.fingerprints] == [e.fingerprint() for e in listed]
    odd = kept.take([i for i in range(len(listed)) if i % 2])
    assert odd == listed[1::2] and [odd.source(i) for i in range(len(odd))] == [e.source for e in listed[1::2]]
    if listed:
        assert kept[-1] == listed[-1] and kept != listed[:-1] and kept != "no"
    with pytest.raises(IndexError):
        kept[len(listed)]


def test_rows_are_counted_by_source() -> None:
    one = [Example(source, [1, 2], [0.0, 1.0]) for source in ("a:1", "a:1", "a:2", "a:1")]
    assert store(one).rows.tolist() == [0, 0, 1, 0]


def test_several_threads_and_parts_read_one_file() -> None:
    listed = [Example(f"r:{i}", [i, i + 1, *range(i % 50)], [0.0, *[1.0] * (1 + i % 50)]) for i in range(400)]
    kept = store(listed)
    parts = [kept.take(np.arange(at, 400, 4)) for at in range(4)]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(list, parts))
    assert read == [listed[at::4] for at in range(4)]


def test_nothing_is_left_behind(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = ExampleWriter()
    writer.append(0, "r:1", encode(Example("r:1", [1, 2], [0.0, 1.0])))
    assert writer.finish()[0].input_ids == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ExampleWriter()

    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "_file", Full())
    with pytest.raises(ValueError, match=r"temporary files \(No space left on device\).*TMPDIR"):
        writer.append(0, "r:1", encode(Example("r:1", [1, 2], [0.0, 1.0])))
