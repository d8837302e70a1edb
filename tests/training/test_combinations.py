"""The table of combinations: what it refuses is refused before a model is loaded, and all that it allows trains."""

import copy
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from subjects import loop_of, random_examples

import lorica
import tiny_models as tiny
from lorica.config import ConfigError, LoraConfig, TrainConfig
from lorica.config.combinations import FEATURES, REFUSED
from lorica.lora import Adapter, Tokens, attach, load_adapter
from lorica.models import Base, load
from lorica.sweeping.sweep import sweep
from lorica.training.lanes import LaneLoop, LaneRun
from lorica.training.subject import Subject, subject_of

ASKING: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "packed": {"model.weights": "nf4"},
    "dense": {"model.weights": "as-is"},
    "rslora": {"lora.use_rslora": True},
    "loraplus": {"train.loraplus_lr_ratio": 4.0},
    "dora": {"lora.use_dora": True},
    "pissa": {"lora.init_lora_weights": "pissa"},
    "olora": {"lora.init_lora_weights": "olora"},
    "loftq": {"lora.init_lora_weights": "loftq"},
    "eva": {"lora.init_lora_weights": "eva"},
    "dropout": {"lora.dropout": 0.2},
    "whole modules": {"lora.modules_to_save": ["lm_head"]},
    "token rows": {"lora.trainable_token_indices": [3, 5]},
    "evaluations": {"evaluate.every": 2},
    "trackers": {"system.trackers": ["tensorboard"]},
    "search": {"train.lr": "auto"},
    "lanes": {},
    "sweep": {},
}
refused = {frozenset((refusal.first, refusal.second)): str(refusal) for refusal in REFUSED}


def both(pair: tuple[str, str]) -> dict[str, Any] | None:
    """Settings that ask for both; None where they are two values of one setting."""
    first, second = (ASKING[name] for name in pair)
    return None if first.keys() & second.keys() else first | second


PAIRS = [pair for pair in combinations(FEATURES, 2) if both(pair) is not None]
OF_THE_ADAPTER = {name for name in FEATURES if FEATURES[name].key.startswith(("lora.", "train."))}
# Without an adapter its settings have no effect, which is refused by another rule; a sweep of lanes is a sweep.
NO_EFFECT = [pair for pair in PAIRS if "full" in pair and set(pair) & OF_THE_ADAPTER]
OTHERS = [("full", "lanes"), ("lanes", "sweep")]
ALLOWED = [pair for pair in PAIRS if frozenset(pair) not in refused and pair not in [*NO_EFFECT, *OTHERS]]
# Every pair that does not pack is one on a dense base; what a sweep and a search train are lanes; the rest is a run's.
TRAINED = [pair for pair in ALLOWED if not {"dense", "sweep", "search", "evaluations", "trackers"} & set(pair)]


def test_the_features_are_those_of_this_test() -> None:
    assert ASKING.keys() == FEATURES.keys() and refused.keys() <= set(map(frozenset, PAIRS))


@pytest.mark.parametrize("pair", [p for p in (*map(tuple, map(sorted, refused)), *NO_EFFECT) if "lanes" not in p])
def test_what_is_refused_is_so_before_a_model_is_loaded(pair: tuple[str, str], tmp_path: Path) -> None:
    settings = both(pair)
    assert settings is not None
    told = refused.get(frozenset(pair), "has no effect with method: full")
    given = ["model.path=/nowhere", "data=/nowhere", *(f"{key}={_yaml(value)}" for key, value in settings.items())]
    if "sweep" in pair:
        with pytest.raises(ValueError) as error:
            sweep(None, [*given, "train.seed=1,2"], out=tmp_path / "sweep", lanes=4)
    else:
        with pytest.raises(ConfigError) as error:
            lorica.train(None, given)
    assert told in str(error.value) and "nowhere" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "pair", [p for p in map(tuple, map(sorted, refused)) if not {"full", "dense", "sweep", "search"} & set(p)], ids=str
)
def test_attach_refuses_it_too(pair: tuple[str, str]) -> None:
    settings = both(pair)
    assert settings is not None
    config = LoraConfig(**{key.partition(".")[2]: value for key, value in settings.items()})
    with pytest.raises(ValueError) as error:
        attach(torch.nn.Linear(3, 3), config, lanes=2 if "lanes" in pair else 1)
    assert str(error.value) == f"{refused[frozenset(pair)]}."


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    folder = tmp_path_factory.mktemp("base")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    tiny.llama(**sizes).save_pretrained(folder)
    tiny.word_tokenizer().save_pretrained(folder)
    return {weights: load(folder, device="cpu", dtype="fp32", weights=weights) for weights in ("as-is", "nf4")}


EVERY_THIRD = [pytest.param(pair, marks=[pytest.mark.slow] * (number % 3 > 0)) for number, pair in enumerate(TRAINED)]


@pytest.mark.parametrize("pair", EVERY_THIRD, ids=map("+".join, TRAINED))
def test_what_is_allowed_trains_two_steps(pair: tuple[str, str], bases: dict[str, Base], tmp_path: Path) -> None:
    settings = both(pair)
    assert settings is not None
    base = bases["nf4" if {"packed", "loftq"} & set(pair) else "as-is"]
    base = replace(base, model=copy.deepcopy(base.model))
    adapter = None if "full" in pair else _attached(base, settings, lanes=2 if "lanes" in pair else 1)
    subject = subject_of(base.model, adapter)
    before = {name: parameter.detach().clone() for name, parameter in subject.parameters.items()}
    ratio = {"loraplus_lr_ratio": settings.get("train.loraplus_lr_ratio", 1.0)}
    losses = _lanes(subject, ratio) if "lanes" in pair else _one(subject, ratio, tmp_path)
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    assert all(not torch.equal(before[name], parameter) for name, parameter in subject.parameters.items())
    if adapter is not None:
        adapter.eval().save(tmp_path / "saved")
        ids = tiny.tokens(adapter.lanes)
        trained = tiny.logits(base.model, ids)[:1]
        adapter.detach()
        load_adapter(base, tmp_path / "saved").eval()
        torch.testing.assert_close(tiny.logits(base.model, ids[:1]), trained, rtol=1e-4, atol=1e-4)


def _attached(base: Base, settings: dict[str, Any], lanes: int) -> Adapter:
    fields = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("lora.")}
    return attach(base, **{"r": 3, "alpha": 7} | fields, lanes=lanes, sample=[Tokens(tiny.tokens(3, 12))])


def _one(subject: Subject, ratio: dict[str, float], folder: Path) -> list[float]:
    loop = loop_of(subject, random_examples(4), folder / "run", steps=2, warmup=0.0, schedule="constant", **ratio)
    loop.train()
    return [record["loss"] for record in loop.run.read_metrics()]


def _lanes(subject: Subject, ratio: dict[str, float]) -> list[float]:
    config = TrainConfig(batch_size=4, warmup=0.0, schedule="constant", **ratio)
    runs = [LaneRun(f"lane {number}", random_examples(4), config, 1e-2, 2) for number in range(2)]
    LaneLoop(subject, runs, 64).train(2)
    return [record["loss"] for record in runs[1].records]
