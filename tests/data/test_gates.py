"""Every gate against a data set made to be caught by it, and good sets that none may stop."""

from pathlib import Path
from typing import Any

import pytest
from bad_sets import BAD_SETS, BadSet, chat, chatml, good, pairs
from makers import data_config

from lorica.data.findings import NAMED, Finding, Findings, gate_key
from lorica.data.formats import Text
from lorica.data.gates import GATES, RefusedData, check_gates, judge, refuse
from lorica.data.gates.together import look_at_held_out
from lorica.data.read import Examples, read_examples, survey
from lorica.data.store import store
from lorica.data.stream import _chunks


def surveyed(bad: BadSet, folder: Path) -> Examples:
    path = bad.write(folder)
    options = dict(bad.options)
    if bad.gate == "chat template is not the tokenizer's own":
        template = folder / "other.jinja"
        template.write_text(chatml().chat_template + "\n", encoding="utf-8")
        options["chat_template"] = str(template)
    return survey(data_config(path, **options), bad.tokenizer(), bad.max_length, vocabulary=bad.vocabulary)


@pytest.mark.parametrize("bad", BAD_SETS, ids=lambda bad: bad.name)
def test_a_bad_set_is_caught(bad: BadSet, tmp_path: Path) -> None:
    found = {finding.name: finding for finding in surveyed(bad, tmp_path).findings}
    assert bad.gate in found, {name: finding.message for name, finding in found.items()}
    finding = found[bad.gate]
    assert finding.severity == bad.severity
    assert len(finding.message) > 20 and "\n\n" not in finding.message
    if bad.rows is not None:
        assert [int(row.rpartition(":")[2]) for row in finding.rows] == bad.rows
    if bad.severity == "error":
        with pytest.raises(RefusedData) as refused:
            refuse(list(found.values()))
        assert bad.gate in str(refused.value) or finding.message in str(refused.value)


def test_there_are_enough_bad_sets_and_each_gate_has_one() -> None:
    assert len(BAD_SETS) >= 30
    elsewhere = {"held-out row in training", "held-out prompt in training", "too few rows to hold out"}
    assert {gate.key for gate in GATES} - {gate_key(bad.gate) for bad in BAD_SETS} == set(map(gate_key, elsewhere))


@pytest.mark.parametrize("rows", [good(), pairs(), [{"text": f"the cat {i}"} for i in range(20)]])
def test_a_good_set_has_nothing_to_tell(rows: list[dict[str, Any]], write: Any) -> None:
    assert survey(write(rows), chatml(), 10_000, vocabulary=10_000).findings == []


def test_all_that_is_wrong_is_told_at_once(write: Any) -> None:
    rows = [*good(2), chat("x", "", weight=5000), chat("y\ufffd", "z"), chat("w", "the cat " * 99)]
    config = write(rows, too_long="truncate_right")
    read = survey(config, chatml(), 60, vocabulary=100)
    names = [finding.name for finding in read.findings]
    assert names[:2] == ["token outside the vocabulary", "truncation"]
    assert set(names[2:]) == {"empty assistant turn", "huge weight", "replacement character", "made to fit"}
    with pytest.raises(
        RefusedData, match=r"(?s)for 2 reasons:\n- token .*\n- truncation: 1 row .*gates='\{truncation: warn\}'"
    ):
        refuse(read.findings)


def test_severities_are_settable(write: Any) -> None:
    rows = [*good(3), chat("x", ""), chat("y\ufffd", "z")]
    gates = {"empty_assistant_turn": "error", "replacement_character": "ignore"}
    [finding] = survey(write(rows, gates=gates), chatml(), 10_000).findings
    assert (finding.gate, finding.severity) == ("empty_assistant_turn", "error")
    assert read_examples(write(rows, gates=gates), chatml(), 10_000).rows == 5  # what can be trained on is read


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"truncaton": "warn"}, "'truncaton', which is no gate; did you mean truncation"),
        ({"zzz": "warn"}, "the gates are cannot_be_read,"),
        ({"too_long": "note"}, "cannot let too_long through"),
    ],
)
def test_gates_that_cannot_be_set(chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_gates(chosen)


def test_a_finding_in_many_rows_costs_no_memory() -> None:
    findings = Findings()
    for row in range(3 * NAMED):
        findings.add("duplicate", f"rows:{row}", "told")
        findings.add("duplicate", f"rows:{row}", "told")  # a row is counted once
    [finding] = judge(findings.all(), 3 * NAMED, {})
    assert (len(finding.rows), finding.count, finding.severity) == (NAMED, 3 * NAMED, "note")
    assert str(finding) == "duplicate: 3,000 rows (rows:0, 1, 2, 3, 4 and 2,995 more). told"
    assert finding.to_dict()["count"] == 3 * NAMED


def test_rows_are_named_shortly() -> None:
    for rows, told in (
        (["a:1", "a:2", "b:3"], "a:1, 2, b:3"),
        (["a[0]", "a[7]", "b[1]"], "a[0], [7], b[1]"),
        (["x"], "x"),
    ):
        assert f"({told})" in str(Finding("name", rows, "message"))


def test_held_out_rows_that_are_trained_on() -> None:
    from lorica.data import Example

    def one(source: str, prompt: int, answer: int) -> Example:
        return Example(source, [prompt, answer], [0.0, 1.0], 1)

    training = store([one("t:1", 1, 2), one("t:2", 3, 4), Example("t:3", [9, 9], [0.0, 1.0])])
    held_out = store([one("h:1", 1, 2), one("h:2", 3, 5), one("h:3", 7, 7), Example("h:4", [9, 8], [0.0, 1.0])])
    findings = Findings()
    look_at_held_out(training, held_out, findings)
    assert [(finding.name, finding.rows) for finding in findings.all()] == [
        ("held-out row in training", ["h:1"]),
        ("held-out prompt in training", ["h:2"]),
    ]


def test_a_share_turns_a_slip_into_an_error() -> None:
    slip = Finding("trains nothing", [f"r:{i}" for i in range(11)], "")
    assert judge([slip], 100, {})[0].severity == "warn"
    assert judge([slip], 21, {})[0].severity == "error"
    assert judge([slip], 22, {})[0].severity == "warn"
    assert judge([Finding("trains nothing", ["r:1"], "")], 1, {})[0].severity == "warn"  # one row is no pattern


def test_chunks_are_bounded_in_rows_and_text_and_hold_each_place_once() -> None:
    long = "x" * 3_000_000
    records = [Text(f"r:{n}", long if n < 4 else "x", 1.0) for n in range(700)] + [Text("r:699", "y", 1.0)]
    chunks = list(_chunks(records))
    assert [record for chunk in chunks for record in chunk] == records
    assert [len(chunk) for chunk in chunks] == [2, 2, 256, 256, 184, 1]
