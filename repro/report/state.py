"""In which state the board was while runs were measured, as a table."""

from __future__ import annotations

from repro.report.roofs import Part, percent
from repro.schema import Record


def clocks(record: Record, of: str) -> Part:
    """Return each run's clocks as they were read, and the share of readings at which something held them."""
    rows = []
    for run in record.runs:
        for name, median, spread in (
            ("SM", run.sm_clock_mhz, run.sm_clock_spread),
            ("memory", run.memory_clock_mhz, run.memory_clock_spread),
        ):
            if median is None:
                continue
            seen = ("–",) * 5
            if spread:
                seen = (
                    f"{spread.probe}.{spread.channel}",
                    str(spread.n),
                    f"{spread.low_mhz:g}",
                    f"{spread.high_mhz:g}",
                    percent(spread.below_share),
                )
            rows.append((run.id, name, f"{median:g}", *seen, percent(run.throttled_share)))
    columns = ("run", "clock", "median MHz", "read from", "readings", "lowest", "highest")
    return Part(f"Clocks{of}", (*columns, "below 97 %", "held down"), rows)
