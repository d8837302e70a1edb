"""The adapter as a GGUF file for llama.cpp and Ollama.

llama.cpp adds `alpha / rank * B A x` with one alpha for the file and each pair's own rank. The most common scale is in
alpha, so that its pairs are written as they were trained, and what differs (rsLoRA, patterns) is folded into B. Rows of
B are in the order of the weight's rows in the file.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from lorica.exporting.adapters import compared, low_rank_pairs
from lorica.exporting.changes import LowRank
from lorica.exporting.gguf_form import FileTensor, Form, form_of
from lorica.exporting.options import Options
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written
from lorica.gguf.values import Value, count, number, text
from lorica.gguf.write import write
from lorica.models.fingerprint import Progress
from lorica.run.reopen import open_trained
from lorica.run.source import Source

FILE = "adapter.gguf"
TYPES = {"F32": 0, "F16": 1}
INSTEAD = "Use --to gguf, which merges it."


def write_gguf_adapter(
    source: Source, weights: Weights, folder: Path, options: Options, _progress: Progress | None = None
) -> Written:
    """Write `adapter.gguf` into `folder`, as F32 (the default) or F16.

    Raises ValueError for what llama.cpp cannot take: DoRA, trained norms, whole modules and token rows, the ends of a
    tied pair, modules that its graph does not adapt.
    """
    type_name = options.type or "F32"
    form = form_of(weights.skeleton.model.config, weights.file)
    pairs = low_rank_pairs(source, weights, "llama.cpp's adapters", weights.changes.tied or (), INSTEAD)
    (alpha, _), *_ = Counter(pair.scale * pair.down.shape[0] for pair in pairs.values()).most_common(1)
    tensors = [tensor for name, pair in pairs.items() for tensor in _tensors(form, name, pair, alpha)]
    write(folder / FILE, _metadata(source, form, alpha, type_name), [tensor.part(type_name) for tensor in tensors])
    return Written(
        [folder / FILE],
        lambda: compared(folder / FILE, weights, source),
        lambda dtype: open_trained(source, dtype, folder / FILE),
        exact=type_name == "F32",
        notes=[f"serve it with: llama-server -m BASE.gguf --lora {FILE}", *source.notes],
    )


def _tensors(form: Form, parameter: str, pair: LowRank, alpha: float) -> Iterator[FileTensor]:
    place, rank = form.place(parameter), pair.down.shape[0]
    if place.part is not None:
        raise ValueError(
            f"{place.tensor} holds {parameter} with others in one tensor, to which an adapter file cannot add apart. "
            f"{INSTEAD}"
        )
    factor = pair.scale * rank / alpha
    up = place.to_file(pair.up) if factor == 1.0 else place.to_file((pair.up.double() * factor).float())
    down = pair.down.t() if pair.embedding else pair.down  # an embedding's A is gathered by rows
    for half, matrix in (("a", down), ("b", up)):
        name, shape = f"{place.tensor}.lora_{half}", tuple(matrix.shape)
        yield FileTensor(name, shape, "", partial(torch.Tensor.contiguous, matrix))


def _metadata(source: Source, form: Form, alpha: float, type_name: str) -> dict[str, Value]:
    return {
        "general.architecture": text(form.architecture.name),
        "general.type": text("adapter"),
        "adapter.type": text("lora"),
        "adapter.lora.alpha": number(alpha),
        "general.name": text(source.name),
        "general.base_model.count": count(1),
        "general.base_model.0.name": text(Path(source.base_name).name),
        "general.file_type": count(TYPES[type_name]),
        "general.quantization_version": count(2),
    }
