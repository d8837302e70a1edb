"""How fast conversations become trained tokens, on one core, beside the tokenizer itself and other ways to find spans.

    python benchmarks/data_path.py SHARED_FOLDER [--messages 10000] [--out benchmarks/results/data_path.json]

Five ways over the same conversations:

- encode: the tokenizer's own `encode_batch` of the rendered texts, which nothing that tokenises them can undercut;
- lorica: messages to token ids with loss weights, as `lorica train` does it, with nothing learned of the template
  before;
- TRL: what its SFTTrainer does with `assistant_only_loss`: one `apply_chat_template` with assistant masks, over a
  template that TRL has patched with generation markers (only for templates it knows; "-" for others);
- offsets: one rendering and its tokens with offsets, without any span: what is left of TRL's way for other templates;
- two a turn: two renderings and tokenisations for each trained turn, one up to the prompt and one up to the answer.

Conversations are of one length each, or *mixed*: of 1 to 20 exchanges, half of them with tools that are called now and
then, half of the answers with reasoning, so that hardly two are laid out alike.

Speeds are relative to `encode`, from the processor time of one core; the spread is that of quartiles. Tokens are those
of the texts that are trained on: a template that rewrites history makes a text of each turn. What Lorica learns of a
template, and of conversations of so many turns, it learns once, so its share grows with the number of messages: 2,000
are a small data set. The ways of others, which do not learn, are timed twice, Lorica and the tokenizer five times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from trl.chat_template_utils import get_training_chat_template

from lorica.data.documents import documents
from lorica.data.findings import Findings
from lorica.data.messages import Conversation
from lorica.data.template import ChatTemplate
from lorica.data.tokenise import Document, Tokeniser

REPEATS = 5
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Model:
    """A stored tokenizer and template, and the control tokens that the tokenizer lacks: BOS, EOS, others."""

    tokenizer: str
    template: str
    bos: str = ""
    eos: str = ""
    others: tuple[str, ...] = ()


HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>")
CHANNELS = ("<|turn>", "<|channel>", "<channel|>", "<|tool_response>")
MODELS = {
    "Qwen 2.5": Model("qwen2.5", "Qwen-Qwen2.5-7B-Instruct"),
    "Qwen 3": Model("qwen2.5", "Qwen-Qwen3-0.6B", others=("<think>", "</think>")),
    "Llama 3.2": Model(
        "llama3.2-128k-json", "meta-llama-Llama-3.2-3B-Instruct", "<|begin_of_text|>", "<|eot_id|>", HEADERS
    ),
    "Mistral Nemo (tokens of Llama 2)": Model(
        "llama2-32k", "mistralai-Mistral-Nemo-Instruct-2407", "<s>", "</s>", ("[INST]", "[/INST]")
    ),
    "Gemma 4 (tokens of Qwen 2.5)": Model("qwen2.5", "google-gemma-4-31B-it", "<bos>", "<turn|>", CHANNELS),
}
TURNS = (2, 10, 100)
ROLES = ("user", "assistant")
NAMES = ("lookup", "search", "weather", "calendar", "orders")
REWRITING = ("Qwen 3", "Gemma 4 (tokens of Qwen 2.5)")  # each turn a text of its own, so 100 turns are 50 long texts
LONGEST = 20  # exchanges of a mixed conversation
Messages = list[dict[str, Any]]
Way = Callable[[], object]


@dataclass(frozen=True)
class Chat:
    """A conversation, and the tools that may be called in it."""

    messages: Messages
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Case:
    """Conversations, and how they are rendered."""

    name: str
    tokenizer: Any
    template: str
    chats: list[Chat]

    def chat_template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.template, [])

    def documents(self) -> Iterable[Document]:
        template, findings = self.chat_template(), Findings()
        for number, chat in enumerate(self.chats):
            weights = [float(message["role"] == "assistant") for message in chat.messages]
            conversation = Conversation(f"rows:{number}", chat.messages, weights, chat.tools)
            yield from documents(conversation, self.tokenizer, template, findings)

    def lorica(self) -> int:
        examples = Tokeniser(self.tokenizer).examples(self.documents(), Findings())
        return sum(len(example.input_ids) for example in examples)

    def ways(self) -> dict[str, Way | None]:
        texts = [document.text for document in self.documents()]
        source = Path(self.template).read_text(encoding="utf-8")
        self.tokenizer.chat_template = source
        try:
            patched = get_training_chat_template(self.tokenizer) or source
        except ValueError:
            patched = None
        encode = self.tokenizer.backend_tokenizer.encode_batch
        return {
            "encode": lambda: encode(texts, add_special_tokens=False),
            "lorica": self.lorica,
            "TRL": (lambda: self.masks(patched)) if patched else None,
            "offsets": self.offsets,
            "two a turn": self.two_a_turn,
        }

    def masks(self, patched: str) -> None:
        for chat in self.chats:
            self.tokenizer.apply_chat_template(
                chat.messages, chat.tools, chat_template=patched, return_dict=True, return_assistant_tokens_mask=True
            )

    def offsets(self) -> None:
        for chat in self.chats:
            text = self.tokenizer.apply_chat_template(chat.messages, chat.tools, tokenize=False)
            self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)

    def two_a_turn(self) -> None:
        for chat in self.chats:
            for index, message in enumerate(chat.messages):
                if message["role"] == "assistant":
                    before = chat.messages[:index]
                    self.tokenizer.apply_chat_template(before, chat.tools, add_generation_prompt=True)
                    self.tokenizer.apply_chat_template([*before, message], chat.tools)


def load_tokenizer(folder: Path, model: Model) -> Any:
    """A stored tokenizer with the control tokens of its template."""
    folder = folder / model.tokenizer
    if (folder / "encoder.json").exists():
        merges = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()
        pairs = [(first, second) for first, second in (line.split(" ") for line in merges if line)]
        tokenizer = Tokenizer(models.BPE(json.loads((folder / "encoder.json").read_bytes()), pairs))
        split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        loaded = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    else:
        loaded = AutoTokenizer.from_pretrained(folder)
    named = {"bos_token": model.bos, "eos_token": model.eos}
    loaded.add_special_tokens({name: token for name, token in named.items() if token})
    loaded.add_special_tokens({"additional_special_tokens": list(model.others)})
    return loaded


def exchanges(folder: Path, count: int) -> list[tuple[str, str]]:
    """Questions and answers of people."""
    with (folder / "data/dolly_partial/dolly_first6400_with_flan-t5-xl.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:count]
    return [(row["instruction"].strip() or "-", row["text"].strip() or "-") for row in rows]


def alike(said: list[tuple[str, str]], turns: int) -> list[Chat]:
    """Conversations of so many turns."""
    half = turns // 2
    return [
        Chat(
            [said_by(role, text) for pair in said[start : start + half] for role, text in zip(ROLES, pair, strict=True)]
        )
        for start in range(0, len(said) - half + 1, half)
    ]


def mixed(said: list[tuple[str, str]]) -> list[Chat]:
    """Conversations of which hardly two are laid out alike."""
    drawn, left, made = random.Random(0), list(said), list[Chat]()
    while left:
        count = drawn.randint(1, LONGEST)
        pairs, left = left[:count], left[count:]
        tools = [tool(f"{drawn.choice(NAMES)}_{number}") for number in range(drawn.randint(1, 3))]
        messages, calls = list[dict[str, Any]](), drawn.random() < 0.5
        for question, answer in pairs:
            messages.append(said_by("user", question))
            if calls and drawn.random() < 0.3:
                messages += called(drawn.choice(tools), question, f"{drawn.randrange(10**9):09}")
            because = {"reasoning_content": f"They ask: {question[:200]}"} if drawn.random() < 0.5 else {}
            messages.append(said_by("assistant", answer) | because)
        made.append(Chat(messages, tools if calls else None))
    return made


def said_by(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def tool(name: str) -> dict[str, Any]:
    described = {"type": "string", "description": f"What {name} is to find"}
    parameters = {"type": "object", "properties": {"query": described}, "required": ["query"]}
    function = {"name": name, "description": f"Finds things by {name}", "parameters": parameters}
    return {"type": "function", "function": function}


def called(tool: dict[str, Any], question: str, id: str) -> Messages:
    """A call of the tool, and what it says."""
    function = {"name": tool["function"]["name"], "arguments": {"query": question[:40]}}
    call = {"id": id, "type": "function", "function": function}
    found = said_by("tool", json.dumps({"found": question})) | {"tool_call_id": id, "name": function["name"]}
    return [said_by("assistant", "") | {"tool_calls": [call]}, found]


def measured(case: Case) -> dict[str, Any]:
    """Seconds of each way, every way once in each round."""
    ways = {name: way for name, way in case.ways().items() if way is not None}
    tokens = sum(len(encoding.ids) for encoding in ways["encode"]())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round in range(REPEATS + 1):  # the first warms up
        for name, way in ways.items():
            if name not in ("encode", "lorica") and round > 2:
                continue
            start = time.process_time()
            way()
            if round:
                seconds[name].append(time.process_time() - start)
    return {"case": case.name, "tokens": tokens, "conversations": len(case.chats), "seconds": seconds}


def row(result: dict[str, Any]) -> str:
    """The result as a line of a table."""
    base = statistics.median(result["seconds"]["encode"])
    cells = [result["case"], f"{result['tokens'] / base / 1000:,.0f}"]
    for name in ("lorica", "TRL", "offsets", "two a turn"):
        times = result["seconds"].get(name)
        if times is None:
            cells.append("-")
            continue
        low, middle, high = (base / value for value in statistics.quantiles([*times, times[-1]], n=4)[::-1])
        cells.append(f"{middle:.0%} ({low:.0%} - {high:.0%})")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--messages", type=int, default=10_000, help="in all conversations of a case")
    arguments.add_argument("--only", default="", help="cases whose name has this in it")
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results, said = [], exchanges(given.shared, given.messages // 2)
    print("| template, turns | encode, 1,000 tokens/s | lorica | TRL | offsets | two a turn |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, model in MODELS.items():
        loaded = load_tokenizer(given.shared / "tokenizers", model)
        path = str(given.shared / "chat_templates" / f"{model.template}.jinja")
        cases = {str(turns): alike(said, turns) for turns in (TURNS[:-1] if name in REWRITING else TURNS)}
        for kind, chats in (cases | {"mixed": mixed(said)}).items():
            if given.only not in f"{name}, {kind}":
                continue
            results.append(measured(Case(f"{name}, {kind}", loaded, path, chats)))
            print(row(results[-1]), flush=True)
            if given.out:
                _write(given.out, results)


def _write(path: Path, results: list[dict[str, Any]]) -> None:
    """After each case, so that a run that is cut short loses nothing."""
    packages = {name: version(name) for name in ("transformers", "tokenizers", "jinja2", "trl")}
    told = {"machine": platform.processor() or platform.machine(), "versions": packages, "results": results}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
