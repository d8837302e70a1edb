"""A model as one GGUF file: merged, and packed with llama.cpp's mixtures.

From a transformers directory every tensor is packed by the mixture's rules. From a GGUF base that is packed itself, the
tensors that the fine-tune leaves alone are copied byte for byte (packing them again would add to their error), the
changed ones are written in a type that holds the change, and metadata and tokenizer are the base's.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lorica.exporting.gguf_form import Errors, FileTensor, Form, GgufTensor, form_of
from lorica.exporting.gguf_tensors import check_importances, converted, is_dense, onto_file
from lorica.exporting.gguf_tokenizer import write_tokenizer
from lorica.exporting.options import Options
from lorica.exporting.output import check_space
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written, WrittenWeight
from lorica.gguf.split import open_model
from lorica.gguf.types import named
from lorica.gguf.values import Value, count, text
from lorica.gguf.write import Part, write
from lorica.gguf.write_config import write_config
from lorica.models.facts import ModelFacts
from lorica.models.fingerprint import Progress
from lorica.models.roles import rules_of
from lorica.quant import codec
from lorica.quant.mixtures import MIXTURES, tensor_types, wanted_types
from lorica.run.reopen import open_alone
from lorica.run.source import Source

FILE = "model.gguf"
DEFAULT = "Q8_0"
SAMPLED_ROWS = 512  # of each changed weight, to see what of the change is left
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
Importances = Mapping[str, Tensor]


@dataclass
class Plan:
    """A file before it is written: `types` by tensor name."""

    metadata: dict[str, Value]
    tensors: list[FileTensor]
    types: dict[str, str]
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(named(self.types[t.name]).size(t.shape[::-1], t.name) for t in self.tensors)

    def write(
        self, path: Path, importances: Importances, progress: Progress | None = None, errors: Errors | None = None
    ) -> None:
        """Write the file, whole or not at all. Raises ValueError for a full disk, OSError if it fills meanwhile."""
        check_space(path.parent, self.bytes)
        parts = [t.part(self.types[t.name], importances.get(t.name), errors) for t in self.tensors]
        write(path, self.metadata, [_told(part, done, len(parts), progress) for done, part in enumerate(parts, 1)])


def _told(part: Part, done: int, total: int, progress: Progress | None) -> Part:
    def data() -> Tensor | Iterable[Tensor]:
        if progress is not None:
            progress(done, total)
        return part.data()

    return Part(part.name, part.type, part.shape, data)


def write_gguf(
    source: Source, weights: Weights, folder: Path, options: Options, progress: Progress | None = None
) -> Written:
    """Write `model.gguf` into `folder`. The type is the file's mixture, or, from a packed GGUF base, that of the
    changed tensors; without one it is Q8_0, or what a base that is not packed has.

    Raises ValueError for an architecture or tokenizer that has no GGUF form, changes that it cannot hold, weights that
    are not finite, a full disk.
    """
    form, importances = form_of(weights.skeleton.model.config, weights.file), options.importances()
    if weights.file is not None:
        plan = plan_onto_file(weights, form, options.type, bool(importances))
    else:
        facts = source.facts()
        plan = plan_converted(weights, form, options.type or DEFAULT, source.name, facts, bool(importances))
    _use_template(plan, source)
    check_importances(plan.tensors, importances)
    plan.write(folder / FILE, importances, progress)
    rounded = {plan.types[t.name] for t in plan.tensors} != {"F32"}
    return Written(
        [folder / FILE],
        lambda: _compared(folder / FILE, weights, form, importances),
        lambda dtype: open_alone(source, folder / FILE, dtype),
        exact=not rounded and weights.trained is None and source.packing == "as-is",
        notes=plan.notes,
    )


def _use_template(plan: Plan, source: Source) -> None:
    """The chat template of the training, where it is not the base's own."""
    template = source.trained / "chat_template.jinja"
    key = "tokenizer.chat_template"
    if template.is_file():
        trained = template.read_text(encoding="utf-8")
        if key not in plan.metadata or plan.metadata[key].content != trained:
            plan.metadata[key] = text(trained)
            plan.notes.append("the chat template is that of the training, which is not the base's")


