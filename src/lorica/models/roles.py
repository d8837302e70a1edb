"""What each matrix of a model is to llama.cpp: its tensor's name in a GGUF file, for mixtures of types.

Models of an architecture that GGUF files are read of have their real names; the matrices of others are told by the
usual names of their modules, so that the rules for values, down projections and the output apply to them as well.
"""

import re
from typing import Any

from lorica.gguf.architectures import architecture_of_type
from lorica.quant import can_be_packed, is_read_by_kernels
from lorica.quant.mixtures import Model

USUAL = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "qkv_proj": "attn_qkv",
    "query_key_value": "attn_qkv",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "gate_up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "gate": "ffn_gate_inp",
    "router": "ffn_gate_inp",
}


# Their forward casts to `lm_head.weight.dtype`, so the head, and an embedding tied to it, stay dense.
HEAD_STAYS_DENSE = ("falcon_mamba", "mamba", "mamba2")


def tensor_names(model: Any) -> dict[str, str]:
    """The tensor's name by the name of each linear layer's and embedding's weight; names are unique."""
    found = architecture_of_type(model.config.model_type)
    ends = {model.get_input_embeddings(): "token_embd.weight", model.get_output_embeddings(): "output.weight"}
    dense_ends = model.config.model_type in HEAD_STAYS_DENSE
    names = {}
    for name, module in model.named_modules():
        stays = is_read_by_kernels(model, name) or (dense_ends and module in ends)
        if can_be_packed(module) and not stays:
            parameter = f"{name}.weight"
            known = found.tensor(parameter) if found is not None else None
            names[parameter] = known or ends.get(module) or _usual(name)
    return names


def _usual(module: str) -> str:
    """A name with the layer and the role, and the module's own to tell it from others in the same place."""
    layer = re.search(r"\.(\d+)\.", module)
    role = USUAL.get(module.rpartition(".")[2], "other")
    return f"blk.{layer[1]}.{module}.{role}.weight" if layer else f"{module}.{role}.weight"


def rules_of(config: Any) -> Model:
    """What of the model llama.cpp's rules look at."""
    text = config.get_text_config()
    experts = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None) or 0
    key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    seventy = text.num_hidden_layers == 80 and key_heads != text.num_attention_heads
    seventy = seventy and text.model_type in ("llama", "mistral", "qwen2")
    return Model(text.num_hidden_layers, text.num_attention_heads, key_heads, experts, seventy)
