"""The statistic of a comparison, by the highest level that was repeated, and the rule of verdicts.

Alternating sessions give pairs; three or more sessions a side are compared by their means; otherwise
builds are, and a single engine a side by its runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from repro import power, stats
from repro.observed import BuildSeen, exp
from repro.schema import Estimand, Estimate, VerdictName
from repro.sides import Group
from repro.stats import Difference

ALPHA = power.ALPHA
Unit: TypeAlias = Literal["builds", "runs", "sessions", "rounds"]
Rounds: TypeAlias = dict[tuple[str, int], tuple[list[float], list[float]]]
"""Log times of both arms, by session and round."""


class Statistic(NamedTuple):
    """A difference of log times, with what was repeated to get it."""

    estimand: Estimand
    unit: Unit
    a: tuple[float, ...]
    b: tuple[float, ...]
    difference: Difference

    @property
    def p(self) -> float:
        """Two-sided p; 1 where nothing can be said."""
        return known(float(self.difference.p()), 1.0)


def decisive(
    a: Group, b: Group, least_sd: float, *, alternating: bool, cycles: bool = False
) -> Statistic | None:
    """Return the statistic that decides, in time or in clock cycles; `None` where nothing was repeated.

    Cycles are known only where the clock was read during every run.
    """
    left, right = a.builds, b.builds
    if cycles:
        if not left or not right or any(build.cycles is None for build in (*left, *right)):
            return None
        left, right = ([build._replace(runs=build.cycles or ()) for build in side] for side in (left, right))
    return _paired(left, right, least_sd) if alternating else _unpaired(left, right, least_sd)


def rounds(a: Sequence[BuildSeen], b: Sequence[BuildSeen]) -> Rounds:
    """Return the runs of both arms by round; a round that was cut short cancels no drift and is left out."""
    found: Rounds = {}
    for which, side in enumerate((a, b)):
        for build in side:
            for number, value in zip(build.rounds, build.runs, strict=True):
                found.setdefault((build.session, number), ([], []))[which].append(value)
    return {key: values for key, values in sorted(found.items()) if len(values[0]) == len(values[1])}


def _paired(a: Sequence[BuildSeen], b: Sequence[BuildSeen], least_sd: float) -> Statistic | None:
    quads = rounds(a, b).values()
    if not quads:
        return None
    left, right = (tuple(mean(each[which]) for each in quads) for which in (0, 1))
    differences = [y - x for x, y in zip(left, right, strict=True)]
    # A build that runs in several rounds would be counted as often; then only these engines are judged.
    fresh = all(len(set(build.rounds)) == 1 for build in (*a, *b))
    estimand: Estimand = "configuration" if fresh else "engine"
    return Statistic(estimand, "rounds", left, right, stats.paired(differences, least_sd))


def _unpaired(a: Sequence[BuildSeen], b: Sequence[BuildSeen], least_sd: float) -> Statistic | None:
    sessions = [by_session(side) for side in (a, b)]
    if min(map(len, sessions)) >= power.SESSIONS:
        left, right = (tuple(map(mean, side.values())) for side in sessions)
        return Statistic("configuration", "sessions", left, right, stats.welch(left, right, least_sd))
    if min(len(a), len(b)) >= 2:
        left, right = (tuple(build.value for build in side) for side in (a, b))
        return Statistic("configuration", "builds", left, right, stats.welch(left, right, least_sd))
    if len(a) == len(b) == 1 and min(len(a[0].runs), len(b[0].runs)) >= 2:
        left, right = a[0].runs, b[0].runs
        return Statistic("engine", "runs", left, right, stats.welch(left, right, least_sd))
    return None


def same_structure(a: Group, b: Group, least_sd: float) -> Statistic | None:
    """Return the difference within structures: within one release only, where builds are of several."""
    left, right = a.builds, b.builds
    releases = {seen.record.runtime.release.name for seen in (*a.observed, *b.observed)}
    structures = sorted({build.structure for build in (*left, *right) if build.structure})
    if len(releases) > 1 or len(structures) < 2 or not all(build.structure for build in (*left, *right)):
        return None
    number = {structure: i for i, structure in enumerate(structures)}
    strata = [[number[build.structure or ""] for build in side] for side in (left, right)]
    shared = set(strata[0]) & set(strata[1])
    values = [tuple(build.value for build in side) for side in (left, right)]
    difference = stats.stratified(values[0], strata[0], values[1], strata[1], least_sd)
    if math.isnan(float(difference.df)):
        return None
    kept = [
        tuple(value for value, stratum in zip(side, cells, strict=True) if stratum in shared)
        for side, cells in zip(values, strata, strict=True)
    ]
    return Statistic("same_structure", "builds", kept[0], kept[1], difference)


def by_session(builds: Sequence[BuildSeen]) -> dict[str, list[float]]:
    """Return the builds' values by session."""
    found: dict[str, list[float]] = {}
    for build in builds:
        found.setdefault(build.session, []).append(build.value)
    return found


def judge(p: float, p_equivalent: float, estimate: float) -> VerdictName:
    """Return the verdict on a difference of log times: the whole rule, before any reservation."""
    different, equivalent = p < ALPHA, p_equivalent < ALPHA
    if different and equivalent:
        return "below_margin"
    if different:
        return "slower" if estimate > 0 else "faster"
    return "equivalent" if equivalent else "inconclusive"


def estimate(statistic: Statistic, margin: float, adjusted: float | None = None) -> Estimate:
    """Return a statistic as ratios of times; `adjusted` is its p within the family that it is judged in."""
    difference = statistic.difference
    centre = float(difference.estimate)
    half, half_90 = (known(float(difference.half_width(level)), math.inf) for level in (0.95, 0.9))
    p = statistic.p
    p_equivalent = known(float(difference.p_equivalent(math.log1p(margin))), 1.0)
    p_adjusted = p if adjusted is None else adjusted
    return Estimate(
        estimand=statistic.estimand,
        unit=statistic.unit,
        n_a=len(statistic.a),
        n_b=len(statistic.b),
        df=known(float(difference.df), 0.0),
        ratio=exp(centre),
        low=exp(centre - half),
        high=exp(centre + half),
        low_90=exp(centre - half_90),
        high_90=exp(centre + half_90),
        p=p,
        p_adjusted=p_adjusted,
        p_equivalent=p_equivalent,
        verdict=judge(p_adjusted, p_equivalent, centre),
    )


def geometric_mean(parts: Sequence[Statistic], margin: float) -> Estimate | None:
    """Return the mean of the variants' differences as one estimate; `None` for fewer than two variants.

    Variants count as independent; it is an extra test that must be declared beforehand.
    """
    if len(parts) < 2 or any(math.isnan(float(part.difference.se)) for part in parts):
        return None
    smallest = min(parts, key=lambda part: min(len(part.a), len(part.b)))
    together = stats.combined([part.difference for part in parts])
    return estimate(smallest._replace(difference=together), margin)


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def known(value: float, otherwise: float) -> float:
    """Return `value`, or `otherwise` where it is NaN."""
    return otherwise if math.isnan(value) else value
