"""Reads a generated file in a process of its own and says by how much its memory grew: run by `test_memory.py`."""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorica.config.schema import DataConfig
from lorica.data import split_held_out, step_rows
from lorica.data.cache import RowCache
from lorica.data.read import survey
from lorica.data.row_key import row_context

WORD = 96  # letters; long words keep the tokenizer's part of the time small


def words(count: int = 50) -> list[str]:
    return [chr(97 + n % 26) * (WORD - 2) + f"{n:02}" for n in range(count)]


def long_words() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words of the generated text."""
    vocabulary = {word: index for index, word in enumerate(["<unk>", "</s>", *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def write(path: Path, size: int, row_bytes: int) -> int:
    """Writes about `size` bytes of rows, no two alike; returns how many rows."""
    known, rows, written = words(), 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            number = [known[rows // len(known) ** place % len(known)] for place in range(4)]
            more = [known[(rows + at) % len(known)] for at in range(row_bytes // WORD - len(number))]
            row = {"prompt": " ".join(number) + "\n", "completion": " ".join([*more, known[rows % 7]])}
            written += file.write(json.dumps(row) + "\n")
            rows += 1
    return rows


def forget_peak() -> None:
    """Begins to measure anew (Linux): what libraries needed while they were imported would hide what comes."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most memory that the process held since, in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def read(path: Path, cache: Path | None) -> tuple[int, int]:
    """Reads, splits and touches examples as a run does; returns rows and tokens."""
    config, tokenizer = DataConfig(path=str(path)), long_words()
    kept = RowCache(cache, row_context(config, tokenizer, ()), print)
    found = survey(config, tokenizer, 10**6, cache=kept)
    kept.close()
    assert not [finding for finding in found.findings if finding.severity == "error"], found.findings
    training, held_out = split_held_out(found.examples, "auto", 0)
    assert all(training[row].supervised for step in range(20) for row in step_rows(len(training), 16, step, 0))
    return found.rows, int(training.tokens.sum() + held_out.tokens.sum())


if __name__ == "__main__":
    folder, size, row_bytes, cached = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "cached"
    write(folder / "small.jsonl", 2_000_000, row_bytes)
    read(folder / "small.jsonl", folder / "cache" if cached else None)
    rows = write(folder / "large.jsonl", size, row_bytes)
    forget_peak()
    before = peak()
    seen, tokens = read(folder / "large.jsonl", folder / "cache" if cached else None)
    print(json.dumps({"rows": rows, "seen": seen, "tokens": tokens, "before": before, "grew": peak() - before}))
