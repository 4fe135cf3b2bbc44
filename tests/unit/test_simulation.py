"""The verdicts hold: rates of false and of missed ones over thousands of simulated comparisons, seeded.

Each bound is a promise of docs/method.md. `make bench-stats` has the full grid, beside other rules.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from repro import observed, stats
from repro.compare import compare
from repro.estimate import ALPHA
from repro.observed import Source
from repro.schema import Record
from repro.stats import Difference
from tests import noise
from tests.builders import make_arms, make_run, make_session
from tests.noise import BIMODAL, DRIFTING, HEAVY, PILOT, PILOT_ROUNDS, SESSIONS, UNIMODAL, Noise, Side

EXPERIMENTS = 2500
"""A rate of 5 % is then known to ±0.9 % (95 %)."""
MARGIN = math.log1p(0.03)


def rate(p: npt.ArrayLike) -> float:
    return float((np.asarray(p) < ALPHA).mean())


def both(kind: Noise, seed: int, builds: int = 5, shift: float = 0.0) -> tuple[Side, Side]:
    random = np.random.default_rng(seed)
    a = noise.side(random, kind, EXPERIMENTS, builds)
    return a, noise.side(random, kind, EXPERIMENTS, builds, shift=shift)


def configuration(a: Side, b: Side) -> Difference:
    return stats.welch(a.builds, b.builds)


def same_structure(a: Side, b: Side) -> Difference:
    return stats.stratified(a.builds, a.modes, b.builds, b.modes)


# --- false differences: nominal 5 %, at most 7.5 % ----------------------------------------------


@pytest.mark.parametrize("kind", [UNIMODAL, BIMODAL, HEAVY], ids=["unimodal", "bimodal", "heavy"])
def test_no_difference_is_seldom_called_one(kind: Noise) -> None:
    a, b = both(kind, 1)
    assert rate(configuration(a, b).p()) <= 0.075
    # A test that never succeeds would keep this bound as well.
    assert rate(configuration(a, b).p()) >= 0.01


def test_nor_is_it_within_structures() -> None:
    assert 0.03 <= rate(same_structure(*both(BIMODAL, 2)).p()) <= 0.075


@pytest.mark.parametrize("rounds", [4, 8])
def test_nor_is_it_when_the_machine_drifts_and_arms_alternate(rounds: int) -> None:
    a, b = noise.alternating(np.random.default_rng(3), DRIFTING, EXPERIMENTS, rounds)
    assert 0.03 <= rate(stats.paired(noise.pairs(a, b)).p()) <= 0.075


def test_drift_makes_sides_differ_that_are_measured_one_after_the_other() -> None:
    a, b = noise.sequential(np.random.default_rng(4), DRIFTING, EXPERIMENTS, 8)
    assert rate(configuration(a, b).p()) > 0.2, "or the drift is no test of anything"


def test_nor_is_it_across_sessions_for_an_unqualified_verdict() -> None:
    random = np.random.default_rng(5)
    means = np.stack(
        [noise.side(random, SESSIONS, EXPERIMENTS, 5).builds.mean(-1) for _ in range(6)], axis=-1
    )
    assert 0.01 <= rate(stats.welch(means[:, :3], means[:, 3:]).p()) <= 0.075


def test_single_sessions_do_differ_and_so_their_verdict_is_qualified() -> None:
    assert rate(configuration(*both(SESSIONS, 6)).p()) > 0.1


def test_of_twelve_variants_seldom_any_is_called_different() -> None:
    random = np.random.default_rng(7)
    sides = [noise.side(random, UNIMODAL, 1500, 5).builds for _ in range(24)]
    p = [stats.welch(a, b).p() for a, b in zip(sides[::2], sides[1::2], strict=True)]
    family = np.stack(p, axis=-1)
    assert float((stats.holm(family) < ALPHA).any(-1).mean()) <= 0.075
    assert float((family < ALPHA).any(-1).mean()) > 0.3, "uncorrected"


# --- found differences --------------------------------------------------------------------------


def test_three_percent_are_found() -> None:
    assert rate(configuration(*both(UNIMODAL, 8, shift=MARGIN)).p()) >= 0.95


def test_three_percent_are_found_within_structures_of_bimodal_builds() -> None:
    a, b = both(BIMODAL, 9, shift=MARGIN)
    assert rate(same_structure(a, b).p()) >= 0.90
    assert rate(configuration(a, b).p()) < 0.5, "where builds are not told apart"


def test_pairs_find_two_percent_in_the_noise_of_the_pilot() -> None:
    shift = math.log1p(0.02)
    a, b = noise.alternating(np.random.default_rng(10), PILOT, 1500, PILOT_ROUNDS, shift)
    assert rate(stats.paired(noise.pairs(a, b)).p()) >= 0.80
    assert rate(configuration(a, b).p()) < 0.5, "where pairs are not made use of"


def test_a_release_that_always_takes_the_slow_tactic_is_found() -> None:
    random = np.random.default_rng(11)
    a = noise.side(random, BIMODAL, 400, 8)
    b = noise.side(random, BIMODAL, 400, 8, slow_share=1.0)
    slower = np.asarray(configuration(a, b).p()) < ALPHA
    mixed = np.array([stats.fisher([8 - slow, slow], [0, 8]) < ALPHA for slow in a.modes.sum(-1).tolist()])
    assert float((slower | mixed).mean()) >= 0.85
    never = noise.side(random, BIMODAL, 400, 5, slow_share=0.0)
    always = noise.side(random, BIMODAL, 400, 5, slow_share=1.0)
    assert rate(configuration(never, always).p()) >= 0.99


# --- equivalence --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UNIMODAL, BIMODAL, HEAVY], ids=["unimodal", "bimodal", "heavy"])
def test_a_difference_of_the_margin_is_seldom_called_equivalent(kind: Noise) -> None:
    a, b = both(kind, 12, shift=MARGIN)
    assert rate(configuration(a, b).p_equivalent(MARGIN)) <= 0.06
    assert rate(same_structure(a, b).p_equivalent(MARGIN)) <= 0.06


def test_no_difference_is_called_equivalent() -> None:
    assert rate(configuration(*both(UNIMODAL, 13)).p_equivalent(MARGIN)) >= 0.95


# --- what was simulated is what is done ---------------------------------------------------------


def session(runs: npt.NDArray[np.float64], modes: npt.NDArray[np.int64], name: str) -> Record:
    """Return a record of these log times in milliseconds, by build and run."""
    record = make_session((1.0,) * runs.shape[0], name)
    made = tuple(
        make_run(i, math.exp(value), id=f"b{i}r{j}")
        for i, build in enumerate(runs.tolist())
        for j, value in enumerate(build)
    )
    builds = tuple(
        msgspec.structs.replace(build, structure_hash=f"{mode}" * 64)
        for build, mode in zip(record.builds, modes.tolist(), strict=True)
    )
    return msgspec.structs.replace(record, runs=made, builds=builds)


def source(*records: Record) -> Source:
    name = records[0].session_id
    seen = tuple(observed.observe(record, name, name, {}) for record in records)
    return Source(name, name, seen, "nobody", None, None)


def test_a_comparison_of_two_bundles_is_the_simulated_one() -> None:
    a, b = both(BIMODAL, 14)
    for i in range(5):
        sources = [source(session(each.runs[i], each.modes[i], name)) for each, name in ((a, "a"), (b, "b"))]
        (pair,) = compare(sources).compared
        of_builds, *of_structures = pair.estimates
        assert pytest.approx(float(configuration(a, b).p()[i])) == of_builds.p
        assert pytest.approx(float(configuration(a, b).p_equivalent(MARGIN)[i])) == of_builds.p_equivalent
        for each in of_structures:
            assert pytest.approx(float(same_structure(a, b).p()[i])) == each.p


def test_a_comparison_of_three_sessions_a_side_is_the_simulated_one() -> None:
    random = np.random.default_rng(15)
    sides = [noise.side(random, SESSIONS, 1, 5) for _ in range(6)]
    records = [session(each.runs[0], each.modes[0], f"s{i}") for i, each in enumerate(sides)]
    threads = [msgspec.structs.replace(record.board, threads=1 + i // 3) for i, record in enumerate(records)]
    sources = [
        source(msgspec.structs.replace(record, board=board))
        for record, board in zip(records, threads, strict=True)
    ]
    (pair,) = compare(sources, across="setting").compared
    means = [float(each.builds.mean()) for each in sides]
    assert pair.estimates[0].unit == "sessions"
    assert pytest.approx(float(stats.welch(means[:3], means[3:]).p())) == pair.estimates[0].p


def test_a_comparison_of_alternating_arms_is_the_simulated_one() -> None:
    a, b = noise.alternating(np.random.default_rng(16), PILOT, 1, 5)
    times = [tuple(np.exp(each.builds[0]).tolist()) for each in (a, b)]
    (pair,) = compare([source(*make_arms(times[0], times[1]))]).compared
    assert pair.estimates[0].unit == "rounds"
    assert pytest.approx(float(stats.paired(noise.pairs(a, b)).p()[0])) == pair.estimates[0].p
