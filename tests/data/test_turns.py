"""Spans of real chat templates, against Jinja itself and against what each model is known to generate."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import Environment
from jinja2.ext import loopcontrols
from makers import CHATML, byte_level, data_config
from served import SERVED, Served

from lorica.data import Example, Finding, read_examples
from lorica.data.messages import Conversation
from lorica.data.template import ChatTemplate

NEEDS_TOOLS = {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "raises without a list of tools"}
CANNOT_CALL_TOOLS = {
    "Kimi-K2-Instruct": "SecurityError",  # appends to a list, which the sandbox of transformers forbids
    "google-gemma-2-2b-it": "roles must alternate",
}
IGNORES_TOOL_CALLS = {
    "HuggingFaceTB-SmolLM3-3B", "LFM2.5-Instruct", "ibm-granite-granite-3.3-2B-Instruct",
    "microsoft-Phi-3.5-mini-instruct", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
}  # fmt: skip

TOOLS = [{"type": "function", "function": {"name": "lookup", "description": "d", "parameters": {"properties": {}}}}]


def conversation(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


class Template:
    """One model's template with a tokenizer that has its control tokens, and the slow way to render it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.served = folder / f"{name}.jinja", SERVED[name]
        self.tokenizer = byte_level(self.served.eos, self.served.bos, self.served.stops + self.served.specials)
        self.stop_ids = self.tokenizer.convert_tokens_to_ids(list(self.served.stops))
        self.tools = TOOLS if name in NEEDS_TOOLS else None
        environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["strftime_now"] = self._today
        environment.globals["raise_exception"] = _refuse
        self._jinja = environment.from_string(self.path.read_text(encoding="utf-8"))

    def _today(self, format: str) -> str:
        return datetime.now().strftime(format)

    def render(self, messages: list[Any], generate: bool) -> str:
        return self._jinja.render(
            messages=messages, tools=self.tools, add_generation_prompt=generate,
            bos_token=self.served.bos, eos_token=self.served.eos,
        )  # fmt: skip

    def read(self, folder: Path, *rows: dict[str, Any]) -> tuple[list[Example], list[Finding]]:
        path = folder / "rows.jsonl"
        tools = {"tools": self.tools} if self.tools else {}
        path.write_text("".join(json.dumps(row | tools) + "\n" for row in rows), encoding="utf-8")
        config = data_config(path, chat_template=str(self.path))
        read = read_examples(config, self.tokenizer, 10**6, stop_ids=self.stop_ids)
        return read.examples, read.findings

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _refuse(message: str) -> None:
    raise ValueError(message)


@pytest.fixture(params=sorted(SERVED))
def template(shared: Path, request: pytest.FixtureRequest) -> Template:
    return Template(shared / "chat_templates", request.param)


def test_every_shared_template_is_tested(shared: Path) -> None:
    assert set(SERVED) == {path.stem for path in (shared / "chat_templates").glob("*.jinja")}


def supervised_runs(examples: list[Example]) -> list[tuple[list[int], list[int]]]:
    """Each run of supervised tokens, with all the tokens before it."""
    runs = []
    for example in examples:
        bounds = [
            i for i in range(1, len(example.weights) + 1) if _supervised(example, i) != _supervised(example, i - 1)
        ]
        runs += [
            (example.input_ids[:start], example.input_ids[start:end])
            for start, end in zip(bounds[::2], bounds[1::2], strict=True)
        ]
    return runs


def _length(run: tuple[list[int], list[int]]) -> int:
    return len(run[0])


def _supervised(example: Example, index: int) -> bool:
    return index < len(example.weights) and example.weights[index] != 0


def check_served(template: Template, examples: list[Example], messages: list[dict[str, str]]) -> None:
    """Each turn once: after exactly the server's prompt, exactly what the model is known to generate."""
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    expected = {}
    for index in answers:
        prompt = template.ids(template.render(messages[:index], generate=True))
        content = messages[index]["content"]
        trimmed = (content, content.strip(), content.lstrip(), content.rstrip())
        expected[tuple(prompt)] = {template.served.completion.format(text) for text in trimmed}
    runs = supervised_runs(examples)
    assert len(runs) == len(answers)
    for before, generated in runs:
        assert template.tokenizer.decode(generated) in expected.pop(tuple(before))
    assert not expected


