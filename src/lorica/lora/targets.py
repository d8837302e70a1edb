"""Which modules an adapter changes: PEFT's rules for names, lists, regular expressions, layers and patterns.

The rules are PEFT's because its adapter files are read with them (`check_target_module_exists`, `get_pattern_key`
there); what PEFT lets pass in silence (a name that matches nothing, half of a tied pair) is an error here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lorica.config.schema import LoraConfig
from lorica.lora import target_checks as check
from lorica.lora.layer import Strength
from lorica.lora.weights import is_adaptable, is_embedding, is_linear, share_weight, vocabulary_of
from lorica.quant import is_read_by_kernels

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Targets:
    """Module names, each in model order: low-rank pairs, full copies, and token rows by embedding name."""

    low_rank: list[str]
    copies: list[str]
    rows: dict[str, list[int]]


def find_targets(model: nn.Module, config: LoraConfig, *, every_name_matches: bool = True) -> Targets:
    """Resolve `config` against `model`.

    Raises ValueError for a broken pattern, when nothing is chosen, when what is chosen cannot be adapted, and, unless
    told otherwise (PEFT does not mind), when a name or pattern matches nothing or half of a tied pair is chosen.
    """
    check.patterns(config)
    copies = _find_copies(model, config)
    low_rank = [name for name, module in model.named_modules() if _is_target(model, name, module, config, copies)]
    targets = Targets(low_rank, copies, _find_rows(model, config))
    if every_name_matches:
        check.names_match(model, config, low_rank)
    check.something_is_left(model, config, low_rank)
    check.kinds(model, low_rank)
    check.can_be_copied(model, copies)
    check.no_overlap(targets.low_rank, targets.copies, targets.rows)
    check.one_place_each(model, [*low_rank, *copies, *targets.rows])
    pair = tied_pair(model)
    if pair is not None and every_name_matches:
        check.both_or_none(pair, low_rank, "target_modules")
        check.both_or_none(pair, copies, "modules_to_save")
    return targets


def unreached(model: nn.Module, config: LoraConfig) -> list[str]:
    """A line about the matrices of `model` that "all-linear" does not mean, because no linear layer holds them: fused
    experts, routers."""
    if config.target_modules != ALL_LINEAR:
        return []
    held = [
        (f"{name}.{leaf}", parameter.numel())
        for name, module in model.named_modules()
        for leaf, parameter in module.named_parameters(recurse=False)
        if not is_adaptable(module) and sum(size > 1 for size in parameter.shape) >= 2
    ]
    if not held:
        return []
    share = sum(size for _, size in held) / sum(parameter.numel() for parameter in model.parameters())
    kinds = sorted({re.sub(r".*\.\d+\.", "", name) for name, _ in held})
    what = f"{len(held)} tensors ({', '.join(kinds)}), {share:.0%} of the parameters,"
    return [f"{what} are not adapted: no linear layer holds them.", *_misread_by_peft(model, kinds)]


def _misread_by_peft(model: nn.Module, unreached: list[str]) -> list[str]:
    """PEFT takes these names for the matrices of the fused experts, which were called so before transformers 5, in the
    models of its list (`_convert_peft_config_moe`): it would start pairs there that the file does not have."""
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if is_linear(module)}
    names = sorted(linear & {"gate_proj", "up_proj", "down_proj"})
    if not names or not any("experts" in name for name in unreached):
        return []
    return [
        f"PEFT may take {', '.join(names)} for the experts' own: if it is to read this adapter, put them in "
        "lora.exclude_modules."
    ]


def strength_of(name: str, config: LoraConfig) -> Strength:
    """Of one module, after `rank_pattern` and `alpha_pattern`. The scale is alpha / r, or alpha / sqrt(r) with rsLoRA
    (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732)."""
    r = config.rank_pattern.get(_pattern_key(config.rank_pattern, name), config.r)
    alpha = config.alpha_pattern.get(_pattern_key(config.alpha_pattern, name), config.alpha)
    return Strength(r, alpha, alpha / r**0.5 if config.use_rslora else alpha / r)


def _pattern_key(patterns: Iterable[str], name: str) -> str:
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", name)), name)


def ends_with(name: str, endings: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _is_target(model: nn.Module, name: str, module: nn.Module, config: LoraConfig, copies: list[str]) -> bool:
    if not name or _matches_names(name, config.exclude_modules) or any(_inside(name, copy) for copy in copies):
        return False
    if config.target_modules == ALL_LINEAR:
        chosen = is_linear(module) and module is not _output_embeddings(model) and not is_read_by_kernels(model, name)
        return chosen and _layer_chosen(name, config)
    if isinstance(config.target_modules, str):
        return re.fullmatch(config.target_modules, name) is not None and _layer_chosen(name, config)
    if name in config.target_modules:  # a whole name says its layer itself
        return True
    return ends_with(name, config.target_modules) and _layer_chosen(name, config)


def _matches_names(name: str, names: str | list[str] | None) -> bool:
    if names is None:
        return False
    return re.fullmatch(names, name) is not None if isinstance(names, str) else ends_with(name, names)


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
    endings = tuple(config.modules_to_save or [])
    chosen = [name for name, _ in model.named_modules() if name.endswith(endings)]
    return [name for name in chosen if not any(_inside(name, other) and name != other for other in chosen)]


def _find_rows(model: nn.Module, config: LoraConfig) -> dict[str, list[int]]:
    wanted = config.trainable_token_indices
    if wanted is None:
        return {}
    inputs, outputs = _input_embeddings(model), _output_embeddings(model)
    tied = tied_pair(model) is not None  # its head has the embedding's rows
    tables = {
        name: module
        for name, module in model.named_modules()
        if is_embedding(module) or (is_linear(module) and module is outputs and not tied)
    }
    if not isinstance(wanted, dict):
        wanted = {next(name for name, module in tables.items() if module is inputs): wanted}
    found: dict[str, list[int]] = {}
    for ending, tokens in wanted.items():
        names = [name for name in tables if ends_with(name, [ending])]
        check.names_an_embedding(ending, names, tables)
        for name in names:
            check.tokens(name, tokens, vocabulary_of(tables[name]))
            found[name] = list(tokens)  # in the user's order, in which PEFT stores the rows
    return found


def _input_embeddings(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_input_embeddings", None)
    return getter() if getter is not None else None


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_output_embeddings", None)
    return getter() if getter is not None else None


def tied_pair(model: nn.Module) -> tuple[str, str] | None:
    """Names of the input embedding and the output head when they share one weight, else None."""
    inputs, outputs = _input_embeddings(model), _output_embeddings(model)
    if inputs is None or outputs is None or not share_weight(inputs, outputs):
        return None
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    return names[id(inputs)], names[id(outputs)]
