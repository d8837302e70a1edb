"""Previews: the pieces are the text, the colours are the weights, and nothing that a row says can leave its place."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from bad_sets import chatml
from hypothesis import given
from hypothesis import strategies as st
from makers import byte_level, metaspace
from rich.console import Console
from transformers import AutoTokenizer

from lorica.data import Example
from lorica.data.preview import Preview, ShownExample, ShownToken, show
from lorica.data.preview.marks import visible
from lorica.data.preview.page import render_page
from lorica.data.preview.shown import pieces
from lorica.data.preview.terminal import print_previews

TOKENIZERS = {"byte-level": byte_level(), "metaspace": metaspace(), "GPT-2": byte_level(words=None)}
TEXT = st.text(st.one_of(st.sampled_from("ab \n'é😀東\u0301\u200d👩"), st.characters(codec="utf-8")), max_size=40)


def decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXT)
def test_the_pieces_are_the_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(text)["input_ids"]
    shown = list(pieces(ids, tokenizer))
    assert len(shown) == len(ids) and "".join(shown) == decode(tokenizer, ids)


def test_a_character_of_several_tokens_is_shown_by_the_last() -> None:
    tokenizer = byte_level()
    ids = tokenizer("👩", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1 and list(pieces(ids, tokenizer)) == [*[""] * (len(ids) - 1), "👩"]


def test_bytes_that_are_no_character_do_not_hold_up_the_rest() -> None:
    tokenizer = byte_level()
    broken = tokenizer("👩", add_special_tokens=False)["input_ids"][:1] * 30
    ids = [*broken, *tokenizer("cat", add_special_tokens=False)["input_ids"]]
    shown = list(pieces(ids, tokenizer))
    assert "".join(shown) == decode(tokenizer, ids) and shown[-1].endswith("t")


def test_long_texts_take_time_in_proportion() -> None:
    calls: list[int] = []

    class Counting:
        def decode(self, ids: list[int], **_: Any) -> str:
            calls.append(len(ids))
            return "x" * len(ids)

    assert len(list(pieces(range(5000), Counting()))) == 5000  # type: ignore[arg-type]
    assert sum(calls) < 5 * 5000


@pytest.mark.parametrize("name", ["qwen2.5", "llama2-32k", "gpt2"])
def test_the_pieces_of_real_tokenizers(shared: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
    text = " naïve café, 東京!\n\n\tdef f(x):  return 'x' 👩‍👩‍👧 <s> </s> <|im_end|> ok "
    ids = tokenizer(text)["input_ids"]
    assert "".join(pieces(ids, tokenizer)) == decode(tokenizer, ids)


def test_weights_stops_and_control_tokens_are_told() -> None:
    tokenizer = chatml()
    end = tokenizer.eos_token_id
    ids = [*tokenizer("<|im_start|>a b")["input_ids"], end]
    example = Example("rows:1", ids, [0.0] * (len(ids) - 2) + [0.5, 1.0], len(ids) - 2)
    shown = show(example, tokenizer, {end}, [("name", "message")], "part 1")
    assert [token.id for token in shown.tokens] == ids and shown.text == decode(tokenizer, ids)
    assert [token.weight for token in shown.tokens] == example.weights
    assert [token.special for token in shown.tokens] == [id in (ids[0], end) for id in ids]
    assert [token.stop for token in shown.tokens] == [False] * (len(ids) - 1) + [True]
    assert shown.supervised == 2
    context = show(Example("rows:1", ids, [0.0] * len(ids)), tokenizer, {end})
    assert not any(token.stop for token in context.tokens)  # a stop in the context stops nothing


def test_the_json_is_whole() -> None:
    one = ShownExample("a:1", "", [ShownToken(1, "é", 0.0), ShownToken(2, "<", 1.0)])
    told = json.loads(json.dumps(Preview([one, one]).to_dict()))
    assert told["text"] == "é<é<" and told["tokens"][1] == {"id": 2, "text": "<", "weight": 1.0}
    assert told["examples"][0]["source"] == "a:1"


def test_white_space_and_control_characters_are_visible() -> None:
    assert visible("a\n\tb\r\u00a0\x1b[31m\u202e\x7f\u200b") == "a⏎\n⇥\tb␍⍽␛[31m‹U+202E›␡‹U+200B›"


@given(st.text())
def test_nothing_visible_can_move_the_cursor(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", visible(text))


ATTACK = "</span><script>alert(1)</script><img src=x onerror=alert(2)>\" ' &amp; {{ 7*7 }} [bold]no[/bold]"


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [tag] * (tag != "meta")
        self.links += [value or "" for name, value in attrs if name in ("src", "href") or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def attacked() -> Preview:
    tokens = [ShownToken(1, ATTACK, 0.0), ShownToken(2, "\x1b]0;title\x07" + ATTACK, 0.3), ShownToken(3, "", 1.0)]
    histogram = {"counts": [1, 2], "edges": [1, 2, 3]}
    lengths = {"shortest": 1, "median": 1, "p95": 2, "longest": 2, "histogram": histogram}
    summary = {"rows": 3, "format": ATTACK, "tokens": 9, "supervised_share": 0.5, "max_length": 9, "lengths": lengths}
    return Preview([ShownExample(ATTACK, ATTACK, tokens, [(ATTACK, ATTACK)])], packed=True, summary=summary)


def test_the_page_needs_nothing_and_escapes_everything() -> None:
    rendered = render_page(attacked())
    page = Page(rendered)
    assert page.open == [] and "script" not in page.tags and "img" not in page.tags and page.links == []
    assert "http" not in rendered and "@import" not in rendered and "url(" not in rendered
    assert page.text.count("<script>alert(1)</script>") >= 6 and "49" not in page.text
    assert "\x1b" not in rendered


def test_the_terminal_takes_nothing_for_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=300, color_system="truecolor")
    print_previews(attacked(), console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]no[/bold]" in told and "\x1b]0;" not in told and "\x07" not in told


def test_a_long_row_is_shown_whole() -> None:
    console = Console(file=io.StringIO(), width=40)
    words = " ".join(f"word{n}" for n in range(300))
    tokenizer = chatml()
    ids = tokenizer(words)["input_ids"]
    print_previews(Preview([show(Example("r", ids, [0.0] * len(ids)), tokenizer, ())]), console)
    told = "".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "".join(words.split()) in told
