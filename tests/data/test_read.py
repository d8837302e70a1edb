"""Reading whole files, the small print of findings, and real sets with a real tokenizer."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from makers import CHATML, byte_level
from transformers import AutoTokenizer

from lorica.data import microbatches, read_examples, split_held_out


def chat(*contents: str, **row: Any) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)], **row}


def test_findings_count_and_name_rows(chatml: Any, write: Any) -> None:
    idle = [chat("only the user"), chat("c", "d", weight=0)]
    rows = [chat("a", "b"), chat("a", "b"), *idle, chat("e", ""), chat("f", "g")]
    read = read_examples(write(rows), chatml, 100)
    lines = {finding.name: [row.rsplit(":", 1)[1] for row in finding.rows] for finding in read.findings}
    assert lines == {"trains nothing": ["3", "4"], "empty assistant turn": ["5"], "duplicate": ["2"]}
    assert (read.rows, read.format, len(read.examples)) == (6, "messages", 4)
    assert str(read.findings[1]).startswith("empty assistant turn: 1 row (")


def test_all_rows_without_training_is_an_error(chatml: Any, write: Any) -> None:
    with pytest.raises(ValueError, match=r"nothing to train: 2 rows \(.*rows.jsonl:1.*None of the 2 rows trains"):
        read_examples(write([chat("a"), chat("b")]), chatml, 100)


def test_truncation_that_leaves_nothing_to_train_is_counted(chatml: Any, write: Any) -> None:
    rows = [chat("a", "b"), chat("the cat sat on the mat " * 20, "b")]
    read = read_examples(write(rows, too_long="truncate"), chatml, 30)
    assert [finding.name for finding in read.findings] == ["truncation", "trains nothing", "made to fit"]
    assert len(read.examples) == 1 and read.rows == 2
    with pytest.raises(ValueError, match="1 of 2 examples are longer than max_length = 30 tokens"):
        read_examples(write(rows), chatml, 30)


def test_messages_without_a_template(write: Any) -> None:
    with pytest.raises(ValueError, match=r"no chat template.*data.chat_template.*prompt.*completion"):
        read_examples(write([chat("a", "b")]), byte_level(), 100)


def test_template_from_a_file(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "plain.jinja"
    path.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
                    "{% if add_generation_prompt %}[assistant] {% endif %}", encoding="utf-8")  # fmt: skip
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    read = read_examples(write([chat("é", "ho")], chat_template=str(path)), tokenizer, 100)
    [one], [finding] = read.examples, read.findings
    assert finding.name == "chat template is not the tokenizer's own"
    assert tokenizer.decode(one.input_ids) == "[user] é<|im_end|>[assistant] ho<|im_end|>"
    assert tokenizer.decode(one.input_ids[one.completion_start :]) == "ho<|im_end|>"
    with pytest.raises(ValueError, match=r"Cannot read the chat template .*gone"):
        read_examples(write([chat("a", "b")], chat_template=str(tmp_path / "gone.jinja")), tokenizer, 100)


def test_a_template_that_shows_the_date_is_noted(chatml: Any, write: Any) -> None:
    chatml.chat_template = "{{ strftime_now('%Y') }}" + CHATML
    [finding] = read_examples(write([chat("a", "b")]), chatml, 100).findings
    assert finding.name == "chat template shows the date"


@pytest.fixture(scope="module")
def qwen(shared: Path) -> Any:
    return AutoTokenizer.from_pretrained(shared / "tokenizers" / "qwen2.5")


def rows_of(shared: Path, name: str) -> list[dict[str, Any]]:
    """A real set in one of the formats that can be read so far."""
    data = shared / "data"
    if name == "gsm8k":
        lines = (data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:300]
        return [{"prompt": row["question"] + "\n", "completion": row["answer"]} for row in map(json.loads, lines)]
    if name == "e2e":
        with (data / "e2e_nlg" / "devset.csv").open(encoding="utf-8", newline="") as file:
            return [{"prompt": f"{row['mr']}\n", "completion": row["ref"]} for row in csv.DictReader(file)][:300]
    if name == "taskmaster":
        dialogues = json.loads((data / "taskmaster4" / "data_00.json").read_text(encoding="utf-8"))
        return [chat(*_alternate(dialogue["utterances"])) for dialogue in dialogues[:100]]
    lines = (data / "llamafactory_demo" / "v1_sft_demo.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _alternate(utterances: list[dict[str, Any]]) -> list[str]:
    """Contents of alternating turns that begin with the user."""
    contents: list[str] = []
    for utterance in utterances:
        user = utterance["speaker"].lower() == "user"
        if user == (len(contents) % 2 == 0):
            contents.append(utterance["text"])
        elif contents:
            contents[-1] += "\n" + utterance["text"]
    return contents


@pytest.mark.parametrize("name", ["demo", "gsm8k", "e2e", "taskmaster"])
def test_real_sets(shared: Path, qwen: Any, write: Any, name: str) -> None:
    """Every answer of every row is trained once, whole, with its stop token."""
    rows = rows_of(shared, name)
    read = read_examples(write(rows), qwen, 32_768)
    assert read.rows == len(rows)
    assert {finding.name for finding in read.findings} <= {
        "duplicate",
        "trains nothing",
        "several answers to one prompt",
    }
    answers = [text for row in rows for text in ([row["completion"]] if "completion" in row else _answers(row))]
    trained = [id for one in read.examples for id, weight in zip(one.input_ids, one.weights, strict=True) if weight]
    assert qwen.decode(trained) == "".join(answer + "<|im_end|>" for answer in answers)
    training, held_out = split_held_out(read.examples, "auto", 0)
    assert 0 < len(held_out) <= 0.2 * len(read.examples) and training
    batches = microbatches(training, 2048)
    tokens = sum(len(one.input_ids) for one in training)
    assert tokens / (2048 * len(batches)) > 0.8


def _answers(row: dict[str, Any]) -> list[str]:
    answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    return [answer if isinstance(answer, str) else answer[0]["value"] for answer in answers]