def plan_converted(
    weights: Weights, form: Form, mixture: str, name: str, facts: ModelFacts, imatrix: bool = False
) -> Plan:
    """A transformers directory as a file of the type `mixture`.

    Raises ValueError for a model or a tokenizer that llama.cpp has no form of.
    """
    tensors = converted(weights, form)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    metadata, factors, notes = write_config(form.config, form.architecture, shapes)
    metadata |= {
        "general.type": text("model"),
        "general.name": text(name),
        "general.file_type": count(MIXTURES[mixture][0]),
        "general.quantization_version": count(2),
    }
    metadata |= write_tokenizer(facts.tokenizer, form.config.vocab_size, facts.stop_ids)
    tensors += [FileTensor(name, tuple(factor.shape), "F32", factor.float) for name, factor in factors.items()]
    types, replaced = _choose_types(tensors, mixture, form, imatrix)
    return Plan(metadata, tensors, types, notes + replaced)


def plan_onto_file(
    weights: Weights, form: Form, mixture: str | None, imatrix: bool = False, again: bool = False
) -> Plan:
    """A GGUF base with its changes. A base that is not packed is packed as `mixture`, if one is given; one that is,
    only with `again`."""
    assert weights.file is not None
    metadata = {key: value for key, value in weights.file.metadata.items() if key not in SPLIT_KEYS}
    tensors, changed = onto_file(weights, form)
    types = {tensor.name: tensor.type for tensor in tensors}
    if again or is_dense(weights.file):
        notes: list[str] = []
        if mixture is not None:
            types, notes = _choose_types(tensors, mixture, form, imatrix)
            metadata["general.file_type"] = count(MIXTURES[mixture][0])
        return Plan(metadata, tensors, types, notes)
    chosen, _ = _choose_types(tensors, mixture or DEFAULT, form, imatrix)
    types |= {name: chosen[name] for name in changed}
    written = ", ".join(sorted({types[name] for name in changed}))
    note = f"{len(changed)} changed tensors are {written}; {len(tensors) - len(changed)} are the base's, byte for byte"
    return Plan(metadata, tensors, types, [note])


def _choose_types(
    tensors: list[FileTensor], mixture: str, form: Form, imatrix: bool
) -> tuple[dict[str, str], list[str]]:
    """The type of every tensor, and lines about those that the mixture's own types do not fit."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    found, wanted = (rule(mixture, shapes, rules_of(form.config), imatrix) for rule in (tensor_types, wanted_types))
    replaced = Counter((wanted[name], kind) for name, kind in found.items() if kind != wanted[name])
    notes = [
        f"{times} tensors are {kind} instead of {asked}: their rows are no multiple of {codec(asked).block_length}"
        for (asked, kind), times in replaced.items()
    ]
    return {tensor.name: found.get(tensor.name, tensor.type) for tensor in tensors}, notes


def _compared(path: Path, weights: Weights, form: Form, importances: Importances) -> Iterator[WrittenWeight]:
    """Some rows of every changed weight."""
    written = open_model(path)
    form = Form(form.architecture, form.config, written)
    for parameter, stored, change in weights.changed():
        place = form.place(parameter)
        kind = written.tensors[place.tensor].type.name
        base = stored.read().float()
        tuned, exported = change.apply(base), GgufTensor(parameter, written, place, stored.shape).read()
        step = max(1, base.shape[0] // SAMPLED_ROWS) if base.ndim > 1 else 1
        base, tuned, exported = (tensor[::step].contiguous() for tensor in (base, tuned, exported))
        served = base if base.ndim == 1 else codec(kind).rounded(base, importances.get(place.tensor))
        yield WrittenWeight(parameter, kind, base, tuned, served, exported)
