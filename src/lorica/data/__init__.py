"""Rows -> messages -> rendered turns -> tokens with loss weights -> packed batches.

What is trained is what is served: the supervised tokens are those a server would have to generate, up to and including
the stop token.
"""

from lorica.data.batches import Batch, microbatches
from lorica.data.examples import Example
from lorica.data.findings import Finding
from lorica.data.order import step_rows
from lorica.data.packing import pack
from lorica.data.read import Examples, read_examples
from lorica.data.split import split_held_out
from lorica.data.store import StoredExamples

__all__ = [
    "Batch",
    "Example",
    "Examples",
    "Finding",
    "StoredExamples",
    "microbatches",
    "pack",
    "read_examples",
    "split_held_out",
    "step_rows",
]
