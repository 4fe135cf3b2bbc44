"""The order of a session, the loop of a run, and what is said about its times; on a scripted clock."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import measure
from repro.errors import UsageError
from repro.measure import Series
from repro.schema import Column, Flag, Preheat, Protocol, TimerCheck, Turn

MS = 1_000_000


class Script:
    """A clock that stands still except while `step` runs, which takes the next of `durations_ns`."""

    def __init__(self, durations_ns: Iterable[int], start_ns: int = 5_000) -> None:
        self.now_ns = start_ns
        self.steps = 0
        self._durations = iter(durations_ns)

    def step(self) -> None:
        self.steps += 1
        self.now_ns += next(self._durations)

    def clock_ns(self) -> int:
        return self.now_ns


def series(durations_ns: Iterable[int], switches: list[int] | None = None) -> Series:
    durations = np.array(list(durations_ns), dtype=np.int64)
    starts = 1_000 + np.concatenate([[0], np.cumsum(durations)[:-1]])
    counts = None if switches is None else np.array(switches, dtype=np.int64)
    return Series(starts.astype(np.int64), durations, counts)


def plan(builds: int, runs: int) -> Protocol:
    return Protocol("made-up", builds, runs, 1.0, 1, 0.0, None)


# --- protocols ----------------------------------------------------------------------------------


def repetitions(protocol: Protocol) -> tuple[int, int, float, int]:
    return protocol.builds, protocol.runs, protocol.seconds, protocol.iterations


@pytest.mark.parametrize(
    ("name", "outlives", "expected"),
    [
        ("brief", True, (3, 1, 3.0, 20)),
        ("brief", False, (3, 1, 3.0, 20)),
        ("standard", True, (5, 3, 3.0, 200)),
        ("standard", False, (8, 1, 3.0, 200)),
        ("forum", True, (1, 1, 3.0, 10)),
        ("forum", False, (1, 1, 3.0, 10)),
    ],
)
def test_the_protocols_are_those_of_the_design(
    name: str, outlives: bool, expected: tuple[int, int, float, int]
) -> None:
    assert expected == repetitions(measure.protocol(name, build_outlives_process=outlives))


def test_given_parts_replace_those_of_the_protocol() -> None:
    chosen = measure.protocol(
        "standard", build_outlives_process=True, builds=2, runs=4, seconds=0.5, iterations=7
    )
    assert repetitions(chosen) == (2, 4, 0.5, 7)
    assert chosen.name == "standard"


def test_asked_builds_win_over_the_eight_of_a_standard_run_in_one_process() -> None:
    assert measure.protocol("standard", build_outlives_process=False, builds=2).builds == 2


def test_asking_for_one_run_is_fine_where_build_and_process_are_one() -> None:
    assert measure.protocol("brief", build_outlives_process=False, runs=1).runs == 1


def test_more_runs_than_one_have_no_meaning_where_build_and_process_are_one() -> None:
    with pytest.raises(UsageError, match="--runs above 1") as caught:
        measure.protocol("brief", build_outlives_process=False, runs=2)
    assert caught.value.hint == "use --builds"


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("outlives", [True, False])
@pytest.mark.parametrize("part", ["builds", "runs", "iterations"])
def test_counts_below_one_are_usage_errors(part: str, outlives: bool, value: int) -> None:
    with pytest.raises(UsageError, match=f"--{part} must be above 0"):
        measure.protocol("brief", build_outlives_process=outlives, **{part: value})


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_duration_that_is_none_is_a_usage_error_by_its_option_name(value: float) -> None:
    with pytest.raises(UsageError, match="--duration must be above 0"):
        measure.protocol("brief", build_outlives_process=False, seconds=value)


def test_an_unknown_protocol_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown protocol 'breif': did you mean brief"):
        measure.protocol("breif", build_outlives_process=False)


# --- order --------------------------------------------------------------------------------------


def test_builds_that_outlive_their_process_come_first_all_of_them() -> None:
    turns = measure.order(["x", "y", "z"], plan(4, 2), 7, build_outlives_process=True)
    building = [turn for turn in turns if turn.run is None]
    assert list(turns[:12]) == building
    assert {turn.round for turn in building} == {0}
    assert {(s, b) for s in "xyz" for b in range(4)} == {(t.subject, t.build) for t in building}


def test_each_further_round_runs_every_subject_and_build_once() -> None:
    turns = measure.order(["x", "y", "z"], plan(4, 2), 7, build_outlives_process=True)
    everything = Counter((s, b) for s in "xyz" for b in range(4))
    for number in (1, 2):
        members = [turn for turn in turns if turn.round == number]
        assert everything == Counter((turn.subject, turn.build) for turn in members)
        assert {number - 1} == {turn.run for turn in members}


def test_where_build_and_process_are_one_each_round_is_one_of_every_subject() -> None:
    turns = measure.order(["x", "y", "z"], plan(5, 1), 7, build_outlives_process=False)
    rounds = itertools.groupby(turns, key=lambda turn: turn.round)
    seen = [(n, sorted((t.subject, t.build, t.run) for t in members)) for n, members in rounds]
    assert [(n, [("x", n, 0), ("y", n, 0), ("z", n, 0)]) for n in range(5)] == seen


@pytest.mark.parametrize("outlives", [True, False])
def test_positions_count_within_each_round(outlives: bool) -> None:
    turns = measure.order(["x", "y"], plan(3, 1), 7, build_outlives_process=outlives)
    for _, members in itertools.groupby(turns, key=lambda turn: turn.round):
        positions = [turn.position for turn in members]
        assert list(range(len(positions))) == positions


def test_the_order_of_a_seed_never_changes() -> None:
    # Written down once: a replay with this seed must give this order with any later kit and Python.
    turns = measure.order(["x", "y"], plan(2, 1), 42, build_outlives_process=True)
    expected = [
        (0, "x", 1, None),
        (0, "y", 0, None),
        (0, "y", 1, None),
        (0, "x", 0, None),
        (1, "y", 1, 0),
        (1, "x", 1, 0),
        (1, "x", 0, 0),
        (1, "y", 0, 0),
    ]
    assert expected == [(turn.round, turn.subject, turn.build, turn.run) for turn in turns]


def test_no_subject_always_comes_first() -> None:
    firsts = {
        turn.subject
        for seed in range(20)
        for turn in measure.order(["x", "y"], plan(3, 1), seed, build_outlives_process=False)
        if turn.position == 0
    }
    assert {"x", "y"} == firsts


def test_rounds_are_shuffled_each_by_itself() -> None:
    turns = measure.order(["x", "y", "z"], plan(20, 1), 1, build_outlives_process=False)
    orders = {
        tuple(turn.subject for turn in members)
        for _, members in itertools.groupby(turns, key=lambda turn: turn.round)
    }
    assert len(orders) > 3


# --- alternating --------------------------------------------------------------------------------


def quads(outlives: bool, seed: int = 7, rounds: int = 6) -> list[list[Turn]]:
    """Return the quads of an alternating session, without the round that only builds."""
    planned = measure.alternating_protocol(plan(3, 3), build_outlives_process=outlives, rounds=rounds)
    turns = measure.alternating("a", "b", planned, seed, build_outlives_process=outlives)
    by_round = [list(members) for _, members in itertools.groupby(turns, key=lambda turn: turn.round)]
    return by_round[1:] if outlives else by_round


@pytest.mark.parametrize("outlives", [True, False])
def test_each_round_is_a_quad_and_half_of_them_begin_with_each_arm(outlives: bool) -> None:
    forms = Counter("".join(turn.arm or "?" for turn in quad) for quad in quads(outlives))
    assert forms == {"ABBA": 3, "BAAB": 3}
    for quad in quads(outlives):
        assert [turn.position for turn in quad] == [0, 1, 2, 3]
        assert all(turn.subject == (turn.arm or "").lower() for turn in quad)


def test_where_build_and_process_are_one_each_turn_is_a_build_of_its_own() -> None:
    turns = [turn for quad in quads(False) for turn in quad]
    for arm in "AB":
        assert sorted(turn.build for turn in turns if turn.arm == arm) == list(range(12))
    assert {turn.run for turn in turns} == {0}


def test_both_arms_have_the_same_builds_in_a_quad_so_the_same_inputs() -> None:
    for quad in quads(False):
        of_arm = [[turn.build for turn in quad if turn.arm == arm] for arm in "AB"]
        assert of_arm[0] == of_arm[1]


def test_engines_are_built_first_and_each_quad_runs_its_own_pair_twice() -> None:
    planned = measure.alternating_protocol(plan(3, 3), build_outlives_process=True, rounds=5)
    turns = measure.alternating("a", "b", planned, 7, build_outlives_process=True)
    building = [turn for turn in turns if turn.round == 0]
    assert {(arm, k) for arm in "AB" for k in range(5)} == {(turn.arm, turn.build) for turn in building}
    assert all(turn.run is None for turn in building)
    pairs = quads(True, rounds=5)
    assert sorted(quad[0].build for quad in pairs) == list(range(5))
    for quad in pairs:
        assert len({turn.build for turn in quad}) == 1
        for arm in "AB":
            assert [turn.run for turn in quad if turn.arm == arm] == [0, 1]


def test_more_runs_of_a_build_are_more_quads() -> None:
    turns = measure.alternating("a", "b", plan(2, 4), 7, build_outlives_process=True)
    assert {turn.round for turn in turns} == {0, 1, 2, 3, 4}
    runs = Counter((turn.arm, turn.build, turn.run) for turn in turns if turn.run is not None)
    assert runs == Counter({(arm, k, run): 1 for arm in "AB" for k in range(2) for run in range(4)})


def test_the_order_of_quads_follows_the_seed() -> None:
    assert quads(False, seed=1) == quads(False, seed=1)
    assert len({str(quads(False, seed=seed)) for seed in range(10)}) > 3


def test_the_quads_of_a_seed_never_change() -> None:
    # Written down once, like the order of shuffled rounds.
    turns = measure.alternating("a", "b", plan(6, 1), 42, build_outlives_process=False)
    assert " ".join(f"{t.subject}{t.build}" for t in turns) == "a0 b0 b1 a1 b2 a2 a3 b3 b4 a4 a5 b5"


def test_a_linear_drift_cancels_in_every_quad() -> None:
    for quad in quads(False):
        sums = {arm: sum(turn.position for turn in quad if turn.arm == arm) for arm in "AB"}
        assert sums["A"] == sums["B"]


@pytest.mark.parametrize(
    ("name", "outlives", "rounds", "builds", "runs"),
    [
        ("brief", False, None, 2 * measure.ROUNDS, 1),
        ("standard", True, None, measure.ROUNDS, 2),
        ("forum", False, None, 2, 1),
        ("brief", False, 3, 6, 1),
    ],
)
def test_rounds_decide_builds_and_runs_and_no_time_cuts_them(
    name: str, outlives: bool, rounds: int | None, builds: int, runs: int
) -> None:
    planned = measure.alternating_protocol(
        measure.PROTOCOLS[name], build_outlives_process=outlives, rounds=rounds
    )
    assert (planned.builds, planned.runs, planned.budget_s) == (builds, runs, None)
    assert planned.seconds == measure.PROTOCOLS[name].seconds


def test_no_rounds_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--rounds must be above 0"):
        measure.alternating_protocol(plan(1, 1), build_outlives_process=False, rounds=0)


# --- iterations ---------------------------------------------------------------------------------


def test_iterating_goes_on_until_the_seconds_are_over() -> None:
    script = Script(itertools.repeat(30 * MS))
    done = measure.iterate(script.step, seconds=0.1, iterations=1, clock_ns=script.clock_ns)
    assert script.steps == 4  # 90 ms are not enough, 120 ms are.
    assert done.duration_ns.tolist() == [30 * MS] * 4


def test_iterating_goes_on_until_the_iterations_are_done() -> None:
    script = Script(itertools.repeat(30 * MS))
    measure.iterate(script.step, seconds=0.1, iterations=9, clock_ns=script.clock_ns)
    assert script.steps == 9


def test_an_iteration_that_ends_with_the_last_nanosecond_is_enough() -> None:
    script = Script(itertools.repeat(25 * MS))
    measure.iterate(script.step, seconds=0.1, iterations=1, clock_ns=script.clock_ns)
    assert script.steps == 4


def test_starts_and_durations_are_those_of_each_step() -> None:
    script = Script([3, 5, 7, 11], start_ns=100)
    done = measure.iterate(script.step, seconds=0, iterations=4, clock_ns=script.clock_ns)
    assert done.start_ns.tolist() == [100, 103, 108, 115]
    assert done.duration_ns.tolist() == [3, 5, 7, 11]
    assert done.involuntary_switches is None


def test_context_switches_are_counted_between_iterations() -> None:
    script = Script(itertools.repeat(1))
    counter = iter([10, 10, 13, 14])
    done = measure.iterate(
        script.step, seconds=0, iterations=3, clock_ns=script.clock_ns, switches=lambda: next(counter)
    )
    assert done.involuntary_switches is not None
    assert done.involuntary_switches.tolist() == [0, 3, 1]


def test_iterating_ends_early_when_it_is_enough() -> None:
    script = Script(itertools.repeat(MS))
    seen: list[int] = []

    def enough(starts: list[int], durations: list[int]) -> bool:
        assert len(starts) == len(durations)
        seen.append(len(starts))
        return len(starts) == 3

    measure.iterate(script.step, seconds=60, iterations=1000, clock_ns=script.clock_ns, enough=enough)
    assert seen == [1, 2, 3]


# --- flat and pre-heat --------------------------------------------------------------------------


def told(durations_ns: Iterable[int]) -> tuple[list[int], list[int]]:
    durations = list(durations_ns)
    return [0, *itertools.accumulate(durations[:-1])], durations


@pytest.mark.parametrize(
    ("durations_ns", "expected"),
    [
        pytest.param([10 * MS] * 250, True, id="constant"),
        pytest.param([10 * MS] * 199, False, id="shorter than two seconds"),
        pytest.param([10 * MS] * 200, True, id="two seconds to the nanosecond"),
        pytest.param([10 * MS] * 100 + [9 * MS] * 112, False, id="10 % faster in its second half"),
        pytest.param([9 * MS] * 112 + [10 * MS] * 100, False, id="10 % slower in its second half"),
        pytest.param([10_000_000] * 150 + [10_090_000] * 100, True, id="0.9 % slower"),
        pytest.param([10_000_000] * 150 + [10_110_000] * 100, False, id="1.1 % slower"),
        pytest.param([50 * MS] * 40 + [10 * MS] * 205, True, id="slow before the last two seconds"),
        pytest.param([10 * MS, 10 * MS, 60 * MS] * 40, True, id="hiccups in both halves"),
        pytest.param([1000 * MS] * 3, False, id="too few to tell"),
    ],
)
def test_times_are_flat_when_the_halves_of_two_seconds_agree(durations_ns: list[int], expected: bool) -> None:
    assert expected == measure.flat(*told(durations_ns))


def preheat(script: Script, *, warm_up_ms: int = 200, max_seconds: float = 5.0) -> Preheat:
    return measure.preheat(
        script.step, warm_up_ms=warm_up_ms, max_seconds=max_seconds, clock_ns=script.clock_ns
    )


def test_pre_heat_of_a_flat_machine_is_warm_up_and_two_seconds() -> None:
    warm = preheat(Script(itertools.repeat(10 * MS)))
    assert warm.reached
    assert 2.2 <= warm.seconds <= 2.35


def test_pre_heat_goes_on_while_times_fall_and_ends_once_they_are_flat() -> None:
    falling = [20 * MS - i * 50_000 for i in range(200)]  # 20 ms down to 10 ms in 3 s
    warm = preheat(Script([*falling, *[10 * MS] * 2000]), max_seconds=30)
    assert warm.reached
    assert 3 + 1 < warm.seconds < 3 + 2.3


def test_pre_heat_gives_up_at_its_limit_and_says_so() -> None:
    endless = (10 * MS + i * 100_000 for i in itertools.count())
    warm = preheat(Script(endless))
    assert not warm.reached
    assert 5.0 <= warm.seconds < 5.1


def test_pre_heat_without_a_limit_is_the_warm_up_alone() -> None:
    script = Script(itertools.repeat(50 * MS))
    assert Preheat(None, 0.2) == preheat(script, max_seconds=0.0)
    assert script.steps == 4


def test_a_first_iteration_beyond_the_limit_ends_pre_heat() -> None:
    script = Script([6_000 * MS])
    assert Preheat(False, 6.0) == preheat(script)


# --- samples and summary ------------------------------------------------------------------------


def test_packed_columns_come_back_with_starts_from_zero() -> None:
    measured = series([5, 7, 9], [0, 2, 1])
    data, columns, rows = measured.packed()
    assert [column.name for column in columns] == ["start_ns", "duration_ns", "involuntary_switches"]
    assert rows == 3
    table = {name: values.tolist() for name, values in measure.unpack(data, columns, rows).items()}
    assert table == {
        "start_ns": [0, 5, 12],
        "duration_ns": [5, 7, 9],
        "involuntary_switches": [0, 2, 1],
    }


def test_a_samples_file_is_little_endian_columns_one_after_another() -> None:
    data, columns, rows = series([5, 7]).packed()
    assert (len(columns), rows) == (2, 2)
    assert [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)] == [0, 5, 5, 7]


def test_a_long_run_is_thinned_evenly_but_summarised_in_full() -> None:
    n = 3 * measure.KEPT_ROWS
    times = np.arange(1, n + 1)
    measured = Series(np.arange(n) * 10, times, None)
    data, columns, rows = measured.packed()
    kept = measure.unpack(data, columns, rows)["duration_ns"]
    assert (measure.KEPT_ROWS, n) == (rows, measured.summary().n)
    assert (1, n) == (kept[0], kept[-1])
    assert set(np.diff(kept).tolist()) <= {3, 4}
    assert (n + 1) / 2 == measured.summary().median_ns
    assert n == measured.summary().max_ns


def test_a_run_of_just_the_kept_rows_is_whole() -> None:
    data, columns, rows = series([1] * measure.KEPT_ROWS).packed()
    assert rows == measure.KEPT_ROWS
    assert (measure.unpack(data, columns, rows)["duration_ns"] == 1).all()


@pytest.mark.parametrize("size", [0, 8, 47, 49, 56])
def test_a_samples_file_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="2 columns of 3 rows"):
        measure.unpack(bytes(size), (Column("a", "ns"), Column("b", "ns")), 3)


def test_the_summary_of_a_series_computed_by_hand() -> None:
    summary = series([10, 20, 30, 40]).summary()
    assert (
        summary.n,
        summary.median_ns,
        summary.mean_ns,
        summary.min_ns,
        summary.max_ns,
    ) == (4, 25.0, 25.0, 10, 40)
    # Linear between order statistics: 90 % of 3 steps is 2.7, 99 % is 2.97.
    assert pytest.approx((37.0, 39.7)) == (summary.p90_ns, summary.p99_ns)
    assert pytest.approx(math.log(20 * 30) / 2) == summary.log_median


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=50))
def test_a_summary_travels_as_json(durations: list[int]) -> None:
    summary = series(durations).summary()
    assert summary == msgspec.json.decode(msgspec.json.encode(summary), type=type(summary))
    assert summary.min_ns <= summary.median_ns <= summary.p90_ns <= summary.p99_ns <= summary.max_ns


# --- the clock and the flags --------------------------------------------------------------------


def ticking(*steps: int) -> Callable[[], int]:
    """Return a clock that stands still for two calls, then takes the next of `steps`."""
    ticks = itertools.accumulate(itertools.chain([0], itertools.cycle(steps)))
    return iter(tick for tick in ticks for _ in range(3)).__next__


def test_the_smallest_step_of_the_clock_is_found() -> None:
    assert TimerCheck(100, 0.1) == measure.timer_check(1000.0, ticking(300, 100, 200))


def test_the_real_clock_moves_in_small_steps() -> None:
    check = measure.timer_check(1e9)
    assert 0 < check.step_ns < 1_000_000
    assert check.step_ns / 1e9 == check.step_share_of_median


def test_the_clock_is_described_by_name_and_resolution() -> None:
    described = measure.clock()
    info = time.get_clock_info("perf_counter")
    assert (info.implementation, max(1, round(info.resolution * 1e9))) == (
        described.name,
        described.resolution_ns,
    )


WARM = Preheat(True, 2.2)
FINE = TimerCheck(30, 1e-6)


def codes(found: tuple[Flag, ...]) -> list[str]:
    return [flag.code for flag in found]


def test_a_constant_series_has_no_flag() -> None:
    assert measure.flags(series([10 * MS] * 300), WARM, FINE) == ()


def test_plain_noise_has_no_flag() -> None:
    times = np.random.default_rng(3).normal(10 * MS, 0.05 * MS, 300).round().astype(np.int64)
    assert measure.flags(series(times.tolist()), WARM, FINE) == ()


def test_a_drift_above_one_percent_is_a_trend_with_its_sign() -> None:
    slower = [10 * MS + i * 1000 for i in range(300)]  # 3 %
    (flag,) = measure.flags(series(slower), WARM, FINE)
    assert flag.code == "trend"
    assert "+2.9%" in flag.detail or "+3.0%" in flag.detail
    (flag,) = measure.flags(series(slower[::-1]), WARM, FINE)
    assert flag.code == "trend"
    assert "-2.9%" in flag.detail or "-3.0%" in flag.detail


def test_a_sure_drift_below_one_percent_is_none() -> None:
    assert measure.flags(series([10 * MS + i * 100 for i in range(300)]), WARM, FINE) == ()


def test_a_large_change_that_chance_explains_is_none() -> None:
    assert measure.flags(series([100, 140, 90, 120, 130]), WARM, TimerCheck(1, 0.005)) == ()


def test_a_pre_heat_that_did_not_become_flat_is_flagged() -> None:
    assert (Flag("not_flat", "times were not flat after 5.0 s of pre-heat"),) == measure.flags(
        series([10 * MS] * 30), Preheat(False, 5.0), FINE
    )


def test_far_iterations_are_counted_and_kept() -> None:
    times = np.random.default_rng(3).normal(10 * MS, 0.05 * MS, 300).round().astype(np.int64)
    times[[50, 200]] = 50 * MS
    measured = series(times.tolist())
    assert (Flag("odd_samples", "2 of 300 iterations are far from the rest; kept"),) == measure.flags(
        measured, WARM, FINE
    )
    assert measured.summary().max_ns == 50 * MS


def test_steps_of_a_coarse_clock_are_not_odd_even_where_most_times_are_equal() -> None:
    # A clock of 1 ms: three quarters of the iterations read 10 ms, so the quartiles are equal.
    times = ([10 * MS] * 6 + [11 * MS, 9 * MS]) * 40
    assert measure.flags(series(times), WARM, TimerCheck(MS, 0.1)) == (
        Flag("coarse_clock", "one step is 10.0% of a median"),
    )


def test_a_hiccup_among_equal_times_is_odd() -> None:
    times = [10 * MS] * 299 + [13 * MS]
    assert codes(measure.flags(series(times), WARM, FINE)) == ["odd_samples"]


@pytest.mark.parametrize(("share", "expected"), [(0.0099, []), (0.0101, ["coarse_clock"])])
def test_a_clock_whose_step_is_above_one_percent_is_coarse(share: float, expected: list[str]) -> None:
    check = TimerCheck(round(share * 10 * MS), share)
    assert expected == codes(measure.flags(series([10 * MS] * 30), WARM, check))


def test_flags_come_together() -> None:
    times = [10 * MS + i * 2000 for i in range(300)]
    times[7] = 90 * MS
    found = measure.flags(series(times), Preheat(False, 1.0), TimerCheck(MS, 0.1))
    assert codes(found) == ["trend", "not_flat", "odd_samples", "coarse_clock"]


def test_without_pre_heating_flatness_is_not_judged() -> None:
    now = iter(range(0, 10**9, 1000))
    warm = measure.preheat(lambda: None, warm_up_ms=0, max_seconds=0.0, clock_ns=lambda: next(now))
    assert warm.reached is None
    series = measure.iterate(lambda: None, seconds=0.0, iterations=8, clock_ns=lambda: next(now))
    assert "not_flat" not in {flag.code for flag in measure.flags(series, warm, TimerCheck(1, 0.0))}


# --- a device that executes on its own ------------------------------------------------------------


class Device:
    """A queue with a clock of its own: `rate` of its nanoseconds pass in one of the host's."""

    resolution_ns = 500

    def __init__(self, inference_ns: int, enqueue_ns: int = 1000, rate: float = 1.0) -> None:
        self.host_ns = 0
        self._free_ns = 0.0
        self._inference_ns, self._enqueue_ns, self._rate = inference_ns, enqueue_ns, rate
        self._stamps: list[float] = []
        self.waiting: list[int] = []
        self.flushes = 0

    def clock_ns(self) -> int:
        self.host_ns += 10
        return self.host_ns

    def event(self) -> int:
        self._stamps.append(-1.0)
        return len(self._stamps) - 1

    def mark(self, event: int) -> None:
        self._free_ns = max(self._free_ns, float(self.host_ns))
        self._stamps[event] = self._free_ns

    def wait(self, event: int | None = None) -> None:
        until = self._free_ns if event is None else self._stamps[event]
        self.host_ns = max(self.host_ns, round(until))

    def between_ns(self, first: int, second: int) -> float:
        assert 0 <= self._stamps[first] <= self._stamps[second] <= self.host_ns, "not yet happened"
        return (self._stamps[second] - self._stamps[first]) * self._rate

    def enqueue(self) -> None:
        self.host_ns += self._enqueue_ns
        self._free_ns = max(self._free_ns, float(self.host_ns)) + self._inference_ns
        self.waiting.append(round((self._free_ns - self.host_ns) / self._inference_ns))

    def flush(self) -> None:
        self.flushes += 1
        self._free_ns = max(self._free_ns, float(self.host_ns)) + 777


