"""Numbers with units and foreign text made safe: the only module that formats either."""

from __future__ import annotations

import math
import unicodedata

UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe(text: str, limit: int = 200) -> str:
    """Return `text` with control, formatting and private characters escaped, on one line, cut to `limit`."""
    shown = "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in UNSAFE else char
        for char in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def milliseconds(value_ns: float) -> str:
    """Return a duration in ms with four significant digits."""
    value = value_ns / 1e6
    decimals = max(0, 3 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{decimals}f}"


def seconds(value: float) -> str:
    """Return a duration for people: `8 s`, `1 min 20 s`."""
    whole = max(0, round(value))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def quantity(value: object, unit: str | None) -> str:
    """Return a value with its unit; bytes as GiB or MiB, yes and no for truth values."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "bytes" and isinstance(value, (int, float)):
        return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    shown = f"{value:g}" if isinstance(value, float) else safe(str(value))
    return f"{shown} {unit}" if unit and unit != "1" else shown
