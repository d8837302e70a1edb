"""A run on a GGUF file, from the file to answers, and resumed."""

import json
from pathlib import Path

import torch

import lorica
import tiny_models as tiny
from gguf_files import convert
from lorica.config import load as load_config
from lorica.models.facts import read_facts
from lorica.run.check import check
from lorica.run.reopen import open_for_answers

WORDS = ("sea", "tea", "oat", "rat", "one")
ROWS = [{"prompt": f"{a} {b} ", "completion": f"{b} {a}"} for a in WORDS for b in WORDS]


def file_of(folder: Path, type: str = "Q8_0") -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 96}
    return convert(tiny.llama(**sizes), folder / "model.gguf", type=type)


def rows_of(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_trained_reported_and_opened_again(tmp_path: Path) -> None:
    file, rows = file_of(tmp_path), rows_of(tmp_path)
    settings = {"train": {"steps": 3, "batch_size": 4}, "evaluate": {"max_new_tokens": 4, "samples": 1}}
    run = lorica.train(model=str(file), data=str(rows), out=str(tmp_path / "run"), lora={"r": 2}, **settings)
    assert run.report["measured"]["frozen_weights_unchanged"] is True
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    base = lorica.load(file)
    assert receipt["base"]["base"] == base.hashes["base"] and receipt["base"]["name"] == str(file)
    opened = open_for_answers(tmp_path / "run")
    assert opened.adapter is not None
    changed = tiny.logits(opened.base.model, tiny.tokens())
    with opened.adapter.disable():
        assert torch.equal(tiny.logits(opened.base.model, tiny.tokens()), tiny.logits(base.model, tiny.tokens()))
    assert not torch.equal(changed, tiny.logits(base.model, tiny.tokens()))


def test_the_facts_of_a_file_are_those_of_its_base(tmp_path: Path) -> None:
    file, rows = file_of(tmp_path), rows_of(tmp_path)
    facts, base = read_facts(str(file)), lorica.load(file)
    assert (facts.vocabulary, facts.longest, facts.stop_ids) == (61, base.longest, sorted(base.stop_ids))
    assert facts.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    told = check(load_config(values={"model": str(file), "data": str(rows)}))
    assert told["ok"] and told["rows"] == len(ROWS)
