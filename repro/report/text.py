"""Numbers with units and foreign text made safe: the only module that formats either."""

from __future__ import annotations

import math
import re
import unicodedata

UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_NAMESPACE = re.compile(r"\b[A-Za-z_]\w*::(?=[A-Za-z_])")


def safe(text: str, limit: int = 200) -> str:
    """Return `text` with control, formatting and private characters escaped, on one line, cut to `limit`."""
    shown = "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in UNSAFE else char
        for char in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def kernel(name: str) -> str:
    """Return a kernel's C++ signature without return type, namespaces and parameters, as in `copy<float>`.

    Names of tactics that are no signatures stay as they are.
    """
    name = _NAMESPACE.sub("", name.removeprefix("void "))
    depth = 0
    for i, char in enumerate(name):
        depth += (char == "<") - (char == ">")
        if char == "(" and depth == 0 and i:
            return name[:i]
    return name


def columns(text: str) -> int:
    """Return the columns of a terminal that `text` takes: wide characters take two."""
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def cut(text: str, room: int) -> str:
    """Return `text`, shortened to `room` columns where it is longer."""
    if columns(text) <= room:
        return text
    kept = ""
    for char in text:
        if columns(kept + char) > room - 1:
            break
        kept += char
    return kept + "…"


def milliseconds(value_ns: float) -> str:
    """Return a duration in ms with four significant digits."""
    value = value_ns / 1e6
    if not 0 < value < math.inf:
        return f"{value:.0f}"
    # The exponent after rounding: 9.9996 is 10.00.
    exponent = int(f"{value:.3e}".partition("e")[2])
    return f"{value:.{max(0, 3 - exponent)}f}"


def seconds(value: float) -> str:
    """Return a duration for people: `8 s`, `1 min 20 s`."""
    whole = max(0, round(value))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def quantity(value: object, unit: str | None) -> str:
    """Return a value with its unit; bytes as GiB, MiB or KiB, yes and no for truth values."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "bytes" and isinstance(value, (int, float)):
        exponent = 30 if value >= 2**30 else 20 if value >= 2**20 else 10
        return f"{value / 2**exponent:.1f} {'KMG'[exponent // 10 - 1]}iB"
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    shown = f"{value:g}" if isinstance(value, float) else safe(str(value))
    return f"{shown} {unit}" if unit and unit != "1" else shown
