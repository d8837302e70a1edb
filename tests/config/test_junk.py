"""Whatever is given, the answer is a configuration or a ConfigError, never another error."""

import contextlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.config import LEAVES, ConfigError, load
from lorica.config.reading import read_file
from lorica.config.schema import SECTIONS

NAMES = st.sampled_from([*SECTIONS, *LEAVES, *(key.rpartition(".")[2] for key in LEAVES), "lora_alpha", "zz", ""])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | NAMES
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
MAPPINGS = st.dictionaries(NAMES | st.text(max_size=4), JUNK, max_size=6)
REQUIRED = {"model": "m", "data": "d"}
YAML_PIECES = st.sampled_from(
    ["model: ", "data:\n", "  ", "\t", "- ", "[", "]", "{", "}", ": ", ",", "&a ", "*a ", "!!", "%", "|", ">", "#", '"']
)


@settings(max_examples=200, deadline=None)
@given(MAPPINGS, st.lists(st.text(max_size=12) | st.tuples(NAMES, st.text(max_size=8)).map("=".join), max_size=3))
def test_values_and_overrides(values: dict[str, object], overrides: list[str]) -> None:
    for candidate in (values, REQUIRED | values):
        with contextlib.suppress(ConfigError):
            load(None, overrides, candidate)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([".yaml", ".json"]), st.binary(max_size=60) | st.lists(YAML_PIECES).map("".join).map(str.encode))
def test_files(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"run{suffix}"
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            read_file(path)
            load(path)
