"""Tiny random models of several architectures, and PEFT twins of them, for the tests of adapters and bases."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    Exaone4Config,
    Exaone4ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from lorica.lora.adapter import Adapter
from lorica.lora.checkpoint import adapter_tensors

VOCABULARY = 61
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.15,  # large enough for logits that a wrong scale would change visibly
}


def llama(**fields: Any) -> Any:
    return made(LlamaForCausalLM, LlamaConfig(**COMMON | {"tie_word_embeddings": False} | fields))


def tied_llama() -> Any:
    return llama(tie_word_embeddings=True)


def gpt2(**fields: Any) -> Any:
    sizes = {"vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = GPT2Config(**sizes | {"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.15} | fields)
    return made(GPT2LMHeadModel, config)


def qwen2(**fields: Any) -> Any:
    return made(Qwen2ForCausalLM, Qwen2Config(**COMMON | {"tie_word_embeddings": False} | fields))


def qwen3(**fields: Any) -> Any:
    return made(Qwen3ForCausalLM, Qwen3Config(**COMMON | {"tie_word_embeddings": False, "head_dim": 10} | fields))


def gemma(**fields: Any) -> Any:
    return made(GemmaForCausalLM, GemmaConfig(**COMMON | {"head_dim": 6} | fields))


def phi3(**fields: Any) -> Any:
    return made(Phi3ForCausalLM, Phi3Config(**COMMON | {"tie_word_embeddings": False} | fields))


def gemma2(**fields: Any) -> Any:
    return made(Gemma2ForCausalLM, Gemma2Config(**COMMON | {"head_dim": 6, "query_pre_attn_scalar": 6} | fields))


def gemma3(**fields: Any) -> Any:
    sizes = {"head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": 8}
    return made(Gemma3ForCausalLM, Gemma3TextConfig(**COMMON | sizes | fields))


def mistral(**fields: Any) -> Any:
    return made(MistralForCausalLM, MistralConfig(**COMMON | {"sliding_window": 5} | fields))


def smollm3(**fields: Any) -> Any:
    """The second layer does not turn its heads."""
    return made(SmolLM3ForCausalLM, SmolLM3Config(**COMMON | {"no_rope_layers": [1, 0]} | fields))


def granite(**fields: Any) -> Any:
    multipliers = {"residual_multiplier": 0.3, "attention_multiplier": 0.2, "embedding_multiplier": 3.0}
    return made(GraniteForCausalLM, GraniteConfig(**COMMON | multipliers | {"logits_scaling": 2.0} | fields))


def olmo2(**fields: Any) -> Any:
    return made(Olmo2ForCausalLM, Olmo2Config(**COMMON | fields))


def olmo3(**fields: Any) -> Any:
    """Four layers, the last of which has no window."""
    return made(Olmo3ForCausalLM, Olmo3Config(**COMMON | {"num_hidden_layers": 4, "sliding_window": 5} | fields))


def exaone4(**fields: Any) -> Any:
    layers = {"sliding_window": None, "layer_types": ["full_attention"] * 2}
    return made(Exaone4ForCausalLM, Exaone4Config(**COMMON | layers | fields))


def seed_oss(**fields: Any) -> Any:
    sizes = {"head_dim": 10, "attention_dropout": 0.0, "residual_dropout": 0.0}
    return made(SeedOssForCausalLM, SeedOssConfig(**COMMON | sizes | fields))


def glm4(**fields: Any) -> Any:
    """Half of each head is rotated, and neighbouring features are a pair."""
    return made(Glm4ForCausalLM, Glm4Config(**COMMON | {"head_dim": 8} | fields))


def ernie4_5(**fields: Any) -> Any:
    return made(Ernie4_5ForCausalLM, Ernie4_5Config(**COMMON | {"head_dim": 8} | fields))


def cohere(**fields: Any) -> Any:
    return made(CohereForCausalLM, CohereConfig(**COMMON | {"logit_scale": 0.3} | fields))


def cohere2(**fields: Any) -> Any:
    """Four layers, the last of which has no window and does not rotate."""
    sizes = {"num_hidden_layers": 4, "sliding_window": 5, "logit_scale": 0.3}
    return made(Cohere2ForCausalLM, Cohere2Config(**COMMON | sizes | fields))


def starcoder2(**fields: Any) -> Any:
    return made(Starcoder2ForCausalLM, Starcoder2Config(**COMMON | fields))


def ministral3(**fields: Any) -> Any:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 4}
    rope |= {"beta_fast": 4.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.25}
    sizes = {"head_dim": 16, "rope_parameters": rope}
    return made(Ministral3ForCausalLM, Ministral3Config(**COMMON | sizes | fields))


def mixtral(**fields: Any) -> Any:
    return made(MixtralForCausalLM, MixtralConfig(**COMMON | {"num_local_experts": 4} | fields))


def qwen3_moe(**fields: Any) -> Any:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "head_dim": 6}
    return made(Qwen3MoeForCausalLM, Qwen3MoeConfig(**COMMON | sizes | fields))


def qwen2_moe(**fields: Any) -> Any:
    """Every token goes through shared experts too, whose layers are linear."""
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
    sizes |= {"shared_expert_intermediate_size": 28}
    return made(Qwen2MoeForCausalLM, Qwen2MoeConfig(**COMMON | sizes | fields))


def qwen3_5(**fields: Any) -> Any:
    """A layer of linear attention, which sees past documents' ends, and one whose attention is gated."""
    sizes = {"head_dim": 8, "linear_key_head_dim": 6, "linear_value_head_dim": 5, "linear_num_key_heads": 2}
    sizes |= {"linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]}
    return made(Qwen3_5ForCausalLM, Qwen3_5TextConfig(**COMMON | sizes | {"rope_parameters": rope} | fields))


def gated_attention(**fields: Any) -> Any:
    return qwen3_5(**{"layer_types": ["full_attention"] * fields.get("num_hidden_layers", 2)} | fields)


def lfm2(**fields: Any) -> Any:
    """A layer of convolution, which sees past documents' ends, and one of attention."""
    layers = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
    return made(Lfm2ForCausalLM, Lfm2Config(**COMMON | layers | fields))


def made(kind: Callable[[Any], Any], config: Any) -> Any:
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = kind(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):  # transformers starts them at zero, where a forgotten bias would not show
                parameter.data.normal_()
    return model


def word_tokenizer() -> Any:
    """One token a word, without a chat template."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"word{i}" for i in range(VOCABULARY - 4))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def tokens(rows: int = 2, length: int = 9, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def randomise(adapter: Adapter, size: float = 0.1) -> Adapter:
    """Move every trained value away from its start, so that nothing is zero and nothing is symmetric."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return adapter


def peft_twin(model: Any, **fields: Any) -> Any:
    """PEFT's own adapter on a copy of `model`."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(copy.deepcopy(model), LoraConfig(**{"task_type": "CAUSAL_LM"} | fields)).eval()


def copy_to_peft(adapter: Adapter, twin: Any) -> None:
    """Give the twin the adapter's values, matched by PEFT's own key names; fails if the two sets of keys differ."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    values = adapter_tensors(adapter)
    expected = get_peft_model_state_dict(twin, save_embedding_layers=False)
    assert sorted(values) == sorted(expected)
    assert {key: value.shape for key, value in values.items()} == {key: v.shape for key, v in expected.items()}
    set_peft_model_state_dict(twin, {key: value.clone() for key, value in values.items()})


def peft_gradients(twin: Any) -> dict[str, Tensor]:
    """Gradients of the twin's trained parameters under the names of its checkpoint."""
    from peft import get_peft_model_state_dict

    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    return get_peft_model_state_dict(twin, state_dict=gradients, save_embedding_layers=False)
