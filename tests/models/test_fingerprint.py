"""Hashes follow content alone: not files, order or devices, and every bit counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import tiny_models as tiny
from lorica.models import fingerprint
from lorica.models.fingerprint import checksum, hash_template, hash_tokenizer, hash_weight_files


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(5, 7, generator=generator),
        "b": torch.randn(3, generator=generator).to(torch.bfloat16),
        "c": torch.arange(9, dtype=torch.uint8),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5),
    }


def written(folder: Path, parts: list[dict[str, torch.Tensor]]) -> list[Path]:
    paths = [folder / f"{i}.safetensors" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        save_file(part, path)
    return paths


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    whole = hash_weight_files(written(tmp_path, [tensors()]))
    parts = [{"c": tensors()["c"]}, {k: v for k, v in tensors().items() if k != "c"}]
    shards = written(tmp_path, parts)
    assert hash_weight_files(shards) == hash_weight_files(reversed(shards)) == whole


@pytest.mark.parametrize("change", ["bit", "name", "shape", "dtype", "more", "less"])
def test_any_change_changes_the_hash(tmp_path: Path, change: str) -> None:
    changed = tensors()
    if change == "bit":
        changed["a"].view(torch.int32)[4, 6] ^= 1
    elif change == "name":
        changed["aa"] = changed.pop("a")
    elif change == "shape":
        changed["a"] = changed["a"].reshape(7, 5)
    elif change == "dtype":
        changed["b"] = changed["b"].view(torch.float16)
    elif change == "more":
        changed["d"] = torch.zeros(1)
    else:
        del changed["empty"]
    before = hash_weight_files(written(tmp_path, [tensors()]))
    assert hash_weight_files(written(tmp_path, [changed])) != before


def test_progress_counts_tensors(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    hash_weight_files(written(tmp_path, [tensors()]), lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_the_tokenizer_hash_is_of_what_it_does() -> None:
    tokenizer: Any = tiny.word_tokenizer()
    before = hash_tokenizer(tokenizer)
    tokenizer(["word1 word2 word3"], truncation=True, max_length=2)
    assert hash_tokenizer(tokenizer) == before
    tokenizer.chat_template = "{{ messages }}"
    assert hash_tokenizer(tokenizer) == before
    tokenizer.add_tokens(["new"])
    assert hash_tokenizer(tokenizer) != before
    other = tiny.word_tokenizer()
    other.eos_token = "<unk>"
    assert hash_tokenizer(other) != before


def test_the_template_hash() -> None:
    tokenizer: Any = tiny.word_tokenizer()
    assert hash_template(tokenizer) is None
    tokenizer.chat_template = "{{ messages }}"
    one = hash_template(tokenizer)
    tokenizer.chat_template = "{{ messages }} "
    assert one is not None and hash_template(tokenizer) != one


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(0, 10**6), st.integers(0, 7), st.data())
def test_a_single_flipped_bit_changes_the_checksum(which: int, place: int, bit: int, data: Any) -> None:
    del data
    values = [tensor.clone() for tensor in tensors().values() if tensor.numel()]
    before = checksum(values)
    raw = values[which % len(values)].reshape(-1).view(torch.uint8)
    raw[place % raw.numel()] ^= 1 << bit
    assert checksum(values) != before


def test_the_checksum_sees_order_and_exchange() -> None:
    a, b = torch.arange(6.0), torch.arange(6.0) + 1
    assert checksum([a, b]) != checksum([b, a])
    swapped = a.clone()
    swapped[[1, 4]] = a[[4, 1]]
    assert checksum([swapped]) != checksum([a])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("size", [1, 2, 1001])
def test_the_checksum_does_not_depend_on_chunks(dtype: torch.dtype, size: int) -> None:
    words = torch.arange(size).mul(37).to(dtype)
    raw = words.view(torch.uint8)
    whole = fingerprint._weighted_sum(raw)
    assert all(fingerprint._weighted_sum(raw, chunk) % 2**64 == whole % 2**64 for chunk in (1, 7, 64, 999))
    slow = sum(int(v) * (2 * i + 1) * 0x9E3779B1 for i, v in enumerate(raw))
    assert slow % 2**64 == whole % 2**64


def test_the_checksum_is_of_values_not_of_strides() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    assert checksum([x.t()]) == checksum([x.t().contiguous()])
