"""What is compared, each as settings of `lorica train`."""

FULL, PEFT = "full fine-tuning", "LoRA r 16, PEFT library"
ATTENTION = "lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"
MLP = "lora.target_modules=[gate_proj,up_proj,down_proj]"
WITH_EMBEDDINGS = "lora.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,embed_tokens,lm_head]"


def lora(rank: int, *more: str) -> list[str]:
    return [f"lora.r={rank}", f"lora.alpha={2 * rank}", *more]


# Ordered by what has to be known first.
METHODS: dict[str, list[str]] = {
    FULL: ["method=full"],
    "LoRA r 16": lora(16),
    PEFT: lora(16),
    "LoRA r 16 on Q4_K": lora(16, "model.weights=q4_k_m"),
    "LoRA r 64": lora(64),
    "LoRA r 4": lora(4),
    "LoRA r 1": lora(1),
    "LoRA r 16, attention only": lora(16, ATTENTION),
    "LoRA r 16, MLP only": lora(16, MLP),
    "LoRA r 16, embeddings too": lora(16, WITH_EMBEDDINGS),
    "LoRA r 16 on Q4_K, embeddings too": lora(16, WITH_EMBEDDINGS, "model.weights=q4_k_m"),
    "LoRA+ r 16": lora(16, "train.loraplus_lr_ratio=16"),
    "DoRA r 16": lora(16, "lora.use_dora=true"),
    "PiSSA r 16": lora(16, "lora.init_lora_weights=pissa"),
    "rsLoRA r 16": lora(16, "lora.use_rslora=true"),
}
