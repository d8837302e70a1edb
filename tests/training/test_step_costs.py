"""What a step costs beside its arithmetic, counted in operations: copies, casts, passes over parameters."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from subjects import adapted, loop_of, random_examples, whole_step
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tiny_models
from lorica.data import microbatches
from lorica.data.examples import Example
from lorica.lora import attach
from lorica.training.subject import subject_of

COPIES = {"copy_", "clone", "_to_copy", "cat", "stack", "index_select", "repeat", "repeat_interleave"}


class Operations(TorchDispatchMode):
    """Names of the operations run inside; `copied` are the shapes and types of what copies and casts gave."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.copied: list[tuple[tuple[int, ...], torch.dtype]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.names.append(name)
        if name in COPIES:
            self.copied += [(tuple(x.shape), x.dtype) for x in tree_leaves(result) if isinstance(x, Tensor)]
        return result


def of_step(loop: Any, number: int) -> Operations:
    """Forwards, backwards, clip, AdamW, gradients to zero."""
    step = whole_step(loop, number)
    with Operations() as operations:
        loop.accumulate(step)
        update(loop)
    return operations


def update(loop: Any) -> None:
    loop.optimiser.clip(1.0)
    loop.optimiser.set_learning_rate(1.0)
    loop.optimiser.step()
    loop.optimiser.zero_grad()


def loops(folder: Path, engine: Any = "auto") -> list[Any]:
    """Of one, two and four microbatches."""
    rows = random_examples(4)
    rows = [rows[2]] * 4
    length = len(rows[0].input_ids)
    return [
        loop_of(adapted(engine=engine), rows, folder / str(size), tokens_per_microbatch=size * length)
        for size in (4, 2, 1)
    ]


def test_work_beside_the_microbatches_does_not_grow_with_them(tmp_path: Path) -> None:
    """Clip, AdamW and zeroing are once a step, and their number does not depend on how many layers are adapted."""
    counts = []
    for loop in loops(tmp_path):
        of_step(loop, 0)  # AdamW makes its state
        with Operations() as operations:
            update(loop)
        counts.append(Counter(operations.names))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0]["_fused_adamw_"] == 1 and counts[0].total() < 40


def test_operations_are_the_same_for_every_microbatch(tmp_path: Path) -> None:
    one, two, four = (len(of_step(loop, 0).names) for loop in loops(tmp_path))
    assert four - two == 2 * (two - one) > 0


def test_no_copy_of_parameters_for_a_microbatch(tmp_path: Path) -> None:
    """Gradients are added where they lie: nothing of the size of all parameters, or of a matrix of the base, is copied,
    however many microbatches there are."""
    for loop in loops(tmp_path):
        base = {
            tuple(p.shape) for name, p in loop.subject.model.named_parameters() if "lora" not in name and p.dim() > 1
        }
        total = sum(buffer.value.numel() for buffer in loop.optimiser.all_buffers())
        copied = of_step(loop, 0).copied
        assert not [shape for shape, _ in copied if shape in base or torch.Size(shape).numel() >= total]


def test_no_wide_copy_of_an_input_is_kept_on_a_bf16_base() -> None:
    """PEFT casts the input of every adapted linear to the type of its pair, fp32, and keeps it."""
    model = tiny_models.llama().to(torch.bfloat16)
    subject = subject_of(model, tiny_models.randomise(attach(model, r=3, alpha=5)))
    [batch] = microbatches([Example("", list(range(40)), [0.0] * 30 + [1.0] * 10)], 64)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        subject.engine.loss(batch, batch.weights)
    whole = batch.rounded(32)
    assert len(whole.labels) < whole.input_ids.numel(), "or the last norm's input has the same shape"
    tokens, layers, sizes = whole.input_ids.numel(), model.config.num_hidden_layers, model.config
    inputs = [x for x in kept if x.shape in {(tokens, sizes.hidden_size), (tokens, sizes.intermediate_size)}]
    assert len(inputs) >= 4 * layers  # those of attention and of the MLP, gate and up
    assert {x.dtype for x in inputs} == {torch.bfloat16}
