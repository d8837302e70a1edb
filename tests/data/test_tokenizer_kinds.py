"""Chats with tokenizers of every kind, against the server's own tokenisation of each prompt and of each whole turn.

The kinds differ in what they do to spaces (a prefix before the text, or before each piece of it), to characters (NFKC,
lower case, composing), to bytes that no token has, and in how control tokens are read: with the white space beside
them, only where they stand alone, or after normalising.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from makers import CHATML, TEXTS, data_config, metaspace
from test_turns import supervised_runs
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lorica.data import Example, read_examples
from lorica.data.findings import Findings
from lorica.data.messages import Conversation
from lorica.data.template import ChatTemplate
from lorica.data.tokenise import Document, Span, Tokeniser
from lorica.data.turns import serve

STOP, START, UNKNOWN = "<|im_end|>", "<|im_start|>", "<unk>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEMPLATES = {
    "line break": CHATML,
    "space": "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "nothing": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}",
}


def wrapped(tokenizer: Tokenizer, **control: bool) -> Any:
    """With the control tokens of the templates, which are read as `control` says; but turns end wherever they do."""
    start = {"normalized": False} | control
    stop = start | {"single_word": False}
    tokenizer.add_special_tokens([AddedToken(STOP, **stop), AddedToken(START, **start)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=STOP)


def bpe(pre: Any, decoder: Any, normalizer: Any = None, fallback: bool = False, **control: bool) -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True, byte_fallback=fallback))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(pre, pre_tokenizers.ByteLevel) else []
    first = [UNKNOWN, *(BYTES if fallback else [])]
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=600, special_tokens=first, initial_alphabet=alphabet, show_progress=False),
    )
    if fallback:  # trained as special tokens so that they have ids, but they are pieces like others
        tokenizer = Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []}))
    return wrapped(tokenizer, **control)


def byte_level(prefix: bool, trim: bool, **control: bool) -> Any:
    made = bpe(pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoders.ByteLevel(), **control)
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return made


def sentencepiece(scheme: str, normalizer: Any = None, split: bool = True, **control: bool) -> Any:
    spaces = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=split), decoders.Fuse()]
    )
    return bpe(spaces, decoder, normalizer, fallback=True, **control)


def unigram(normalizer: Any) -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=[UNKNOWN], unk_token=UNKNOWN, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return wrapped(tokenizer)


def wordpiece() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return wrapped(tokenizer)


def legacy_llama() -> Any:
    """As Llama 2's: a space before the text and before each piece of it, and BOS from the tokenizer."""
    made = metaspace(eos=STOP)
    made.add_special_tokens({"additional_special_tokens": [START]})
    return made


SPACES = normalizers.Replace(Regex(" {2,}"), " ")
KINDS: dict[str, Callable[[], Any]] = {
    "legacy Llama": legacy_llama,
    "sentencepiece, prefix always": lambda: sentencepiece("always"),
    "sentencepiece, prefix first": lambda: sentencepiece("first"),
    "sentencepiece, no prefix": lambda: sentencepiece("never"),
    "sentencepiece, unsplit": lambda: sentencepiece("first", split=False),
    "sentencepiece, NFKC": lambda: sentencepiece("always", normalizers.NFKC()),
    "sentencepiece, control tokens strip": lambda: sentencepiece("first", rstrip=True),
    "sentencepiece, control tokens strip before": lambda: sentencepiece("always", lstrip=True),
    "sentencepiece, control tokens normalised": lambda: sentencepiece("first", normalizers.NFKC(), normalized=True),
    "unigram, NFKC and single spaces": lambda: unigram(normalizers.Sequence([normalizers.NFKC(), SPACES])),
    "unigram, stripped": lambda: unigram(normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])),
    "unigram, lower case": lambda: unigram(normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])),
    "byte-level": lambda: byte_level(False, False),
    "byte-level, prefix": lambda: byte_level(True, False),
    "byte-level, trimmed": lambda: byte_level(False, True),
    "byte-level, prefix, trimmed": lambda: byte_level(True, True),
    "byte-level, control tokens strip before": lambda: byte_level(False, False, lstrip=True),
    "byte-level, control tokens strip both sides": lambda: byte_level(False, True, lstrip=True, rstrip=True),
    "byte-level, turns begin with a single word": lambda: byte_level(False, False, single_word=True),
    "byte-level, control tokens normalised": lambda: byte_level(False, False, normalized=True),
    "BERT": wordpiece,
}
MADE: dict[str, Any] = {}
NASTY = ["", " ", "cat", " cat", "the ", "a\n", "\n\nb", "e", "\u0301", "ﬁ", "①", "  two", "\u200b", "👩‍👩‍👧", "東京",
         "İ", "▁", "\u3000wide", "\ufeff", "A\tB", "½", "\u1e9b\u0323"]  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(codec="utf-8", exclude_characters="<>|\x00"), max_size=8)
)


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param not in MADE:
        MADE[request.param] = KINDS[request.param]()
    return MADE[request.param]


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(TEXT, min_size=4, max_size=4))
@example(contents=["the", "cat", "sat", "mat"])
@example(contents=["the ", " cat", "sat\n", "\nmat"])
@example(contents=["", "", " ", " "])
@example(contents=["e", "\u0301", "▁", "\u200b"])
@example(contents=["ﬁ", "①", "½ ", "\u3000wide"])
def test_turns_are_the_servers(tokenizer: Any, source: str, tmp_path: Path, contents: list[str]) -> None:
    """Two rows alike: the second is laid out as was learned of the first."""
    tokenizer.chat_template = source
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"messages": messages}) + "\n") * 2, encoding="utf-8")
    runs = supervised_runs(read_examples(data_config(path), tokenizer, 10**6).examples)
    assert sorted(runs) == sorted(turn for index in (1, 3) for turn in [served(tokenizer, messages, index, runs)] * 2)


