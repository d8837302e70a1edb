"""The embedded base: small enough to ship, whole, pretrained, and with a tokenizer that loses nothing."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from lorica.demo.settings import BASE
from lorica.demo.task import write_demo_data

UNSEEN_TEXT = (
    "Rosa had a small brown dog that was afraid of the rain. One evening the clouds came over the hill, and the dog "
    "ran under the table and would not come out. Rosa sat down on the floor and sang to him until the rain had stopped."
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE, local_files_only=True)


def test_package_data_fits_its_cap() -> None:
    package = BASE.parents[1]
    data = [path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]
    assert BASE / "model.safetensors" in data
    assert sum(path.stat().st_size for path in data) <= 12 * 2**20


def test_weights_are_whole_bf16_and_finite() -> None:
    with safe_open(BASE / "model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert all(tensor.isfinite().all() for tensor in tensors)
    _, loading = AutoModelForCausalLM.from_pretrained(BASE, local_files_only=True, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]


def test_what_linear_layers_read_divides_by_256() -> None:
    config = json.loads((BASE / "config.json").read_text())
    widths = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"] * config["head_dim"]
    assert [width % 256 for width in widths] == [0, 0, 0]


def test_it_is_pretrained(tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE, local_files_only=True, dtype=torch.float32)
    ids = tokenizer(UNSEEN_TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        nats = model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    bits_per_byte = nats / math.log(2) / len(UNSEEN_TEXT.encode())
    assert bits_per_byte < 1.8


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_tokenizer_round_trips_all_unicode(text: str) -> None:
    ids = ROUND_TRIP(text, add_special_tokens=False)["input_ids"]
    assert ROUND_TRIP.decode(ids, clean_up_tokenization_spaces=False) == text


ROUND_TRIP = AutoTokenizer.from_pretrained(BASE, local_files_only=True)


def test_every_digit_is_a_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("order4712")[-4:] == ["4", "7", "1", "2"]


def test_texts_begin_with_the_begin_token_and_the_config_knows_the_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    config = json.loads((BASE / "config.json").read_text())
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id == config["bos_token_id"]
    assert tokenizer.eos_token_id == config["eos_token_id"]
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert len(tokenizer) == config["vocab_size"]


def test_prompt_and_completion_stay_apart_as_tokens(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    _, held_out = write_demo_data(tmp_path, train_rows=1, held_out_rows=50, seed=1)
    for line in held_out.read_text().splitlines():
        row = json.loads(line)
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        apart = [*tokenizer(row["prompt"])["input_ids"], *completion]
        assert tokenizer(row["prompt"] + row["completion"])["input_ids"] == apart
        assert len(apart) < 160
