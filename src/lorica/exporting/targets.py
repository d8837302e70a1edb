"""What can be exported to, in which types, and how each is used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorica.exporting import gguf_adapter, merged
from lorica.exporting.gguf_adapter import write_gguf_adapter
from lorica.exporting.gguf_model import write_gguf
from lorica.exporting.imatrix import read_imatrix
from lorica.exporting.merged import write_merged
from lorica.exporting.ollama import write_ollama
from lorica.exporting.peft_folder import PROFILES, write_peft
from lorica.exporting.source import Source
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written
from lorica.models.fingerprint import Progress
from lorica.quant.mixtures import mixture


@dataclass(frozen=True)
class Options:
    """What is asked for: the target, and what some targets can be told. `type` is as the target writes it."""

    to: str
    type: str | None = None
    profile: str | None = None
    imatrix: str | Path | None = None

    @property
    def folder(self) -> str:
        """What the export's folder is called, if it is not said."""
        parts = (self.to, self.profile, None if self.type is None else self.type.lower())
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Target:
    """`use` is how to load what is written; `library` who does."""

    library: str
    use: str
    write: Callable[[Source, Weights, Path, Options, Progress | None], Written]
    type: Callable[[str | None], str | None]


def _no_type(name: str | None) -> None:
    if name is not None:
        raise ValueError(f"an adapter for PEFT is written as it was trained; it has no type such as {name}.")


def _one_of(types: Mapping[str, object], name: str | None) -> str | None:
    if name is not None and name.upper() not in types:
        raise ValueError(f"the type is one of {', '.join(types)} here; got {name}.")
    return None if name is None else name.upper()


def _mixture(name: str | None) -> str | None:
    return None if name is None else mixture(name)


def _importances(options: Options) -> dict[str, Tensor]:
    return {} if options.imatrix is None else read_imatrix(options.imatrix)


TARGETS: dict[str, Target] = {
    "peft": Target(
        "peft",
        "Load it with PEFT: `PeftModel.from_pretrained(base, PATH)`, or in Lorica: `lorica chat PATH`.",
        lambda source, weights, folder, options, _: write_peft(source, weights, folder, options.profile),
        _no_type,
    ),
    "merged": Target(
        "transformers",
        "Load it with transformers: `AutoModelForCausalLM.from_pretrained(PATH)`, or in Lorica: `lorica chat PATH`.",
        lambda source, weights, folder, options, tell: write_merged(source, weights, folder, options.type, tell),
        lambda name: _one_of(merged.TYPES, name),
    ),
    "gguf-adapter": Target(
        "gguf",
        "Serve it with llama.cpp: `llama-server -m BASE.gguf --lora adapter.gguf`.",
        lambda source, weights, folder, options, _: write_gguf_adapter(source, weights, folder, options.type),
        lambda name: _one_of(gguf_adapter.TYPES, name),
    ),
    "gguf": Target(
        "gguf",
        "Serve it with llama.cpp: `llama-server -m model.gguf`, or in Lorica: `lorica chat PATH`.",
        lambda source, weights, folder, options, tell: write_gguf(
            source, weights, folder, options.type, _importances(options), tell
        ),
        _mixture,
    ),
    "ollama": Target(
        "gguf",
        "Serve it with Ollama: `ollama create NAME -f Modelfile`, then `ollama run NAME`.",
        lambda source, weights, folder, options, tell: write_ollama(
            source, weights, folder, options.type, _importances(options), tell
        ),
        _mixture,
    ),
}


def checked(options: Options) -> Options:
    """The options with the type as the target writes it. Raises ValueError for what means nothing together."""
    if options.to not in TARGETS:
        raise ValueError(f'"{options.to}" is nothing that can be exported to; choose {", ".join(TARGETS)}.')
    if options.profile is not None and (options.to != "peft" or options.profile not in PROFILES):
        raise ValueError(
            f"--profile {options.profile} --to {options.to}: profiles are for peft, and there is {', '.join(PROFILES)}."
        )
    if options.imatrix is not None and options.to not in ("gguf", "ollama"):
        raise ValueError(f"an imatrix weighs what is packed; --to {options.to} packs nothing.")
    return Options(options.to, TARGETS[options.to].type(options.type), options.profile, options.imatrix)
