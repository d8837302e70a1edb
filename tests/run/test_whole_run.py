"""A whole run: its folder, its result, and the same run written with PEFT and plain torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import metrics
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import lorica
from bases import chats, write_base, write_rows
from lorica.config import DataConfig, LoraConfig
from lorica.data import Example, read_examples, split_held_out, step_rows
from lorica.run import Watcher
from lorica.training.schedule import learning_rate_factor, warmup_steps

Settings = Callable[..., dict[str, Any]]


class Listener(Watcher):
    """Keeps everything that a run says."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.stages: set[str] = set()
        self.records: list[dict[str, Any]] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def stage(self, name: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.stages.add(name)

    def record(self, record: dict[str, Any], total_steps: int) -> None:
        assert total_steps == 8
        self.records.append(record)


def test_the_folder_and_the_result(settings: Settings) -> None:
    listener = Listener()
    result = lorica.train(watcher=listener, **settings(evaluate={"every": 4, "metric": "exact_match"}))
    run = Path(result.run)
    assert sorted(path.name for path in run.iterdir() if not path.name.startswith(".")) == [
        "adapter",
        "after.json",
        "before.json",
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "receipt.json",
        "report.html",
        "report.json",
    ]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000008"]
    assert result.steps == 8 and result.tokens_per_second and result.peak_memory_bytes > 1 << 20
    assert result.final_loss == [record["loss"] for record in metrics(run) if "loss" in record][-1]
    assert result.report == json.loads((run / "report.json").read_text())
    after = result.report["after"]
    assert after["loss"] < result.report["before"]["loss"]
    assert "exact_match" in after["metrics"] and result.report["intervals"]["loss"]
    assert [record["step"] for record in listener.records if "held_out_loss" in record] == [4, 8]
    assert listener.records[-1]["held_out_loss"] == pytest.approx(after["loss"], rel=1e-6)
    assert {"hashing the base", "answers", "held-out rows"} <= listener.stages
    assert any("trained parameters" in notice for notice in listener.notices)
    receipt = json.loads((run / "receipt.json").read_text())
    assert receipt["rows"] == {"training": 32, "held_out": 8}
    assert receipt["settings"]["train.lr"] == {"origin": "Python", "value": 0.01}


def test_the_untouched_base_is_what_is_measured_before(settings: Settings, tiny_base: Path) -> None:
    """Also where the adapter does not start at zero, and against lorica.evaluate on the base alone."""
    result = lorica.train(**settings(lora={"init_lora_weights": False}, train={"steps": 1}))
    _, held_out = _rows(settings(), tiny_base)
    alone = lorica.evaluate(lorica.load(tiny_base), held_out, forgetting=None, samples=0)
    assert result.report is not None and alone.scores is not None
    assert result.report["before"]["loss"] == pytest.approx(alone.scores.loss, rel=1e-6)


def _rows(values: dict[str, Any], base: Path) -> tuple[list[Example], list[Example]]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    read = read_examples(DataConfig(path=values["data"]), tokenizer, 96)
    return split_held_out(read.examples, values["evaluate"]["held_out"], 0)


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]}, {"use_dora": True}]
)
def test_the_same_run_with_peft_and_plain_torch(settings: Settings, tiny_base: Path, options: dict[str, Any]) -> None:
    values = settings(lora=options, train={"steps": 12, "weight_decay": 0.02, "warmup": 3.0, "schedule": "cosine"})
    ours = [record["loss"] for record in metrics(lorica.train(**values).run)]
    training, _ = _rows(values, tiny_base)
    theirs = _peft_losses(values, tiny_base, training)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[-1] < ours[0] - 0.1, "long enough for a difference to grow"


