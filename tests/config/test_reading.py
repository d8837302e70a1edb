"""Reading: YAML 1.2's plain scalars, places, and every way a file can be unreadable."""

import json
import math
from pathlib import Path

import pytest
import yaml

from lorica.config import ConfigError, load
from lorica.config.reading import CoreDumper, CoreLoader, parse, read_file


def scalar(text: str) -> object:
    return parse(f"key: {text}", "f").values["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("010", 10),
        ("+7", 7),
        ("-0", 0),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("'3e-4'", "3e-4"),
        ("=", "="),
        ("e5", "e5"),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    read = scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_non_finite_numbers_are_read_as_such() -> None:
    assert scalar("-.inf") == -math.inf
    assert math.isnan(scalar(".nan"))  # type: ignore[arg-type]


def test_a_number_too_long_for_an_int_of_python_is_a_float() -> None:
    assert scalar("9" * 5000) == math.inf


@pytest.mark.parametrize(
    "text", ["3e-4", "null", "yes", "true", "~", "1.5", "", "a: b", "#x", "zwei\nZeilen", "😀\u2028"]
)
def test_written_text_reads_back_as_text(text: str) -> None:
    written = yaml.dump({"key": text}, Dumper=CoreDumper, allow_unicode=True)
    assert parse(written, "f").values == {"key": text}


def test_places_are_those_of_key_and_value() -> None:
    document = parse("model: m\ntrain:\n  lr:   0.1\n  betas: [0.9,\n    0.99]\n", "f.yaml")
    assert document.key_places["train", "lr"] == "f.yaml:3:3"
    assert document.value_places["train", "lr"] == "f.yaml:3:9"
    assert document.value_places["train", "betas", 1] == "f.yaml:5:5"


def test_json_is_read_with_tabs_escapes_and_places(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{\n\t"model": "m",\n\t"data": ' + json.dumps("😀é.jsonl") + ',\n\t"train": {"lr":0.1}}', "utf-8")
    resolved = load(path)
    assert resolved.config.data.path == "😀é.jsonl"
    assert resolved.config.train.lr == 0.1
    assert resolved.origins["data.path"] == "run.json:3"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: m\ndata: d\n")
    assert load(path).config.model.path == "m"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "run.yaml is empty; expected settings"),
        (b"# nothing\n", "run.yaml is empty; expected settings"),
        (b"- a\n", "run.yaml is a list, not a mapping; expected settings"),
        (b"hello", "run.yaml is a single value, not a mapping"),
        (b"model: caf\xe9\n", "run.yaml is not UTF-8 text (byte 10 is 0xe9); save it as UTF-8"),
        (b"a: 1\nb:\n\tc: 1\n", "run.yaml:3:1 cannot be read: a tab; YAML is indented with spaces"),
        (b"a: 1\nb: c: 2\n", "run.yaml:2:5 cannot be read: a second colon on the line"),
        (b"a: [1, 2\n", "run.yaml:2:1 cannot be read: expected ',' or ']'"),
        (b"a: &x 1\nb: *x\n", "run.yaml:1:4 cannot be read: an anchor or alias; write the value"),
        (b"a: 1\nb: \x00\n", "run.yaml:2 has a character that YAML does not allow, U+0000"),
        (b"a: " + b"[" * 5000, "run.yaml:1:16 cannot be read: nested more than 12 deep"),
        (b"a: 1\n---\nb: 1\n", "run.yaml:2:1 cannot be read: but found another document"),
    ],
)
def test_unreadable_files_say_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_file("run.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "run.json is empty"),
        ('{"model": "m",\n "data": }', "run.json:2:10 is not JSON: Expecting value"),
        ("[" * 100_000, "run.json cannot be read: maximum recursion depth exceeded"),
    ],
)
def test_broken_json_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_file("run.json")
    assert str(caught.value).startswith(message)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist; give the path of a configuration"):
        read_file(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_file(tmp_path)


def test_keys_given_twice_are_all_reported_with_the_first_line() -> None:
    problems = parse("a: 1\nb: {c: 1, c: 2}\na: 2\n", "f.yaml").problems
    assert [str(problem) for problem in problems] == [
        "f.yaml:2:11 b.c: given twice, first on line 2; keep one",
        "f.yaml:3:1 a: given twice, first on line 1; keep one",
    ]


def test_tags_and_keys_that_are_no_names_are_reported() -> None:
    problems = parse("a: !!python/object:os.system {}\n? [x]\n: 1\nb: !local 2\n", "f.yaml").problems
    assert [str(problem) for problem in problems] == [
        "f.yaml:1:4 a: the tag tag:yaml.org,2002:python/object:os.system is not read",
        "f.yaml:2:3 a list or mapping used as a key; keys are names",
        "f.yaml:4:4 b: the tag !local is not read",
    ]


def test_pyyaml_itself_is_left_as_it_was() -> None:
    assert yaml.safe_load("a: no") == {"a": False}
    assert CoreLoader.yaml_implicit_resolvers is not yaml.SafeLoader.yaml_implicit_resolvers
