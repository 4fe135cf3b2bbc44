"""The table of boards (`boards.toml`): their peaks, power modes and headlines, each with its source.

What the table says of a board's SM count and clock only checks headlines: a roof is made of readings.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from repro.errors import unknown

PATH = Path(__file__).parent / "boards.toml"

TensorRate: TypeAlias = Literal["fp16_acc16", "fp16_acc32", "int8", "fp8_acc32", "fp8_acc16", "fp4"]
"""A type that tensor cores multiply, and, where the rate depends on it, the type of the sums."""


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The board's memory; `gb_s` is its rated bandwidth at the pins, in 10⁹ bytes per second."""

    type: str
    bus_bits: int
    gb_s: float
    clock_mhz: float | None = None
    """Half of the transfers per second and pin."""

    def bytes_s(self, clock_mhz: float | None = None) -> float:
        """Return the bandwidth at the pins in bytes per second, at a clock that was read if there is one."""
        return self.gb_s * 1e9 if clock_mhz is None else clock_mhz * 1e6 * 2 * self.bus_bits / 8


class Headline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure that its vendor prints, and what it is really for."""

    what: str
    tera: float
    sparse: bool
    """It holds for 2:4 sparse weights only: dense ones reach half of it."""
    rate: TensorRate


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody measured on this board."""

    what: str
    value: float
    unit: str
    at: str
    source: str
    note: str | None = None


class Mode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A power mode: SMs that stay on, and the highest clocks; `None`: the mode sets no cap."""

    name: str
    sm_count: int
    emc_mhz: float
    gpu_mhz: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one board; rates are operations per SM and clock, a multiply-add being two."""

    id: str
    name: str
    called: tuple[str, ...]
    compute_capability: str
    integrated: bool
    sm_count: int
    reference_mhz: float
    max_mhz: float | None = None
    tensor_ops_per_sm_clock: dict[TensorRate, int]
    fp32_ops_per_sm_clock: int
    sparse_factor: int
    l2_bytes: int | None = None
    memory: Memory
    confidence: Literal["high", "medium", "low"]
    circular: bool = False
    """The reference clock was calculated from the headline, which therefore proves nothing."""
    notes: str | None = None
    sources: tuple[str, ...]
    headlines: tuple[Headline, ...]
    measured: tuple[Example, ...] = ()
    modes: tuple[Mode, ...] = ()


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    traps: tuple[str, ...]
    board: tuple[Row, ...]


@functools.cache
def _read() -> _Table:
    return msgspec.toml.decode(PATH.read_bytes(), type=_Table)


def table() -> Mapping[str, Row]:
    """Return all boards by id."""
    return {row.id: row for row in _read().board}


def traps() -> tuple[str, ...]:
    """Return what printed peaks are easily mistaken for."""
    return _read().traps


def find(board_id: str) -> Row:
    """Return the board of an id; raise `UsageError` for an unknown one."""
    rows = table()
    if board_id not in rows:
        raise unknown("board", board_id, rows)
    return rows[board_id]


def match(name: str | None, compute_capability: str | None, sm_count: int | None) -> Row | None:
    """Return the board that was found, `None` where no row or more than one fits.

    The words of one of the row's names must stand in `name`; the most specific row wins. A discrete
    board has just the SMs of its row; on a Jetson, a power mode may have switched some off.
    """
    if name is None:
        return None
    words = _words(name)
    fitting: dict[str, int] = {}
    for row in table().values():
        if compute_capability not in (None, row.compute_capability):
            continue
        if sm_count is not None and (sm_count > row.sm_count if row.integrated else sm_count != row.sm_count):
            continue
        if lengths := [len(_words(each)) for each in row.called if _words(each) <= words]:
            fitting[row.id] = max(lengths)
    best = [each for each in fitting if fitting[each] == max(fitting.values())]
    return find(best[0]) if len(best) == 1 else None


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))
