"""llama.cpp's own logits on its own files, with and without its own adapter file.

For packed types llama.cpp also rounds the inputs of each product to 8 bits, in blocks. Here that is done by hooks on
the linear layers, and what is left are ties of rounding.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_models as tiny
from lorica.gguf.architectures import architecture_of_type
from lorica.gguf.read import read
from lorica.lora import load_adapter
from lorica.lora.layer import LoraLayer
from lorica.models import load

TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M"]


def rounded(x: Tensor, type: str) -> Tensor:
    """What llama.cpp multiplies in place of `x` (..., columns): blocks of 32 with an fp16 step for Q8_0, blocks of 256
    with an fp32 one for the K types."""
    if not type.endswith("_K"):
        blocks = x.reshape(-1, 32)
        step = blocks.abs().amax(1, keepdim=True) / 127
        codes = torch.where(step > 0, blocks / step, 0)
        return (torch.trunc(codes + torch.copysign(torch.tensor(0.5), codes)) * step.half().float()).view_as(x)
    blocks = x.reshape(-1, 256)
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    inverse = -127 / extreme
    return ((blocks * inverse).round().clamp(max=127) / inverse).view_as(x)


def round_inputs(model: Any, path: Path) -> None:
    """llama.cpp's rounding before every linear layer of the base; an adapter's own products are in fp32."""
    types, llama = {name: info.type.name for name, info in read(path).tensors.items()}, architecture_of_type("llama")
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            module = module.base
        tensor = llama.tensor(f"{name}.weight")
        if tensor in types and "norm" not in tensor and tensor != "token_embd.weight":
            type = types[tensor]
            module.register_forward_pre_hook(lambda _, args, type=type: (rounded(args[0], type),))


def logits(folder: Path, name: str, adapter: bool, rounding: bool = False) -> tuple[Tensor, Tensor]:
    """Ours and llama.cpp's, (tokens, vocabulary)."""
    path = folder / f"tiny-llama-{name}.gguf"
    base = load(path, device="cpu", dtype="fp32")
    if adapter:
        load_adapter(base, folder / "tiny-llama-adapter.gguf").eval()
    if rounding:
        round_inputs(base.model, path)
    ids = torch.tensor([[int(id) for id in (folder / "tokens.txt").read_text().split()]])
    theirs = np.load(folder / f"tiny-llama-{name}.{'adapter-' if adapter else ''}logits.npy")
    return tiny.logits(base.model, ids)[0], torch.from_numpy(theirs)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("adapter", [False, True])
def test_fp32_is_the_same(shared: Path, adapter: bool) -> None:
    ours, theirs = logits(shared / "golden" / "gguf", "f32", adapter)
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("name", TYPES)
def test_packed_types_differ_by_the_rounding_of_inputs(shared: Path, name: str, adapter: bool) -> None:
    """A value on the edge between two codes may fall on either side, by the last bit of a sum, and takes the tokens
    after it along: the others are llama.cpp's to seven digits."""
    folder = shared / "golden" / "gguf"
    plain, (ours, theirs) = relative(*logits(folder, name, adapter)), logits(folder, name, adapter, rounding=True)
    each = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
    assert 0.02 < plain < 0.041
    assert relative(ours, theirs) < 0.02 and each.min() < 1e-5


def test_on_average_rounding_leaves_less_than_a_hundredth(shared: Path) -> None:
    folder = shared / "golden" / "gguf"
    left = [relative(*logits(folder, name, adapter, rounding=True)) for name in TYPES for adapter in (False, True)]
    assert sum(left) / len(left) < 0.008