def test_one_turn_and_several(template: Template, tmp_path: Path) -> None:
    messages = conversation("U one", "A one", "U two", "A two", "U three", "A three")
    examples, _ = template.read(tmp_path, {"messages": messages[:2]})
    assert len(examples) == 1
    check_served(template, examples, messages[:2])
    examples, _ = template.read(tmp_path, {"messages": messages})
    assert len(examples) == (1 if template.served.merges_turns else 3)
    check_served(template, examples, messages)


@pytest.mark.parametrize("context", ["simple", "system"])
def test_rendering_is_that_of_the_goldens(template: Template, shared: Path, context: str) -> None:
    folder = shared / "chat_templates"
    golden = json.loads((folder / "rendered_goldens.json").read_text(encoding="utf-8"))[template.path.name][context]
    messages = json.loads((folder / f"minja_context_{context}.json").read_text(encoding="utf-8"))["messages"]
    served = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    tokenizer = byte_level(served["eos_token"], served["bos_token"])
    chat_template = ChatTemplate(tokenizer, str(template.path))
    if "error" in golden:
        with pytest.raises(ValueError, match=golden["error"].rpartition("raise_exception: ")[2]):
            chat_template.render(Conversation("rows:1", messages, []), messages, generate=True)
        return
    tools: list[Any] | None = [] if template.path.stem in NEEDS_TOOLS else None
    rendered = chat_template.render(Conversation("rows:1", messages, [], tools), messages, generate=True)
    for format in ("%d %b %Y", "%Y-%m-%d", "%B %d, %Y"):  # the goldens' clock says 26 Jul 2024, whatever the format
        rendered = rendered.replace(datetime.now().strftime(format), "26 Jul 2024")
    assert rendered == golden["output"]


def test_system_message(template: Template, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *conversation("U", "A")]
    if template.path.stem == "google-gemma-2-2b-it":
        with pytest.raises(ValueError, match=r"rows.jsonl:1: the chat template refuses.*System role not supported"):
            template.read(tmp_path, {"messages": messages})
        return
    check_served(template, template.read(tmp_path, {"messages": messages})[0], messages)


CONTENT = st.text(st.characters(codec="utf-8", exclude_characters="<>[]"), min_size=1).filter(str.strip)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(CONTENT, min_size=4, max_size=4))
def test_any_text(template: Template, tmp_path: Path, contents: list[str]) -> None:
    messages = conversation(*contents)
    examples, _ = template.read(tmp_path, {"messages": messages})
    check_served(template, examples, messages)


def test_tool_calls(template: Template, tmp_path: Path) -> None:
    call = {"id": "call00001", "type": "function", "function": {"name": "lookup", "arguments": '{"x": "é"}'}}
    messages = [
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "name": "lookup", "content": "42"},
        {"role": "assistant", "content": "A last"},
    ]
    row = {"messages": messages, "tools": TOOLS}
    if template.path.stem in CANNOT_CALL_TOOLS:
        with pytest.raises(ValueError, match=rf"rows.jsonl:1.*{CANNOT_CALL_TOOLS[template.path.stem]}"):
            template.read(tmp_path, row)
        return
    examples, findings = template.read(tmp_path, row)
    calling, answering = [
        template.tokenizer.decode(generated) for _, generated in sorted(supervised_runs(examples), key=_length)
    ]
    assert answering == template.served.completion.format("A last")
    stops = (*{template.served.eos, *template.served.stops},)
    assert calling.endswith(stops) and sum(calling.count(stop) for stop in stops) == 1
    names = [finding.name for finding in findings]
    if template.path.stem in IGNORES_TOOL_CALLS:
        assert calling in stops and "text left out by the template" in names
    else:
        assert "lookup" in calling and "é" in calling and "text left out by the template" not in names


def test_reasoning_is_trained_as_generated(shared: Path, tmp_path: Path) -> None:
    template = Template(shared / "chat_templates", "Qwen-Qwen3-0.6B")
    messages: list[dict[str, Any]] = conversation("U one", "A one", "U two", "A two")
    for message in messages[1::2]:
        message["reasoning_content"] = "because"
    examples, findings = template.read(tmp_path, {"messages": messages})
    assert [template.tokenizer.decode(generated) for _, generated in supervised_runs(examples)] == [
        f"<think>\nbecause\n</think>\n\n{answer}<|im_end|>" for answer in ("A one", "A two")
    ]
    assert "because" not in template.tokenizer.decode(examples[1].input_ids[: examples[1].completion_start])
    assert [finding.name for finding in findings] == ["history is rendered differently"]


