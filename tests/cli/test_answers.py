"""`lorica generate` and `lorica chat`: what transformers itself would answer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from outcomes import GENERATE_KEYS, SMALL, Cli
from transformers import AutoModelForCausalLM, AutoTokenizer

import lorica
from bases import CHAT_TEMPLATE, chats, write_rows

PROMPT = "three plus 4 is"
RENDERED = f"<|user|>{PROMPT}<|end|><|assistant|>"


def greedy(folder: Path, text: str, adapter: Path | None = None, length: int = 12) -> tuple[list[int], str]:
    """Ids and text by transformers' generate, the adapter applied by PEFT."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length)
    new = out[0, ids.shape[1] :].tolist()
    return new, tokenizer.decode(new, skip_special_tokens=True)


def test_a_run_on_text(cli: Cli, text_run: Path, tiny_base: Path) -> None:
    outcome = cli("generate", text_run, "--prompt", PROMPT, "--max-new-tokens", 12, "--json")
    assert outcome.code == 0 and set(outcome.json) >= GENERATE_KEYS
    ids, text = greedy(tiny_base, PROMPT, text_run / "adapter")
    assert (outcome.json["prompt"], outcome.json["token_ids"], outcome.json["completion"]) == (PROMPT, ids, text)
    assert cli("generate", text_run, "--prompt", PROMPT, "--max-new-tokens", 12).out == text + "\n"


def test_a_run_on_conversations_and_raw(cli: Cli, chat_run: Path, tiny_base: Path) -> None:
    for options, prompt in ((["--prompt", PROMPT], RENDERED), (["--prompt", RENDERED, "--raw"], RENDERED)):
        outcome = cli("generate", chat_run, *options, "--max-new-tokens", 12, "--json")
        assert outcome.json["prompt"] == prompt
        assert outcome.json["token_ids"] == greedy(tiny_base, RENDERED, chat_run / "adapter")[0]


