"""Modelfiles: a Go template only for a chat template that renders the same, and what the model itself says."""

from pathlib import Path
from typing import Any

import pytest

from bases import byte_tokenizer, write_base
from lorica import export
from lorica.exporting.ollama import FORMATS, modelfile, recognised

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nHi<|im_end|>\n{% endif %}"
UNKNOWN: dict[str, str | None] = {
    "none": None,
    "a default system message": DEFAULT_SYSTEM + CHATML,
    "no system messages": "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML,
    "thinking": CHATML.replace("assistant\n' }}", "assistant\n<think>' }}"),
    "broken": "{% for",
}


def with_template(template: str | None) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template, tokenizer.bos_token = template, "<|user|>"
    return tokenizer


@pytest.mark.parametrize(("template", "name"), [(CHATML, "ChatML"), (LLAMA3, "Llama 3")])
def test_known_formats(template: str, name: str) -> None:
    found = recognised(with_template(template))
    assert found is not None and found.name == name


@pytest.mark.parametrize("case", UNKNOWN)
def test_others_are_left_to_ollama(case: str) -> None:
    assert recognised(with_template(UNKNOWN[case])) is None
    content, note = modelfile(with_template(UNKNOWN[case]), [1], 100, {})
    assert "TEMPLATE" not in content and "Ollama reads the chat template" in note


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_go_templates_say_what_the_format_says(known: Any) -> None:
    """Rendered by the few rules that these templates use: range over messages, two fields, trimming before `{{-`."""
    head, rest = known.go.split("{{- range .Messages }}")
    body, answer = rest.split("{{ end }}")
    messages = [{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "c"}]
    said = [body.replace("{{ .Role }}", m["role"]).replace("{{ .Content }}", m["content"]) for m in messages]
    assert head.strip() + "".join(said) + answer == known.render(messages)
    assert "{{" not in "".join(said) + answer


def test_the_file(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 1}'
    )
    import made

    folder, _ = made.write_adapter(tmp_path / "adapter", base)
    result = export(folder, "ollama", out=tmp_path / "out", type="Q8_0", proof=False)
    assert set(result.files) == {"Modelfile", "README.md", "export.json", "model.gguf"}
    lines = (tmp_path / "out" / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf" and "PARAMETER temperature 0.6" in lines and "PARAMETER top_p 0.9" in lines
    assert 'PARAMETER stop "<|end|>"' in lines and "PARAMETER num_ctx 96" in lines
