"""What can be exported to, in which types, and how each is used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lorica.exporting import gguf_adapter, merged
from lorica.exporting.gguf_adapter import write_gguf_adapter
from lorica.exporting.gguf_model import write_gguf
from lorica.exporting.merged import write_merged
from lorica.exporting.ollama import write_ollama
from lorica.exporting.options import Options
from lorica.exporting.peft_folder import PROFILES, write_peft
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written
from lorica.models.fingerprint import Progress
from lorica.quant.mixtures import mixture
from lorica.run.source import Source


@dataclass(frozen=True)
class Target:
    """`use` is how to load what is written; `library` who does. `type` is the name that it gives to a type."""

    library: str
    use: str
    write: Callable[[Source, Weights, Path, Options, Progress | None], Written]
    type: Callable[[str], str]


def _no_type(name: str) -> str:
    raise ValueError(f"an adapter for PEFT is written as it was trained; it has no type such as {name}.")


def _one_of(types: Mapping[str, object], name: str) -> str:
    if name.upper() not in types:
        raise ValueError(f"the type is one of {', '.join(types)} here; got {name}.")
    return name.upper()


TARGETS: dict[str, Target] = {
    "peft": Target(
        "peft",
        "Load it with PEFT: `PeftModel.from_pretrained(base, PATH)`, or in Lorica: `lorica chat PATH`.",
        write_peft,
        _no_type,
    ),
    "merged": Target(
        "transformers",
        "Load it with transformers as its base is loaded (`AutoModelForCausalLM`), or in Lorica: `lorica chat PATH`.",
        write_merged,
        partial(_one_of, merged.TYPES),
    ),
    "gguf-adapter": Target(
        "gguf",
        "Serve it with llama.cpp: `llama-server -m BASE.gguf --lora adapter.gguf`.",
        write_gguf_adapter,
        partial(_one_of, gguf_adapter.TYPES),
    ),
    "gguf": Target(
        "gguf",
        "Serve it with llama.cpp: `llama-server -m model.gguf`, or in Lorica: `lorica chat PATH`.",
        write_gguf,
        mixture,
    ),
    "ollama": Target(
        "gguf",
        "Serve it with Ollama: `ollama create NAME -f Modelfile`, then `ollama run NAME`.",
        write_ollama,
        mixture,
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
    return options if options.type is None else replace(options, type=TARGETS[options.to].type(options.type))
