"""Which modules an adapter changes: PEFT's rules for names, lists, regular expressions, layers and patterns.

The rules are PEFT's because its adapter files are read with them (`check_target_module_exists`, `get_pattern_key`
there); what PEFT lets pass in silence (a name that matches nothing, half of a tied pair) is an error here.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lorica.config.schema import LoraConfig
from lorica.lora.weights import is_adaptable, is_linear

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Targets:
    """Module names, each in model order: low-rank pairs, full copies, and token rows by embedding name."""

    low_rank: list[str]
    copies: list[str]
    rows: dict[str, list[int]]


def find_targets(model: nn.Module, config: LoraConfig) -> Targets:
    """Resolve `config` against `model`. Raises ValueError when a name matches nothing or cannot be adapted."""
    copies = _find_copies(model, config)
    low_rank = [name for name, module in model.named_modules() if _is_target(model, name, module, config, copies)]
    rows = _find_rows(model, config)
    targets = Targets(low_rank, copies, rows)
    _check_something_matched(model, config, targets)
    _check_kinds(model, targets)
    _check_tied(model, targets)
    return targets


def rank_and_alpha(name: str, config: LoraConfig) -> tuple[int, float]:
    """The rank and alpha of one module after `rank_pattern` and `alpha_pattern`."""
    rank_key = _pattern_key(config.rank_pattern, name)
    alpha_key = _pattern_key(config.alpha_pattern, name)
    return config.rank_pattern.get(rank_key, config.r), config.alpha_pattern.get(alpha_key, config.alpha)


def scaling(r: int, alpha: float, use_rslora: bool) -> float:
    """alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732)."""
    return alpha / r**0.5 if use_rslora else alpha / r


def _pattern_key(patterns: Iterable[str], name: str) -> str:
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", name)), name)


def _ends_with(name: str, endings: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _is_target(model: nn.Module, name: str, module: nn.Module, config: LoraConfig, copies: list[str]) -> bool:
    if not name or _matches_names(name, config.exclude_modules) or any(_inside(name, copy) for copy in copies):
        return False
    if config.target_modules == ALL_LINEAR:
        chosen = is_linear(module) and module is not _output_embeddings(model)
        return chosen and _layer_chosen(name, config)
    if isinstance(config.target_modules, str):
        return re.fullmatch(config.target_modules, name) is not None and _layer_chosen(name, config)
    return _ends_with(name, config.target_modules) and _layer_chosen(name, config)


def _matches_names(name: str, names: str | list[str] | None) -> bool:
    if names is None:
        return False
    return re.fullmatch(names, name) is not None if isinstance(names, str) else _ends_with(name, names)


def _inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _layer_chosen(name: str, config: LoraConfig) -> bool:
    if config.layers_to_transform is None:
        return True
    wanted = config.layers_to_transform
    patterns = config.layers_pattern or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    # The first numbered segment is the layer; a later one can be an expert inside it.
    found = next((m for p in patterns if (m := re.match(rf"(?:^|.*?\.){p}\.(?P<layer>\d+)\.", name))), None)
    return found is not None and int(found["layer"]) in ([wanted] if isinstance(wanted, int) else wanted)


def _find_copies(model: nn.Module, config: LoraConfig) -> list[str]:
    wanted = config.modules_to_save or []
    names = [name for name, _ in model.named_modules() if name]
    for ending in wanted:
        if not any(name.endswith(ending) for name in names):
            raise ValueError(
                f'lora.modules_to_save names "{ending}", which no module ends with.{_nearest(ending, names)}'
            )
    chosen = [name for name in names if any(name.endswith(ending) for ending in wanted)]
    return [name for name in chosen if not any(_inside(name, other) and name != other for other in chosen)]


def _find_rows(model: nn.Module, config: LoraConfig) -> dict[str, list[int]]:
    wanted = config.trainable_token_indices
    if wanted is None:
        return {}
    embeddings = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    if not isinstance(wanted, dict):
        inputs = _input_embeddings(model)
        wanted = {next(name for name, module in embeddings.items() if module is inputs): wanted}
    found: dict[str, list[int]] = {}
    for ending, tokens in wanted.items():
        names = [name for name in embeddings if _ends_with(name, [ending])]
        if not names:
            raise ValueError(
                f'lora.trainable_token_indices names "{ending}", which is no embedding.{_nearest(ending, embeddings)}'
            )
        for name in names:
            _check_tokens(name, tokens, embeddings[name].num_embeddings)
            found[name] = list(tokens)  # in the user's order, in which PEFT stores the rows
    return found


def _check_tokens(name: str, tokens: list[int], size: int) -> None:
    outside = [token for token in tokens if not 0 <= token < size]
    if outside:
        raise ValueError(f"lora.trainable_token_indices has {outside[:5]}, but {name} has rows 0 to {size - 1}.")
    twice = sorted(token for token, count in Counter(tokens).items() if count > 1)
    if twice:
        raise ValueError(f"lora.trainable_token_indices names the tokens {twice[:5]} more than once; name each once.")


def _input_embeddings(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_input_embeddings", None)
    return getter() if getter is not None else None


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_output_embeddings", None)
    return getter() if getter is not None else None


def tied_pair(model: nn.Module) -> tuple[str, str] | None:
    """Names of the input embedding and the output head when they share one weight, else None."""
    inputs, outputs = _input_embeddings(model), _output_embeddings(model)
    if inputs is None or outputs is None or inputs.weight is not outputs.weight:
        return None
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    return names[id(inputs)], names[id(outputs)]


def _nearest(name: str, names: Iterable[str]) -> str:
    leaves = sorted({known.rsplit(".", 1)[-1] for known in names})
    close = difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _check_something_matched(model: nn.Module, config: LoraConfig, targets: Targets) -> None:
    wanted = config.target_modules
    linear = [name for name, module in model.named_modules() if is_adaptable(module)]
    if isinstance(wanted, list):
        unmatched = [
            ending for ending in wanted if not any(_ends_with(name, [ending]) for name, _ in model.named_modules())
        ]
        if unmatched:
            raise ValueError(
                f"lora.target_modules names {unmatched}, which no module of {type(model).__name__} is called."
                f"{_nearest(unmatched[0], linear)} It has {_leaves(linear)}."
            )
    if not targets.low_rank:
        raise ValueError(
            f"no module is left to adapt: lora.target_modules = {wanted!r} with lora.exclude_modules = "
            f"{config.exclude_modules!r} and lora.layers_to_transform = {config.layers_to_transform!r}. "
            f"{type(model).__name__} has {_leaves(linear)}."
        )
    for field, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key in patterns:
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in targets.low_rank):
                raise ValueError(
                    f'lora.{field} has "{key}", which matches no adapted module.{_nearest(key, targets.low_rank)}'
                )


def _leaves(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))


def _check_kinds(model: nn.Module, targets: Targets) -> None:
    for name in targets.low_rank:
        module = model.get_submodule(name)
        if not is_adaptable(module):
            raise ValueError(
                f"{name} is a {type(module).__name__}, which cannot carry a low-rank pair; linear layers and "
                "embeddings can. "
                "Narrow lora.target_modules, or name it in lora.modules_to_save to train a copy of it."
            )
        if name in targets.rows:
            raise ValueError(
                f"{name} is in lora.target_modules and in lora.trainable_token_indices; choose one of them."
            )


def _check_tied(model: nn.Module, targets: Targets) -> None:
    pair = tied_pair(model)
    if pair is None:
        return
    for chosen, field in ((targets.low_rank, "target_modules"), (targets.copies, "modules_to_save")):
        half = [name for name in pair if name in chosen]
        if len(half) == 1:
            other = pair[1] if half[0] == pair[0] else pair[0]
            raise ValueError(
                f"lora.{field} has {half[0]}, but its weight is also that of {other} (tied embeddings), which "
                "would keep the "
                f"old values: merged or exported, the model would be another one. Either leave {half[0]} out, or "
                "name both in "
                f"lora.{field} (each is then trained on its own, and a merge unties them); to teach new tokens use "
                "lora.trainable_token_indices, which keeps the two tied."
            )
