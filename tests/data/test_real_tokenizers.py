"""Chats with real tokenizers: what comes before each trained run is what the server gets for the prompt alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from makers import CHATML, data_config
from test_turns import supervised_runs
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lorica.data import read_examples

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# One whose turns begin behind a control token, one behind a line break, one behind a space that a word may swallow.
TEMPLATES = {
    "control token": "{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else m.content "
    "+ '<|im_end|>' }}{% endfor %}",
    "line break": CHATML,
    "space": "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
}
TEXT = st.text(
    st.one_of(st.sampled_from("ab \n'é😀東1"), st.characters(codec="utf-8", exclude_characters="<>|[]\x00▁")),
    max_size=9,
).filter(str.strip)
_loaded: dict[str, Any] = {}


def load(folder: Path, name: str) -> Any:
    """A stored tokenizer with the control tokens of the templates; Llama 3.2 is stored as merges only."""
    if name not in _loaded:
        if name == "llama3.2-128k-json":
            lines = (folder / name / "vocab.bpe").read_text(encoding="utf-8").splitlines()
            vocabulary = json.loads((folder / name / "encoder.json").read_bytes())
            merges = [(first, second) for first, second in (line.split(" ") for line in lines if line)]
            made = Tokenizer(models.BPE(vocabulary, merges))
            words = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
            made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
            made.decoder = decoders.ByteLevel()
            _loaded[name] = PreTrainedTokenizerFast(tokenizer_object=made)
        else:
            _loaded[name] = AutoTokenizer.from_pretrained(folder / name)
        more = ["<|im_start|>", "[INST]", "[/INST]"]
        _loaded[name].add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": more})
    return _loaded[name]


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("name", ["gpt2", "llama2-32k", "qwen2.5", "llama3.2-128k-json"])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(TEXT, min_size=4, max_size=4))
@example(contents=["the", "cat", "sat", "mat"])
@example(contents=["a ", " b", "\n", "\n\nc"])
def test_prompts_are_the_servers(shared: Path, tmp_path: Path, name: str, source: str, contents: list[str]) -> None:
    tokenizer = load(shared / "tokenizers", name)
    tokenizer.chat_template = source
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"messages": messages}) + "\n") * 2, encoding="utf-8")  # the second by a layout
    runs = supervised_runs(read_examples(data_config(path), tokenizer, 10**6).examples)
    prompts = [
        tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=False) for i in (1, 3)
    ]
    assert sorted(before for before, _ in runs) == sorted([*prompts, *prompts])
    for before, generated in runs:
        assert generated[-1] == tokenizer.eos_token_id and generated.count(tokenizer.eos_token_id) == 1
        content = contents[1] if before == prompts[0] else contents[3]
        whole = tokenizer.decode([*before, *generated], clean_up_tokenization_spaces=False)
        assert whole.endswith(f"{content}<|im_end|>")
