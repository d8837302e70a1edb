"""The texts of the demo base: public-domain children's books and TinyStories, cut into documents.

Held-out documents are chosen by a checksum of their letters alone, so that a story which is there twice (once in lower
case) falls on one side of the split both times.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

BOOKS = "classic_books/children_books.jsonl.gz"
STORIES = "tinystories_text/tinystories_2MB.txt"
LOWER_CASE_STORIES = "tinystories_text/tinystories_4MB_lowercase.txt"
PASSAGE_CHARACTERS = 6000
HELD_OUT_SHARE = 1 / 128


def book_passages(path: Path) -> Iterator[str]:
    """Passages of about `PASSAGE_CHARACTERS` characters, cut between paragraphs, of each book without its header."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            _, _, body = json.loads(line)["text"].partition("-------")
            passage: list[str] = []
            for paragraph in re.split(r"\n\n+", body.strip()):
                passage.append(paragraph)
                if sum(map(len, passage)) > PASSAGE_CHARACTERS:
                    yield "\n\n".join(passage)
                    passage = []
            if passage:
                yield "\n\n".join(passage)


def stories(path: Path) -> Iterator[str]:
    """The stories of a file: parted by <|endoftext|>, or by one line break where paragraphs are parted by two."""
    text = path.read_text(encoding="utf-8", errors="replace")
    separator = r"<\|endoftext\|>" if "<|endoftext|>" in text else r"(?<!\n)\n(?!\n)"
    for story in re.split(separator, text):
        if story.strip():
            yield story.strip()


def read_documents(data: Path) -> tuple[list[str], list[str]]:
    """(training documents, held-out documents) of the data folder, in a fixed order."""
    documents = [*book_passages(data / BOOKS), *stories(data / STORIES), *stories(data / LOWER_CASE_STORIES)]
    training: list[str] = []
    held_out: list[str] = []
    for document in documents:
        letters = re.sub(r"[^a-z]", "", document.lower())
        is_held_out = zlib.crc32(letters.encode()) < HELD_OUT_SHARE * 2**32
        (held_out if is_held_out else training).append(document)
    return training, held_out
