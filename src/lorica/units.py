"""Amounts of memory as people write them: "24GB" is 24 x 10^9 bytes, "24GiB" is 24 x 2^30."""

import re

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(text: str, what: str = "the memory") -> int:
    """Bytes of "24GB", "24 GiB", "0.5TB". Raises ValueError for anything else; a number alone says what it may mean."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*)\s*", text)
    if found is None:
        raise ValueError(f"{what} is {text!r}; expected a number and a unit, such as 24GB or 24GiB.")
    number, unit = float(found[1]), found[2].upper()
    if unit in ("", "B") and number < 2**20:
        raise ValueError(
            f"{what} is {text.strip()!r}, without a unit. Write {found[1]}GB for {number:g} x 10^9 bytes, or "
            f"{found[1]}GiB for {number:g} x 2^30 ({shown_bytes(number * 2**30)})."
        )
    if unit in ("G", "M", "T", "K"):
        raise ValueError(
            f"{what} is {text.strip()!r}; write {found[1]}{unit}B for powers of ten, or {found[1]}{unit}iB for two."
        )
    if unit not in UNITS and unit not in ("", "B"):
        raise ValueError(f"{what} is {text.strip()!r}; the units are GB, GiB, MB, MiB, TB, TiB.")
    size = int(number * UNITS.get(unit, 1))
    if size <= 0:
        raise ValueError(f"{what} is {text.strip()!r}; expected more than nothing.")
    return size


def shown_bytes(size: float) -> str:
    """Powers of ten, three digits: 25.8 GB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= 0.9995 * scale:
            number = size / scale
            return f"{number:.0f} {unit}" if number >= 99.95 else f"{number:.1f} {unit}"
    return f"{size:.0f} B"


def shown_seconds(seconds: float) -> str:
    """The two largest units: 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"


def shown_speed(tokens: float) -> str:
    """Tokens a second, two digits where they are few."""
    return f"{tokens:,.0f} tokens/s" if tokens >= 9.95 else f"{tokens:.2g} tokens/s"
