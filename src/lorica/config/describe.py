"""Says in words what a setting may hold, and writes the JSON Schema that editors read. Both follow from the models."""

from functools import cache
from typing import Any

from lorica.config.schema import ALTERNATIVE_NAMES, SECTIONS, RunConfig

JsonSchema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SIMPLE_TYPES = {"boolean": "true or false", "null": "null"}


def json_schema() -> JsonSchema:
    """The configuration as JSON Schema (draft 2020-12), with descriptions, PEFT's alternative names included."""
    schema = RunConfig.model_json_schema()
    for alternative, key in ALTERNATIVE_NAMES.items():
        (section, name), other = key.split("."), alternative.split(".")[1]
        properties = schema["$defs"][SECTIONS[section].__name__]["properties"]
        properties[other] = properties[name] | {"description": f"PEFT's name of {key}"}
    for section in SECTIONS:
        _allow_empty(schema["properties"], section, required=section in schema["required"])
    return {"$schema": DIALECT, "title": "Lorica run configuration"} | schema


def _allow_empty(properties: JsonSchema, section: str, required: bool) -> None:
    """A section with all its lines commented out is null in YAML, and means its defaults."""
    if not required:
        reference = {"$ref": properties[section].pop("$ref")}
        properties[section]["anyOf"] = [reference, {"type": "null"}]


@cache
def _models_schema() -> JsonSchema:
    return RunConfig.model_json_schema()


def schema_of(key: str) -> JsonSchema:
    """The JSON Schema of one setting."""
    section, _, name = key.rpartition(".")
    owner: JsonSchema = _models_schema()["$defs"][SECTIONS[section].__name__] if section else _models_schema()
    return dict(owner["properties"][name])


def allowed(key: str) -> str:
    """What the setting may hold, in words: "a number above 0 and at most 1, or auto"."""
    return in_words(schema_of(key))


def choices(schema: JsonSchema) -> list[str]:
    """The fixed words a setting may hold."""
    branches = [word for branch in schema.get("anyOf", []) for word in choices(branch)]
    return [*schema.get("enum", []), *([schema["const"]] if "const" in schema else []), *branches]


def in_words(schema: JsonSchema) -> str:
    """A JSON Schema of the kinds that the models produce, in words."""
    if "$ref" in schema:
        return in_words(_models_schema()["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return ", or ".join(in_words(branch) for branch in schema["anyOf"])
    if words := choices(schema):
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    match schema.get("type"):
        case "integer" | "number":
            return ("a whole number" if schema["type"] == "integer" else "a number") + _range(schema)
        case "array":
            return _list(schema)
        case "object":
            return _mapping(schema)
        case "string":
            return f"text like {schema['examples'][0]}" if "examples" in schema else "text"
    return SIMPLE_TYPES[schema["type"]]


def _mapping(schema: JsonSchema) -> str:
    if "properties" in schema:
        return f"a mapping with {', '.join(schema['properties'])}"
    names = choices(schema.get("propertyNames", {}))
    return f"a mapping from {'/'.join(names) or 'name'} to {in_words(schema['additionalProperties'])}"


def _list(schema: JsonSchema) -> str:
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}, each {in_words(schema['prefixItems'][0])}"
    return f"a list, each {in_words(schema['items'])}"


def _range(schema: JsonSchema) -> str:
    if {"minimum", "maximum"} <= schema.keys():
        return f" from {schema['minimum']:,} to {schema['maximum']:,}"
    words = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = [f"{word} {schema[name]:,}" for name, word in words.items() if name in schema]
    return f" {' and '.join(bounds)}" if bounds else ""
