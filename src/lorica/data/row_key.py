"""What decides a row's tokens, as hashes: the two halves of a cache key.

The context is everything that all rows of a run share: tokenizer, template, options, and the code that turns rows into
tokens, ours and the libraries'. The key is what a row says, wherever it stands. Where a hash cannot be certain of a
value, there is no key and the row is not cached.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from datetime import date, datetime, time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorica.models.fingerprint import hash_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorica.config.schema import DataConfig
    from lorica.data.formats import Record

# Options that choose or cut rows, or that a record already shows the effect of. All others belong to the context, and
# so will any that is added later.
_NOT_OF_TOKENS = {"path", "format", "columns", "sample_by", "name", "split", "revision", "on_error", "max_length",
                  "too_long", "gates", "chat_template"}  # fmt: skip
_LIBRARIES = ("transformers", "tokenizers", "jinja2")


def row_context(config: DataConfig, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> str:
    """A hex digest of all that decides tokens beside the rows."""
    path = Path(config.chat_template) if config.chat_template else None
    template = path.read_bytes() if path is not None and path.is_file() else None
    shared = {
        "code": _code(),
        "libraries": [version(name) for name in _LIBRARIES],
        "tokenizer": [
            hash_tokenizer(tokenizer),
            type(tokenizer).__name__,
            getattr(tokenizer, "split_special_tokens", None),
        ],
        "template": [template, str(path), tokenizer.chat_template],
        "stops": sorted(stop_ids),
        "options": {key: value for key, value in vars(config).items() if key not in _NOT_OF_TOKENS},
        "today": date.today() if "strftime_now" in f"{template!r}{tokenizer.chat_template}" else None,
    }
    return hashlib.sha256(_canonical(shared)).hexdigest()[:32]


def row_key(record: Record) -> bytes | None:
    """16 bytes that are equal for records that say the same; None where a value has no exact form."""
    fields = [getattr(record, field.name) for field in dataclasses.fields(record) if field.name != "source"]
    try:
        content = _canonical([type(record).__name__, fields])
    except (TypeError, ValueError):
        return None
    return hashlib.blake2b(content, digest_size=16).digest()


def _canonical(value: object) -> bytes:
    """Exact JSON: the order of keys is kept, because templates write objects in the order they have."""
    return json.dumps(value, ensure_ascii=False, default=_exact).encode("utf-8", "surrogatepass")


def _exact(value: Any) -> object:
    """What JSON has no form for, told apart from its text by its type."""
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, datetime | date | time):
        return [type(value).__name__, value.isoformat()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}]
    raise TypeError(f"no exact form of {type(value).__name__}")


@cache
def _code() -> str:
    """A hash of this package's source: any change to how tokens are made is another context."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
