"""The cheapest way to compute a step within a budget, against all ways."""

import itertools
from random import Random
from typing import Any

import pytest
import torch
from counted import config_of, counted, run_config

from lorica.lean import Policy
from lorica.planning.keeping import checkpointing_of, policies_of
from lorica.planning.machine import Machine
from lorica.planning.model import PlannedModel
from lorica.planning.plan import make_plan, solver_for
from lorica.planning.workload import even

LAYERS = 6
RATES = {kind: [(16, 1e9), (1024, 1e10)] for kind in ("fp32", "bf16")}
CPU = Machine("a CPU", "cpu", 10**12, RATES, 1e9, 1e-6, 0, None, "made up")
GPU = Machine("a GPU", "cuda", 10**12, RATES, 1e10, 1e-6, 0, 100.0, "made up")


def planned(budget: int | None, machine: Machine = CPU, length: int = 40, **system: Any) -> Any:
    model = PlannedModel("model", config_of("llama", LAYERS, max_position_embeddings=4096), torch.float32)
    return make_plan(model, run_config(**system), even(length, 100, 16, 1.0, None), machine, torch.float32, budget)


def test_recomputes_as_little_as_fits() -> None:
    """With one byte less than a plan takes, the next plan is slower; a real step under it is within the budget."""
    model = PlannedModel("model", config_of("llama", LAYERS), torch.float32)
    work = even(40, 100, 16, 1.0, None)
    solver = solver_for(model, run_config(tokens_per_microbatch=40), work, CPU, torch.float32)
    choice = solver.best(10**12)
    assert choice is not None and set(choice.policies) == {Policy()}
    for _ in range(4):
        tighter = solver.best(choice.tensor_bytes - 1)
        assert tighter is not None and tighter.seconds >= choice.seconds
        choice = tighter
        real = counted(
            config_of("llama", LAYERS), run_config(), work.microbatch(40), 40, choice.policies, torch.float32
        )
        assert real == pytest.approx(choice.tensor_bytes, rel=0.01)


@pytest.mark.parametrize(
    ("name", "machine"), [("llama", CPU), ("llama", GPU), pytest.param("gemma2", CPU, marks=pytest.mark.slow)]
)
def test_no_faster_way_fits(name: str, machine: Machine) -> None:
    """Against every way to give each layer a policy, the tightest first, at any number of tokens, one after another."""
    layers = 4
    model = PlannedModel("model", config_of(name, layers, max_position_embeddings=4096), torch.float32)
    work = even(40, 100, 16, 1.0, None)
    solver = solver_for(model, run_config(), work, machine, torch.float32)
    solver.capacities = [c for c in solver.capacities if c <= 256]
    ways = [
        solver.choice(capacity, [solver.ladder[place] for place in sorted(places, reverse=True)])
        for capacity in solver.capacities
        for places in itertools.combinations_with_replacement(range(len(solver.ladder)), layers)
        if len(set(places)) <= 3
    ]
    least, most = min(w.tensor_bytes for w in ways), max(w.tensor_bytes for w in ways)
    assert solver.best(least - 1) is None and solver.smallest().tensor_bytes == least
    random = Random(0)
    for budget in [least, most, *(random.randint(least, most) for _ in range(20))]:
        found = solver.best(budget)
        fastest = max(w.tokens_per_second for w in ways if w.tensor_bytes <= budget)
        assert found is not None and found.tensor_bytes <= budget
        assert found.tokens_per_second == pytest.approx(fastest, rel=1e-9), budget


def test_what_cannot_fit_says_the_least_that_would() -> None:
    tight = {"checkpointing": "none", "tokens_per_microbatch": 40}
    plan = planned(1000, **tight)
    assert not plan.fits
    assert planned(plan.peak_bytes, **tight).fits
    assert not planned(plan.peak_bytes - 1, **tight).fits


def test_terms_make_up_the_peak() -> None:
    plan = planned(None)
    assert sum(plan.terms.values()) == plan.peak_bytes
    assert plan.fits and plan.settings == {"tokens_per_microbatch": 1024, "checkpointing": "none"}
    assert plan.seconds == pytest.approx(plan.steps * 16 * 40 / plan.tokens_per_second, rel=1e-6)


def test_a_gpu_offloads_and_a_cpu_does_not() -> None:
    tight = {"checkpointing": "full", "tokens_per_microbatch": 200, "length": 200}
    kept = planned(None, GPU, **tight)
    offloaded = planned(None, GPU, **tight | {"checkpointing": {"offload": LAYERS}})
    assert offloaded.host_bytes == LAYERS * 200 * 24 * 4 and kept.host_bytes == 0
    block = 19456  # a layer's input in the allocator's blocks; that of the layer in hand is back
    assert kept.tensor_bytes - offloaded.tensor_bytes == (LAYERS - 1) * block
    with pytest.raises(ValueError, match="host memory, where a CPU computes"):
        planned(None, CPU, checkpointing={"offload": 1})


def test_a_longer_row_is_a_microbatch_by_itself() -> None:
    assert planned(None, length=2500).tensor_bytes > 1.5 * planned(None, length=200).tensor_bytes


def test_settings_say_what_layers_keep() -> None:
    for written in ("none", "full", {"input": 2, "attention": 3}, {"chunks": 1}, {"chunks": 2, "offload": 1}):
        policies = policies_of(written, 7, on_cpu=False)
        assert checkpointing_of(policies, lean=True, on_cpu=False) == written
    with pytest.raises(ValueError, match="counts 8 layers, and this model has 7"):
        policies_of({"input": 8}, 7, on_cpu=True)