def test_the_template_is_given_what_it_was_given_in_training(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    brief = "{% if brief and message.role == 'assistant' %}briefly: {% endif %}{{ message.content }}"
    template = CHAT_TEMPLATE.replace("{{ message.content }}", brief)
    template = template.replace(
        "<|assistant|>{% endif %}", "<|assistant|>{% if brief %}briefly: {% endif %}{% endif %}"
    )
    (tmp_path / "brief.jinja").write_text(template, encoding="utf-8")
    rows = str(write_rows(tmp_path / "rows.jsonl", chats()))
    values = {"chat_template": str(tmp_path / "brief.jinja"), "chat_template_kwargs": {"brief": True}}
    data, out = {"path": rows, **values}, tmp_path / "run"
    lorica.train(None, [*SMALL, "train.steps=1"], model=str(tiny_base), data=data, out=str(out))
    asked = cli("generate", out, "--prompt", PROMPT, "--max-new-tokens", 2, "--json").json["prompt"]
    assert asked == f"{RENDERED}briefly: "


@pytest.mark.parametrize("kind", ["text_run", "full_run"])
def test_the_base_of_a_run(cli: Cli, request: pytest.FixtureRequest, tiny_base: Path, kind: str) -> None:
    run = request.getfixturevalue(kind)
    tuned, base = (
        cli("generate", run, "--prompt", PROMPT, "--max-new-tokens", 12, "--json", *more).json["token_ids"]
        for more in ([], ["--base"])
    )
    assert base == greedy(tiny_base, PROMPT)[0] != tuned
    if kind == "full_run":
        assert tuned == greedy(run / "model", PROMPT)[0]


def test_an_adapter_and_a_model_by_themselves(cli: Cli, chat_run: Path, tiny_base: Path) -> None:
    adapter = cli("generate", chat_run / "adapter", "--prompt", PROMPT, "--max-new-tokens", 12, "--json").json
    assert adapter["token_ids"] == greedy(tiny_base, RENDERED, chat_run / "adapter")[0]
    model = cli("generate", tiny_base, "--prompt", PROMPT, "--raw", "--max-new-tokens", 12, "--json").json
    assert model["token_ids"] == greedy(tiny_base, PROMPT)[0]


def test_an_adapter_of_llama_cpp_on_its_base(cli: Cli, text_run: Path, tiny_base: Path, tmp_path: Path) -> None:
    assert cli("export", text_run, "--to", "gguf-adapter", "--out", tmp_path / "out", "--no-proof").code == 0
    file, options = tmp_path / "out" / "adapter.gguf", ["--prompt", PROMPT, "--raw", "--max-new-tokens", 12, "--json"]
    found = cli("generate", tiny_base, "--adapter", file, *options).json["token_ids"]
    assert found == greedy(tiny_base, PROMPT, text_run / "adapter")[0] != greedy(tiny_base, PROMPT)[0]
    alone = cli("generate", file, *options)
    assert alone.code == 1 and f"MODEL --adapter {file}" in alone.json["error"]
    assert cli("export", file, "--base", tiny_base, "--to", "peft", "--out", tmp_path / "peft").code == 0
    assert cli("generate", tmp_path / "peft", *options).json["token_ids"] == found


def test_prompt_from_stdin(cli: Cli, text_run: Path, tiny_base: Path) -> None:
    outcome = cli("generate", text_run, "--prompt", "-", "--max-new-tokens", 5, "--json", stdin="日本 two\nlines")
    assert outcome.json["prompt"] == "日本 two\nlines"
    assert outcome.json["token_ids"] == greedy(tiny_base, "日本 two\nlines", text_run / "adapter", 5)[0]


def test_prompt_from_a_closed_stdin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python starts where file descriptor 0 is closed (`<&-`)."""
    monkeypatch.setattr("sys.stdin", None)
    outcome = cli("generate", "no-run", "--prompt", "-")
    assert outcome.code == 1 and "stdin, which is closed." in outcome.err


def test_sampling_follows_the_seed(cli: Cli, text_run: Path) -> None:
    def sampled(seed: int) -> list[int]:
        options = ["--temperature", 2.0, "--seed", seed, "--json", "--max-new-tokens", 10]
        return cli("generate", text_run, "--prompt", PROMPT, *options).json["token_ids"]

    assert sampled(1) == sampled(1) != sampled(2)


def test_greedy_whatever_the_model_s_own_settings(cli: Cli, tiny_base: Path, tmp_path: Path) -> None:
    """Models ship sampling settings and penalties in generation_config.json."""
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    path = folder / "generation_config.json"
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.5, "repetition_penalty": 5.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    outcome = cli("generate", folder, "--prompt", PROMPT, "--raw", "--max-new-tokens", 12, "--json")
    assert outcome.json["token_ids"] == greedy(tiny_base, PROMPT)[0]


@pytest.mark.parametrize(
    ("prompt", "told"), [("", "the prompt is empty"), ("word " * 200, "the model has positions for 96")]
)
def test_prompts_that_cannot_be_answered(cli: Cli, text_run: Path, prompt: str, told: str) -> None:
    outcome = cli("generate", text_run, "--prompt", prompt, "--json")
    assert outcome.code == 1 and told in outcome.json["error"]


def test_chat(cli: Cli, chat_run: Path, tiny_base: Path) -> None:
    lines = ["hello", "again", "/base", "hello", "/reset", "/base", "hello", "/tuned", "/help", "", "/quit", "unread"]
    outcome = cli("chat", chat_run, "--max-new-tokens", 4, stdin="\n".join(lines))
    assert outcome.code == 0
    answers = [line.removeprefix("> ") for line in outcome.out.split("\n")]

    first = greedy(tiny_base, "<|user|>hello<|end|><|assistant|>", chat_run / "adapter", 4)[1]
    history = f"<|user|>hello<|end|><|assistant|>{first}<|end|><|user|>again<|end|><|assistant|>"
    second = greedy(tiny_base, history, chat_run / "adapter", 4)[1]
    fresh_base = greedy(tiny_base, "<|user|>hello<|end|><|assistant|>", None, 4)[1]
    assert answers[:2] == [first, second]
    assert fresh_base in outcome.out
    assert "/reset forgets" in outcome.err


def test_chat_with_a_run_on_text_and_without_an_adapter(
    cli: Cli, text_run: Path, full_run: Path, tiny_base: Path
) -> None:
    outcome = cli("chat", text_run, "--max-new-tokens", 4, stdin=f"{PROMPT}\n")
    assert greedy(tiny_base, PROMPT, text_run / "adapter", 4)[1] in outcome.out
    outcome = cli("chat", full_run, "--max-new-tokens", 4, stdin=f"/base\n{PROMPT}\n/quit\n")
    assert "no adapter here to switch" in outcome.err
    assert greedy(full_run / "model", PROMPT, None, 4)[1] in outcome.out


def test_chat_goes_on_after_a_message_that_is_too_long(cli: Cli, chat_run: Path) -> None:
    outcome = cli("chat", chat_run, "--max-new-tokens", 4, stdin=f"{'word ' * 200}\nhello\n/quit\n")
    assert outcome.code == 0
    assert "positions for 96" in outcome.err and len(outcome.out.split("\n")) >= 2
