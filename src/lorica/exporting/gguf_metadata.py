"""The metadata of a GGUF model that is made from a transformers directory."""

from pathlib import Path

from transformers import AutoTokenizer

from lorica.exporting.gguf_form import FileTensor, Form
from lorica.exporting.gguf_tokenizer import write_tokenizer
from lorica.exporting.source import Source
from lorica.exporting.weights import Weights
from lorica.gguf.values import Value, count, text
from lorica.gguf.write_config import write_config
from lorica.quant.mixtures import MIXTURES


def model_metadata(
    source: Source, weights: Weights, form: Form, mixture: str
) -> tuple[dict[str, Value], list[FileTensor]]:
    """Metadata, and the tensors that belong to it (rope factors).

    Raises ValueError for a model that llama.cpp would compute otherwise, and a tokenizer that it cannot have.
    """
    values, factors = write_config(form.config)
    saved = any((source.trained / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    folder = source.trained if saved else source.base
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    own = {
        "general.type": text("model"),
        "general.name": text(source.name),
        "general.file_type": count(MIXTURES[mixture][0]),
        "general.quantization_version": count(2),
    }
    tensors = [FileTensor(name, tuple(t.shape), "F32", t.float) for name, t in factors.items()]
    vocabulary = form.config.vocab_size
    return values | own | write_tokenizer(tokenizer, vocabulary, _stops(source.base)), tensors


def _stops(folder: Path) -> list[int]:
    from lorica.models.facts import read_facts

    return read_facts(str(folder)).stop_ids
