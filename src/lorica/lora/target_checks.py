"""What is wrong with a choice of modules, said before anything is changed: each check raises ValueError or returns."""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable

from torch import nn

from lorica.config.rules import broken_pattern
from lorica.config.schema import LoraConfig
from lorica.lora.weights import is_adaptable, is_embedding, is_foreign, is_lookup, is_packed
from lorica.quant import is_read_by_kernels


def patterns(config: LoraConfig) -> None:
    """Patterns of names are regular expressions, not those of a shell."""
    if (broken := broken_pattern(config)) is not None:
        raise ValueError(f'the adapter\'s settings have "{broken}", which is no valid regular expression.')


def names_an_embedding(ending: str, found: Collection[str], embeddings: Iterable[str]) -> None:
    """Rows are trained of embeddings and of an output head with a weight of its own."""
    if not found:
        raise ValueError(
            f'lora.trainable_token_indices names "{ending}", which is no embedding and no head with a weight of its '
            f"own; it can name {', '.join(embeddings)}."
        )


def tokens(name: str, ids: list[int], size: int) -> None:
    """Token ids have to be rows of the embedding, each once."""
    outside = [token for token in ids if not 0 <= token < size]
    if outside:
        raise ValueError(f"lora.trainable_token_indices has {outside[:5]}, but {name} has rows 0 to {size - 1}.")
    twice = sorted(token for token, count in Counter(ids).items() if count > 1)
    if twice:
        raise ValueError(f"lora.trainable_token_indices names the tokens {twice[:5]} more than once; name each once.")


def names_match(model: nn.Module, config: LoraConfig, low_rank: list[str]) -> None:
    """Every name and pattern of the settings has to match a module."""
    names = [name for name, _ in model.named_modules() if name]
    for field, wanted, prefix in (
        ("target_modules", config.target_modules, "."),
        ("exclude_modules", config.exclude_modules, "."),
        ("modules_to_save", config.modules_to_save, ""),  # as in PEFT: "norm" is also "input_layernorm"
    ):
        for ending in wanted if isinstance(wanted, list) else []:
            if not any(f".{name}".endswith(prefix + ending) for name in names):
                raise ValueError(
                    f'lora.{field} names "{ending}", which no module of {type(model).__name__} is called.'
                    f"{_nearest(ending, names)} It has {_adaptable(model)}."
                )
    for field, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key in patterns:
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in low_rank):
                raise ValueError(f'lora.{field} has "{key}", which matches no adapted module.{_nearest(key, low_rank)}')


def something_is_left(model: nn.Module, config: LoraConfig, low_rank: list[str]) -> None:
    """An adapter has at least one low-rank pair."""
    if not low_rank:
        text = isinstance(config.target_modules, str) and config.target_modules != "all-linear"
        hint = " A text is a regular expression of whole names; names go in a list, [q_proj, v_proj]." if text else ""
        raise ValueError(
            f"no module is left to adapt: lora.target_modules = {config.target_modules!r} with lora.exclude_modules = "
            f"{config.exclude_modules!r} and lora.layers_to_transform = {config.layers_to_transform!r}. "
            f"{type(model).__name__} has {_adaptable(model)}.{hint}"
        )


def kinds(model: nn.Module, low_rank: list[str]) -> None:
    """Only linear layers and plain embeddings, with weights that can be multiplied as they are, carry a pair."""
    for name in low_rank:
        module = model.get_submodule(name)
        kind = type(module).__name__
        if not is_adaptable(module):
            raise ValueError(
                f"{name} is a {kind}, which cannot carry a low-rank pair; linear layers and embeddings can. Narrow "
                "lora.target_modules, or name it in lora.modules_to_save to train a copy of it."
            )
        if is_read_by_kernels(model, name):
            raise ValueError(
                f"{name}: the kernels of Mamba layers read its weight themselves, past any pair beside it. Put it in "
                "lora.exclude_modules."
            )
        if is_foreign(module):
            raise ValueError(
                f"{name} is a {kind} with packed weights ({module.weight.dtype}) of another library. Load the base "
                "unquantised; Lorica packs it itself (model.weights)."
            )
        if is_embedding(module) and not is_lookup(module):
            raise ValueError(
                f"{name} is a {kind}, an embedding that computes more than a look-up, so a low-rank pair beside its "
                "table would be another model. Leave it out of lora.target_modules."
            )


def can_be_copied(model: nn.Module, copies: list[str]) -> None:
    """A module that is trained whole has a weight of numbers."""
    for name in copies:
        packed = next((part for part, module in model.get_submodule(name).named_modules() if is_packed(module)), None)
        if packed is not None:
            raise ValueError(
                f"{f'{name}.{packed}'.rstrip('.')} is packed, so lora.modules_to_save cannot train it whole. Give it a "
                "low-rank pair (lora.target_modules), or use a base that is not packed there."
            )


def no_overlap(low_rank: Collection[str], copies: Collection[str], rows: Collection[str]) -> None:
    """A module is trained in one way only. (What is inside a copy is never targeted.)"""
    for field, others in (("target_modules", low_rank), ("modules_to_save", copies)):
        both = [name for name in rows if any(name == other or name.startswith(f"{other}.") for other in others)]
        if both:
            raise ValueError(f"{both[0]} is in lora.{field} and in lora.trainable_token_indices; choose one of them.")


def one_place_each(model: nn.Module, chosen: Iterable[str]) -> None:
    """A module that the model holds under several names would be adapted in one of its places only."""
    places: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    for name in chosen:
        leaf = name.rpartition(".")[2]
        held = places[id(model.get_submodule(name))]
        # A shared parent is changed once, for all who use it; only a module with several parents is a trouble.
        parents = {id(model.get_submodule(place.rpartition(".")[0])) for place in held}
        if len(parents) > 1 or any(place.rpartition(".")[2] != leaf for place in held):
            raise ValueError(
                f"{' and '.join(held[:3])} are one and the same module, of which only {name} would be adapted. "
                "Put it in lora.exclude_modules."
            )


def both_or_none(pair: tuple[str, str], chosen: list[str], field: str) -> None:
    """Half of a tied pair of embeddings cannot be changed alone."""
    half = [name for name in pair if name in chosen]
    if len(half) != 1:
        return
    other = pair[1] if half[0] == pair[0] else pair[0]
    raise ValueError(
        f"lora.{field} has {half[0]}, but its weight is also that of {other} (tied embeddings), which would keep "
        f"the old values: merged or exported, the model would be another one. Either leave {half[0]} out, or name "
        f"both in lora.{field} (each is then trained on its own, and a merge unties them); to teach new tokens use "
        "lora.trainable_token_indices, which keeps the two tied."
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    leaves = sorted({known.rsplit(".", 1)[-1] for known in names})
    close = difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _adaptable(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if is_adaptable(module)]
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))