def enqueued(device: Device, ahead: int = 4, **more: Any) -> tuple[measure.Series, float]:
    return measure.iterate_enqueued(
        device,
        device.enqueue,
        seconds=more.pop("seconds", 1e-3),
        iterations=more.pop("iterations", 20),
        ahead=ahead,
        clock_ns=device.clock_ns,
        **more,
    )


def test_the_queue_is_kept_full_and_each_inference_timed_by_the_device() -> None:
    device = Device(inference_ns=50_000)
    series, ratio = enqueued(device)
    assert set(series.duration_ns[1:].tolist()) == {50_000}
    assert max(device.waiting) == 5
    assert device.waiting[6:].count(5) == len(device.waiting) - 6, "the device never waits for the host"
    assert series.enqueue_ns is not None
    assert int(np.median(series.enqueue_ns)) == 1010
    assert ratio == pytest.approx(1, abs=1e-3)
    assert (np.diff(series.start_ns) >= 50_000).all()


def test_synchronised_means_one_at_a_time() -> None:
    device = Device(inference_ns=50_000)
    series, _ = enqueued(device, ahead=0)
    assert set(device.waiting) == {1}
    assert len(series.duration_ns) >= 20


def test_what_must_not_be_timed_is_outside_the_events() -> None:
    device = Device(inference_ns=50_000)
    series, _ = enqueued(device, before=device.flush)
    assert device.flushes == len(series.duration_ns)
    assert set(series.duration_ns[1:].tolist()) == {50_000}


