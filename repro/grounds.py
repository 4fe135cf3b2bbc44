"""What answers rest on: figures of records, each with its interval, and the bounds they are held against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from repro import attained, comparable
from repro.compare import MARGIN
from repro.estimate import decisive, estimate
from repro.observed import Observed, key_figure
from repro.schema import Figure, Noticed, Outcome
from repro.sides import Group


class Pair(NamedTuple):
    """A record of the original and the one that replayed it."""

    there: Observed
    here: Observed


def ratio(a: Observed, b: Observed) -> tuple[Figure, tuple[float, float]] | None:
    """Return the ratio of times b / a of two records of one session, and its 90 % interval."""
    alternating = a.arm is not None and b.arm is not None and a.arm != b.arm
    left, right = Group("a", (a,)), Group("b", (b,))
    statistic = decisive(left, right, max(a.least_sd, b.least_sd), alternating=alternating)
    if statistic is None:
        figures = key_figure(a.record), key_figure(b.record)
        if figures[0] is None or figures[1] is None:
            return None
        return Figure(figures[1].value_ns / figures[0].value_ns, "ratio"), (0.0, math.inf)
    found = estimate(statistic, MARGIN)
    if found.high > 1e12 * found.low:
        return Figure(found.ratio, "ratio"), (0.0, math.inf)
    return Figure(found.ratio, "ratio", found.low, found.high), (found.low_90, found.high_90)


def time(seen: Observed) -> Figure | None:
    """Return the time of a record in milliseconds, `None` where it wasn't measured."""
    figure = key_figure(seen.record)
    if figure is None:
        return None
    low, high = (None if each is None else each / 1e6 for each in (figure.low_ns, figure.high_ns))
    return Figure(figure.value_ns / 1e6, "ms", low, high)


def held(figure: Figure, low: float, high: float) -> tuple[Outcome, str]:
    """Say whether a figure's interval lies within bounds, outside of them, or across one."""
    if figure.low is None or figure.high is None:
        return "undecided", "no_interval"
    if low <= figure.low and figure.high <= high:
        return "reproduced", "within"
    if figure.high < low or high < figure.low:
        return "not_reproduced", "outside"
    return "undecided", "across"


def output(seen: Observed) -> Figure | None:
    """Return the worst error of the builds' outputs, `None` where none is finite."""
    errors = [
        build.check.error for build in seen.record.builds if build.check and build.check.error is not None
    ]
    return Figure(max(errors), "error") if errors else None


def share(seen: Observed, session: Sequence[Observed], roof: str) -> Figure | None:
    """Return the share of a roof that a record attained, with the interval of its time."""
    times = [(each.record, key_figure(each.record)) for each in session]
    calibrated = attained.calibration(
        (record, figure.value_ns / 1e9) for record, figure in times if figure is not None
    )
    figure = key_figure(seen.record)
    if figure is None:
        return None
    found = attained.of(seen.record, figure.value_ns / 1e9, calibrated)
    chosen = next((each for each in found.roofs if each.name == roof), None) if found else None
    if chosen is None:
        return None
    low, high = (
        None if each is None else chosen.seconds * 1e9 / each for each in (figure.high_ns, figure.low_ns)
    )
    return Figure(chosen.seconds * 1e9 / figure.value_ns, "share", low, high)


def different(pairs: Iterable[Pair], *, exact: bool, also_wrong: bool = False) -> tuple[Noticed, ...]:
    """Return what makes the replay another experiment.

    `exact`: the same board, power mode, clocks and release are needed. Otherwise only what would be
    another experiment on any board and with any release counts.
    """
    found: dict[str, Noticed] = {}
    for pair in pairs:
        by_release, by_device = (
            {
                each.field: each
                for each in comparable.notice([pair.there], [pair.here], across)
                if each.weight == "blocking" and not (also_wrong and each.field in ("status", "output"))
            }
            for across in ("release", "device")
        )
        fields = by_release.keys() | by_device.keys() if exact else by_release.keys() & by_device.keys()
        for field in (*by_release, *by_device):
            if field in fields:
                found.setdefault(field, by_release.get(field) or by_device[field])
    return tuple(found.values())


def ratio_held(
    low: float, high: float, inner: tuple[float, float], factor: float, tolerance: float
) -> tuple[Outcome, str]:
    """Judge a ratio with its 95 % and 90 % intervals by size and by sign."""
    least, most = factor / (1 + tolerance), factor * (1 + tolerance)
    if high < least or most < low:
        return "not_reproduced", "outside"
    if factor != 1 and (high < 1 < factor or factor < 1 < low):
        return "not_reproduced", "other_sign"
    if factor != 1 and low <= 1 <= high:
        # No difference is shown; without the claimed one among what may be, there is none of that size.
        return ("undecided", "no_sign") if low <= factor <= high else ("not_reproduced", "no_sign")
    if least <= inner[0] and inner[1] <= most:
        return "reproduced", "within"
    return "undecided", "across"
