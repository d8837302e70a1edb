"""All gates, with how grave each is by default.

The defaults stop on what would ruin a run and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from lorica.data.findings import Finding, Severity
from lorica.data.gates.gate import Gate, RefusedData

GATES = (
    # What cannot be read or used at all.
    Gate("cannot be read", "error", "a file, or rows of it, that cannot be read", fixed=True),
    Gate("cannot be used", "error", "a row that the template refuses or that cannot be tokenised", fixed=True),
    Gate("row cannot be read", "warn", "a row that data.on_error: skip leaves out", ruins_above=0.5),
    Gate("file is not read", "note", "a file of a folder or pattern that is not among the rows"),
    Gate("file without rows", "note", "an empty file among others"),
    Gate("field is not read", "note", "a field of the rows that their format has no use for"),
    # What is trained.
    Gate("trains nothing", "warn", "a row without a trained token; it is dropped", ruins_above=0.5),
    Gate("nothing to train", "error", "no row has a trained token", fixed=True),
    Gate("no loss for this format", "note", "preference and KTO rows, which can be looked at but not yet trained on"),
    Gate("too long", "error", "an example longer than max_length, where data.too_long is error", fixed=True),
    Gate("made to fit", "note", "an example longer than max_length, and what data.too_long made of it"),
    Gate("truncation", "error", "more than 1 % of the supervised tokens are lost to max_length"),
    Gate("empty assistant turn", "note", "an answer without text: only its stop token is trained", ruins_above=0.5),
    Gate("empty text", "note", "a completion or text without text", ruins_above=0.5),
    Gate("opens with an assistant turn", "note", "an answer before any question: context, not trained"),
    Gate("text left out by the template", "warn", "something the assistant wrote that the template drops"),
    Gate("huge weight", "warn", "a loss weight of 100 or more: a few rows would drown all others"),
    # Where a turn ends.
    Gate("stop token never trained", "error", "no trained answer ends with a token that the server stops on"),
    Gate("stop token is not the tokenizer's", "error", "turns end with a token that the server does not stop on"),
    Gate("stop token added", "note", "the template ends turns with nothing; the stop token is added"),
    # How it is served.
    Gate("chat template is not the tokenizer's own", "warn", "data.chat_template differs from what a server would use"),
    Gate("chat template shows the date", "note", "prompts change from day to day"),
    Gate("history is rendered differently", "note", "the template rewrites earlier turns; each is trained as served"),
    Gate("prompt is not in the finished turn", "note", "the template writes a finished turn otherwise than its prompt"),
    Gate("a token straddles prompt and completion", "note", "prompt and completion share a token; they are cut apart"),
    Gate("double BOS", "error", "two beginning-of-sequence tokens at the start"),
    # Tokens.
    Gate("token outside the vocabulary", "error", "a token that the model has no embedding for", fixed=True),
    Gate("unknown tokens", "note", "text that the tokenizer has no tokens for", ruins_above=0.1),
    Gate("special token in content", "warn", "a control token in the text: it ends or forges turns", ruins_above=0.5),
    Gate("very long row", "note", "one row holds more than a tenth of all tokens"),
    # Text.
    Gate("replacement character", "warn", "U+FFFD, which a decoder left where bytes were lost", ruins_above=0.5),
    Gate("mojibake", "warn", "UTF-8 that was read as Latin-1, such as Ã© for é", ruins_above=0.5),
    Gate("control character", "note", "an invisible control character", ruins_above=0.5),
    Gate("completion repeats the prompt", "warn", "a completion that begins with its prompt", ruins_above=0.5),
    Gate("prompt runs into the completion", "note", "two words without a space between prompt and completion"),
    Gate("conversation as plain text", "warn", "turns written out in plain text, where the user's are trained too"),
    # Rows beside each other.
    Gate("duplicate", "note", "the same tokens and weights as an earlier row"),
    Gate("all rows identical", "error", "the set is one row, again and again"),
    Gate("all answers identical", "warn", "different prompts with one and the same answer"),
    Gate("several answers to one prompt", "note", "the same prompt with different answers"),
    # Held-out rows.
    Gate("held-out row in training", "warn", "a held-out row that is also trained on", ruins_above=0.2),
    Gate("held-out prompt in training", "note", "a held-out prompt that is trained on with another answer"),
    Gate("too few rows to hold out", "warn", "no rows are left for the comparison of before and after"),
)  # fmt: skip

_BY_KEY = {gate.key: gate for gate in GATES}


def check_gates(chosen: Mapping[str, Severity]) -> None:
    """Raises ValueError if `data.gates` names a gate that does not exist, or lets one through that cannot be."""
    for key in chosen:
        if key not in _BY_KEY:
            near = get_close_matches(key, _BY_KEY, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the gates are {', '.join(_BY_KEY)}."
            raise ValueError(f"data.gates names {key!r}, which is no gate; {hint}")
        if _BY_KEY[key].fixed and chosen[key] != "error":
            raise ValueError(f"data.gates cannot let {key} through: nothing could be trained. It has to be mended.")


def judge(findings: Sequence[Finding], rows: int, chosen: Mapping[str, Severity]) -> list[Finding]:
    """The findings with their severity, gravest first; ignored ones are left out.

    `rows` is how many there are; a finding that no gate names is a note.
    """
    order = ("error", "warn", "note")
    judged = [_BY_KEY.get(it.gate, Gate(it.name, "note", "")).judge(it, rows, chosen) for it in findings]
    return sorted((it for it in judged if it.severity in order), key=lambda it: order.index(it.severity))


def refuse(findings: Sequence[Finding]) -> None:
    """Raises RefusedData, a ValueError that lists them, if any of the findings is an error."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    settable = [it.gate for it in errors if it.gate not in _BY_KEY or not _BY_KEY[it.gate].fixed]
    keys = ", ".join(f"{key}: warn" for key in settable)
    consent = f" What is meant to be so is let through with data.gates='{{{keys}}}'." if keys else ""
    raise RefusedData(errors, f"Mend the data or the settings.{consent}")
