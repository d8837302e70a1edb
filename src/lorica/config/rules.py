"""Rules between settings, in one table: what has no effect, and what contradicts.

A setting without effect is refused when somebody gives it, and left out of the written configuration otherwise, so
nothing a user writes is quietly ignored.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from lorica.config.combinations import REFUSED, Refusal, asked_for
from lorica.config.data_section import SourceConfig
from lorica.config.schema import LEAVES, LoraConfig, RunConfig, value_of
from lorica.units import parse_bytes


@dataclass(frozen=True, slots=True)
class Rule:
    """When `applies`, the settings in `unused` have no effect; with none there, the settings it `reads` contradict."""

    name: str
    reads: tuple[str, ...]
    applies: Callable[[RunConfig], bool]
    message: str
    unused: tuple[str, ...] = ()


def _keys(section: str, *but: str) -> tuple[str, ...]:
    return tuple(key for key in LEAVES if key.startswith(f"{section}.") and key not in but)


def broken_pattern(lora: LoraConfig) -> str | None:
    """The first pattern of an adapter's settings that is no regular expression, if there is one."""
    modules = [value for value in (lora.target_modules, lora.exclude_modules) if isinstance(value, str)]
    layers = [lora.layers_pattern] if isinstance(lora.layers_pattern, str) else lora.layers_pattern or []
    for pattern in [*modules, *layers, *lora.rank_pattern, *lora.alpha_pattern]:
        try:
            re.compile(pattern)
        except re.error:
            return pattern
    return None


def _is_size(text: str) -> bool:
    try:
        return parse_bytes(text) > 0
    except ValueError:
        return False


def _targets_and_saves(config: RunConfig) -> bool:
    targets = config.lora.target_modules
    return isinstance(targets, list) and bool(set(targets) & set(config.lora.modules_to_save or []))


def _expression_targets(config: RunConfig) -> bool:
    targets = config.lora.target_modules
    return isinstance(targets, str) and targets != "all-linear"


def _formats(config: RunConfig) -> set[str | None]:
    return {source.format for source in config.data.sources}


def _all_sources_have(config: RunConfig, key: str) -> bool:
    entries = config.data.path
    return isinstance(entries, list) and all(
        isinstance(entry, SourceConfig) and getattr(entry, key) is not None for entry in entries
    )


def _rule_of(refusal: Refusal) -> Rule:
    """A combination that settings alone ask for."""

    def applies(config: RunConfig) -> bool:
        return {refusal.first, refusal.second} <= asked_for({key: value_of(config, key) for key in refusal.settings})

    return Rule(f"{refusal.first}-with-{refusal.second}", refusal.settings, applies, str(refusal))


