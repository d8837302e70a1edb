"""The demo's task: a customer's message becomes a ticket, a line of YAML: {name: Nora, item: kettle, order: 4712, ...}.

Messages are put together from phrases in many ways: facts in any order, the article named once and "it" afterwards,
paraphrased problems and wishes, names and articles that do not belong in the ticket, typing errors, no capital letters
but in names, no order number at all. Held-out rows use pairs of name and article, and order numbers, that no
training row uses: reciting training rows cannot solve them.

YAML's short form rather than JSON: without quotation marks a word in the ticket is the same token as in the message, so
that the base can copy it rather than having to spell it.
"""

import json
import random
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from lorica.demo import phrases

HELD_OUT_SHARE = 1 / 8
PROMPT_END = "\nTicket:"


@dataclass(frozen=True)
class Ticket:
    """What the completion states; `order` is four different digits, or None where the message gives none."""

    name: str
    item: str
    order: str | None
    problem: str
    wish: str


def draw_ticket(random_source: random.Random) -> Ticket:
    """A ticket with every fact drawn on its own."""
    has_order = random_source.random() < 0.9
    return Ticket(
        name=random_source.choice(phrases.NAMES),
        item=random_source.choice(phrases.ITEMS),
        order="".join(random_source.sample("123456789", 4)) if has_order else None,
        problem=random_source.choice(list(phrases.PROBLEMS)),
        wish=random_source.choice(list(phrases.WISHES)),
    )


def reserved(text: str) -> bool:
    """Whether a fact is kept for held-out rows: a fixed share of all texts, chosen by checksum."""
    return zlib.crc32(text.encode()) < HELD_OUT_SHARE * 2**32


def belongs(ticket: Ticket, held_out: bool) -> bool:
    """Whether the ticket's pair of name and article, and its order number, are all of that side of the split."""
    facts = [f"{ticket.name} {ticket.item}", *([ticket.order] if ticket.order else [])]
    return all(reserved(fact) == held_out for fact in facts)


def write_message(ticket: Ticket, random_source: random.Random) -> str:
    """One of the many messages that a customer with this ticket could write."""
    choice = random_source.choice
    body = [choice(phrases.PROBLEMS[ticket.problem]), choice(phrases.WISHES[ticket.wish])]
    if ticket.order:
        body.append(choice(phrases.ORDERS))
    body += random_source.sample(phrases.DISTRACTIONS, random_source.choice([0, 0, 1, 1, 2]))
    random_source.shuffle(body)
    if random_source.random() < 0.5:
        body.insert(0, choice(phrases.INTRODUCTIONS))
    else:
        body = [choice(phrases.GREETINGS), *body, choice(phrases.SIGNATURES)]
    if random_source.random() < 0.2:
        body = [sentence.lower() for sentence in body]
    message = fill(body, ticket, random_source)
    return mistype(message, ticket, random_source) if random_source.random() < 0.3 else message


def fill(sentences: list[str], ticket: Ticket, random_source: random.Random) -> str:
    """The sentences with the facts in their places; the article is named at first and is "it" from then on."""
    message = " ".join(sentence for sentence in sentences if sentence)
    message = message.replace("{item}", f"the {ticket.item}", 1).replace("{item}", "it")
    return message.format(
        name=ticket.name,
        order=ticket.order,
        other_name=random_source.choice([name for name in phrases.NAMES if name != ticket.name]),
        other_item=random_source.choice([item for item in phrases.ITEMS if item != ticket.item]),
    )


def mistype(message: str, ticket: Ticket, random_source: random.Random) -> str:
    """The message with two inner letters exchanged in one word of five letters or more that is no name or article."""
    words = [word for word in re.finditer(r"\b[a-z]{5,}\b", message) if word.group() not in ticket.item]
    if not words:
        return message
    at = random_source.choice(words).start() + random_source.randrange(1, 3)
    return message[:at] + message[at + 1] + message[at] + message[at + 2 :]


def write_ticket(ticket: Ticket) -> str:
    """The ticket as a YAML mapping on one line; a missing order is null."""
    return (
        "{" + ", ".join(f"{key}: {'null' if value is None else value}" for key, value in asdict(ticket).items()) + "}"
    )


def draw_row(random_source: random.Random, held_out: bool) -> dict[str, str]:
    """One row, prompt and completion; together they are tokenised as each is alone."""
    ticket = draw_ticket(random_source)
    while not belongs(ticket, held_out):
        ticket = draw_ticket(random_source)
    message = write_message(ticket, random_source)
    return {"prompt": message + PROMPT_END, "completion": " " + write_ticket(ticket)}


def write_demo_data(folder: Path, train_rows: int, held_out_rows: int, seed: int) -> tuple[Path, Path]:
    """Write train.jsonl and held_out.jsonl into the folder, always the same for a seed; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    random_source = random.Random(seed)
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, rows, held_out in zip(paths, (train_rows, held_out_rows), (False, True), strict=True):
        lines = [json.dumps(draw_row(random_source, held_out)) for _ in range(rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths
