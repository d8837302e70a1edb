"""Which modules are adapted: PEFT's choice for a table of settings, and errors where PEFT is silent."""

from collections.abc import Callable
from typing import Any

import pytest
from peft.tuners.lora import LoraLayer as PeftLoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import nn

import tiny_models as tiny
from lorica.config import lora_config
from lorica.lora import attach
from lorica.lora.targets import find_targets

SETTINGS: list[dict[str, Any]] = [
    {"target_modules": "all-linear"},
    {"target_modules": ["q_proj"]},
    {"target_modules": ["self_attn.q_proj", "mlp.down_proj"]},
    {"target_modules": ["model.layers.1.self_attn.v_proj"]},
    {"target_modules": "all-linear", "exclude_modules": ["v_proj", "layers.0.self_attn.o_proj"]},
    {"target_modules": "all-linear", "exclude_modules": r".*layers\.0\..*"},
    {"target_modules": r".*\.(q|k)_proj"},
    {"target_modules": r"model\.layers\.[1-9]\..*(gate|up)_proj"},
    {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [0, 1], "layers_pattern": "layers"},
    {"target_modules": ["k_proj", "v_proj"], "layers_to_transform": [1], "layers_pattern": ["blocks", "layers"]},
    {"target_modules": ["embed_tokens", "q_proj"]},
    {"target_modules": ["lm_head", "k_proj"]},
    {"target_modules": "all-linear", "modules_to_save": ["lm_head", "q_proj"]},
]
DENSE, EXPERTS = [tiny.llama, tiny.qwen2], [tiny.mixtral, tiny.qwen3_moe]
GPT2_SETTINGS: list[dict[str, Any]] = [
    {"target_modules": "all-linear"},
    {"target_modules": ["c_proj"]},
    {"target_modules": ["attn.c_proj", "wte"]},
    {"target_modules": ["c_attn"], "layers_to_transform": 0, "layers_pattern": "h"},
]


def made(make: Callable[[], Any]) -> Any:
    return make(tie_word_embeddings=False)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("make", "settings"),
    [(make, s) for make in DENSE for s in SETTINGS]
    + [(make, s) for make in EXPERTS for s in SETTINGS if "mlp" not in str(s) and "up" not in str(s)]
    + [(tiny.gpt2, s) for s in GPT2_SETTINGS],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_modules_are_those_of_peft(make: Callable[[], Any], settings: dict[str, Any]) -> None:
    model = made(make)
    twin = tiny.peft_twin(model, r=2, **settings).base_model.model
    expected = [
        name
        for name, module in twin.named_modules()
        if isinstance(module, PeftLoraLayer) and not isinstance(module, ParamWrapper)  # routers and fused experts
    ]
    assert find_targets(model, lora_config(r=2, **settings)).low_rank == expected


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"target_modules": ["q_prj"]}, "Did you mean q_proj"),
        ({"target_modules": ["q_proj", "query"]}, '"query"'),
        ({"target_modules": r".*\.nothing"}, "It has|has .*q_proj"),
        ({"target_modules": "all-linear", "exclude_modules": r".*"}, "no module is left"),
        ({"target_modules": ["q_proj"], "layers_to_transform": 9}, "no module is left"),
        ({"target_modules": ["norm"]}, "LlamaRMSNorm.*modules_to_save"),
        ({"target_modules": ["mlp"]}, "LlamaMLP"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"qproj": 3}}, "rank_pattern.*Did you mean"),
        ({"target_modules": ["q_proj"], "alpha_pattern": {"up_proj": 3}}, "alpha_pattern"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["v_prj"]}, "exclude_modules.*Did you mean v_proj"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_hed"]}, "Did you mean lm_head"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [61]}, "rows 0 to 60"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [4, 4]}, "more than once"),
        (
            {"target_modules": ["q_proj"], "trainable_token_indices": {"embed": [4]}},
            "no embedding.*model.embed_tokens, lm_head",
        ),
        ({"target_modules": "q_proj,v_proj"}, r"regular expression of whole names; names go in a list, \[q_proj"),
        ({"target_modules": ["embed_tokens"], "trainable_token_indices": [4]}, "choose one"),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "trainable_token_indices": [4]},
            "choose one",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_setting_that_fits_nothing_is_an_error(fields: dict[str, Any], told: str) -> None:
    model = tiny.llama()
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=told):
        attach(model, r=2, **fields)
    assert [name for name, _ in model.named_modules()] == before


@pytest.mark.parametrize("half", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("field", ["target_modules", "modules_to_save"])
def test_half_of_a_tied_pair_is_an_error_that_says_what_to_do(half: str, field: str) -> None:
    fields = {"target_modules": ["q_proj"]} | {field: [half]}
    with pytest.raises(ValueError, match=r"tied embeddings.*trainable_token_indices"):
        attach(tiny.tied_llama(), r=2, **fields)
    attach(tiny.llama(), r=2, **fields)
    attach(tiny.tied_llama(), r=2, target_modules=["lm_head", "embed_tokens"])


def test_all_linear_never_takes_the_head_or_a_router_and_says_what_it_cannot_reach() -> None:
    for make in (tiny.mixtral, tiny.qwen3_moe):
        adapter = attach(make(), r=2)
        assert {name.rsplit(".", 1)[-1] for name in adapter.layers} == {"q_proj", "k_proj", "v_proj", "o_proj"}
        [note] = adapter.notes
        assert note.startswith("6 tensors (mlp.experts.down_proj, mlp.experts.gate_up_proj, mlp.gate.weight)")
    assert attach(tiny.llama(), r=2).notes == []
    assert attach(tiny.gpt2(), r=2).notes == []


def test_a_second_adapter_is_refused() -> None:
    model = tiny.llama()
    attach(model, r=2)
    with pytest.raises(ValueError, match="already carries an adapter"):
        attach(model, r=2)


def test_fields_are_checked_as_in_a_configuration() -> None:
    with pytest.raises(ValueError, match="lora_alhpa"):
        attach(tiny.llama(), r=2, lora_alhpa=3)
    with pytest.raises(ValueError, match="not both"):
        attach(tiny.llama(), lora_config(r=2), r=2)


class Wrapper(nn.Module):
    """A model of no library: a head by another name, and one module in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.again = self.first
        self.classifier = nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.again(self.first(x)))


def test_a_module_in_two_places_is_refused() -> None:
    with pytest.raises(ValueError, match=r"first.*again"):
        attach(Wrapper(), r=2, target_modules=["first"])
    assert list(attach(Wrapper(), r=2, target_modules=["classifier"]).layers) == ["classifier"]