def made(folder: Path, source: str, messages: list[dict[str, Any]], served: Served) -> tuple[list[Example], Any, Any]:
    """Reads one conversation with a made-up template."""
    tokenizer = byte_level(served.eos, specials=served.specials)
    tokenizer.chat_template = source
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"messages": messages}), encoding="utf-8")
    read = read_examples(data_config(path), tokenizer, 10**6)
    return read.examples, tokenizer, [finding.name for finding in read.findings]


def test_stop_token_that_is_not_the_tokenizers(tmp_path: Path) -> None:
    served = Served("", "<|endoftext|>", specials=("<|im_start|>", "<|im_end|>"))
    examples, tokenizer, names = made(tmp_path, CHATML, conversation("U", "A"), served)
    assert [tokenizer.decode(run) for _, run in supervised_runs(examples)] == ["A<|im_end|>"]
    assert names == ["stop token is not the tokenizer's"]


def test_template_without_stop_token_trains_eos(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    examples, tokenizer, names = made(tmp_path, source, conversation("U", "A one", "V", "A two"), Served("", "</s>"))
    assert [tokenizer.decode(run) for _, run in supervised_runs(examples)] == ["A one\n</s>", "A two\n</s>"]
    assert names == ["stop token added", "history is rendered differently"]


@pytest.mark.parametrize(
    ("opening", "content", "generated"),
    [
        ("<think>\n", "<table>", "<table>"),
        ("<think>\n", "<think about it", "<think about it"),
        ("<think>\n", "<think>\nwhy</think>ho", "why</think>ho"),  # here the prompt is in the finished turn
        ("Thought: ", "Those", "Those"),
    ],
)
def test_content_that_starts_like_the_generation_prompt(
    tmp_path: Path, opening: str, content: str, generated: str
) -> None:
    source = CHATML.replace("assistant\n{% endif", f"assistant\n{opening}{{% endif")
    served = Served("", "<|im_end|>", specials=("<|im_start|>",))
    examples, tokenizer, _ = made(tmp_path, source, conversation("U", content), served)
    [(before, trained)] = supervised_runs(examples)
    assert tokenizer.decode(before) == f"<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n{opening}"
    assert tokenizer.decode(trained) == f"{generated}<|im_end|>"


def test_stop_token_inside_content_ends_the_turn_and_is_found(tmp_path: Path) -> None:
    served = Served("", "<|im_end|>", specials=("<|im_start|>",))
    examples, tokenizer, names = made(tmp_path, CHATML, conversation("U", "A<|im_end|>B"), served)
    assert [tokenizer.decode(run) for _, run in supervised_runs(examples)] == ["A<|im_end|>"]
    assert "special token in content" in names


def test_untrained_turns_are_context(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = conversation("U one", "A one", "U two", "A two")
    messages[1]["train"] = False
    messages[3]["weight"] = 0.25
    served = Served("", "<|im_end|>", specials=("<|im_start|>",))
    [example], tokenizer, names = made(tmp_path, CHATML, messages, served)
    assert "A one" in tokenizer.decode(example.input_ids) and set(example.weights) == {0.0, 0.25}
    assert tokenizer.decode(example.input_ids[example.completion_start :]) == "A two<|im_end|>"
    assert names == []


def test_a_conversation_that_opens_with_an_assistant(tmp_path: Path) -> None:
    served = Served("", "<|im_end|>", specials=("<|im_start|>",))
    [example], tokenizer, names = made(tmp_path, CHATML, conversation("", "A", "U", "B")[1:], served)
    assert [tokenizer.decode(run) for _, run in supervised_runs([example])] == ["B<|im_end|>"]
    assert names == ["opens with an assistant turn"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('no cats') }}", "rows.jsonl:1.*no cats"),
        ("{{ messages.__class__.__mro__ }}", "rows.jsonl:1.*SecurityError"),
        ("{{ nothing.at.all }}", "rows.jsonl:1.*UndefinedError"),
        ("{% for m in %}", "rows.jsonl:1.*TemplateSyntaxError"),
        ("{{ 1 // 0 }}", "rows.jsonl:1.*ZeroDivisionError"),
    ],
)
def test_templates_that_raise(tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made(tmp_path, source, conversation("U", "A"), Served("", "</s>"))


def test_a_template_that_never_ends(chatml: Any) -> None:
    loop = "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3
    messages = [{"role": "user", "content": "U"}]
    template = ChatTemplate(chatml, None, time_limit=0.1)
    template.tokenizer.chat_template = loop
    with pytest.raises(ValueError, match=r"rows:1: the chat template refuses.*did not end in time"):
        template.render(Conversation("rows:1", messages, [0.0]), messages)
