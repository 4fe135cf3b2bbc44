"""Which lines of a log may leave the machine: those whose form is known, with private values taken out.

A grammar is a list of patterns of whole lines, given by the backend that knows what its library prints.
A line of any other form might hold anything, so it is only counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from repro.bundle.privacy import Redactor

MAX_LINE_CHARACTERS = 500
MAX_KEPT_LINES = 2_000

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def keep(text: str, grammar: Sequence[re.Pattern[str]], redactor: Redactor) -> tuple[str, int, int]:
    """Return the lines fit to publish as one text, the number of lines, and how many of them were kept.

    Lines left out are replaced, a run of them at a time, by one that tells their number.
    """
    shown: list[str] = []
    skipped = kept = 0
    lines = text.splitlines()
    for raw in lines:
        line = _COLOUR.sub("", raw)
        fits = len(line) <= MAX_LINE_CHARACTERS and kept < MAX_KEPT_LINES
        if not fits or not any(pattern.fullmatch(line) for pattern in grammar):
            skipped += 1
            continue
        if skipped:
            shown.append(f"<{skipped} lines left out>")
            skipped = 0
        shown.append(redactor.text(line))
        kept += 1
    if not kept:
        return "", len(lines), 0
    if skipped:
        shown.append(f"<{skipped} lines left out>")
    return "\n".join(shown) + "\n", len(lines), kept
