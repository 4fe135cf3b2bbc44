"""Work, roofs and what was attained of them, as tables: (title, columns, rows) of strings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from repro.attained import Attained
from repro.report.text import milliseconds, quantity

NOTES = {
    "compute": "operations at the board's peak, dense unless a sparse kernel ran",
    "compute at attainable": "operations at the rate that calib-gemm reached",
    "fused": "input, weights and output once",
    "unfused": "every layer reads and writes its tensors",
    "l2": "unfused, without what may stay in the L2 cache",
    "reformats": "unfused, with the observed changes of layout",
}


class Part(NamedTuple):
    """A table."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]


def percent(share: float | None) -> str:
    """Return a fraction as a reader wants it."""
    return "–" if share is None else f"{share:.1%}"


def overview(found: Sequence[Attained]) -> Iterable[Part]:
    """Give one table with all records, where there is more than one."""
    if len(found) > 1:
        yield Part(
            "Attained fractions",
            ("record", "median ms", "FLOP per byte", "compute", "fused", "unfused", "at attainable", "forum"),
            [
                (
                    each.record.record_name,
                    milliseconds(each.seconds * 1e9),
                    f"{each.flop_byte:.1f}",
                    percent(each.share(None)),
                    percent(each.share("fused", "pin")),
                    percent(each.share("unfused", "pin")),
                    percent(each.share("unfused", "attainable")),
                    percent(each.forum_efficiency),
                )
                for each in found
            ],
        )


def details(found: Attained, of: str) -> Iterable[Part]:
    """Give the tables of one record."""
    work, machine = found.work, found.machine
    yield Part(
        f"Work{of}",
        ("quantity", "value"),
        [
            ("multiply-adds, two operations each", f"{work.flop:,} FLOP"),
            ("other operations", quantity(work.other_ops, None)),
            ("bytes, fused", f"{work.bytes_low:,}"),
            ("bytes, unfused", f"{work.bytes_high:,}"),
            ("bytes, unfused, L2 kept", "–" if work.bytes_l2 is None else f"{work.bytes_l2:,}"),
            (
                "bytes, changes of layout",
                "–" if work.bytes_reformats is None else f"{work.bytes_reformats:,}",
            ),
            ("operators without a rule", ", ".join(work.unknown_ops) or "none"),
            ("FLOP per byte, unfused", f"{found.flop_byte:.1f}"),
            ("ridge, FLOP per byte", _number(machine.ridge_flop_byte, 1)),
            ("peak", _number(machine.flop_s, 1e12, "TFLOPS")),
            ("bandwidth at the pins", _number(machine.pin_bytes_s, 1e9, "GB/s")),
            ("bandwidth attainable", _number(machine.attainable_bytes_s, 1e9, "GB/s")),
            ("SM-clocks of one inference", _number(found.sm_clocks, 1e6, "million")),
            ("bytes per SM-clock, at the pins", _number(machine.bytes_per_sm_clock, 1)),
            (
                "forum_efficiency: FLOP / (peak for sparse weights × time)",
                percent(found.forum_efficiency),
            ),
            *(("assumed", text) for text in machine.assumptions),
        ],
    )
    yield Part(
        f"Roofs{of}",
        ("roof", "least ms", "attained", "held by", "what it counts"),
        [
            (
                roof.name,
                milliseconds(roof.seconds * 1e9),
                percent(roof.seconds / found.seconds),
                roof.side,
                NOTES[roof.name if roof.traffic is None else roof.traffic],
            )
            for roof in found.roofs
        ],
    )


def _number(value: float | None, scale: float, unit: str = "") -> str:
    return "–" if value is None else f"{value / scale:,.1f} {unit}".rstrip()