PIECES = st.lists(st.one_of(TEXT, st.sampled_from([STOP, START, "<|im_", " " + START, STOP + "\n"])), max_size=4)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(beginning=PIECES, endings=st.lists(PIECES, min_size=2, max_size=4))
@example(beginning=["e"], endings=[["\u0301"], [" ", "ﬁ"], [START, "\u0301"]])
@example(beginning=["a "], endings=[[START], [START, "the"], ["<|im_", "end|>"]])
def test_texts_that_begin_alike_are_tokenised_as_each_by_itself(
    tokenizer: Any, beginning: list[str], endings: list[list[str]]
) -> None:
    texts = ["".join(["the cat sat on the mat", START] * 10 + beginning + ending + [STOP]) for ending in endings]
    documents = [Document("rows:1", text, [Span(text.rindex(START), len(text), 1.0)]) for text in texts]
    together = Tokeniser(tokenizer)
    alone = [outcome(Tokeniser(tokenizer), [document]) for document in documents]
    assert [outcome(together, [document]) for document in documents] == alone
    assume(not any(isinstance(one, str) for one in alone))
    assert outcome(together, documents) == [example for one in alone for example in one]


def outcome(tokeniser: Tokeniser, documents: list[Document]) -> list[Example] | str:
    try:
        return list(tokeniser.examples(documents, Findings()))
    except ValueError as error:
        return str(error)


def served(
    tokenizer: Any, messages: list[dict[str, str]], index: int, runs: list[tuple[list[int], list[int]]]
) -> tuple[list[int], list[int]]:
    """The prompt's tokens and those to generate: the rest of the whole turn's, where they begin with the prompt's.

    Where they do not, there is more than one way to write the completion, and the one in `runs` has to be one of them.
    """
    template = ChatTemplate(tokenizer, None)
    turn = serve(template, Conversation("rows:1", messages, [1.0] * len(messages)), index, Findings())
    prompt, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (turn.prompt, turn.text))
    if whole[: len(prompt)] == prompt:
        return prompt, whole[len(prompt) :]
    [(before, generated), *_] = [run for run in runs if run[0] == prompt]
    assert generated[-1] == tokenizer.eos_token_id
    assert bare(tokenizer, tokenizer.decode([*before, *generated])) in (
        bare(tokenizer, tokenizer.decode(whole)),
        bare(tokenizer, tokenizer.decode(before) + turn.completion),
    )
    return before, generated


def bare(tokenizer: Any, text: str) -> str:
    """Without the white space that control tokens take into themselves."""
    stop = tokenizer.added_tokens_decoder[tokenizer.eos_token_id]
    for token in (STOP, START):
        parts = text.split(token)
        ends = [part.rstrip() if stop.lstrip else part for part in parts[:-1]] + parts[-1:]
        text = token.join(ends[:1] + [part.lstrip() if stop.rstrip else part for part in ends[1:]])
    return text
