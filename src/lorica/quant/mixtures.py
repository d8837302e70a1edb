"""llama.cpp's mixtures: which type each tensor of a GGUF file gets in a Q4_K_M, a Q3_K_L and so on.

The rules are those of `llama_tensor_get_type` (llama.cpp, src/llama-quant.cpp): a default type, better ones where
errors hurt most (the output, values, the down projection in the first and last layers), and another type where rows do
not divide into blocks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lorica.quant.table import CODECS, fallback

# mixture: (its number in general.file_type, its default type)
MIXTURES = {
    "F32": (0, "F32"),
    "F16": (1, "F16"),
    "BF16": (32, "BF16"),
    "Q8_0": (7, "Q8_0"),
    "Q6_K": (18, "Q6_K"),
    "Q5_K_M": (17, "Q5_K"),
    "Q5_K_S": (16, "Q5_K"),
    "Q5_1": (9, "Q5_1"),
    "Q5_0": (8, "Q5_0"),
    "Q4_K_M": (15, "Q4_K"),
    "Q4_K_S": (14, "Q4_K"),
    "Q4_1": (3, "Q4_1"),
    "Q4_0": (2, "Q4_0"),
    "IQ4_NL": (25, "IQ4_NL"),
    "Q3_K_L": (13, "Q3_K"),
    "Q3_K_M": (12, "Q3_K"),
    "Q3_K_S": (11, "Q3_K"),
    "Q2_K": (10, "Q2_K"),
}
_PLAIN = ("F32", "F16", "BF16")
_VALUES, _DOWN = ("attn_v", "attn_qkv"), ("ffn_down",)


@dataclass(frozen=True)
class Model:
    """What of a model the rules look at. `seventy` is llama.cpp's 70B, whose values eight heads share."""

    layers: int
    heads: int
    key_heads: int
    experts: int = 0
    seventy: bool = False


def mixture(name: str) -> str:
    """The mixture called `name`, in any case; `Q4_K` and the like are their middle size. Raises ValueError for a name
    that there is not."""
    wanted = name.upper()
    for found in (wanted, f"{wanted}_M"):
        if found in MIXTURES:
            return found
    raise ValueError(f'"{name}" is no type that llama.cpp gives to files; Lorica writes {", ".join(MIXTURES)}.')


def is_packed(tensor: str, shape: tuple[int, ...]) -> bool:
    """Whether a mixture gives the tensor a type; the others (vectors, norms, routers) keep their own."""
    if not tensor.endswith("weight") or len(shape) < 2:
        return False
    return not tensor.endswith("_norm.weight") and ".ffn_gate_inp" not in tensor and "position_embd" not in tensor


def tensor_types(
    name: str, shapes: Mapping[str, tuple[int, ...]], model: Model, imatrix: bool = False
) -> dict[str, str]:
    """The type of every tensor that the mixture `name` packs. `shapes` are torch's, by the tensors' names in the file;
    the rules count layers, so those of all layers have to be there. `imatrix`: whether importances are given.

    Types that the rows do not divide into are replaced as llama.cpp does; compare with `wanted_types` to tell.
    """
    wanted = wanted_types(name, shapes, model, imatrix)
    return {tensor: fallback(type_name, shapes[tensor][-1]) for tensor, type_name in wanted.items()}


def wanted_types(
    name: str, shapes: Mapping[str, tuple[int, ...]], model: Model, imatrix: bool = False
) -> dict[str, str]:
    """The same before anything is replaced."""
    packed = [tensor for tensor, shape in shapes.items() if is_packed(tensor, shape)]
    default = MIXTURES[name][1]
    if name in _PLAIN:
        return dict.fromkeys(packed, default)
    counted = {stem: _in_order(packed, stem) for stem in (_VALUES, _DOWN)}
    tied = "output.weight" not in shapes
    found = {}
    for tensor in packed:
        if tensor == "output.weight" or (tied and tensor == "token_embd.weight"):
            divides = shapes[tensor][-1] % CODECS[default].block_length == 0
            found[tensor] = "Q6_K" if divides and default != "Q8_0" else "Q8_0"
            continue
        stem = tensor.split(".")[-2]
        order = counted[_VALUES] if stem in _VALUES else counted[_DOWN] if stem in _DOWN else []
        index = order.index(tensor) if tensor in order else 0
        found[tensor] = _in_layer(name, default, stem, index, len(order), model, imatrix)
    return found


def _in_order(tensors: Iterable[str], stems: tuple[str, ...]) -> list[str]:
    """Those tensors by layer: the running index of the rules."""
    found = [tensor for tensor in tensors if tensor.startswith("blk.") and tensor.split(".")[-2] in stems]
    return sorted(found, key=lambda tensor: int(tensor.split(".")[1]))


def _in_layer(name: str, default: str, stem: str, index: int, count: int, model: Model, imatrix: bool) -> str:
    if stem in _VALUES:
        return _values(name, default, index, count, model)
    if stem == "attn_k" and model.experts == 8:
        return "Q8_0"
    if stem in _DOWN:
        return _down(name, default, index, count, imatrix)
    if stem == "attn_output":
        return _attention_output(name, default, model)
    return default


def _more_bits(index: int, count: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def _values(name: str, default: str, index: int, count: int, model: Model) -> str:
    shared = model.heads // max(model.key_heads, 1) >= 4
    chosen = default
    if name == "Q2_K":
        chosen = "Q4_K" if shared else "Q3_K"
    elif name == "Q3_K_M":
        chosen = "Q5_K" if index < 2 else "Q4_K"
    elif name == "Q3_K_L" or (name == "IQ4_NL" and shared) or (name == "Q4_K_S" and index < 4):
        chosen = "Q5_K"
    elif name in ("Q4_K_M", "Q5_K_M") and _more_bits(index, count):
        chosen = "Q6_K"
    if model.seventy and chosen in ("Q3_K", "Q4_K"):
        chosen = "Q5_K"
    return "Q8_0" if model.experts == 8 else chosen


def _down(name: str, default: str, index: int, count: int, imatrix: bool) -> str:
    early = index < count // 8
    if name == "Q2_K":
        return "Q3_K"
    if name == "Q3_K_M":
        return "Q5_K" if index < count // 16 else "Q4_K"
    if name == "Q3_K_L" or (early and (name == "Q4_K_S" or (name == "IQ4_NL" and not imatrix))):
        return "Q5_K"
    if name in ("Q4_K_M", "Q5_K_M") and _more_bits(index, count):
        return "Q6_K"
    if name in ("Q4_0", "Q5_0") and early and imatrix:
        return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[name]
    return default


def _attention_output(name: str, default: str, model: Model) -> str:
    if model.experts == 8:
        small = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M")
        return "Q5_K" if name in small else default
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(name, default)