RULES = (
    Rule(
        "full-trains-no-adapter",
        reads=("method",),
        applies=lambda config: config.method == "full",
        unused=(*_keys("lora"), "train.loraplus_lr_ratio"),
        message="has no effect with method: full, which trains no adapter; remove it, or set method: lora",
    ),
    Rule(
        "steps-or-epochs",
        reads=("train.steps",),
        applies=lambda config: config.train.steps is not None,
        unused=("train.epochs",),
        message="has no effect when train.steps is given; keep one of the two",
    ),
    Rule(
        "no-evaluation",
        reads=("evaluate.enabled",),
        applies=lambda config: not config.evaluate.enabled,
        unused=(*_keys("evaluate", "evaluate.enabled"), "train.early_stopping"),
        message="has no effect with evaluate.enabled: false; remove it, or enable evaluation",
    ),
    Rule(
        "no-metric",
        reads=("evaluate.metric", "evaluate.enabled"),
        applies=lambda config: config.evaluate.enabled and config.evaluate.metric is None,
        unused=("evaluate.generate_rows",),
        message="has no effect without evaluate.metric; name a metric, or remove it",
    ),
    Rule(
        "nothing-generated",
        reads=("evaluate.metric", "evaluate.samples", "evaluate.enabled"),
        applies=lambda config: (
            config.evaluate.enabled and config.evaluate.metric is None and config.evaluate.samples == 0
        ),
        unused=("evaluate.max_new_tokens",),
        message="has no effect when nothing is generated; name an evaluate.metric, or set evaluate.samples above 0",
    ),
    Rule(
        "pattern-of-all-layers",
        reads=("lora.layers_to_transform", "method"),
        applies=lambda config: config.method == "lora" and config.lora.layers_to_transform is None,
        unused=("lora.layers_pattern",),
        message="has no effect without lora.layers_to_transform; say which layers, or remove it",
    ),
    Rule(
        "no-conversations",
        reads=("data.format", "data.path"),
        applies=lambda config: _formats(config) <= {"text", "tokens"},
        unused=(
            "data.chat_template",
            "data.chat_template_kwargs",
            "data.train_on",
            "data.role_weights",
            "data.reasoning",
        ),
        message="has no effect with data.format: text or tokens, which has no conversations; remove one of the two",
    ),
    Rule(
        "every-source-says-its-own",
        reads=("data.path",),
        applies=lambda config: _all_sources_have(config, "format"),
        unused=("data.format",),
        message="has no effect: every source has a format of its own; remove one of the two",
    ),
    Rule(
        "every-source-maps-its-own",
        reads=("data.path",),
        applies=lambda config: _all_sources_have(config, "columns"),
        unused=("data.columns",),
        message="has no effect: every source has columns of its own; remove one of the two",
    ),
    Rule(
        "early-stopping-needs-evaluations",
        reads=("train.early_stopping", "evaluate.every", "evaluate.enabled"),
        applies=lambda config: (
            config.evaluate.enabled and config.train.early_stopping is not None and config.evaluate.every is None
        ),
        message="early stopping counts evaluations while training; set evaluate.every to a number of steps",
    ),
    Rule(
        "expression-chooses-layers",
        reads=("lora.layers_to_transform", "lora.target_modules"),
        applies=lambda config: config.lora.layers_to_transform is not None and _expression_targets(config),
        message="layers_to_transform does not go with a regular expression in lora.target_modules; "
        "choose the layers in the expression, or list the modules by name",
    ),
    Rule(
        "adapted-or-saved-whole",
        reads=("lora.modules_to_save", "lora.target_modules"),
        applies=_targets_and_saves,
        message="modules_to_save and target_modules name the same module; train it whole or adapt it, not both",
    ),
    Rule(
        "patterns-compile",
        reads=(
            "lora.target_modules",
            "lora.exclude_modules",
            "lora.layers_pattern",
            "lora.rank_pattern",
            "lora.alpha_pattern",
        ),
        applies=lambda config: broken_pattern(config.lora) is not None,
        message="a pattern of module names that is not a valid regular expression; check its brackets and escapes",
    ),
    Rule(
        "memory-is-a-size",
        reads=("system.memory",),
        applies=lambda config: config.system.memory != "auto" and not _is_size(config.system.memory),
        message="no amount of memory; allowed: auto, or a number above 0 with its unit, such as 24GB or 24GiB",
    ),
    Rule(
        "warmup-share-or-steps",
        reads=("train.warmup",),
        applies=lambda config: config.train.warmup >= 1 and not config.train.warmup.is_integer(),
        message="neither a share nor a number of steps; allowed: below 1 as a share of all steps, or a whole number",
    ),
    Rule(
        "warmup-within-steps",
        reads=("train.warmup", "train.steps"),
        applies=lambda config: config.train.steps is not None and config.train.warmup > config.train.steps,
        message="the warm-up is longer than train.steps; make it shorter, or train for more steps",
    ),
    *(_rule_of(refusal) for refusal in REFUSED if refusal.is_of_settings),
)


def unused_settings(config: RunConfig) -> dict[str, str]:
    """The settings without effect in this configuration, and why."""
    return {key: rule.message for rule in reversed(RULES) if rule.applies(config) for key in rule.unused}


def is_use(config: RunConfig, key: str) -> bool:
    """Whether giving this value asks for something: null where null is the default anyway does not."""
    return value_of(config, key) is not None or LEAVES[key].default is not None
