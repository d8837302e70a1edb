"""Records that no chat template renders: what of them becomes which token, and with which weight."""

from typing import Any

import pytest
from makers import byte_level, metaspace

from lorica.data import Example
from lorica.data.documents import documents
from lorica.data.findings import Findings
from lorica.data.formats import Completion, Text, Tokens
from lorica.data.tokenise import Tokeniser


def example(record: Any, tokenizer: Any) -> Example:
    findings = Findings()
    [one] = Tokeniser(tokenizer).examples(documents(record, tokenizer, None, findings), findings)
    return one


@pytest.mark.parametrize(
    ("ids", "weights", "kept", "start"),
    [
        ([5, 6, 7, 8], [0.0, 0.0, 1.0, 0.5], 4, 2),
        ([5, 6, 7, 8], [0.0, 1.0, 1.0, 1.0], 4, None),  # all of it, as plain text
        ([5, 6, 7, 8], [0.0, 1.0, 0.0, 1.0], 4, 3),
        ([5, 6, 7, 8], [0.0, 0.0, 1.0, 0.0], 3, 2),  # nothing is learned from what follows
        ([5, 6], [0.0, 0.0], 0, None),
    ],
)
def test_tokens_pass_by_the_tokenizer(ids: list[int], weights: list[float], kept: int, start: int | None) -> None:
    one = example(Tokens("x:1", ids, weights), byte_level())
    assert one == Example("x:1", ids[:kept], weights[:kept], start)


@pytest.mark.parametrize("tokenizer", [byte_level(), metaspace()], ids=["byte-level", "metaspace"])
def test_prompts_may_be_trained_too(tokenizer: Any) -> None:
    plain = example(Completion("x:1", "the cat\n", "sat é", 1.0), tokenizer)
    both = example(Completion("x:1", "the cat\n", "sat é", 0.5, 0.25), tokenizer)
    assert both.input_ids == plain.input_ids and both.completion_start == plain.completion_start
    start = plain.completion_start or 0
    bos = len(tokenizer("")["input_ids"])
    trained = [0.0] * max(bos, 1) + [0.25] * (start - max(bos, 1))
    assert both.weights == trained + [0.5] * (len(both.input_ids) - start)


def test_a_prompt_that_shares_a_token_is_trained_once() -> None:
    tokenizer, findings = byte_level(words=None), Findings()
    record = Completion("x:1", "the ", "cat", 1.0, 0.5)
    prompt, completion = Tokeniser(tokenizer).examples(documents(record, tokenizer, None, findings), findings)
    assert [finding.name for finding in findings.all()] == ["a token straddles prompt and completion"]
    assert tokenizer.decode(completion.input_ids[completion.completion_start :]) == "cat<|im_end|>"
    assert 0.5 not in completion.weights and 1.0 not in prompt.weights


def test_text_carries_its_weight_and_ends_once() -> None:
    tokenizer = byte_level()
    for text in ("the cat", "the cat<|im_end|>"):
        one = example(Text("x:1", text, 0.5), tokenizer)
        assert tokenizer.decode(one.input_ids) == "the cat<|im_end|>"
        assert one.weights == [0.0] + [0.5] * (len(one.input_ids) - 1) and one.completion_start is None
