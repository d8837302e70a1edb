"""The models whose chat templates are tested: their control tokens, and what each has to generate for a plain answer.

Written by hand from the models' own tokenizer and generation configs, so that the spans found in a rendering are
compared with something that no code here worked out.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Served:
    """One model's template: how a plain answer is generated, up to the stop token, and the tokens of the tokenizer."""

    completion: str  # with {} for the content
    eos: str
    bos: str = "<|startoftext|>"
    stops: tuple[str, ...] = ()
    specials: tuple[str, ...] = ()
    merges_turns: bool = True  # whether finished turns are rendered as they were generated
    prompt_only: str = ""  # what ends the generation prompt and is left out of finished turns


SERVED = {
    "Apertus-8B-Instruct": Served(
        "{}<|assistant_end|>",
        "<|assistant_end|>",
        stops=("<|assistant_end|>", "<|tools_suffix|>"),
        specials=("<|system_start|>", "<|system_end|>", "<|developer_start|>", "<|developer_end|>", "<|user_start|>",
                  "<|user_end|>", "<|assistant_start|>", "<|inner_prefix|>", "<|inner_suffix|>", "<|tools_prefix|>"),
    ),
    "Bielik-11B-v3.0-Instruct": Served("{}<|im_end|>", "<|im_end|>", specials=("<|im_start|>",)),
    "ByteDance-Seed-OSS": Served("{}<seed:eos>", "<seed:eos>", specials=("<seed:bos>", "<seed:think>")),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": Served(
        "<|START_RESPONSE|>{}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        specials=("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
                  "<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>",
                  "<|START_ACTION|>", "<|END_ACTION|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>"),
        prompt_only="<|START_THINKING|><|END_THINKING|>",
        merges_turns=False,
    ),
    "GLM-4.6": Served(
        "\n<think></think>\n{}<|user|>",
        "<|endoftext|>",
        stops=("<|endoftext|>", "<|user|>", "<|observation|>"),
        specials=("[gMASK]", "<sop>", "<|system|>", "<|assistant|>", "<think>", "</think>"),
    ),
    "HuggingFaceTB-SmolLM3-3B": Served("{}<|im_end|>", "<|im_end|>", specials=("<|im_start|>", "<think>", "</think>")),
    "Kimi-K2-Instruct": Served(
        "{}<|im_end|>",
        "[EOS]",
        stops=("<|im_end|>",),
        specials=("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
    ),
    "LFM2.5-Instruct": Served("{}<|im_end|>", "<|im_end|>", specials=("<|im_start|>",)),
    "MiniMax-M2": Served("{}[e~[", "[e~[", specials=("]~!b[", "]~b]", "<think>", "</think>"), prompt_only="<think>\n",
                         merges_turns=False),
    "Mistral-Small-3.2-24B-Instruct-2506": Served(
        "{}</s>", "</s>", bos="<s>", specials=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    ),
    "NVIDIA-Nemotron-Nano-v2": Served(
        "{}\n<SPECIAL_12>", "<SPECIAL_12>", specials=("<SPECIAL_10>", "<SPECIAL_11>"), merges_turns=False
    ),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": Served("{}<|im_end|>", "<|im_end|>", specials=("<|im_start|>",)),
    "Qwen-Qwen2.5-7B-Instruct": Served("{}<|im_end|>", "<|im_end|>", specials=("<|im_start|>",)),
    "Qwen-Qwen3-0.6B": Served(
        "<think>\n\n</think>\n\n{}<|im_end|>",
        "<|im_end|>",
        specials=("<|im_start|>", "<think>", "</think>"),
        merges_turns=False,
    ),
    "Qwen3-Coder": Served("{}<|im_end|>", "<|im_end|>", specials=("<|im_start|>",)),
    "Qwen3.5-4B": Served(
        "\n</think>\n\n{}<|im_end|>",
        "<|im_end|>",
        specials=("<|im_start|>", "<think>", "</think>"),
        merges_turns=False,
    ),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": Served(
        "{}<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        bos="<｜begin▁of▁sentence｜>",
        specials=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        prompt_only="<think>\n",
        merges_turns=False,
    ),
    "deepseek-ai-DeepSeek-V3.1": Served(
        "{}<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        bos="<｜begin▁of▁sentence｜>",
        specials=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    ),
    "google-gemma-2-2b-it": Served(
        "{}<end_of_turn>", "<eos>", bos="<bos>", stops=("<eos>", "<end_of_turn>"), specials=("<start_of_turn>",)
    ),
    "google-gemma-4-31B-it": Served(
        "{}<turn|>",
        "<eos>",
        bos="<bos>",
        stops=("<eos>", "<turn|>", "<|tool_response>"),
        specials=("<|turn>", "<|channel>", "<channel|>"),
        merges_turns=False,
        prompt_only="<|channel>thought\n<channel|>",
    ),
    "ibm-granite-granite-3.3-2B-Instruct": Served(
        "{}<|end_of_text|>", "<|end_of_text|>", specials=("<|start_of_role|>", "<|end_of_role|>")
    ),
    "meta-llama-Llama-3.1-8B-Instruct": Served(
        "{}<|eot_id|>",
        "<|eot_id|>",
        stops=("<|eom_id|>", "<|eot_id|>"),
        specials=("<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"),
    ),
    "meta-llama-Llama-3.2-3B-Instruct": Served(
        "{}<|eot_id|>",
        "<|eot_id|>",
        stops=("<|eom_id|>", "<|eot_id|>"),
        specials=("<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"),
    ),
    "microsoft-Phi-3.5-mini-instruct": Served(
        "{}<|end|>",
        "<|endoftext|>",
        stops=("<|end|>", "<|endoftext|>"),
        specials=("<|user|>", "<|assistant|>", "<|system|>"),
    ),
    "mistralai-Mistral-Nemo-Instruct-2407": Served("{}</s>", "</s>", bos="<s>", specials=("[INST]", "[/INST]")),
    "openai-gpt-oss-120b": Served(
        "<|channel|>final<|message|>{}<|return|>",
        "<|return|>",
        stops=("<|return|>", "<|call|>"),
        specials=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"),
        merges_turns=False,
    ),
    "unsloth-mistral-Devstral-Small-2507": Served(
        "{}</s>", "</s>", bos="<s>", specials=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    ),
}  # fmt: skip
