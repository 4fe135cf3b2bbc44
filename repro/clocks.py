"""Clocks while something was measured: where they are read, how steady they stood, what held them down.

A source is chosen by what it told, never by a driver that could be opened: on a Jetson, NVML may
initialise and then support nothing. What held the clocks down is told by the driver's event reasons on
one kind of board, and by the kernel's alerts, alarms and counters on the other.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from repro.probes.nvml import SLOWDOWNS, reasons
from repro.schema import ClockSpread, Phase, Telemetry
from repro.telemetry import Recorded

Source = tuple[str, str]
"""A probe and a channel of it."""

SM_CLOCKS: tuple[Source, ...] = (
    ("nvml", "sm_clock"),
    ("jetson", "gpu_clock"),
    ("jtop", "gpu_clock"),
    ("tegrastats", "gpu_clock"),
)
"""Where the clock of a GPU is read, the best source first."""
MEMORY_CLOCKS: tuple[Source, ...] = (
    ("nvml", "memory_clock"),
    ("jetson", "emc_clock"),
    ("jtop", "emc_clock"),
    ("tegrastats", "emc_clock"),
)
CPU_CLOCKS: tuple[Source, ...] = (("host", "cpu_frequency"),)
"""The mean of all cores, busy or not."""

STEADY_SHARE = 0.03
"""Readings further than this from their median are apart from it: 97 % is where a clock has fallen."""
MOVED_SHARE = 0.05
"""More readings than this share apart from the median: the clock moved."""
HIGHEST_MHZ = 1e6

_REASONS = "event_reasons"
_KERNEL = ("jetson", "jetson_power")
_ALERT, _ALARM, _COUNTER = "throttle_", "over_current_", "_events"


SETTINGS = frozenset(
    {
        *("power_mode", "jetson_clocks", "gpu_clock_min", "gpu_clock_max", "gpu_governor", "gpu_railgating"),
        *("gpu_3d_scaling", "emc_clock_cap", "emc_locked", "cores_online", "governor"),
        *("power_limit", "persistence_mode", "sm_clock_application", "memory_clock_application"),
        *("compute_mode", "ecc_mode", "mig_mode"),
    }
)
"""Facts that somebody sets, and that bear on times; others of a machine change by themselves."""
_SETTING = re.compile(r"cpu\d+_(?:governor|clock_max)|current_(?:max|crit)_\w+|\w+_throttling|mode_\w+")


class Clock(NamedTuple):
    """A clock's readings while something was measured."""

    source: Source
    values: tuple[float, ...]

    @property
    def median_mhz(self) -> float:
        """The median of the readings."""
        return statistics.median(self.values)

    def spread(self) -> ClockSpread:
        """Return how far the readings lie apart."""
        low, high = self.median_mhz * (1 - STEADY_SHARE), self.median_mhz * (1 + STEADY_SHARE)
        return ClockSpread(
            probe=self.source[0],
            channel=self.source[1],
            n=len(self.values),
            low_mhz=min(self.values),
            high_mhz=max(self.values),
            below_share=sum(value < low for value in self.values) / len(self.values),
            above_share=sum(value > high for value in self.values) / len(self.values),
        )


class HeldDown(NamedTuple):
    """What held clocks down."""

    share: float
    """Readings at which anything did, of all those of the probe that saw the most of it."""
    reasons: dict[str, tuple[int, int]]
    """By reason: at how many readings, and of how many."""


def read(recorded: Mapping[str, Recorded], sources: Iterable[Source], window: Phase) -> Clock | None:
    """Return the first of these clocks that told anything in `window`, `None` where none did."""
    for probe, channel in sources:
        if probe in recorded:
            told = tuple(v for _, v in recorded[probe].during(channel, window) if 0 < v < HIGHEST_MHZ)
            if told:
                return Clock((probe, channel), told)
    return None


def moved(spread: ClockSpread) -> bool:
    """Tell whether a clock left its median for more than a moment."""
    return spread.below_share + spread.above_share > MOVED_SHARE


def held_down(recorded: Mapping[str, Recorded], windows: Sequence[Phase]) -> HeldDown | None:
    """Return what held clocks down in `windows`, `None` where nobody could have told."""
    seen = []
    for probe, told in recorded.items():
        rows = [
            names
            for time, names in _rows(probe, told)
            if any(window.start_ns <= time <= window.end_ns for window in windows)
        ]
        if rows:
            seen.append(rows)
    if not seen:
        return None
    found: dict[str, tuple[int, int]] = {}
    for rows in seen:
        counts = Counter(name for names in rows for name in names)
        found |= {name: (n, len(rows)) for name, n in sorted(counts.items())}
    return HeldDown(max(sum(map(bool, rows)) / len(rows) for rows in seen), found)


def says_held(channel: str) -> bool:
    """Tell whether a channel of a Jetson's kernel says that clocks are held down while it is above 0."""
    return channel.startswith((_ALERT, _ALARM))


def counts_held(channel: str) -> bool:
    """Tell whether a channel counts events that hold clocks down."""
    return channel.endswith(_COUNTER)


def spans(recorded: Mapping[str, Recorded]) -> list[tuple[float, float]]:
    """Return when something held clocks down, as (from, to) in ns of the session."""
    found: list[tuple[float, float]] = []
    for probe, told in recorded.items():
        start: float | None = None
        last = 0.0
        for time, names in _rows(probe, told):
            if names and start is None:
                start = time
            elif not names and start is not None:
                found.append((start, time))
                start = None
            last = time
        if start is not None:
            found.append((start, last))
    merged: list[tuple[float, float]] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _rows(probe: str, told: Recorded) -> list[tuple[float, tuple[str, ...]]]:
    """Return what held clocks down at each reading that could tell, by time."""
    if probe == "nvml":
        if _REASONS not in told.names:
            return []
        bits = told.columns[1 + told.names.index(_REASONS)]
        return [
            (time, tuple(sorted(SLOWDOWNS & set(reasons(int(value))))))
            for time, value in zip(told.columns[0], bits, strict=True)
            if 0 <= value < 2**63
        ]
    kernel = [
        (name, told.columns[1 + i])
        for i, name in enumerate(told.names)
        if probe in _KERNEL and (says_held(name) or counts_held(name))
    ]
    found = []
    last: dict[str, float] = {}
    for i, time in enumerate(told.columns[0] if kernel else ()):
        values = {name: column[i] for name, column in kernel if not math.isnan(column[i])}
        names = tuple(
            name
            for name, value in values.items()
            # A counter says something only by running.
            if value > (last.get(name, value) if counts_held(name) else 0)
        )
        last |= values
        if values:
            found.append((time, names))
    return found


def settings_changed(telemetry: Telemetry) -> str | None:
    """Say which setting of the machine was another one after the session, `None` where none was."""
    changed = [
        each for each in telemetry.state_changed if each.name in SETTINGS or _SETTING.fullmatch(each.name)
    ]
    if not changed:
        return None
    # What is set by name says more than the clocks that follow from it.
    first = min(changed, key=lambda each: (each.name != "power_mode", each.name != "jetson_clocks"))
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    before, after = ("unread" if value is None else value for value in (first.before, first.after))
    return f"{first.name} was {before} before and {after} after the session{more}"
