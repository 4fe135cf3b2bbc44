"""Reports as Markdown, to paste into a ticket."""

from __future__ import annotations

import re

from repro.report.content import Listing, Report

# The dot after www alone makes a link on GitHub.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~&@$:/-]|(?<=www)\.)", re.IGNORECASE)


def escape(text: str) -> str:
    """Return text that Markdown renders as it stands: no markup, links, mentions or HTML."""
    return _SPECIAL.sub(r"\\\1", text)


def render(report: Report) -> str:
    """Return the report as Markdown."""
    lines = ["|  |  |", "|---|---|"]
    lines += [f"| **{escape(row.label)}** | {escape(row.text)} |" for row in report.card]
    for part in report.details:
        if not part.rows:
            continue
        lines += ["", f"### {escape(part.title)}", ""]
        if isinstance(part, Listing):
            # Longer than any run of backticks in it, so that nothing in it ends the block.
            longest = max(map(len, re.findall(r"`+", "\n".join(part.rows))), default=0)
            fence = "`" * max(3, longest + 1)
            lines += [fence, *part.rows, fence]
            continue
        lines += [_row(part.columns), "|" + "---|" * len(part.columns), *map(_row, part.rows)]
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"
