"""Which parameter of transformers lies in which tensor of a GGUF file, and in which form.

llama.cpp's rotary embedding takes neighbouring features for `llama`, where transformers takes features half a head
apart: such files have the rows of q and k in another order. Blocks of packed weights run along rows, so rows are put in
order as they are packed. Gemma's norms multiply by one plus their weight; files hold the sum. Some files have q, k and
v in one tensor; its rows are the three in a row.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
FEED_FORWARD = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ONE_NORM = {"ffn_norm": "post_attention_layernorm"}
TWO_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
FUSED = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_BLOCK = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")


@dataclass(frozen=True)
class Place:
    """Where a parameter lies: a tensor, the `part` of its rows (None is all of them), and how the form differs."""

    tensor: str
    heads: int = 0  # above 0: the rows of each of so many heads are interleaved
    shift: float = 0.0  # what the file adds to the values
    part: tuple[int, int] | None = None  # rows from, to

    def from_file(self, rows: Tensor) -> Tensor:
        """Rows (rows, ...) of the file in transformers' order; packed or not, since no row is looked into."""
        if self.part is not None:
            rows = rows[self.part[0] : self.part[1]]
        return deinterleave(rows, self.heads) if self.heads else rows

    def to_file(self, rows: Tensor) -> Tensor:
        """The inverse for whole tensors: rows in the file's order."""
        return interleave(rows, self.heads) if self.heads else rows


@dataclass(frozen=True)
class Architecture:
    """`name` is the value of general.architecture, `model_type` transformers' name of the same model; `blocks` maps the
    stems of a layer's tensors to module names in the layer."""

    name: str
    model_type: str
    blocks: Mapping[str, str]
    interleaved: bool = False  # rotary features are neighbours, so q and k have their rows in another order
    norm_shift: float = 0.0
    always_tied: bool = False
    _stems: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_stems", {module: stem for stem, module in self.blocks.items()})

    def tensor(self, parameter: str) -> str | None:
        """The tensor that holds a parameter of transformers (`model.layers.0.self_attn.q_proj.weight`), or None."""
        for stem, module in GLOBAL.items():
            if parameter == f"{module}.weight":
                return None if stem == "output" and self.always_tied else f"{stem}.weight"
        found = _LAYER.fullmatch(parameter)
        inside = self._stems.get(found[2]) if found else None
        return f"blk.{found[1]}.{inside}.{found[3]}" if found and inside else None

    def parameter(self, tensor: str) -> str | None:
        """The parameter that a tensor holds, or None for one that transformers does not have."""
        stem, _, kind = tensor.rpartition(".")
        if stem in GLOBAL and kind == "weight":
            return f"{GLOBAL[stem]}.weight"
        found = _BLOCK.fullmatch(tensor)
        module = self.blocks.get(found[2]) if found else None
        return f"model.layers.{found[1]}.{module}.{found[3]}" if found and module else None

    def place(self, parameter: str, heads: int, key_heads: int) -> Place | None:
        """Where a whole parameter lies in a model of so many heads, or None if files of this architecture lack it."""
        tensor = self.tensor(parameter)
        if tensor is None:
            return None
        count = heads if ".attn_q." in tensor else key_heads if ".attn_k." in tensor else 0
        shift = self.norm_shift if tensor.endswith("norm.weight") else 0.0
        return Place(tensor, count if self.interleaved else 0, shift)


def _with(*parts: Mapping[str, str]) -> dict[str, str]:
    return {stem: module for part in parts for stem, module in part.items()}


ARCHITECTURES = {
    found.name: found
    for found in (
        Architecture("llama", "llama", _with(ATTENTION, ONE_NORM, FEED_FORWARD), interleaved=True),
        Architecture("qwen2", "qwen2", _with(ATTENTION, ONE_NORM, FEED_FORWARD)),
        Architecture("qwen3", "qwen3", _with(ATTENTION, HEAD_NORMS, ONE_NORM, FEED_FORWARD)),
        Architecture("gemma", "gemma", _with(ATTENTION, ONE_NORM, FEED_FORWARD), norm_shift=1.0, always_tied=True),
        Architecture("gemma2", "gemma2", _with(ATTENTION, TWO_NORMS, FEED_FORWARD), norm_shift=1.0, always_tied=True),
        Architecture("gemma3", "gemma3_text", _with(ATTENTION, HEAD_NORMS, TWO_NORMS, FEED_FORWARD), norm_shift=1.0),
        Architecture("phi3", "phi3", _with(FUSED, ONE_NORM)),
    )
}
SAME = {"mistral": "llama"}  # model types that llama.cpp computes as another's


def architecture(name: str, source: object) -> Architecture:
    """By the value of general.architecture. Raises ValueError naming those that are supported."""
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{source} holds a model of the architecture {name}; Lorica reads GGUF files of {', '.join(ARCHITECTURES)} "
            "(llama covers Llama, Mistral, SmolLM, Yi and others). Use the model's transformers directory instead; "
            "model.weights packs it on load."
        )
    return ARCHITECTURES[name]


def architecture_of_type(model_type: str) -> Architecture | None:
    """By transformers' model type; None for one that has no GGUF form here."""
    wanted = SAME.get(model_type, model_type)
    return next((found for found in ARCHITECTURES.values() if found.model_type == wanted), None)


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads * size, ...) of q or k from transformers' order (features half a head apart are a pair) to
    llama.cpp's (neighbours are a pair)."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, 2, size // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def deinterleave(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave`."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
