"""The models of transformers that GGUF files are read and written of: which parameter lies in which tensor, in which
form, and what llama.cpp computes with it.

llama.cpp's rotary embedding takes neighbouring features for `llama` and its relatives, where transformers takes
features half a head apart: such files have the rows of q and k in another order. Blocks of packed weights run along
rows, so rows are put in order as they are packed. (Cohere, GLM and Ernie take neighbours in transformers too.)
Gemma's norms multiply by one plus their weight; files hold the sum. Some files have q, k and v in one tensor; its rows
are the three in a row.

Names are those of the `gguf` library's tables, which the tests compare; the rest is read from llama.cpp's graphs
(src/models) and its converter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lorica.gguf.metadata import Metadata

GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
FUSED_ATTENTION = {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj"}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
FEED_FORWARD = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
FUSED_FEED_FORWARD = {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
BEFORE = {"attn_norm": "input_layernorm"}
BEFORE_BOTH = BEFORE | {"ffn_norm": "post_attention_layernorm"}
AFTER_BOTH = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
GEMMA_NORMS = BEFORE | AFTER_BOTH | {"ffn_norm": "pre_feedforward_layernorm"}
GLM_NORMS = BEFORE_BOTH | {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
SILU, GELU = "silu", "gelu_pytorch_tanh"
RMS = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
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


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """`name` is the value of general.architecture; `model_types` are transformers' names of models that llama.cpp
    computes so, the first of which a file is read as. Of several architectures of one name, `told_by` is a key of the
    metadata that only files of this one have above zero.

    `blocks` maps the stems of a layer's tensors to module names in the layer. With `interleaved` the rows of q and k
    are in another order than transformers'. `head`: whether files have an output head of their own ("own"), never
    ("tied"), or either.

    The config: `epsilon` and `scales` are keys of the metadata with the fields they give, the latter with the value
    that stands for an absent one; `biases` fields with the stem whose bias tells; `fixed` what llama.cpp has one value
    of. With `window` layers see only so many tokens as the file says, but for each `window`th, which sees all.
    `rope_factors`: whether llama.cpp divides frequencies by the file's factors (Llama 3's rule, LongRoPE).
    """

    name: str
    model_types: tuple[str, ...]
    blocks: Mapping[str, str]
    told_by: str = ""
    interleaved: bool = False
    norm_shift: float = 0.0
    head: str = "either"
    epsilon: tuple[str, str] = RMS
    scales: Mapping[str, tuple[str, float | None]] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=lambda: {"hidden_act": SILU})
    window: int = 0
    partly_rotated: bool = False
    rope_factors: bool = False
    _stems: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_stems", {module: stem for stem, module in self.blocks.items()})

    @property
    def model_type(self) -> str:
        return self.model_types[0]

    def tensor(self, parameter: str) -> str | None:
        """The tensor that holds a parameter of transformers (`model.layers.0.self_attn.q_proj.weight`), or None."""
        module, _, kind = parameter.rpartition(".")
        for stem, known in GLOBAL.items():
            if module == known:
                return None if stem == "output" and self.head == "tied" else f"{stem}.{kind}"
        found = _LAYER.fullmatch(parameter)
        inside = self._stems.get(found[2]) if found else None
        return f"blk.{found[1]}.{inside}.{found[3]}" if found and inside else None

    def parameter(self, tensor: str) -> str | None:
        """The parameter that a tensor holds, or None for one that transformers does not have."""
        stem, _, kind = tensor.rpartition(".")
        if stem in GLOBAL and kind in ("weight", "bias"):
            return f"{GLOBAL[stem]}.{kind}"
        found = _BLOCK.fullmatch(tensor)
        module = self.blocks.get(found[2]) if found else None
        return f"model.layers.{found[1]}.{module}.{found[3]}" if found and module else None

    def place(self, parameter: str, config: Any) -> Place | None:
        """Where a whole parameter lies in a model of `config`, or None if files of this architecture lack it."""
        tensor = self.tensor(parameter)
        if tensor is None:
            return None
        heads = 0
        if self.interleaved and ".attn_q." in tensor:
            heads = config.num_attention_heads
        elif self.interleaved and ".attn_k." in tensor:
            heads = config.num_key_value_heads
        return Place(tensor, heads, self.norm_shift if tensor.endswith("norm.weight") else 0.0)


LLAMA = ATTENTION | BEFORE_BOTH | FEED_FORWARD
BIASES = {"attention_bias": "attn_q", "mlp_bias": "ffn_gate"}
SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")
ARCHITECTURES = (
    Architecture(
        name="llama",
        model_types=("llama", "mistral"),
        blocks=LLAMA,
        interleaved=True,
        biases=BIASES,
        rope_factors=True,
    ),
    Architecture(
        name="mistral3",  # what the converter calls newer files of Mistral's
        model_types=("ministral3",),
        told_by="attention.temperature_scale",
        blocks=LLAMA,
        interleaved=True,
    ),
    Architecture(name="mistral3", model_types=("mistral",), blocks=LLAMA, interleaved=True),
    Architecture(
        name="smollm3",
        model_types=("smollm3",),
        blocks=LLAMA,
        interleaved=True,
        fixed={"hidden_act": SILU, "attention_bias": False, "mlp_bias": False},
    ),
    Architecture(
        name="granite",
        model_types=("granite",),
        blocks=LLAMA,
        interleaved=True,
        biases=BIASES,
        scales={
            "logit_scale": ("logits_scaling", 1.0),
            "residual_scale": ("residual_multiplier", 1.0),
            "embedding_scale": ("embedding_multiplier", 1.0),
            "attention.scale": ("attention_multiplier", None),  # then one over the root of the head's size
        },
        rope_factors=True,
    ),
    Architecture(name="qwen2", model_types=("qwen2",), blocks=LLAMA),
    Architecture(name="qwen3", model_types=("qwen3",), blocks=LLAMA | HEAD_NORMS, biases={"attention_bias": "attn_q"}),
    Architecture(
        name="seed_oss",
        model_types=("seed_oss",),
        blocks=ATTENTION | FEED_FORWARD | BEFORE | {"post_attention_norm": "post_attention_layernorm"},
        biases={"attention_bias": "attn_q"},
        fixed={"hidden_act": SILU, "attention_out_bias": False, "mlp_bias": False},
    ),
    Architecture(
        name="olmo2",
        model_types=("olmo3",),
        told_by="attention.sliding_window",
        blocks=ATTENTION | HEAD_NORMS | FEED_FORWARD | AFTER_BOTH,
        head="own",
        fixed={"hidden_act": SILU, "attention_bias": False},
        window=4,
    ),
    Architecture(
        name="olmo2",
        model_types=("olmo2",),
        blocks=ATTENTION | HEAD_NORMS | FEED_FORWARD | AFTER_BOTH,
        head="own",
        fixed={"hidden_act": SILU, "attention_bias": False},
    ),
    Architecture(
        name="exaone4",
        model_types=("exaone4",),
        blocks=ATTENTION | HEAD_NORMS | FEED_FORWARD | AFTER_BOTH,
        window=4,
        rope_factors=True,
    ),
    Architecture(
        name="glm4",
        model_types=("glm4",),
        blocks=ATTENTION | FUSED_FEED_FORWARD | GLM_NORMS,
        biases={"attention_bias": "attn_q"},
        partly_rotated=True,
    ),
    Architecture(
        name="ernie4_5", model_types=("ernie4_5",), blocks=LLAMA, fixed={"hidden_act": SILU, "use_bias": False}
    ),
    Architecture(
        name="command-r",
        model_types=("cohere",),
        blocks=ATTENTION | BEFORE | FEED_FORWARD,
        head="tied",
        epsilon=("attention.layer_norm_epsilon", "layer_norm_eps"),
        scales={"logit_scale": ("logit_scale", 1.0)},
        fixed={"hidden_act": SILU, "attention_bias": False, "use_qk_norm": False},
    ),
    Architecture(
        name="cohere2",
        model_types=("cohere2",),
        blocks=ATTENTION | BEFORE | FEED_FORWARD,
        head="tied",
        epsilon=("attention.layer_norm_epsilon", "layer_norm_eps"),
        scales={"logit_scale": ("logit_scale", 1.0)},
        fixed={"hidden_act": SILU, "attention_bias": False},
        window=4,
    ),
    Architecture(
        name="starcoder2",
        model_types=("starcoder2",),
        blocks=ATTENTION | BEFORE_BOTH | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        epsilon=("attention.layer_norm_epsilon", "norm_epsilon"),
        fixed={"hidden_act": GELU, "use_bias": True},
    ),
    Architecture(
        name="gemma",
        model_types=("gemma",),
        blocks=LLAMA,
        norm_shift=1.0,
        head="tied",
        fixed={"hidden_act": GELU, "attention_bias": False},
    ),
    Architecture(
        name="gemma2",
        model_types=("gemma2",),
        blocks=ATTENTION | GEMMA_NORMS | FEED_FORWARD,
        norm_shift=1.0,
        head="tied",
        scales={SOFTCAPS[0]: (SOFTCAPS[0], 50.0), SOFTCAPS[1]: (SOFTCAPS[1], 30.0)},
        fixed={"hidden_activation": GELU, "attention_bias": False},
        window=2,
    ),
    Architecture(
        name="gemma3",
        model_types=("gemma3_text",),
        blocks=ATTENTION | HEAD_NORMS | GEMMA_NORMS | FEED_FORWARD,
        norm_shift=1.0,
        scales={SOFTCAPS[1]: (SOFTCAPS[1], None)},
        fixed={"hidden_activation": GELU, "attention_bias": False, SOFTCAPS[0]: None},
        window=6,
    ),
    Architecture(
        name="phi3",
        model_types=("phi3",),
        blocks=FUSED_ATTENTION | BEFORE_BOTH | FUSED_FEED_FORWARD,
        partly_rotated=True,
        rope_factors=True,
    ),
)
NAMES = tuple(dict.fromkeys(found.name for found in ARCHITECTURES))


def architecture(metadata: Metadata) -> Architecture:
    """That of a file. Raises ValueError for one that is not known, naming those that are."""
    name = metadata.text("general.architecture")
    for found in ARCHITECTURES:
        if found.name == name and (not found.told_by or metadata.number(f"{name}.{found.told_by}", 0.0) > 0):
            return found
    raise ValueError(
        f"{metadata.source} holds a model of the architecture {name}; Lorica reads GGUF files of {', '.join(NAMES)} "
        "(llama covers Llama, Mistral, SmolLM, Yi and others). Use the model's transformers directory instead; "
        "model.weights packs it on load."
    )


def architecture_of_type(model_type: str) -> Architecture | None:
    """By transformers' model type; None for one that has no GGUF form here."""
    return next((found for found in ARCHITECTURES if model_type in found.model_types), None)


def model_types(name: str) -> set[str]:
    """Transformers' names of the models that llama.cpp calls `name`."""
    return {model_type for found in ARCHITECTURES if found.name == name for model_type in found.model_types}


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads * size, ...) of q or k from transformers' order (features half a head apart are a pair) to
    llama.cpp's (neighbours are a pair)."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, 2, size // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def deinterleave(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave`."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
