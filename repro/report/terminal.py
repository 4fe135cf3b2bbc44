"""Reports and progress on a terminal; plain lines where it isn't one. The only user of rich."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

import msgspec
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from repro.bundle import Inspection
from repro.diagnose import Finding
from repro.doctor import Line
from repro.report.comparison import Account
from repro.report.content import LABEL_COLUMNS, Report, Row, Table
from repro.report.listing import Listing
from repro.report.text import columns, safe, seconds
from repro.worker import Progress

SHORT_COLUMNS = 15
"""Cells that are no longer are not broken, where others of the row can be."""
GAP_COLUMNS = 3
MOODS = {"good": "bold green", "bad": "bold red", "unsure": "bold yellow"}
PHASES = {
    "prepare": "preparing inputs",
    "build": "building",
    "profile": "profiling the layers",
    "check": "checking the output",
    "run": "measuring",
    "records": "writing records",
}


def show_card(console: Console, card: tuple[Row, ...]) -> None:
    """Print the triage card."""
    for row in card:
        style = "red" if row.label in ("Red flags", "") and row.text != "none" else ""
        text = Text.assemble((f"{row.label:<{LABEL_COLUMNS}}", "bold"), (row.text, style))
        console.print(text, no_wrap=True, overflow="ellipsis", crop=False)


def show_rows(console: Console, rows: Sequence[Row]) -> None:
    """Print lines with a label each, whole."""
    for row in rows:
        console.print(Text.assemble((f"{row.label:<12}", "bold"), row.text), soft_wrap=True)


def show_report(console: Console, report: Report) -> None:
    """Print the card, then the details."""
    show_card(console, report.card)
    for part in report.details:
        if part.rows:
            show_table(console, part)


def show_table(console: Console, part: Table | Listing) -> None:
    """Print a table with its title, or lines to copy."""
    if isinstance(part, Listing):
        console.print()
        console.print(Text(part.title, style="bold"))
        for line in part.rows:
            console.print(Text(line), soft_wrap=True)
        return
    table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=None)
    least = 0
    for i, column in enumerate(part.columns):
        widest = max(columns(row[i]) for row in part.rows)
        short = widest <= SHORT_COLUMNS
        table.add_column(Text(column), overflow="fold", no_wrap=short)
        least += GAP_COLUMNS + (max(widest, columns(column)) if short else SHORT_COLUMNS)
    for row in part.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(Text(part.title, style="bold"))
    # A number without its last digits is another number: rather a line that the terminal breaks.
    width = console.width
    console.width = max(width, least)
    console.print(table, crop=False)
    console.width = width


def show_verdicts(console: Console, account: Account) -> None:
    """Print the verdicts, each with its reason and the times of both sides."""
    if account.stamp:
        console.print(Text(account.stamp, style="bold red"), soft_wrap=True)
    if account.series:
        show_table(console, account.series)
        console.print()
    for told in account.told:
        what = f"{told.what} {' → '.join(told.sides)}" if account.series else told.what
        console.print(Text(what, style="bold"), Text(told.verdict.upper(), style=MOODS[told.mood]))
        for text in (told.sentence, *told.findings):
            console.print(Text(f"  {text}"), soft_wrap=True)
        if not account.series:
            width = max(len(row.label) for row in told.times)
            for side, row in zip("AB", told.times, strict=True):
                console.print(Text(f"  {side}  {row.label:<{width}}  {row.text}"), soft_wrap=True)


def show_comparison(console: Console, account: Account) -> None:
    """Print the verdicts, then what they rest on."""
    show_verdicts(console, account)
    # Of several sides the details would fill screens; the page and JSON have them.
    for told in () if account.series else account.told:
        for part in told.tables:
            show_table(console, msgspec.structs.replace(part, title=f"{told.what} · {part.title}"))
    for part in account.tables:
        show_table(console, part)
    console.print()
    for note in account.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)


def show_tables(console: Console, tables: Sequence[Table]) -> None:
    """Print tables alone."""
    show_report(console, Report((), tuple(tables)))


def show_inspection(console: Console, inspection: Inspection) -> None:
    """Print the six findings."""
    for name in ("container", "files", "signature", "signer", "time", "contents"):
        finding = getattr(inspection, name)
        console.print(Text(f"{name.capitalize():<12}{finding.text}"), soft_wrap=True)
    if inspection.bundle_id:
        console.print(Text(f"{'Id':<12}{inspection.bundle_id}"), soft_wrap=True)


def show_findings(console: Console, found: Sequence[Finding]) -> None:
    """Print what was diagnosed: each finding with its evidence and the next experiment."""
    colours = {"proven": "bold", "supported": "bold yellow", "possible": "bold dim"}
    for each in found:
        label = (f"{each.strength:<10}", colours[each.strength])
        console.print(Text.assemble(label, safe(each.says, 400), f"  [{each.rule}]"), soft_wrap=True)
        for one in each.evidence:
            text = f"{safe(one.what)}: {safe(one.value)} ({safe(one.where)})"
            console.print(Text(f"{'':<10}{text}", style="dim"), soft_wrap=True)
        console.print(Text(f"{'':<10}next: {safe(each.next, 400)}"), soft_wrap=True)
    if not found:
        console.print("nothing that a rule knows")


def show_lines(console: Console, lines: Sequence[Line]) -> None:
    """Print the doctor's findings, each with its remedy."""
    colours = {"ok": "green", "warn": "yellow", "red": "bold red"}
    for line in lines:
        remedy = f"; {line.remedy}" if line.remedy else ""
        text = Text.assemble(
            (f"{line.state:<5}", colours[line.state]), f"{line.about:<12}{line.text}{remedy}"
        )
        console.print(text, soft_wrap=True)


class Watcher:
    """Shows progress: one line that is redrawn on a terminal, one line per step elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._event: Progress | None = None
        self._since = time.monotonic()
        # Twice a second: drawing takes processor time from what is being measured.
        self._live = (
            Live(get_renderable=self._line, console=console, refresh_per_second=2, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Draw, from now on or again."""
        if self._live:
            self._live.start()

    def stop(self) -> None:
        """Draw no more, so that somebody else may print."""
        if self._live:
            self._live.stop()

    def __call__(self, event: Progress) -> None:
        """Take note of an event."""
        before = self._event
        if before is None or event.left_s != before.left_s:
            self._since = time.monotonic()
        self._event = event
        if self._live is None:
            self._console.print(self._line(), soft_wrap=True)

    def _line(self) -> Text:
        event = self._event
        if event is None:
            return Text("starting")
        place = f"build {event.build} of {event.builds}, run {event.run} of {event.runs}"
        text = f"{event.record}: {place}, {PHASES[event.phase]}"
        if event.left_s is not None:
            text += f"; about {seconds(event.left_s - (time.monotonic() - self._since))} left"
        return Text(text)
