"""How many builds, runs and sessions a margin takes: planning from the spread that was seen.

Variances are estimated by moments from runs nested in builds (Kalibera and Jones, ISMM 2013).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import msgspec

from repro import stats
from repro.observed import Observed

ALPHA = 0.05
POWER = 0.9
MOST = 400
"""Beyond this many repetitions a side a plan is no plan."""
MOST_RUNS = 10
SESSIONS = 3
"""Fewer sessions a side can't tell a difference from a difference of sessions."""
SESSION_SD = 0.005
"""Assumed spread of sessions where one session only was seen, which can't show it."""


class Spread(msgspec.Struct, frozen=True):
    """Standard deviations of log times at each level; `None` where that level was not repeated."""

    builds: float | None
    """Of builds, apart from that of their runs."""
    runs: float | None
    values: float | None
    """Of build values as they were measured: builds and the mean of their runs together."""
    sessions: float | None
    n_builds: int
    n_sessions: int
    runs_per_build: float
    degrees: int
    """Degrees of freedom of `values`."""


class Row(msgspec.Struct, frozen=True):
    """One way to measure, for each of two sides."""

    design: str
    needs: int | None
    """Of `unit`; `None`: more than `MOST`."""
    unit: str
    at_worst: int | None
    """The same where the spread is as large as its upper 80 % limit."""
    verdict: str
    """What can be said then."""


class Plan(msgspec.Struct, frozen=True):
    """What a wanted margin takes."""

    margin: float
    power: float
    spread: Spread
    runs: int
    """Runs of each build worth taking, where builds outlive their process."""
    sessions_assumed: bool
    rows: tuple[Row, ...]


def spread(side: Sequence[Observed]) -> Spread:
    """Return the spread of one variant's builds and runs, measured in one or several sessions."""
    by_session: dict[str, list[tuple[float, ...]]] = {}
    for seen in side:
        for build in seen.builds:
            by_session.setdefault(build.session, []).append(build.runs)
    builds = [runs for session in by_session.values() for runs in session]
    of_runs = _pooled(builds)
    values = [[sum(runs) / len(runs) for runs in session] for session in by_session.values()]
    of_values = _pooled(values)
    per_build = sum(map(len, builds)) / len(builds) if builds else 0.0
    of_builds = None
    if of_values is not None:
        of_builds = math.sqrt(max(0.0, of_values**2 - (of_runs or 0.0) ** 2 / per_build))
    means = [sum(each) / len(each) for each in values]
    of_sessions = None
    if len(means) > 1 and of_values is not None:
        seen_sd = _pooled([means]) or 0.0
        each = sum(1 / len(session) for session in values) / len(values)
        of_sessions = math.sqrt(max(0.0, seen_sd**2 - of_values**2 * each))
    return Spread(
        of_builds,
        of_runs,
        of_values,
        of_sessions,
        len(builds),
        len(by_session),
        per_build,
        sum(len(session) - 1 for session in values),
    )


def _pooled(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups, `None` where no group has two."""
    degrees = sum(len(group) - 1 for group in groups)
    if degrees < 1:
        return None
    squares = sum((x - sum(group) / len(group)) ** 2 for group in groups for x in group)
    return math.sqrt(squares / degrees)


def needed(sd: float, margin: float, power: float = POWER, *, pairs: bool = False) -> int | None:
    """Return how many values a side (or pairs) find `margin` with `power`; `None`: more than `MOST`."""
    effect = math.log1p(margin)

    def found(n: int) -> bool:
        se, df = (sd / math.sqrt(n), n - 1) if pairs else (sd * math.sqrt(2 / n), 2 * n - 2)
        return stats.t_power(effect, se, df, ALPHA) >= power

    # More values never find less.
    n = bisect.bisect_left(range(2, MOST + 1), True, key=found) + 2
    return n if n <= MOST else None


def plan(
    side: Sequence[Observed], margin: float, power: float = POWER, rounds: Sequence[float] = ()
) -> Plan | None:
    """Return what finding `margin` with `power` takes; `None` where too little was seen to tell.

    `rounds` are the differences of log times that an alternating session showed. Without them, those of a
    round are taken from the spread of builds and runs; drift, which pairs cancel, is then counted in.
    """
    seen = spread(side)
    if seen.values is None:
        return None
    worse = stats.sd_limit(1.0, seen.degrees)
    of_sessions = SESSION_SD if seen.sessions is None else seen.sessions
    # A round is two turns against two: of four builds, or of two builds that run twice.
    of_rounds = math.hypot((math.sqrt(2) if seen.runs_per_build > 1 else 1.0) * (seen.builds or 0.0),
                           seen.runs or 0.0)  # fmt: skip
    worse_rounds = worse
    if (shown := _pooled([rounds])) is not None:
        of_rounds, worse_rounds = shown, stats.sd_limit(1.0, len(rounds) - 1)

    def sessions(sd: float) -> int | None:
        among = math.hypot(of_sessions, sd / math.sqrt(max(1.0, seen.n_builds / seen.n_sessions)))
        n = needed(among, margin, power)
        return None if n is None else max(SESSIONS, n)

    of_values = seen.values
    return Plan(
        margin,
        power,
        seen,
        _runs(seen, side),
        seen.sessions is None,
        (
            Row(
                "alternating in one session",
                needed(of_rounds, margin, power, pairs=True),
                "rounds of four turns",
                needed(worse_rounds * of_rounds, margin, power, pairs=True),
                "unqualified",
            ),
            Row(
                "one session a side",
                needed(of_values, margin, power),
                "builds a side",
                needed(worse * of_values, margin, power),
                "for these sessions",
            ),
            Row(
                "several sessions a side",
                sessions(of_values),
                f"sessions of {seen.n_builds // seen.n_sessions} builds",
                sessions(worse * of_values),
                "unqualified",
            ),
        ),
    )


def _runs(seen: Spread, side: Sequence[Observed]) -> int:
    """Return the runs of a build that spend time best: √(cost of a build / of a run × var run / var build).

    A build costs what its stage took, a run what its measured phases took (Kalibera and Jones, section 5).
    """
    if not seen.runs or seen.builds is None:
        return 1
    builds = [build.seconds for each in side for build in each.record.builds]
    spans = [
        (run.phases[-1].end_ns - run.phases[0].start_ns) / 1e9
        for each in side
        for run in each.record.runs
        if run.phases
    ]
    if not builds or not spans or min(sum(builds), sum(spans)) <= 0:
        return 1
    cost = (sum(builds) / len(builds)) / (sum(spans) / len(spans))
    wanted = math.sqrt(cost) * seen.runs / seen.builds if seen.builds else math.inf
    return max(1, math.ceil(min(MOST_RUNS, wanted)))
