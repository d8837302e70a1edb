"""The real data sets that benchmarks read, with the options that each needs; they lie outside the repository."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorica.config.data_section import DataConfig


@dataclass(frozen=True)
class DataSet:
    """`path` is relative to the folder of data sets; `options` are those of the configuration's data section."""

    name: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)

    def config(self, folder: Path, **options: Any) -> DataConfig:
        return DataConfig(path=str(folder / self.path), **self.options | options)


def columns(**fields: str) -> dict[str, Any]:
    return {"columns": fields}


DATA_SETS = [
    DataSet("E2E NLG", "e2e_nlg/trainset.csv", columns(prompt="{{ mr }}\n", completion="ref")),
    DataSet("GSM8K", "gsm8k/train.jsonl", columns(prompt="{{ question }}\n", completion="answer")),
    DataSet("Banking77", "banking77/train.csv", columns(prompt="{{ text }}\n", completion="category")),
    DataSet("SCAN", "scan/tasks_train_simple.txt"),
    DataSet("Dolly", "dolly_partial/dolly.jsonl", columns(completion="answer")),
    DataSet("Alpaca, Chinese", "llamafactory_demo/alpaca_zh_demo.json"),
    DataSet("identity", "llamafactory_demo/identity.json"),
    DataSet("chat", "llamafactory_demo/v1_sft_demo.jsonl"),
    DataSet("tool calls", "llamafactory_demo/glaive_toolcall_en_demo.json"),
    DataSet("tool calls, Chinese", "llamafactory_demo/glaive_toolcall_zh_demo.json"),
    DataSet("reasoning and tools", "llamafactory_demo/reason_tool_use_demo_50.jsonl"),
    DataSet("preferences", "llamafactory_demo/dpo_en_demo.json"),
    DataSet("KTO", "llamafactory_demo/kto_en_demo.json"),
    DataSet("ShareGPT", "sharegpt_dummy/dummy_conversation.json"),
    DataSet("structured CoT", "structured_cot_chat/structured_data_with_cot_dataset_v2.parquet"),
    DataSet("TinyStories", "tinystories_text/tiny_stories_944k.txt", {"sample_by": "paragraph"}),
    DataSet("WikiText-2", "wikitext2_valid_test/test.txt", {"sample_by": "paragraph"}),
]
