"""Gates that look at the text of one row. Each is a function that says what is wrong, or None."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lorica.data.branches import Branch, branches, texts
from lorica.data.formats import Completion, Record, Text

# The two- and three-byte UTF-8 sequences of Latin letters, punctuation and emoji, read as Windows-1252.
MOJIBAKE = re.compile(r"[ÃÂ][\u0080-\u00bf]|â€[\u0080-\u00bf™œžšŸ˜“”•–—¦¢¡¹º]|ðŸ[\u0080-\u00bf™œžš˜“”•–—]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
WRITTEN_TURN = re.compile(
    r"(?m)^(?:### ?(?:Response|Assistant)|Assistant|ASSISTANT|Bot) ?:"
    r"|<\|im_start\|>assistant|<\|assistant\|>|\[/INST\]"
)
SHORT = 20  # characters; a completion may well begin with a prompt that is shorter


def look_at(record: Record) -> Iterator[tuple[str, str]]:
    """What the gates find in the text of a row: (name, message)."""
    for branch in branches(record).values():
        written = texts(branch)
        for name, message in (
            ("replacement character", _replacement_character(written)),
            ("mojibake", _mojibake(written)),
            ("control character", _control_character(written)),
            ("completion repeats the prompt", _repeats_prompt(branch)),
            ("prompt runs into the completion", _runs_into(branch)),
            ("conversation as plain text", _written_out(branch)),
        ):
            if message is not None:
                yield name, message


def _replacement_character(texts: list[str]) -> str | None:
    found = next((text for text in texts if "\ufffd" in text), None)
    if found is None:
        return None
    return (
        f"U+FFFD stands where bytes could not be decoded, for example in {_around(found, found.index(chr(0xFFFD)))!r}; "
        "the model would learn to write it. Decode the source again with the right encoding."
    )


def _mojibake(texts: list[str]) -> str | None:
    match = _first(MOJIBAKE, texts)
    if match is None:
        return None
    return (
        f"UTF-8 that was read as another encoding, for example {_around(match.string, match.start())!r}. Read the "
        "source as UTF-8 (`text.encode('cp1252').decode('utf-8')` often mends it)."
    )


def _control_character(texts: list[str]) -> str | None:
    match = _first(CONTROL, texts)
    if match is None:
        return None
    return (
        f"For example U+{ord(match.group()):04X} in {_around(match.string, match.start())!r}. Remove it if not meant."
    )


def _repeats_prompt(branch: Branch) -> str | None:
    if not isinstance(branch, Completion):
        return None
    prompt = branch.prompt.strip()
    if len(prompt) < SHORT or not branch.completion.lstrip().startswith(prompt):
        return None
    return (
        "The completion begins with the whole prompt, so the model would learn to repeat what it is asked. Cut it off."
    )


def _runs_into(branch: Branch) -> str | None:
    if not isinstance(branch, Completion) or not (branch.prompt and branch.completion):
        return None
    last, first = branch.prompt[-1], branch.completion[0]
    if not (last.isalnum() and first.isalnum() and (last + first).isascii()):
        return None
    return (
        f"{(branch.prompt[-15:] + branch.completion[:15])!r}: nothing separates prompt and completion. End the prompt "
        "with a line break, or begin the completion with a space."
    )


def _written_out(branch: Branch) -> str | None:
    if not isinstance(branch, Text) or not (match := WRITTEN_TURN.search(branch.text)):
        return None
    return (
        f"{match.group()!r} looks like an assistant's turn, but as plain text all turns are trained, the user's too. "
        "Give `messages`, or `prompt` and `completion`."
    )


def _first(pattern: re.Pattern[str], texts: list[str]) -> re.Match[str] | None:
    return next((match for text in texts if (match := pattern.search(text))), None)


def _around(text: str, at: int) -> str:
    return text[max(0, at - 12) : at + 12]
