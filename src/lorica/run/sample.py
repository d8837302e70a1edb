"""The rows that a start from activations (EVA) listens to."""

from collections.abc import Iterator

import torch

from lorica.data.batches import microbatches
from lorica.data.examples import Example
from lorica.lora import Tokens
from lorica.run.prepare import Prepared

SAMPLE_TOKENS = 8_192
TOGETHER = 1_024  # tokens that run at once: one number on every machine, since no knob may change the start


def start_sample(prepared: Prepared) -> Iterator[Tokens]:
    """Some training rows, the same for every seed, so that lanes of one pass can share them; their trained tokens are
    what counts, as in PEFT."""
    rows, tokens = [], 0
    for index in torch.randperm(len(prepared.rows.training), generator=torch.Generator().manual_seed(0)).tolist():
        row: Example = prepared.rows.training[index]
        rows.append(row)
        tokens += len(row.input_ids)
        if tokens >= SAMPLE_TOKENS:
            break
    for batch in microbatches(rows, 1 if prepared.capacity == 1 else TOGETHER):
        yield Tokens(batch.input_ids, batch.position_ids, batch.predict_at + 1)
