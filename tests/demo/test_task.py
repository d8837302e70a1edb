"""The demo's task: rows repeat for a seed, held-out rows cannot be recited, and a ticket follows from its message."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lorica.demo.phrases import (
    DISTRACTIONS,
    GREETINGS,
    INTRODUCTIONS,
    ITEMS,
    NAMES,
    ORDERS,
    PROBLEMS,
    SIGNATURES,
    WISHES,
)
from lorica.demo.task import PROMPT_END, write_demo_data

Row = dict[str, str]


def rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], list[Row]]:
    train, held_out = write_demo_data(tmp_path_factory.mktemp("task"), train_rows=3000, held_out_rows=300, seed=7)
    return rows(train), rows(held_out)


@pytest.fixture(scope="module")
def every_row(sides: tuple[list[Row], list[Row]]) -> list[Row]:
    return sides[0] + sides[1]


def tickets(some_rows: list[Row]) -> list[dict[str, str | None]]:
    """BaseLoader leaves every value a string, as written."""
    parsed = [yaml.load(row["completion"], Loader=yaml.BaseLoader) for row in some_rows]
    return [{key: None if value == "null" else value for key, value in ticket.items()} for ticket in parsed]


def all_phrases() -> list[str]:
    by_answer = [phrase for kind in (PROBLEMS, WISHES) for options in kind.values() for phrase in options]
    return [*INTRODUCTIONS, *GREETINGS, *SIGNATURES, *ORDERS, *DISTRACTIONS, *by_answer]


def words(text: str) -> list[str]:
    return re.findall("[a-z]+", re.sub(r"\{\w+\}", "", text).lower())


def test_files_have_the_rows_asked_for_and_repeat_for_a_seed(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_demo_data(tmp_path / "a", 20, 5, seed=3)]
    again = [path.read_bytes() for path in write_demo_data(tmp_path / "b", 20, 5, seed=3)]
    other = [path.read_bytes() for path in write_demo_data(tmp_path / "c", 20, 5, seed=4)]
    assert first == again
    assert first[0] != other[0] and first[1] != other[1]
    assert [text.count(b"\n") for text in first] == [20, 5]


def test_nothing_held_out_can_be_recited(sides: tuple[list[Row], list[Row]]) -> None:
    train, held_out = sides
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    pairs = [{(ticket["name"], ticket["item"]) for ticket in tickets(side)} for side in sides]
    assert pairs[0] and pairs[1] and not pairs[0] & pairs[1]
    orders = [{ticket["order"] for ticket in tickets(side)} - {None} for side in sides]
    assert orders[0] and orders[1] and not orders[0] & orders[1]


def test_every_fact_of_a_ticket_is_in_its_message(every_row: list[Row]) -> None:
    for row, ticket in zip(every_row, tickets(every_row), strict=True):
        message = row["prompt"].removesuffix(PROMPT_END).lower()
        assert list(ticket) == ["name", "item", "order", "problem", "wish"]
        assert re.search(rf"\b{ticket['name']}\b", message, re.IGNORECASE)
        assert re.search(rf"\bthe {ticket['item']}\b", message)
        assert re.findall(r"\d{4}", message) == ([ticket["order"]] if ticket["order"] else [])
        assert ticket["problem"] in PROBLEMS and ticket["wish"] in WISHES


def test_a_row_is_one_message_and_one_line_of_yaml(every_row: list[Row]) -> None:
    for row in every_row:
        message = row["prompt"].removesuffix(PROMPT_END)
        assert row["prompt"].endswith(PROMPT_END) and "\n" not in message and "{" not in message
        assert row["completion"].startswith(" {") and "\n" not in row["completion"]
        assert isinstance(yaml.safe_load(row["completion"])["order"], int | None)


def test_no_constant_answer_gets_anywhere(every_row: list[Row]) -> None:
    all_tickets = tickets(every_row)
    likeliest = {key: Counter(ticket[key] for ticket in all_tickets).most_common(1)[0][1] for key in all_tickets[0]}
    shares = {key: count / len(all_tickets) for key, count in likeliest.items()}
    assert shares["name"] < 0.1 and shares["item"] < 0.1 and shares["order"] < 0.2
    assert shares["problem"] < 0.4 and shares["wish"] < 0.5
    assert Counter(row["completion"] for row in every_row).most_common(1)[0][1] / len(all_tickets) < 0.01


def test_every_phrase_name_and_article_is_used(sides: tuple[list[Row], list[Row]]) -> None:
    for phrase in all_phrases():
        pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(phrase))
        assert any(re.search(pattern, row["prompt"]) for row in sides[0]), phrase
    assert {ticket["name"] for ticket in tickets(sides[0])} == set(NAMES)
    assert {ticket["item"] for ticket in tickets(sides[0])} == set(ITEMS)


def test_messages_vary_in_what_they_give_and_how_they_are_typed(every_row: list[Row]) -> None:
    all_tickets = tickets(every_row)
    messages = [row["prompt"].removesuffix(PROMPT_END) for row in every_row]
    nameless = [re.sub("|".join(NAMES), "", message) for message in messages]
    assert 0.15 < sum(message.islower() for message in nameless) / len(messages) < 0.25
    assert 0.05 < sum(ticket["order"] is None for ticket in all_tickets) / len(messages) < 0.15
    known = set(words(" ".join([*all_phrases(), *NAMES, *ITEMS])))
    assert 0.2 < sum(not known.issuperset(words(message)) for message in messages) / len(messages) < 0.35
