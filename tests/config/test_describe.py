"""Descriptions, allowed values in words, and the JSON Schema, checked by a small validator written for these tests."""

import re
from typing import Any

import pytest
import yaml

from lorica.config import LEAVES, RunConfig, json_schema, load, to_yaml
from lorica.config.describe import DIALECT, allowed, schema_of
from lorica.config.reading import parse
from lorica.config.schema import SECTIONS

ANNOTATIONS = {"$schema", "$defs", "title", "description", "default", "examples"}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a value fits a JSON Schema; a keyword that this does not know fails the test."""
    return all(fits(value, word, schema, root) for word in schema.keys() - ANNOTATIONS)


def fits(value: Any, word: str, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    wanted = schema[word]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match word:
        case "$ref":
            return valid(value, root["$defs"][wanted.removeprefix("#/$defs/")], root)
        case "anyOf":
            return any(valid(value, branch, root) for branch in wanted)
        case "type":
            return isinstance(value, TYPES[wanted]) and isinstance(value, bool) <= (wanted == "boolean")
        case "const" | "enum":
            return value in (wanted if word == "enum" else [wanted])
        case "minimum":
            return not is_number or value >= wanted
        case "maximum":
            return not is_number or value <= wanted
        case "exclusiveMinimum":
            return not is_number or value > wanted
        case "exclusiveMaximum":
            return not is_number or value < wanted
        case "pattern":
            return not isinstance(value, str) or re.search(wanted, value) is not None
        case "minLength" | "minItems":
            return not isinstance(value, str if word == "minLength" else list) or len(value) >= wanted
        case "maxItems":
            return not isinstance(value, list) or len(value) <= wanted
        case "items":
            return not isinstance(value, list) or all(valid(item, wanted, root) for item in value)
        case "prefixItems":
            return not isinstance(value, list) or all(map(lambda item, part: valid(item, part, root), value, wanted))
        case "required":
            return not isinstance(value, dict) or value.keys() >= set(wanted)
        case "properties":
            return not isinstance(value, dict) or all(valid(value[k], wanted[k], root) for k in value.keys() & wanted)
        case "additionalProperties":
            others = value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else set()
            return not others if wanted is False else all(valid(value[key], wanted, root) for key in others)
        case "propertyNames":
            return not isinstance(value, dict) or all(valid(key, wanted, root) for key in value)
    raise AssertionError(f"the validator does not know {word}")


SAMPLES = [
    "{model: m, data: d}",
    "{model: {path: m, dtype: bf16, revision: main}, data: [a, b], out: runs/x}",
    "{model: m, data: [a, {path: b, weight: 0.5, columns: {prompt: q}}]}",
    "{model: m, data: {path: a, role_weights: {tool: 0.5}, chat_template_kwargs: {x: true, y: 1, z: [a]}}}",
    "{model: m, data: {path: [a], max_length: 512, too_long: drop}, lora: {r: 8, lora_alpha: 16, lora_dropout: 0.1}}",
    "{model: m, data: d, lora: {target_modules: [q], rank_pattern: {q: 4}, init_lora_weights: pissa_niter_4}}",
    "{model: m, data: d, lora: {trainable_token_indices: {embed: [1]}, layers_to_transform: 0, use_dora: false}}",
    "{model: m, data: d, method: full, train: {lr: 3e-4, steps: 10, betas: [0.9, 0.95], max_grad_norm: null}}",
    "{model: m, data: d, evaluate: {held_out: 0.1, every: 5, metric: [bleu, a.b:c]}, train: {early_stopping: 2}}",
    "{model: m, data: d, system: {trackers: [wandb], threads: 4, checkpointing: full}, lora: }",
]
FAULTY = [
    "{data: d}",
    "{model: m, data: d, lr: 1}",
    "{model: {path: m, weights: nf5}, data: d}",
    "{model: m, data: []}",
    "{model: m, data: d, lora: {r: 0}}",
    "{model: m, data: d, lora: {r: true}}",
    "{model: m, data: d, lora: {rank_pattern: {q: 0.5}}}",
    "{model: m, data: d, train: {lr: -1}}",
    "{model: m, data: d, train: {betas: [0.9]}}",
    "{model: m, data: d, train: {betas: [0.9, 1]}}",
    "{model: m, data: d, train: {schedule: cosinee}}",
    "{model: m, data: d, evaluate: {metric: blue}}",
]


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_schema_and_the_loader_accept_the_samples(sample: str) -> None:
    values = parse(sample, "sample").values
    load(values=values)
    schema = json_schema()
    assert valid(values, schema, schema)


@pytest.mark.parametrize("sample", FAULTY)
def test_the_schema_and_the_loader_refuse_the_faulty_samples(sample: str) -> None:
    values = parse(sample, "sample").values
    with pytest.raises(ValueError):
        load(values=values)
    schema = json_schema()
    assert not valid(values, schema, schema)


def test_the_written_configuration_fits_the_schema() -> None:
    written = yaml.safe_load(to_yaml(load(values={"model": "m", "data": "d", "train": {"eps": 0.5}})))
    schema = json_schema()
    assert valid(written, schema, schema)
    assert schema["$schema"] == DIALECT


def test_every_setting_and_section_is_described_on_one_line() -> None:
    sections = {name: RunConfig.model_fields[name] for name in SECTIONS}
    for key, field in (LEAVES | sections).items():
        assert field.description, key
        assert "\n" not in field.description
        assert len(field.description) < 180, key


def test_every_number_has_a_lower_and_an_upper_bound() -> None:
    def numbers(schema: Any) -> list[dict[str, Any]]:
        nested = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
        here = [schema] if isinstance(schema, dict) and schema.get("type") in ("integer", "number") else []
        return here + [found for part in nested for found in numbers(part)]

    for key in LEAVES:
        for schema in numbers(schema_of(key)):
            assert {"minimum", "exclusiveMinimum"} & schema.keys(), key
            assert {"maximum", "exclusiveMaximum"} & schema.keys(), key


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train.lr", "a number above 0 and at most 1, or auto, or null"),
        ("train.schedule", "linear, cosine or constant"),
        ("train.seed", "a whole number of at least 0 and below 4,294,967,296"),
        ("lora.r", "a whole number from 1 to 65,536"),
        ("lora.alpha_pattern", "a mapping from name to a number above 0 and at most 65,536"),
        (
            "lora.init_lora_weights",
            "true or false, or gaussian, pissa, olora, loftq or eva, or text like pissa_niter_16",
        ),
        ("lora.bias", "none"),
        (
            "data.path",
            "text, or a list, each text, or a mapping with path, weight, format, columns, sample_by, name, split, "
            "revision",
        ),
        ("data.role_weights", "a mapping from system/developer/user/assistant/tool to a number from 0 to 1,000"),
        ("out", "text, or null"),
    ],
)
def test_allowed_values_in_words(key: str, words: str) -> None:
    assert allowed(key) == words
