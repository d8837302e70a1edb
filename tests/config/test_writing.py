"""The written configuration: explains each value, and reads back to the same configuration for any valid one."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lorica.config import LEAVES, ConfigError, Resolved, derive, load, to_yaml, unused_settings
from lorica.config.describe import choices, schema_of
from lorica.config.settings import nest

PATTERNS = {
    r"^pissa_niter_[1-9][0-9]{0,2}$": st.integers(1, 999).map("pissa_niter_{}".format),
    r"^[\w.]+:\w+$": st.sampled_from(["module:function", "a.b_c:d", "é.x:_1"]),
}
WORDS = st.text(min_size=1, max_size=12) | st.sampled_from(["3e-4", "null", "yes", "~", "a: b", "x #y", "- a", "a\nb"])

SOURCES = st.fixed_dictionaries(
    {"path": WORDS},
    optional={
        "weight": st.floats(0.125, 8),
        "format": st.sampled_from(["auto", "text"]),
        "columns": st.dictionaries(st.sampled_from(["prompt", "text"]), WORDS, max_size=2),
        "split": WORDS,
    },
)


def values_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a setting's JSON Schema allows."""
    if "$ref" in schema:
        return SOURCES
    if "anyOf" in schema:
        return st.one_of(*map(values_of, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if schema["type"] == "string":
        return PATTERNS[schema["pattern"]] if "pattern" in schema else WORDS
    if schema["type"] == "array" and "prefixItems" in schema:
        return st.tuples(*map(values_of, schema["prefixItems"])).map(list)
    if schema["type"] == "array":
        return st.lists(values_of(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
    if schema["type"] == "object":
        fixed = choices(schema.get("propertyNames", {}))
        names = st.sampled_from(fixed) if fixed else WORDS
        return st.dictionaries(names, values_of(schema["additionalProperties"]), max_size=3)
    if schema["type"] in ("integer", "number"):
        return numbers(schema)
    return st.booleans() if schema["type"] == "boolean" else st.none()


def numbers(schema: dict[str, Any]) -> st.SearchStrategy[int] | st.SearchStrategy[float]:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if schema["type"] == "integer":
        return st.integers(low, high if high is not None else below - 1)
    return st.floats(
        low if low is not None else above,
        high if high is not None else below,
        exclude_min=low is None,
        exclude_max=high is None,
    )


@st.composite
def resolved_configurations(draw: st.DrawFn) -> Resolved:
    """Any valid configuration: random settings, less those that the rules between settings refuse."""
    keys = draw(st.lists(st.sampled_from(sorted(LEAVES)), unique=True, max_size=12))
    values = {key: draw(values_of(schema_of(key))) for key in {"model.path", "data.path", *keys}}
    for _ in range(len(values)):
        try:
            return load(values=nest(values))
        except ConfigError as error:
            for problem in error.problems:
                values.pop(problem.key)
    assume(False)
    raise AssertionError


def read_back(text: str) -> Resolved:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(resolved_configurations())
def test_any_configuration_reads_back_equal(resolved: Resolved) -> None:
    assert read_back(to_yaml(resolved)).config == resolved.config


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_min=True), st.text(max_size=40))
def test_a_derived_value_reads_back_whatever_its_reason_says(rate: float, reason: str) -> None:
    resolved = derive(load(values={"model": "m", "data": "d"}), "train.lr", rate, reason)
    assert read_back(to_yaml(resolved)).config == resolved.config


def test_every_line_says_where_its_value_comes_from(write) -> None:
    resolved = load(write("model: m\ndata: [a, b c]\n"), ["train.lr=3e-4"])
    lines = to_yaml(derive(resolved, "system.threads", 2, "cores of this machine")).splitlines()
    assert "  path: [a, b c]  # run.yaml:2" in lines
    assert "  lr: 0.0003  # command line" in lines
    assert "  threads: 2  # derived: cores of this machine" in lines
    assert "out: null  # default" in lines


def test_settings_without_effect_are_comments_that_say_why(write) -> None:
    resolved = load(write("model: m\ndata: d\nmethod: full\ntrain: {steps: 7}\n"))
    text = to_yaml(resolved)
    assert "  # r has no effect with method: full, which trains no adapter\n" in text
    assert "  # epochs has no effect when train.steps is given\n" in text
    named = [line.split()[1] for line in text.splitlines() if line.startswith("  #")]
    assert sorted(named) == sorted(key.split(".")[1] for key in unused_settings(resolved.config))


def test_the_second_writing_differs_in_origins_only(write) -> None:
    text = to_yaml(load(write("model: m\ndata: d\ntrain: {betas: [0.5, 0.75]}\n")))
    again = to_yaml(load(write(text)))

    def without_comments(written: str) -> list[str]:
        return [line.partition("  # ")[0] for line in written.splitlines()]

    assert without_comments(again) == without_comments(text)
