"""Planning: spreads by moments against values worked out by hand, and plans that keep what they promise."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from repro import observed, power, stats
from repro.compare import plan
from repro.observed import Observed, Source
from repro.power import POWER, needed, spread
from repro.schema import Record
from tests.builders import make_arms, make_record, make_run, make_session


def seen(medians_ms: tuple[float, ...], name: str = "one", **changes: Any) -> Observed:
    return observed.observe(make_session(medians_ms, name, **changes), name, name, {})


def test_the_spread_of_builds_and_runs_by_hand() -> None:
    # Two builds of two runs, log times 0 and 2, 5 and 7 (ms): run variance 2, means 1 and 6, variance
    # 12.5, so that of builds is 12.5 − 2/2.
    runs = [make_run(b, math.exp(v), id=f"b{b}r{i}") for b, (i, v) in ((0, (0, 0.0)), (0, (1, 2.0)))]
    runs += [make_run(1, math.exp(v), id=f"b1r{i}") for i, v in ((0, 5.0), (1, 7.0))]
    found = spread([seen((1.0, 1.0), runs=tuple(runs))])
    assert found.runs is not None
    assert found.builds is not None
    assert found.values is not None
    assert pytest.approx(2.0) == found.runs**2
    assert pytest.approx(11.5) == found.builds**2
    assert pytest.approx(12.5) == found.values**2
    assert (found.n_builds, found.n_sessions, found.runs_per_build, found.degrees) == (2, 1, 2.0, 1)
    assert found.sessions is None, "one session shows none"


def test_the_spread_of_sessions_by_hand() -> None:
    # Means log 1 and log 4, variance (log 4)² / 2; builds without spread add nothing.
    found = spread([seen((1.0, 1.0), "one"), seen((4.0, 4.0), "two")])
    assert found.sessions is not None
    assert pytest.approx(math.log(4) ** 2 / 2) == found.sessions**2
    assert found.values == pytest.approx(0.0)


def test_a_session_that_varies_less_than_its_builds_has_no_spread_of_its_own() -> None:
    found = spread([seen((1.0, 4.0), "one"), seen((1.01, 4.0), "two")])
    assert found.sessions == 0.0


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("sd", [0.005, 0.02])
def test_what_is_needed_is_enough_and_no_more(sd: float, pairs: bool) -> None:
    n = needed(sd, 0.02, pairs=pairs)
    assert n is not None
    random = np.random.default_rng(5)

    def found(n: int) -> float:
        a = random.normal(0, sd, (20_000, n))
        b = random.normal(math.log1p(0.02), sd, (20_000, n))
        difference = stats.paired(b) if pairs else stats.welch(a, b)
        return float((difference.p() < power.ALPHA).mean())

    # Welch's t is a little below the pooled one that is planned with.
    assert found(n) >= POWER - 0.03
    if n > 2:
        assert found(n - 1) < POWER


def test_too_much_noise_has_no_plan() -> None:
    assert needed(1.0, 0.01) is None


def source(*records: Record) -> Source:
    watched = tuple(observed.observe(record, "id", "f", {}) for record in records)
    return Source("f", "id", watched, "nobody", None, None)


def test_one_build_shows_nothing_to_plan_with() -> None:
    assert plan(source(make_record((1.0,))), 0.03) == {"made-up": None}


def test_a_smaller_margin_takes_more() -> None:
    record = make_record((10.0, 10.2, 9.9, 10.1, 10.0))
    needs = []
    for margin in (0.01, 0.03):
        found = plan(source(record), margin)["made-up"]
        assert found is not None
        needs.append([row.needs for row in found.rows])
        assert all(row.at_worst >= row.needs for row in found.rows if row.needs and row.at_worst)
    assert all(small and wide and small > wide for small, wide in zip(*needs, strict=True))


def test_pairs_that_were_seen_are_planned_with_and_drift_cancels() -> None:
    drift = (10.0, 10.0, 11.0, 11.0, 12.0, 12.0, 13.0, 13.0)
    wander = (1.0, 1.001, 1.002, 1.001, 1.0, 1.002, 1.001, 1.0)
    a, b = make_arms(drift, tuple(x * y for x, y in zip(drift, wander, strict=True)))
    alternating, one_session, _ = (plan(source(a, b), 0.02)["made-up"] or pytest.fail("no plan")).rows
    assert alternating.needs is not None
    assert alternating.needs <= 3
    assert one_session.needs is None or one_session.needs > 20


def test_variants_are_planned_each_by_itself() -> None:
    record = make_record((10.0, 10.2))
    other = msgspec.structs.replace(record, case=msgspec.structs.replace(record.case, variant="wide"))
    assert list(plan(source(record, other), 0.03)) == ["made-up", "made-up:wide"]


def test_builds_that_cost_more_than_runs_are_run_more_often() -> None:
    phases = make_run(0, 1.0).phases
    long = tuple(msgspec.structs.replace(each, end_ns=each.end_ns + 10**9) for each in phases)
    runs = [
        make_run(b, 10.0 * (1 + 0.02 * b + 0.01 * r), id=f"b{b}r{r}", phases=long)
        for b in range(4)
        for r in range(3)
    ]
    cheap, dear = (
        seen((1.0,) * 4, runs=tuple(runs), builds=tuple(
            msgspec.structs.replace(build, seconds=seconds) for build in make_record((1.0,) * 4).builds
        ))
        for seconds in (0.1, 90.0)
    )  # fmt: skip
    few, many = (power.plan([each], 0.03) for each in (cheap, dear))
    assert few is not None
    assert many is not None
    assert few.runs < many.runs
