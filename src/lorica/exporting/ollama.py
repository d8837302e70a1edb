"""A Modelfile for Ollama beside a GGUF model.

Ollama reads Go templates. One is written only where it is known to say the same: the model's own template is rendered
on probe conversations and compared with each known form. For any other, nothing is written, and Ollama and llama.cpp
read `tokenizer.chat_template` in the GGUF file themselves.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from lorica.exporting.gguf_model import FILE, write_gguf
from lorica.exporting.options import Options
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written
from lorica.files import write_atomically
from lorica.models.directory import UNREADABLE
from lorica.models.fingerprint import Progress
from lorica.run.source import Source

Messages = Sequence[Mapping[str, str]]
SYSTEM = {"role": "system", "content": "Be brief."}
USER, ANSWER, AGAIN = (
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "Well, thanks."},
    {"role": "user", "content": "2 + 2?"},
)
PROBES = ([USER], [USER, ANSWER, AGAIN], [SYSTEM, USER], [SYSTEM, USER, ANSWER, AGAIN])


@dataclass(frozen=True)
class ChatFormat:
    """A layout: how each message is written, what begins the answer, and the same for Ollama."""

    name: str
    message: Callable[[str, str], str]
    answer: str
    go: str
    begin: str = ""

    def render(self, messages: Messages) -> str:
        return self.begin + "".join(self.message(m["role"], m["content"]) for m in messages) + self.answer


FORMATS = (
    ChatFormat(
        "ChatML",
        lambda role, content: f"<|im_start|>{role}\n{content}<|im_end|>\n",
        "<|im_start|>assistant\n",
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    ),
    ChatFormat(
        "Llama 3",
        lambda role, content: f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    ChatFormat(
        "Phi-3",
        lambda role, content: f"<|{role}|>\n{content}<|end|>\n",
        "<|assistant|>\n",
        "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
    ),
    ChatFormat(
        "Zephyr",
        lambda role, content: f"<|{role}|>\n{content}</s>\n",
        "<|assistant|>\n",
        "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n",
    ),
)


def write_ollama(
    source: Source, weights: Weights, folder: Path, options: Options, progress: Progress | None = None
) -> Written:
    """Write `model.gguf` and `Modelfile` into `folder`. Raises ValueError as `write_gguf`."""
    written = write_gguf(source, weights, folder, options, progress)
    facts = source.facts()
    content, note = modelfile(facts.tokenizer, facts.stop_ids, facts.longest, _sampling(source))
    write_atomically(folder / "Modelfile", content.encode())
    return replace(written, files=[*written.files, folder / "Modelfile"], notes=[*written.notes, note])


def modelfile(
    tokenizer: Any, stop_ids: Sequence[int], longest: int | None, sampling: Mapping[str, float]
) -> tuple[str, str]:
    """The Modelfile, and a line about its template."""
    lines, known = [f"FROM ./{FILE}"], recognised(tokenizer)
    if known is not None:
        lines.append(f'TEMPLATE """{known.go}"""')
        note = f"the chat template is {known.name}, which the Modelfile has as a Go template"
    else:
        note = "the Modelfile has no TEMPLATE: Ollama reads the chat template in the GGUF file itself; try a chat"
    for id in stop_ids:
        lines.append(f"PARAMETER stop {json.dumps(tokenizer.convert_ids_to_tokens(id), ensure_ascii=False)}")
    lines += [f"PARAMETER {name} {value:g}" for name, value in sampling.items()]
    if longest is not None:
        lines.append(f"PARAMETER num_ctx {min(longest, 8192)}")
    return "\n".join(lines) + "\n", note


def recognised(tokenizer: Any) -> ChatFormat | None:
    """The format that says what the model's own template says, on all probes that the template takes."""
    rendered = [_rendered(tokenizer, probe) for probe in PROBES]
    taken = [(probe, text) for probe, text in zip(PROBES, rendered, strict=True) if text is not None]
    if len(taken) < len(PROBES):  # a template without system messages: Ollama would pass them all the same
        return None
    begin = tokenizer.bos_token or ""
    for known in FORMATS:
        # the server begins with the beginning-of-text token itself
        if all(text in (known.render(probe), begin + known.render(probe)) for probe, text in taken):
            return known
    return None


def _rendered(tokenizer: Any, messages: Messages) -> str | None:
    if not tokenizer.chat_template:
        return None
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError, KeyError):
        return None


def _sampling(source: Source) -> dict[str, float]:
    """How the base's authors say to sample from it."""
    if source.base.is_file() or not (source.base / "generation_config.json").is_file():
        return {}
    try:
        settings = GenerationConfig.from_pretrained(source.base, local_files_only=True)
    except UNREADABLE:
        return {}
    if not settings.do_sample:
        return {}
    wanted = {name: getattr(settings, name, None) for name in ("temperature", "top_k", "top_p", "min_p")}
    return {name: value for name, value in wanted.items() if value is not None}
