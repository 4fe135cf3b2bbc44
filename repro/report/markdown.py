"""Reports as Markdown, to paste into a ticket."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from repro.report.comparison import Account
from repro.report.content import Report, Table
from repro.report.listing import Listing

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
        lines += _table(part)
    return "\n".join(lines) + "\n"


def comparison(account: Account) -> str:
    """Return a comparison as Markdown: the verdicts, then what they rest on, folded away."""
    lines = [f"### {escape(account.title)}", ""]
    if account.stamp:
        lines += [f"**{escape(account.stamp)}**", ""]
    if account.series:
        lines += [*_table(account.series), ""]
    for told in account.told:
        what = f"{told.what}, {' → '.join(told.sides)}" if account.series else told.what
        lines += [f"**{escape(what)}: {escape(told.verdict)}**  ", escape(told.sentence), ""]
        lines += [*(f"- {escape(finding)}" for finding in told.findings), ""]
        lines += ["|  |  |  |", "|---|---|---|"]
        sides = zip("AB", told.times, strict=True)
        lines += [_row((side, row.label, row.text)) for side, row in sides]
        lines += ["", "<details><summary>What it rests on</summary>"]
        for part in told.tables:
            lines += _table(part)
        lines += ["", "</details>", ""]
    for part in account.tables:
        lines += _table(part)
    lines += ["", *(f"- {escape(note)}" for note in account.notes)]
    return "\n".join(lines) + "\n"


def _table(part: Table | Listing) -> list[str]:
    if not part.rows:
        return []
    body = code_block(part.rows) if isinstance(part, Listing) else table(part.columns, part.rows)
    return ["", f"### {escape(part.title)}", "", *body]


def code_block(rows: Sequence[str]) -> list[str]:
    """Return lines to copy, fenced so that nothing in them ends the block."""
    longest = max(map(len, re.findall(r"`+", "\n".join(rows))), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *rows, fence]


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return a table, escaped."""
    return [_row(columns), "|" + "---|" * len(columns), *map(_row, rows)]


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"
