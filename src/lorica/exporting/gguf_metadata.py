"""The metadata of a GGUF model that is made from a transformers directory."""

from lorica.exporting.gguf_form import FileTensor, Form
from lorica.exporting.gguf_tokenizer import write_tokenizer
from lorica.gguf.values import Value, count, text
from lorica.gguf.write_config import write_config
from lorica.models.facts import ModelFacts


def model_metadata(
    form: Form, name: str, facts: ModelFacts, file_type: int
) -> tuple[dict[str, Value], list[FileTensor]]:
    """Metadata, and the tensors that belong to it (rope factors).

    Raises ValueError for a model that llama.cpp would compute otherwise, and a tokenizer that it cannot have.
    """
    values, factors = write_config(form.config)
    own = {
        "general.type": text("model"),
        "general.name": text(name),
        "general.file_type": count(file_type),
        "general.quantization_version": count(2),
    }
    tensors = [FileTensor(name, tuple(factor.shape), "F32", factor.float) for name, factor in factors.items()]
    return values | own | write_tokenizer(facts.tokenizer, form.config.vocab_size, facts.stop_ids), tensors
