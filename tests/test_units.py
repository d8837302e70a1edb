"""Amounts of memory as they are written."""

import pytest

from lorica.units import parse_bytes, shown_bytes, shown_seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24 GiB", 24 * 2**30),
        ("0.5tb", 5 * 10**11),
        ("1536MiB", 1536 * 2**20),
        ("2000000000", 2 * 10**9),
    ],
)
def test_units(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("24", r"24GB for 24 x 10\^9 bytes, or 24GiB for 24 x 2\^30 \(25\.8 GB\)"),
        ("24G", "24GB for powers of ten, or 24GiB"),
        ("much", "expected a number and a unit"),
        ("24 Gbit", "the units are GB"),
        ("0GB", "more than nothing"),
        ("-3GB", "expected a number"),
    ],
)
def test_what_cannot_be_meant(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_bytes(text)


def test_shown() -> None:
    assert [shown_bytes(x) for x in (12, 2_500, 689e6, 999.8e6, 16.06e9, 161.9e9, 1.41e12)] == [
        "12 B", "2.5 kB", "689 MB", "1.0 GB", "16.1 GB", "162 GB", "1.4 TB",
    ]  # fmt: skip
    assert [shown_seconds(x) for x in (3.21, 45, 600, 9000, 600_000)] == [
        "3.2 s", "45 s", "10 min", "2 h 30 min", "6 days 22 h",
    ]  # fmt: skip
