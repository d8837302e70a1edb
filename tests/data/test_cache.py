"""The cache never gives wrong tokens: whatever changes or breaks, reading gives what it would give without it."""

import os
import random
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from bad_sets import chat, chatml, good, pair, pairs
from makers import CHATML, byte_level

from lorica.data import cache as caches
from lorica.data.cache import RowCache, TokenisedRow, cache_files, cache_folder, clear
from lorica.data.formats import Completion
from lorica.data.messages import Conversation
from lorica.data.read import Examples, read_examples
from lorica.data.row_key import row_context, row_key
from lorica.data.row_tokeniser import RowTokeniser


class Reader:
    """Reads rows through a cache and counts how many had to be tokenised."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.tokenised, self.notices = folder, 0, list[str]()
        together = RowTokeniser._together

        def counting(tokeniser: RowTokeniser, records: Any) -> Any:
            self.tokenised += len(records)
            return together(tokeniser, records)

        monkeypatch.setattr(RowTokeniser, "_together", counting)

    def __call__(self, config: Any, tokenizer: Any, max_length: int = 10_000, limit: int = caches.LIMIT) -> Examples:
        self.tokenised, self.notices = 0, []
        context = row_context(config, tokenizer, ())
        cache = RowCache(self.folder, context, self.notices.append, limit)
        try:
            return read_examples(config, tokenizer, max_length, cache=cache)
        finally:
            cache.close()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(tmp_path / "cache", monkeypatch)


def told(read: Examples) -> tuple[Any, ...]:
    return list(read.examples), read.rows, read.format, read.findings


def test_nothing_is_tokenised_twice(reader: Reader, write: Any) -> None:
    rows = [*good(300), chat("a\ufffd", "<|im_end|>b"), chat("only"), chat("x", "")]
    first = reader(write(rows), chatml())
    assert reader.tokenised == 303
    again = reader(write(rows), chatml())
    assert reader.tokenised == 0 and told(again) == told(first)
    assert told(first) == told(read_examples(write(rows), chatml(), 10_000))
    assert reader.notices == []


def test_editing_one_row_tokenises_one_row(reader: Reader, write: Any) -> None:
    rows = good(50)
    reader(write(rows), chatml())
    rows[20] = chat("edited", "anew")
    read = reader(write([chat("new", "first"), *reversed(rows)]), chatml())
    assert reader.tokenised == 2
    assert [one.source.rpartition(":")[2] for one in read.examples] == [str(n) for n in range(1, 52)]


def test_length_and_its_policy_tokenise_nothing(reader: Reader, write: Any) -> None:
    rows = [*good(10), chat("x", "the cat sat on the mat " * 20)]
    reader(write(rows), chatml())
    for policy, count in (("truncate_right", 11), ("drop", 10), ("split", 15)):
        read = reader(write(rows, too_long=policy), chatml(), 30)
        assert (reader.tokenised, len(read.examples)) == (0, count)


def context(tokenizer: Any = None, stops: tuple[int, ...] = (), **options: Any) -> str:
    from lorica.config.schema import DataConfig

    return row_context(DataConfig(path="rows.jsonl", **options), tokenizer or chatml(), stops)


def other_template() -> Any:
    tokenizer = chatml()
    tokenizer.chat_template = CHATML + " "
    return tokenizer


def added_token() -> Any:
    tokenizer = chatml()
    tokenizer.add_tokens(["world"])
    return tokenizer


def test_every_option_that_changes_tokens_is_another_context(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text(CHATML, encoding="utf-8")
    contexts = [
        context(),
        context(train_on="all"),
        context(role_weights={"user": 0.5}),
        context(role_weights={"user": 0.25}),
        context(reasoning="drop"),
        context(chat_template=str(template)),
        context(chat_template_kwargs={"enable_thinking": False}),
        context(stops=(3,)),
        context(other_template()),
        context(added_token()),
        context(byte_level(eos="<|end|>", specials=("<|im_start|>",))),
    ]
    template.write_text(CHATML + " ", encoding="utf-8")
    contexts.append(context(chat_template=str(template)))
    assert len(set(contexts)) == len(contexts)


def test_what_does_not_change_tokens_is_the_same_context() -> None:
    from lorica.config.schema import DataConfig

    same = {
        "format": "messages", "max_length": 5, "too_long": "split", "gates": {"duplicate": "warn"}, "on_error": "skip",
        "columns": {"prompt": "question"}, "split": "train",
    }  # fmt: skip
    assert {context(**{key: value}) for key, value in same.items()} == {context()}
    assert row_context(DataConfig(path=["a", {"path": "b", "weight": 2.0}]), chatml(), ()) == context()


def test_an_option_that_nobody_has_thought_of_is_part_of_the_context() -> None:
    from lorica.config.schema import DataConfig

    known = set(DataConfig.model_fields)
    checked = {
        "path", "format", "columns", "sample_by", "name", "split", "revision", "on_error", "train_on", "role_weights",
        "reasoning", "max_length", "too_long", "chat_template", "chat_template_kwargs", "gates",
    }  # fmt: skip
    assert known == checked, "decide whether the new option changes tokens, and add it to a test above"


def test_a_template_with_the_date_is_another_context_tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chatml()
    tokenizer.chat_template = "{{ strftime_now('%d') }}" + CHATML
    today = context(tokenizer), context()

    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return cls(2100, 1, 1)

    monkeypatch.setattr("lorica.data.row_key.date", Tomorrow)
    assert context(tokenizer) != today[0] and context() == today[1]


RECORD = Conversation("a:1", [{"role": "user", "content": "q"}, {"role": "assistant", "content": "é"}], [0.0, 1.0])


@pytest.mark.parametrize(
    "other",
    [
        replace(RECORD, weights=[0.0, 0.5]),
        replace(RECORD, tools=[{"name": "f"}]),
        replace(RECORD, messages=[{"role": "user", "content": "q"}, {"role": "assistant", "content": "e\u0301"}]),
        replace(RECORD, messages=[{"content": "q", "role": "user"}, {"role": "assistant", "content": "é"}]),
        replace(RECORD, messages=[{"role": "user", "content": "q", "n": 1}, RECORD.messages[1]]),
        replace(RECORD, messages=[{"role": "user", "content": "q", "n": True}, RECORD.messages[1]]),
        replace(RECORD, messages=[{"role": "user", "content": "q", "n": "1"}, RECORD.messages[1]]),
        Completion("a:1", "q", "é", 1.0),
    ],
)
def test_keys_tell_records_apart(other: Any) -> None:
    assert row_key(other) != row_key(RECORD) and row_key(other) is not None
    assert row_key(replace(RECORD, source="b:9")) == row_key(RECORD)


def test_a_value_without_an_exact_form_is_not_cached(reader: Reader) -> None:
    assert row_key(replace(RECORD, tools=[object()])) is None
    assert row_key(replace(RECORD, tools=[b"\xff"])) != row_key(replace(RECORD, tools=["ff"]))


def test_a_tokenised_row_survives_as_bytes() -> None:
    row = TokenisedRow([b"", b"abc", bytes(range(256))], [("name", "messäge"), ("other", "")])
    assert TokenisedRow.from_bytes(row.to_bytes()) == row
    assert TokenisedRow.from_bytes(TokenisedRow([], []).to_bytes()) == TokenisedRow([], [])


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_table(path: Path) -> None:
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE rows (a, b, c)").connection.close()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [_garbage, _emptied, _cut, _other_table, _folder])
def test_a_spoilt_file_costs_time_only(reader: Reader, write: Any, spoil: Callable[[Path], None]) -> None:
    rows = write(pairs(60))
    expected = told(reader(rows, chatml()))
    [path] = cache_files(reader.folder)
    spoil(path)
    assert told(reader(rows, chatml())) == expected
    assert reader.tokenised == 60
    assert all("is not used further" in notice and str(path) in notice for notice in reader.notices)
    assert reader.notices or spoil is _emptied


def test_flipped_bits_are_never_believed(reader: Reader, write: Any) -> None:
    rows = write(pairs(40))
    expected = told(reader(rows, chatml()))
    [path] = cache_files(reader.folder)
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(60):
        spoilt = bytearray(whole)
        for _ in range(chance.choice([1, 1, 20])):
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        for file in reader.folder.iterdir():
            file.unlink()
        path.write_bytes(spoilt)
        assert told(reader(rows, chatml())) == expected


def test_a_folder_that_cannot_be_made(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    reader = Reader(tmp_path / "file" / "cache", monkeypatch)
    assert len(reader(write(pairs(5)), chatml()).examples) == 5
    assert len(reader.notices) == 1 and "is not used further" in reader.notices[0]


def test_another_process_that_holds_the_file(reader: Reader, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "WAIT_SECONDS", 0.05)
    reader(write(pairs(5)), chatml())
    [path] = cache_files(reader.folder)
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    assert len(reader(write(pairs(9)), chatml()).examples) == 9
    assert any("locked" in notice for notice in reader.notices)
    other.close()


def test_several_at_once(write: Any, tmp_path: Path) -> None:
    config = write(pairs(200))
    expected = told(read_examples(config, chatml(), 10_000))

    def read(_: int) -> bool:
        tokenizer, notices = chatml(), list[str]()
        cache = RowCache(tmp_path / "cache", row_context(config, tokenizer, ()), notices.append)
        return told(read_examples(config, tokenizer, 10_000, cache=cache)) == expected and not notices

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def test_a_limit_stops_the_writing(reader: Reader, write: Any) -> None:
    rows = write(pairs(600))
    read = reader(rows, chatml(), limit=50_000)
    assert len(read.examples) == 600 and "reached its limit" in reader.notices[0]


def test_files_unused_for_longest_go_first(tmp_path: Path) -> None:
    for age, name in enumerate("dbac"):  # the last is the one in use
        path = tmp_path / f"{name}.rows"
        path.write_bytes(bytes(100))
        os.utime(path, (age, age))
    (tmp_path / "b.rows-wal").write_bytes(bytes(50))
    assert caches._prune(tmp_path, 500) == 350
    assert [path.name for path in cache_files(tmp_path)] == ["b.rows", "a.rows", "c.rows"]
    assert caches._prune(tmp_path, 10) == 100
    assert [path.name for path in tmp_path.iterdir()] == ["c.rows"]


def test_clearing_removes_everything(reader: Reader, write: Any) -> None:
    reader(write(pairs(9)), chatml())
    assert clear(reader.folder) > 1000
    assert list(reader.folder.iterdir()) == [] and clear(reader.folder) == 0


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder("auto") == tmp_path / "lorica" / "rows"
    assert cache_folder("none") is None and cache_folder("here") == Path("here")


def test_without_a_folder_nothing_is_kept(write: Any) -> None:
    cache = RowCache(None, "x", pytest.fail)
    assert len(read_examples(write([pair("a\n", "b")]), chatml(), 100, cache=cache).examples) == 1
    assert cache.get([b"k"]) == {}
