"""Loss on a general text: what is read, how it is cut, and what it is worth per token and per byte."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import character_tokenizer

from lorica.evaluation.forgetting import GeneralLoss, general_loss, read_general_text


def test_bundled_text_is_varied_and_of_the_size_it_claims() -> None:
    text = read_general_text("auto")
    size = sum(len(passage.encode()) for passage in text.passages)
    assert 6_000 <= size <= 9_000 and len(text.passages) >= 20 and text.bytes_left_aside == 0
    assert len(set(text.passages)) == len(text.passages)


def test_text_and_jsonl_are_cut_into_passages(tmp_path: Path) -> None:
    plain = tmp_path / "general.txt"
    plain.write_bytes("One.\r\nStill one.\r\n\r\n\r\nTwo, naïve.\n".encode())
    assert read_general_text(str(plain)).passages == ["One.\nStill one.", "Two, naïve."]
    lines = tmp_path / "general.jsonl"
    lines.write_text('{"text": "a\\n\\nb"}\n\n{"text": " "}\n{"text": "c", "id": 3}\n', encoding="utf-8")
    assert read_general_text(str(lines)).passages == ["a\n\nb", "c"]


def test_long_text_is_limited_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join("x" * 1_000 for _ in range(230)), encoding="utf-8")
    text = read_general_text(str(path))
    assert len(text.passages) == 200 and text.bytes_left_aside == 30_000


def test_a_long_text_without_blank_lines_is_limited_too(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("é" * 150_000, encoding="utf-8")
    text = read_general_text(str(path))
    assert text.passages == ["é" * 100_000] and text.bytes_left_aside == 100_000


def test_text_as_other_programs_write_it(tmp_path: Path) -> None:
    """Unicode's own line ends stand in JSON as they are; editors of Windows put a byte order mark before a text."""
    lines = tmp_path / "general.jsonl"
    said = ["one\u2028two", "three\u0085four"]
    rows = "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in said)
    lines.write_bytes(b"\xef\xbb\xbf" + rows.encode())
    assert read_general_text(str(lines)).passages == said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "Cannot read the general text .*absent.txt"),
        ("latin.txt", b"caf\xe9", "Cannot read the general text"),
        ("empty.txt", b" \n\n", "is empty"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', r"bad\.jsonl:2 is not valid JSON"),
        ("fields.jsonl", b'{"prompt": "a"}\n', r'fields\.jsonl:1 has no "text" field'),
        ("number.jsonl", b"3\n", r'number\.jsonl:1 has no "text" field'),
    ],
)
def test_unreadable_text(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_general_text(str(tmp_path / name))


def _text(tmp_path: Path, content: str) -> Any:
    path = tmp_path / "text.txt"
    path.write_text(content, encoding="utf-8")
    return read_general_text(str(path))


def _nats(model: Any, ids: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return -float(torch.log_softmax(logits[:-1], -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum())


def test_per_token_and_per_byte_against_a_plain_forward(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The second passage has a letter of two bytes, which this tokenizer knows as one token."""
    result = general_loss(model, tokenizer, _text(tmp_path, "HELLO\n\nNAÏVE"), 64, 200, "cpu")
    rows = [[1, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in ("HELLO", "NAÏVE")]
    nats = sum(_nats(model, ids) for ids in rows)
    assert [len(ids) for ids in rows] == [6, 6] and result.byte_counts.tolist() == [5, 6]
    assert result.scores.loss == pytest.approx(nats / 10, rel=1e-5)
    assert result.loss_per_byte == pytest.approx(nats / 11, rel=1e-5)
    again = GeneralLoss.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.loss_per_byte == result.loss_per_byte and again.text == result.text


def test_a_passage_too_long_is_halved_and_nothing_lost(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    content = "THE FERRY LEFT AT SIX AND " * 6 + "X" * 40
    result = general_loss(model, tokenizer, _text(tmp_path, content), 20, 20, "cpu")
    assert result.byte_counts.sum() == len(content) and result.scores.tokens.sum() == len(content)
    assert result.scores.tokens.max() <= 19


def test_without_a_start_token_the_first_token_is_given(model: Any, tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.bos_token = None
    started = general_loss(model, tokenizer, _text(tmp_path, "HELLO"), 64, 64, "cpu")
    assert started.scores.tokens.tolist() == [5], "the end token stands in for the start token"
    tokenizer.eos_token = None
    bare = general_loss(model, tokenizer, _text(tmp_path, "HELLO"), 64, 64, "cpu")
    assert bare.scores.tokens.tolist() == [4] and bare.byte_counts.tolist() == [4]
