"""Reports as Markdown, to paste into a ticket."""

from __future__ import annotations

import re

from repro.report.content import Report

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
        lines += [_row(part.columns), "|" + "---|" * len(part.columns), *map(_row, part.rows)]
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"
