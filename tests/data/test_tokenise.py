"""Tokens of prompt and completion, against the slow way: the server's own tokenisation of the prompt, alone."""

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from makers import byte_level, metaspace
from transformers import PreTrainedTokenizerFast

from lorica.data import Example, read_examples
from lorica.data.findings import Findings
from lorica.data.tokenise import Document, Shade, Span, Tokeniser

TOKENIZERS = {
    "modern byte-level": byte_level(),
    "GPT-2 byte-level": byte_level(words=None),
    "byte-level with BOS": byte_level(bos="<|bos|>"),
    "metaspace": metaspace(),
}
ANY = st.characters(codec="utf-8", exclude_characters="<>|\x00")
TEXT = st.text(st.one_of(st.sampled_from("ab \n'é😀東\u0301"), ANY))


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]


def read(write: Any, tokenizer: Any, *rows: dict[str, Any], **options: Any) -> tuple[list[Example], list[str]]:
    result = read_examples(write(list(rows), **options), tokenizer, 10**6)
    return result.examples, [finding.name for finding in result.findings]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=TEXT.filter(bool), completion=TEXT)
@example(prompt="say ", completion="hello world")  # a space and the word after it are one token
@example(prompt="a\n", completion="\n\nb")
@example(prompt="e", completion="\u0301")
@example(prompt="a", completion="")
def test_prompt_tokens_are_the_servers(tokenizer: Any, write: Any, prompt: str, completion: str) -> None:
    [one], names = read(write, tokenizer, {"prompt": prompt, "completion": completion})
    server = tokenizer(prompt)["input_ids"]
    start = len(server)
    assert one.input_ids[:start] == server
    assert one.weights == [0.0] * max(start, 1) + [1.0] * (len(one.input_ids) - max(start, 1))
    assert one.input_ids[-1] == tokenizer.eos_token_id
    assert one.input_ids.count(tokenizer.eos_token_id) == 1
    joint = tokenizer(prompt + completion)["input_ids"]
    assert tokenizer.decode(one.input_ids[:-1]) == tokenizer.decode(joint)
    straddles = joint[:start] != server
    assert ("a token straddles prompt and completion" in names) == straddles
    assert straddles or one.input_ids[:-1] == joint


def test_a_straddling_token_by_hand(write: Any) -> None:
    tokenizer = TOKENIZERS["GPT-2 byte-level"]
    [one], names = read(write, tokenizer, {"prompt": "the ", "completion": "cat"})
    assert tokenizer.convert_ids_to_tokens(tokenizer("the cat")["input_ids"]) == ["the", "Ġcat"]
    assert tokenizer.convert_ids_to_tokens(one.input_ids[:2]) == ["the", "Ġ"]
    assert one.completion_start == 2 and names == ["a token straddles prompt and completion"]


def test_a_straddling_turn_stays_in_the_context_of_later_turns() -> None:
    """The middle span straddles: it is an example of its own, and the whole keeps its tokens for the last span."""
    tokenizer = TOKENIZERS["GPT-2 byte-level"]
    text = "the cat sat<|im_end|>the mat<|im_end|>"
    spans = [Span(4, 21, 1.0), Span(24, 38, 0.5)]
    assert [text[span.start : span.end] for span in spans] == ["cat sat<|im_end|>", " mat<|im_end|>"]
    document = Document("rows:1", text, spans)
    whole, own = Tokeniser(tokenizer).examples([document], Findings())
    assert whole.input_ids == tokenizer(text)["input_ids"]
    assert tokenizer.decode([i for i, w in zip(whole.input_ids, whole.weights, strict=True) if w]) == " mat<|im_end|>"
    assert own.input_ids[: own.completion_start] == tokenizer("the ")["input_ids"]
    assert tokenizer.decode(own.input_ids[own.completion_start :]) == "cat sat<|im_end|>"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=2, max_size=5), text=st.sampled_from(["", "<|im_end|>", "<|im_", "<unk>", "</s>"]))
def test_spans_are_found_without_the_characters_of_tokens(tokenizer: Any, texts: list[str], text: str) -> None:
    """A shade that covers nothing makes the tokenizer tell which characters each token covers; nothing else changes."""
    written, spans = text, []
    for part in texts:
        start, written = len(written), written + part + tokenizer.eos_token
        spans.append(Span(start, len(written), 0.5))
    tokeniser = Tokeniser(tokenizer)
    quick, slow = (Document("rows:1", written, spans, shades=shades) for shades in ([], [Shade(0, 0, 1.0)]))
    assert outcome(tokeniser, quick) == outcome(tokeniser, slow)


def outcome(tokeniser: Tokeniser, document: Document) -> list[Example] | str:
    """The examples, or the refusal."""
    try:
        return list(tokeniser.examples([document], Findings()))
    except ValueError as error:
        return str(error)


def test_an_empty_prompt(tokenizer: Any, write: Any) -> None:
    """Something must precede what is predicted: BOS where the tokenizer has it, else the first token itself."""
    [one], _ = read(write, tokenizer, {"prompt": "", "completion": "cat"})
    assert one.input_ids == [*tokenizer("cat")["input_ids"], tokenizer.eos_token_id]
    assert one.weights == [0.0] + [1.0] * (len(one.input_ids) - 1)


@pytest.mark.parametrize("text", ["the cat", "", "naïve 😀", "\n\n", " "])
def test_plain_text_is_all_trained_but_the_first_token(tokenizer: Any, write: Any, text: str) -> None:
    if not tokenizer(text)["input_ids"]:
        with pytest.raises(ValueError, match="None of the 1 rows trains anything"):
            read(write, tokenizer, {"text": text})
        return
    [one], _ = read(write, tokenizer, {"text": text, "weight": 0.5})
    assert one.input_ids == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert one.weights == [0.0] + [0.5] * (len(one.input_ids) - 1)
    assert one.completion_start is None


def test_special_tokens_are_never_doubled(write: Any) -> None:
    tokenizer = TOKENIZERS["metaspace"]
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    plain = read(write, tokenizer, {"prompt": "the", "completion": " cat"})[0]
    written = read(write, tokenizer, {"prompt": f"{bos}the", "completion": f" cat{eos}"})[0]
    assert plain[0].input_ids == written[0].input_ids
    assert [plain[0].input_ids.count(id) for id in (tokenizer.bos_token_id, tokenizer.eos_token_id)] == [1, 1]


def test_a_tokenizer_without_eos_is_refused_for_completions(write: Any) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS["modern byte-level"].backend_tokenizer)
    with pytest.raises(ValueError, match=r"rows.jsonl:1.*no eos_token.*never learn to stop"):
        read(write, tokenizer, {"prompt": "a", "completion": "b"})


def test_an_eos_token_that_its_own_text_does_not_give(write: Any) -> None:
    """Early Llama 2 tokenizers split "</s>" in text: completions end with its id all the same, chats are refused."""
    broken = metaspace(normalized=True)
    assert len(broken("cat</s>", add_special_tokens=False)["input_ids"]) > 2
    [one], _ = read(write, broken, {"prompt": "the", "completion": " cat</s>"})
    assert broken.decode(one.input_ids) == broken.decode([*broken("the cat")["input_ids"], broken.eos_token_id])
    assert one.input_ids[-1] == broken.eos_token_id
    broken.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}assistant: "
    with pytest.raises(ValueError, match=r"rows.jsonl:1.*</s>.*is not one token"):
        read(write, broken, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})


def test_a_slow_tokenizer_is_refused(write: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow does not say which characters"):
        Tokeniser(Slow())  # type: ignore[arg-type]
