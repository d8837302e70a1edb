"""Real sets pass the gates, and what they truly hold is found."""

from pathlib import Path
from typing import Any

import pytest
from makers import data_config
from transformers import AutoTokenizer

from lorica.data.read import Examples, survey


@pytest.fixture(scope="module")
def qwen(shared: Path) -> Any:
    return AutoTokenizer.from_pretrained(shared / "tokenizers" / "qwen2.5")


def surveyed(shared: Path, qwen: Any, path: str, **options: Any) -> Examples:
    config = data_config(shared / "data" / path, **options)
    return survey(config, qwen, 32_768, [qwen.eos_token_id], vocabulary=len(qwen))


@pytest.mark.parametrize(
    ("path", "options", "rows", "found"),
    [
        ("llamafactory_demo/alpaca_zh_demo.json", {}, 1000, {"duplicate": 8}),
        ("llamafactory_demo/identity.json", {}, 91, {"several answers to one prompt": 4}),
        ("llamafactory_demo/v1_sft_demo.jsonl", {}, 500, {"duplicate": 1, "several answers to one prompt": 2}),
        ("llamafactory_demo/glaive_toolcall_en_demo.json", {}, 300, {"duplicate": 35}),
        ("llamafactory_demo/glaive_toolcall_zh_demo.json", {}, 300, {"duplicate": 43}),
        ("llamafactory_demo/dpo_en_demo.json", {}, 299, {"mojibake": 1, "duplicate": 5}),
        ("llamafactory_demo/kto_en_demo.json", {}, 300, {"mojibake": 2, "several answers to one prompt": 6}),
        ("sharegpt_dummy/dummy_conversation.json", {}, 500, {"several answers to one prompt": 167}),
        ("dolly_partial/dolly.jsonl", {"columns": {"completion": "answer"}}, 151, {}),
        pytest.param(
            "gsm8k/train.jsonl",
            {"columns": {"prompt": "{{ question }}\n", "completion": "answer"}},
            7473,
            {},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_real_set_is_stopped(
    shared: Path, qwen: Any, path: str, options: dict[str, Any], rows: int, found: dict[str, int]
) -> None:
    read = surveyed(shared, qwen, path, **options)
    assert read.rows == rows and not [finding for finding in read.findings if finding.severity == "error"]
    counts = {finding.name: finding.count for finding in read.findings}
    assert counts | found == counts


def test_reasoning_that_the_template_leaves_out_is_told(shared: Path, qwen: Any) -> None:
    read = surveyed(shared, qwen, "llamafactory_demo/reason_tool_use_demo_50.jsonl")
    [finding] = [finding for finding in read.findings if finding.name == "text left out by the template"]
    assert (finding.severity, finding.count) == ("warn", 50)