def test_at_least_the_seconds_and_at_least_the_iterations() -> None:
    assert len(enqueued(Device(50_000), seconds=1e-9, iterations=33)[0].duration_ns) == 33
    assert len(enqueued(Device(1_000), seconds=1e-3, iterations=1)[0].duration_ns) > 300


def test_clocks_that_disagree_are_a_flag() -> None:
    device = Device(inference_ns=50_000, rate=1.02)
    series, ratio = enqueued(device)
    check = measure.event_check(series, device.resolution_ns, ratio)
    assert check.second_clock_ratio == pytest.approx(1.02, abs=1e-3)
    assert "clocks_disagree" in [flag.code for flag in measure.flags(series, Preheat(True, 2.0), check)]


def test_a_device_that_waits_for_the_host_is_a_flag() -> None:
    device = Device(inference_ns=1_000, enqueue_ns=5_000)
    series, ratio = enqueued(device)
    check = measure.event_check(series, device.resolution_ns, ratio)
    assert "enqueue_bound" in [flag.code for flag in measure.flags(series, Preheat(True, 2.0), check)]


def test_the_step_of_the_devices_clock_is_the_smallest_difference_or_what_is_stated() -> None:
    series = enqueued(Device(inference_ns=50_000))[0]
    mixed = msgspec.structs.replace(series, duration_ns=np.array([100_000, 100_032, 100_064]))
    assert measure.event_check(mixed, 500, 1.0).step_ns == 32
    equal = msgspec.structs.replace(series, duration_ns=np.array([100_000, 100_000]))
    assert measure.event_check(equal, 500, 1.0) == TimerCheck(500, 0.005, 1.0)
