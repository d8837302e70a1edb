"""The same training step twice: over real tensors, every byte counted, and rehearsed without any."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import tiny_models
from lorica.config.schema import RunConfig
from lorica.data import Example
from lorica.lean import Policy
from lorica.lora import attach
from lorica.models.locate import weight_files
from lorica.models.packing import read_packed
from lorica.planning.ledger import Ledger
from lorica.planning.model import PlannedModel
from lorica.planning.rehearsal import Rehearsal
from lorica.planning.step import StepRunner
from lorica.planning.whole import Rehearsed, WholeStep, whole_step
from lorica.training.feed import make_step
from lorica.training.subject import subject_of

LENGTHS = (20, 9, 14, 30, 7, 7)


def config_of(name: str, layers: int = 2, **fields: Any) -> Any:
    """The config of a tiny model, with the attention that a loaded model has."""
    sizes = {"gpt2": {"n_layer": layers}, "smollm3": {"num_hidden_layers": layers, "no_rope_layers": [1, 0] * layers}}
    if name == "tied_llama":
        name, fields = "llama", fields | {"tie_word_embeddings": True}
    config = getattr(tiny_models, name)(**sizes.get(name, {"num_hidden_layers": layers}), **fields).config
    config._attn_implementation = None
    return config


def run_config(
    method: str = "lora", lora: Any = None, train: Any = None, weights: str = "as-is", **system: Any
) -> RunConfig:
    adapter = {} if method == "full" else {"lora": {"r": 4, "alpha": 6} if lora is None else lora}
    model = {"path": "model", "weights": weights}
    return RunConfig(model=model, data="rows.jsonl", method=method, train=train or {}, system=system, **adapter)


def documents(lengths: Sequence[int] = LENGTHS) -> list[Example]:
    """Rows whose first tokens are not trained."""
    return [Example("", [1 + i % 59 for i in range(n)], [0.0] * 3 + [1.0] * (n - 3)) for n in lengths]


def counted(
    config: Any, run: RunConfig, rows: list[Example], capacity: int, policies: Sequence[Policy], dtype: torch.dtype
) -> int:
    """The most bytes that a real step holds at a time."""
    torch.manual_seed(0)  # of other random weights in 16 bits, one model in 30 is not lean by its loss
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    if run.model.weights != "as-is":
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model, _ = read_packed(Path(folder), weight_files(Path(folder)), config, dtype, run.model.weights)
    adapter = attach(model, run.lora, seed=0) if run.method == "lora" else None
    subject = subject_of(model, adapter, run.system.checkpointing == "full", run.system.engine)
    if subject.engine.body is not None:
        subject.engine.body.set_policies(policies)
    ledger = Ledger("cpu")
    StepRunner(subject, run.train).run(make_step(rows, list(range(len(rows))), capacity, 0), ledger)
    return ledger.peak


def rehearsed(
    config: Any, run: RunConfig, rows: list[Example], capacity: int, policies: Sequence[Policy], dtype: torch.dtype
) -> WholeStep:
    """The same step from one layer of each kind."""
    rehearsal = Rehearsal.of(PlannedModel("model", config, torch.float32), run, dtype, torch.device("cpu"))
    seen = {policy: Rehearsed(rehearsal.stages(rows, capacity, policy)) for policy in dict.fromkeys(policies)}
    return whole_step(rehearsal.held_with(rows, 1), rehearsal.stands_for, policies, lambda policy: seen[policy])
