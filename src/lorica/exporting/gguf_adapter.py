"""The adapter as a GGUF file for llama.cpp and Ollama.

llama.cpp adds `alpha / rank * B A x` with one alpha for the file and each pair's own rank. The most common scale is in
alpha, so that its pairs are written as they were trained, and what differs (rsLoRA, patterns) is folded into B. Rows of
B are in the order of the weight's rows in the file.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lorica.exporting.changes import Change, LowRank
from lorica.exporting.gguf_form import FileTensor, Form, form_of
from lorica.exporting.source import Source, open_trained
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written, WrittenWeight
from lorica.gguf.read import GgufFile, read
from lorica.gguf.values import Value, count, number, text
from lorica.gguf.write import write
from lorica.quant import codec_of_type
from lorica.run.reopen import Opened

FILE = "adapter.gguf"
TYPES = {"F32": 0, "F16": 1}
INSTEAD = "Use --to gguf, which merges it."


def write_gguf_adapter(source: Source, weights: Weights, folder: Path, type_name: str | None = None) -> Written:
    """Write `adapter.gguf` into `folder`, as F32 or F16.

    Raises ValueError for what llama.cpp cannot take: DoRA, trained norms, whole modules and token rows, the ends of a
    tied pair, modules that its graph does not adapt.
    """
    type_name = type_name or "F32"
    form = form_of(weights.skeleton.model.config, weights.file)
    pairs = adaptable(source, weights, form)
    (alpha, _), *_ = Counter(pair.scale * pair.down.shape[0] for pair in pairs.values()).most_common(1)
    tensors = [tensor for name, pair in pairs.items() for tensor in _tensors(form, name, pair, alpha)]
    write(folder / FILE, _metadata(source, form, alpha, type_name), [tensor.part(type_name) for tensor in tensors])
    return Written(
        [folder / FILE],
        lambda: _compared(folder / FILE, weights, form),
        lambda dtype: _reopened(source, weights, form, folder / FILE, dtype),
        exact=type_name == "F32",
        notes=[f"serve it with: llama-server -m BASE.gguf --lora {FILE}", *source.notes],
    )


def adaptable(source: Source, weights: Weights, form: Form) -> dict[str, LowRank]:
    """The pairs by parameter. Raises ValueError for a change that no such pair is."""
    if source.whole:
        raise ValueError(f"the run in {source.path} trained the whole model, so there is no adapter. {INSTEAD}")
    pairs: dict[str, LowRank] = {}
    for parameter, change in weights.changes.by_parameter.items():
        told = _refusal(parameter, change, weights)
        if told is not None:
            raise ValueError(f"llama.cpp's adapters cannot hold {told} ({parameter}). {INSTEAD}")
        assert isinstance(change, LowRank)
        place = form.place(parameter)
        if place.part is not None:
            raise ValueError(
                f"{place.tensor} holds {parameter} with others in one tensor, to which an adapter file cannot add "
                f"apart. {INSTEAD}"
            )
        pairs[parameter] = change
    return pairs


def _refusal(parameter: str, change: Change, weights: Weights) -> str | None:
    if not isinstance(change, LowRank):
        return "weights that were trained whole (modules_to_save) or token by token"
    if change.magnitude is not None:
        return "DoRA's magnitudes"
    if weights.changes.tied is not None and parameter in weights.changes.tied:
        return "changes to an embedding that is also the output head"
    return None


def _tensors(form: Form, parameter: str, pair: LowRank, alpha: float) -> Iterator[FileTensor]:
    place, rank = form.place(parameter), pair.down.shape[0]
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


def read_pairs(path: Path, form: Form, parameters: list[str]) -> dict[str, LowRank]:
    """The pairs of an adapter file by parameter, as llama.cpp adds them.

    Raises ValueError for a file that is no LoRA adapter of this architecture, or has other tensors than these
    parameters'.
    """
    file = read(path)
    kinds = file.metadata.text("general.type"), file.metadata.text("adapter.type")
    if kinds != ("adapter", "lora") or file.metadata.text("general.architecture") != form.architecture.name:
        raise ValueError(f"{path} is no LoRA adapter for {form.architecture.name}.")
    alpha = file.metadata.number("adapter.lora.alpha")
    found = {}
    for parameter in parameters:
        place = form.place(parameter)
        down, up = (_values(file, f"{place.tensor}.lora_{half}") for half in "ab")
        embedding = parameter == "model.embed_tokens.weight"
        down = down.t() if embedding else down
        scale = alpha / up.shape[1] if alpha else 1.0
        found[parameter] = LowRank(down, place.from_file(up), scale, transposed=embedding, embedding=embedding)
    if len(file.tensors) != 2 * len(found):
        raise ValueError(f"{path} has {len(file.tensors)} tensors, {2 * len(found)} are wanted.")
    return found


def _values(file: GgufFile, name: str) -> Tensor:
    if name not in file.tensors:
        raise ValueError(f"{file.path} has no {name}.")
    info = file.tensors[name]
    return codec_of_type(info.type.id).unpack(file.rows(name)).view(info.shape)


def _compared(path: Path, weights: Weights, form: Form) -> Iterator[WrittenWeight]:
    written = read_pairs(path, form, list(weights.changes.by_parameter))
    for parameter, stored, change in weights.changed():
        base = stored.read().float()
        yield WrittenWeight(parameter, "adapter", base, change.apply(base), base, written[parameter].apply(base))


def _reopened(source: Source, weights: Weights, form: Form, path: Path, dtype: str) -> Opened:
    opened = open_trained(source, dtype)
    assert opened.adapter is not None
    for parameter, pair in read_pairs(path, form, list(weights.changes.by_parameter)).items():
        layer = opened.adapter.layers[parameter.removesuffix(".weight")]
        with torch.no_grad():
            layer.lora_A[0].copy_(pair.down)
            layer.lora_B[0].copy_(pair.up)
        layer.strengths = (replace(layer.strengths[0], scale=pair.scale),)
    return opened
