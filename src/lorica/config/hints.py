"""What the user probably meant: the nearest key, and what other tools' names are called here."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from lorica.config.data_section import SourceConfig
from lorica.config.describe import choices, in_words, schema_of
from lorica.config.schema import LEAVES, SECTIONS, RunConfig

BATCH = "use train.batch_size, the rows of one whole optimiser step; splitting it to fit never changes the result"
PACKED_WEIGHTS = "use model.weights: nf4, or q8_0, q4_k_m ... as the base will be served"
PACKING = "leave it out: rows are always packed, each attending to itself only, which does not change the result"
PRECISION = "use model.dtype: bf16, fp32 or auto"
MODEL, DATA, TARGETS = "use model", "use data", "use lora.target_modules"
DATA_PATH = "use data.path"

# Names in PEFT, Transformers, TRL, Axolotl, LLaMA-Factory and Unsloth that no spelling comparison would find.
OTHER_TOOLS = {
    "learning_rate": "use train.lr",
    "num_epochs": "use train.epochs",
    "num_train_epochs": "use train.epochs",
    "max_steps": "use train.steps",
    "micro_batch_size": BATCH,
    "per_device_train_batch_size": BATCH,
    "per_device_eval_batch_size": "leave it out; evaluation is sized by system.tokens_per_microbatch",
    "gradient_accumulation_steps": BATCH,
    "lr_scheduler": "use train.schedule",
    "lr_scheduler_type": "use train.schedule",
    "warmup_steps": "use train.warmup",
    "warmup_ratio": "use train.warmup",
    "optim": "use train.optimizer",
    "adam_beta1": "use train.betas",
    "adam_beta2": "use train.betas",
    "adam_epsilon": "use train.eps",
    "lora_r": "use lora.r",
    "lora_rank": "use lora.r",
    "rank": "use lora.r",
    "lora_alpha": "use lora.alpha",
    "lora_dropout": "use lora.dropout",
    "lora_target": TARGETS,
    "lora_target_modules": TARGETS,
    "lora_target_linear": "use lora.target_modules: all-linear",
    "eva_config": "use lora.init_lora_weights: eva, which keeps the ranks of lora.r and lora.rank_pattern (rho of 1)",
    "rho": "leave it out: lora.init_lora_weights: eva keeps the ranks that are set",
    "loftq_config": "use lora.init_lora_weights: loftq, which takes one iteration, and model.weights for the format",
    "loraplus_lr_embedding": "only train.loraplus_lr_ratio exists here",
    "base_model": MODEL,
    "model_name": MODEL,
    "model_name_or_path": MODEL,
    "dataset": DATA,
    "datasets": DATA,
    "train_file": DATA,
    "train_on_inputs": "use data.train_on: all, or leave it out",
    "train_on_prompt": "use data.train_on: all, or leave it out",
    "train_on_responses_only": "leave it out: only answers are trained (data.train_on)",
    "assistant_only_loss": "leave it out: only answers are trained (data.train_on)",
    "completion_only_loss": "leave it out: only completions are trained (data.train_on)",
    "mask_history": "use data.train_on: last",
    "roles_to_train": "use data.role_weights, such as {assistant: 1, tool: 0.2}",
    "enable_thinking": "use data.chat_template_kwargs: {enable_thinking: ...}",
    "ds_type": "leave it out: the kind of a file follows from its name",
    "data_files": DATA_PATH,
    "file_name": DATA_PATH,
    "hf_hub_url": DATA_PATH,
    "subset": "use data.name",
    "dataset_text_field": "use data.columns: {text: NAME}",
    "field_messages": "use data.columns: {messages: NAME}",
    "interleave_probs": "give the entries of data.path a weight",
    "excess_length_strategy": "use data.too_long",
    "sequence_len": "use data.max_length",
    "max_seq_length": "use data.max_length",
    "cutoff_len": "use data.max_length",
    "sample_packing": PACKING,
    "packing": PACKING,
    "output_dir": "use out",
    "adapter": "use method: lora or full",
    "finetuning_type": "use method: lora or full",
    "load_in_4bit": PACKED_WEIGHTS,
    "load_in_8bit": PACKED_WEIGHTS,
    "quantization_bit": PACKED_WEIGHTS,
    "bf16": PRECISION,
    "fp16": PRECISION,
    "torch_dtype": PRECISION,
    "val_set_size": "use evaluate.held_out",
    "eval_steps": "use evaluate.every",
    "early_stopping_patience": "use train.early_stopping",
    "gradient_checkpointing": "use system.checkpointing: auto, none or full",
    "save_steps": "use system.checkpoint_every",
    "save_total_limit": "use system.keep_checkpoints",
    "report_to": "use system.trackers",
    "wandb_project": "use system.trackers: [wandb]",
    "trust_remote_code": "leave it out: code that comes with a model is never run",
}


def unknown_key(key: str) -> str:
    """The message for a key that does not exist."""
    section, _, name = key.rpartition(".")
    if key in LEAVES:
        return f"a key with a dot; write it inside its section, as `{section}: {{{name}: ...}}`"
    if name in OTHER_TOOLS:
        return f"unknown key; {OTHER_TOOLS[name]}"
    if suggestion := nearest_key(section, name):
        return f"unknown key; did you mean {suggestion}?"
    if foreign := get_close_matches(name, OTHER_TOOLS, n=1, cutoff=0.8):
        return f"unknown key; {OTHER_TOOLS[foreign[0]]}"
    if section in SECTIONS:
        return f"unknown key; {section} has {', '.join(SECTIONS[section].model_fields)}"
    return f"unknown key; allowed here: {', '.join(RunConfig.model_fields)}"


def nearest_key(section: str, name: str) -> str | None:
    """The existing key most like this one: in its own section first, then the same name elsewhere, then all others."""
    siblings = SECTIONS[section].model_fields if section in SECTIONS else RunConfig.model_fields
    prefix = f"{section}." if section in SECTIONS else ""
    elsewhere = {leaf.rpartition(".")[2]: leaf for leaf in reversed(LEAVES)}
    if name in elsewhere:
        return elsewhere[name]
    if close := get_close_matches(name, siblings, n=1, cutoff=0.6):
        return prefix + close[0]
    close = get_close_matches(name, [*elsewhere, *RunConfig.model_fields], n=1, cutoff=0.75)
    return elsewhere.get(close[0], close[0]) if close else None


def about_value(key: str, value: Any) -> str:
    """What to add to the message about a value that is not allowed; empty where nothing helps."""
    schema = schema_of(key)
    if key == "data.path" and isinstance(value, list):
        return "".join(f"; entry {number}: {fault}" for number, fault in _source_faults(value))
    if key == "evaluate.held_out" and value in (0, None):
        return "; for no evaluation set evaluate.enabled: false"
    if key == "system.memory" and isinstance(value, int | float):
        return f"; write {value}GB or {value}GiB"
    words = choices(schema)
    if isinstance(value, str) and (close := get_close_matches(value, words, n=1, cutoff=0.6)):
        return f"; did you mean {close[0]}?"
    if isinstance(value, int | float) and "text" in _branch_types(schema):
        return f'; write "{value}" in quotes if it is a name'
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off") and "boolean" in _branch_types(schema):
        return "; write true or false"
    return ""


def _source_faults(entries: list[Any]) -> Iterator[tuple[int, str]]:
    """What is wrong with the entries of a list of sources that are mappings, by number from 1."""
    for number, entry in enumerate(entries, start=1):
        try:
            if isinstance(entry, dict):
                SourceConfig.model_validate(entry)
        except ValidationError as error:
            for name in dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_input=False)):
                yield number, _source_fault(name, entry)


def _source_fault(name: str, entry: dict[str, Any]) -> str:
    known = SourceConfig.model_fields
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.6)
        return f"unknown key {name}" + (f", did you mean {near[0]}?" if near else "")
    if name not in entry:
        return f"{name} is required"
    return f"{name} may be {in_words(SourceConfig.model_json_schema()['properties'][name])}"


def _branch_types(schema: dict[str, Any]) -> set[str]:
    """The JSON types a setting may have; free text counts as "text"."""
    if "anyOf" in schema:
        return set().union(*(_branch_types(branch) for branch in schema["anyOf"]))
    free_text = schema.get("type") == "string" and not {"enum", "const", "pattern"} & schema.keys()
    return {"text" if free_text else schema.get("type", "")}