def _peft_losses(values: dict[str, Any], base: Path, training: list[Example]) -> list[float]:
    """One row at a time, transformers' own forward pass, torch's plain AdamW."""
    from tiny_models import copy_to_peft, peft_twin

    model = AutoModelForCausalLM.from_pretrained(base)
    fields = {"target_modules": "all-linear"} | {k: v for k, v in values["lora"].items() if k != "alpha"}
    twin = peft_twin(model, lora_alpha=values["lora"]["alpha"], **fields)
    copy_to_peft(lorica.attach(model, LoraConfig(**values["lora"]), seed=0), twin)
    parameters = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.02, fused=False, foreach=False)
    losses = []
    for step in range(12):
        chosen = [training[row] for row in step_rows(len(training), 4, step, 0)]
        total = sum((_weighted_loss(twin, example) for example in chosen), torch.zeros(()))
        loss = total / sum(sum(example.weights) for example in chosen)
        optimiser.param_groups[0]["lr"] = 0.01 * learning_rate_factor(step, 12, "cosine", warmup_steps(12, 3.0))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def _weighted_loss(model: Any, example: Example) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
    losses = F.cross_entropy(logits, torch.tensor(example.input_ids[1:]), reduction="none")
    return (losses * torch.tensor(example.weights[1:])).sum()


@pytest.mark.parametrize("tied", [False, True])
def test_full_fine_tuning_writes_a_model(settings: Settings, tmp_path: Path, tied: bool) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=tied)
    values = settings(model=str(base), lora=None, method="full", train={"steps": 4})
    result = lorica.train(**values)
    run = Path(result.run)
    assert not (run / "adapter").exists()
    tensors = load_file(run / "model" / "model.safetensors")
    assert ("lm_head.weight" in tensors) is not tied
    start = load_file(base / "model.safetensors")
    assert all(not torch.equal(tensor, start[name]) for name, tensor in tensors.items()), "every weight was trained"
    served = AutoModelForCausalLM.from_pretrained(run / "model")
    assert (served.lm_head.weight is served.model.embed_tokens.weight) is tied
    opened = lorica.load(run / "model")
    scored = lorica.evaluate(opened, _rows(values, base)[1], forgetting=None, samples=0).scores
    assert result.report is not None and scored is not None
    assert scored.loss == pytest.approx(result.report["after"]["loss"], rel=1e-6)
    assert result.report["trainable_parameters"] == result.report["total_parameters"]


def test_without_evaluation(settings: Settings) -> None:
    result = lorica.train(**settings(evaluate=None) | {"evaluate": {"enabled": False}})
    assert result.report is None and result.steps == 8
    assert json.loads((Path(result.run) / "report.json").read_text()) == {"evaluated": False, "steps": 8}


def test_too_few_rows_to_hold_any_out(settings: Settings, tmp_path: Path) -> None:
    few = write_rows(tmp_path / "few.jsonl", chats(3))
    result = lorica.train(**settings(data=str(few), evaluate={"held_out": "auto"}))
    assert result.report is not None and result.report["after"]["loss"] is None
    assert any("No held-out rows" in note for note in result.report["notes"])


def test_early_stopping_ends_with_the_best_weights(settings: Settings, tiny_base: Path) -> None:
    train = {"lr": 0.03, "schedule": "constant", "steps": 30, "early_stopping": 2}
    values = settings(train=train, evaluate={"every": 1, "held_out": "unlike"})
    result = lorica.train(**values)
    losses = [record["held_out_loss"] for record in metrics(result.run) if "held_out_loss" in record]
    assert result.steps == len(losses) < 30
    assert losses.index(min(losses)) == len(losses) - 3
    assert result.report is not None
    assert result.report["after"]["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_template_that_is_given_is_saved_and_used_to_answer(settings: Settings, tmp_path: Path) -> None:
    from lorica.run.answer import answer
    from lorica.run.reopen import open_for_answers

    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    rows = write_rows(tmp_path / "chats.jsonl", chats())
    data = {"path": str(rows), "chat_template": str(template)}
    run = lorica.train(**settings(data=data, train={"steps": 1})).run
    template.unlink()
    for base_only in (False, True):
        opened = open_for_answers(run, base_only=base_only)
        given = answer(opened, [{"role": "user", "content": "hi"}], 2)
        assert opened.conversational and given.prompt == "[user]hi<|end|>[assistant]"
