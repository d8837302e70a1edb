"""A run on NF4 against the same run in PEFT on bitsandbytes: QLoRA as its authors' libraries compute it."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lorica.lora import attach
from lorica.quant import codec, pack_model
from tiny_models import copy_to_peft, llama, randomise, tokens

SKIP = (".embed_tokens", ".lm_head")


def on_bitsandbytes(model: Any, double: bool) -> Any:
    """`model` with its layers' linears in bitsandbytes' NF4, ready for PEFT."""
    library = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, which is there on Linux only")
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            packed = library.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, quant_type="nf4", compress_statistics=double
            )
            packed.compute_dtype, packed.compute_type_is_set = torch.float32, True
            packed.weight = library.nn.Params4bit(
                module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=double
            ).to("cpu")
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, packed)
    model.is_loaded_in_4bit = True
    return model


def losses(model: Any, parameters: list[Any]) -> list[float]:
    optimiser, found = torch.optim.AdamW(parameters, lr=3e-3), []
    for step in range(20):
        ids = tokens(2, 9, seed=step % 2)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    return found


@pytest.mark.parametrize("double", [False, True])
def test_losses_are_those_of_peft_on_bitsandbytes(double: bool) -> None:
    from peft import LoraConfig, get_peft_model

    ours = llama(hidden_size=64, intermediate_size=128)
    theirs = on_bitsandbytes(copy.deepcopy(ours), double)
    pack_model(ours, codec("NF4_DQ" if double else "NF4"), skip=SKIP)
    adapter = randomise(attach(ours, r=3, alpha=5), 0.05)
    twin = get_peft_model(theirs, LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM"))
    copy_to_peft(adapter, twin)
    expected = losses(twin, [parameter for parameter in twin.parameters() if parameter.requires_grad])
    found = losses(adapter.model, adapter.parameters())
    assert expected[-1] < expected[0] - 0.3
    assert found == pytest.approx(expected, rel=1e-4)
