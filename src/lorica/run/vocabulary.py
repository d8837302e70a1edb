"""Token ids that the model has no embedding for: a tokenizer that does not belong to the model."""

from collections.abc import Sequence

from lorica.lora.weights import vocabulary_of
from lorica.models import Base


def check_tokens(base: Base, ids: Sequence[int], source: str) -> None:
    """Raises ValueError if an id lies beyond the model's embedding. `source` says where the text stands."""
    vocabulary = vocabulary_of(base.model.get_input_embeddings())
    highest = max(ids, default=0)
    if highest >= vocabulary:
        token = base.tokenizer.convert_ids_to_tokens(highest)
        raise ValueError(
            f"{source}: the tokenizer of {base.name} gives token {highest:,} ({token!r}), but the model has embeddings "
            f"for {vocabulary:,} tokens only. The tokenizer belongs to another model, or tokens were added to it "
            "without resizing the embedding (model.resize_token_embeddings)."
        )
