"""Reports and progress on a terminal; plain lines where it isn't one. The only user of rich."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from repro.bundle import Inspection
from repro.doctor import Line
from repro.report.content import LABEL_COLUMNS, Listing, Report, Row, Table
from repro.report.text import seconds
from repro.worker import Progress

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


def show_report(console: Console, report: Report) -> None:
    """Print the card, then the details."""
    show_card(console, report.card)
    for part in report.details:
        if not part.rows:
            continue
        if isinstance(part, Listing):
            console.print()
            console.print(Text(part.title, style="bold"))
            for line in part.rows:
                console.print(Text(line), soft_wrap=True)
            continue
        table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=None)
        for column in part.columns:
            table.add_column(Text(column), overflow="fold")
        for row in part.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print()
        console.print(Text(part.title, style="bold"))
        console.print(table)


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
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

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
