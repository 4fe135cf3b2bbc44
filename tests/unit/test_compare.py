"""Comparing whole bundles: who stands against whom, which statistic decides, and with which verdict."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
import pytest

from repro import observed, sides
from repro.compare import compare
from repro.errors import Unavailable, UsageError
from repro.observed import Source
from repro.schema import Compared, Layer, Record
from tests.builders import make_arms, make_failed, make_record, make_run, make_session

replace = msgspec.structs.replace
EVEN = (10.00, 10.02, 9.98, 10.01, 9.99)


def times(factor: float, medians_ms: tuple[float, ...] = EVEN) -> tuple[float, ...]:
    return tuple(factor * each for each in medians_ms)


def source(*records: Record, name: str | None = None, **changes: Any) -> Source:
    file = name or records[0].session_id
    watched = tuple(observed.observe(record, f"id-{file}", file, {}) for record in records)
    return Source(file, f"id-{file}", watched, "nobody", None, None)._replace(**changes)


def old(factor: float = 1.0, name: str = "old", **changes: Any) -> Record:
    return make_session(times(factor), name, "1.0", **changes)


def new(factor: float = 1.0, name: str = "new", **changes: Any) -> Record:
    return make_session(times(factor), name, "1.1", **changes)


def only(*records: Record, **options: Any) -> Compared:
    """Compare bundles of one record each; return the single pair."""
    (pair,) = compare([source(record) for record in records], **options).compared
    return pair


def variant(record: Record, name: str) -> Record:
    return replace(record, record_name=f"{name}-x", case=replace(record.case, variant=name))


def calibration(record: Record) -> Record:
    case = replace(record.case, id="calib-copy")
    return replace(record, role="calibration", record_name="calib-copy-x", case=case)


# --- the verdict, one rule after the other ------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "name"),
    [
        (1.10, "slower"),
        (0.90, "faster"),
        (1.0, "equivalent"),
        (1.01, "below_margin"),
    ],
)
def test_what_the_tests_say(factor: float, name: str) -> None:
    verdict = only(old(), new(factor)).verdict
    assert (verdict.name, verdict.code, verdict.these_sessions) == (name, "builds", True)
    assert "other sessions may differ" in verdict.sentence


def test_three_sessions_a_side_give_an_unqualified_verdict() -> None:
    sources = [source(old(1 + i / 1000, f"old{i}")) for i in range(3)]
    sources += [source(new(1.1 + i / 1000, f"new{i}")) for i in range(3)]
    (pair,) = compare(sources).compared
    assert (pair.verdict.name, pair.verdict.code) == ("slower", "sessions")
    assert not pair.verdict.these_sessions
    assert (pair.estimates[0].n_a, pair.estimates[0].n_b) == (3, 3)


def test_two_sessions_a_side_do_not() -> None:
    sources = [source(make(factor, name)) for make, factor, name in (
        (old, 1.0, "o1"), (old, 1.0, "o2"), (new, 1.1, "n1"), (new, 1.1, "n2"))]  # fmt: skip
    (pair,) = compare(sources).compared
    assert pair.verdict.these_sessions


def test_pairs_see_through_drift_that_hides_the_difference_from_builds() -> None:
    drift = (10.0, 10.1, 10.9, 11.0, 11.9, 12.0, 12.9, 13.0)
    a, b = make_arms(drift, tuple(x * y for x, y in zip(drift, (1.05, 1.049, 1.051, 1.05) * 2, strict=True)))
    (pair,) = compare([source(a, b)]).compared
    assert (pair.verdict.name, pair.verdict.code, pair.verdict.these_sessions) == ("slower", "rounds", False)
    assert pair.estimates[0].df == 3
    assert pair.rounds == pytest.approx([1.05] * 4, abs=1e-3)
    apart = compare([source(replace_arms(a)), source(replace_arms(b, "other"))]).compared[0]
    assert apart.verdict.name == "inconclusive"


def replace_arms(record: Record, name: str = "one") -> Record:
    """Return the record as one of a session that doesn't alternate."""
    order = tuple(replace(turn, arm=None) for turn in record.protocol.order)
    protocol = replace(record.protocol, order=order)
    return replace(record, protocol=protocol, session_id=name, run_id=name, record_name="x")


def test_a_build_that_runs_in_every_round_speaks_for_itself_only() -> None:
    a, b = make_arms(EVEN[:4], times(1.1)[:4])
    one_build = tuple(replace(run, build="b0") for run in a.runs)
    (pair,) = compare([source(replace(a, runs=one_build), b)]).compared
    assert pair.estimates[0].estimand == "engine"
    assert "these engines take" in pair.verdict.sentence


def test_single_engines_are_compared_by_their_runs() -> None:
    def engine(record: Record, factor: float) -> Record:
        runs = tuple(make_run(0, factor * ms, id=f"b0r{i}") for i, ms in enumerate(EVEN))
        return replace(record, runs=runs)

    pair = only(engine(old(), 1.0), engine(new(), 1.1))
    assert (pair.estimates[0].estimand, pair.estimates[0].unit) == ("engine", "runs")
    assert pair.verdict.name == "slower"


def test_one_build_a_side_says_nothing_of_builds() -> None:
    pair = only(make_session((10.0,), "a", "1.0"), make_session((20.0,), "b", "1.1"))
    assert (pair.verdict.name, pair.verdict.code, pair.estimates) == ("inconclusive", "too_few", ())


def test_noise_is_inconclusive_and_says_how_many_would_do() -> None:
    noisy = (9.0, 10.0, 11.5, 9.5, 10.4)
    verdict = only(make_session(noisy, "a", "1.0"), make_session(noisy[::-1], "b", "1.1")).verdict
    assert (verdict.name, verdict.code) == ("inconclusive", "too_noisy")
    assert "about" in verdict.sentence
    assert "builds a side would do" in verdict.sentence


@pytest.mark.parametrize("factor", [1.0, 1.0075, 1.015, 1.0225, 1.03])
def test_what_would_do_is_more_than_there_is_wherever_the_estimate_lies(factor: float) -> None:
    spread = (0.965, 0.985, 1.0, 1.015, 1.035)
    a = make_session(tuple(10 * each for each in spread), "a", "1.0")
    b = make_session(tuple(10 * factor * each for each in spread), "b", "1.1")
    verdict = only(a, b).verdict
    assert verdict.code == "too_noisy"
    (number,) = re.findall(r"about (\d+) builds a side", verdict.sentence)
    assert int(number) > 5


def test_one_round_shows_no_spread_and_none_in_full_says_so() -> None:
    a, b = make_arms(EVEN[:2], EVEN[:2])
    (pair,) = compare([source(a, b)]).compared
    assert (pair.verdict.name, pair.verdict.code) == ("inconclusive", "too_few")
    assert "one round shows no spread" in pair.verdict.sentence
    cut = replace(b, runs=b.runs[:1])
    (pair,) = compare([source(a, cut)]).compared
    assert pair.rounds == ()
    assert "at least 2 a side" in pair.verdict.sentence


def test_a_round_that_was_cut_short_is_left_out() -> None:
    a, b = make_arms(EVEN[:4], times(1.1)[:4])
    (pair,) = compare([source(a, replace(b, runs=b.runs[:3]))]).compared
    assert len(pair.rounds) == 1


def test_mean_and_median_of_opposite_signs_are_inconclusive() -> None:
    a = make_session((10.0,) * 9 + (10.001,), "a", "1.0")
    b = make_session((9.999,) * 6 + (10.2, 10.21, 10.22, 10.2), "b", "1.1")
    verdict = only(a, b).verdict
    assert (verdict.name, verdict.code) == ("inconclusive", "estimators_disagree")


def test_a_blocking_difference_is_not_comparable_and_keeps_its_numbers() -> None:
    other = new(1.1)
    pair = only(old(), replace(other, board=replace(other.board, threads=2)))
    assert (pair.verdict.name, pair.verdict.code) == ("not_comparable", "threads")
    assert pair.estimates[0].ratio == pytest.approx(1.1)
    assert pair.b.value_ns == pytest.approx(11e6, rel=1e-3)


def test_a_doubt_leaves_the_verdict_and_marks_it() -> None:
    pair = only(old(), new(1.1))
    assert (pair.verdict.name, "clock" in pair.verdict.unconfirmed) == ("slower", True)


# --- the negative control -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "control", "name"),
    [
        (1.10, 1.0, "slower"),
        (1.10, 1.06, "inconclusive"),  # beyond the margin
        (1.02, 1.02, "inconclusive"),  # all of it may be the machine
        (1.10, 1.01, "slower"),  # outlasts what the machine changed by
        (1.0, 1.029, "inconclusive"),  # not equivalent any more
        (1.0, 1.01, "equivalent"),
    ],
)
def test_calibration_that_changed_takes_the_verdict_away(subject: float, control: float, name: str) -> None:
    sources = [source(old(), calibration(old())), source(new(subject), calibration(new(control)))]
    found = compare(sources)
    if subject == 1.02:
        found = compare(sources, margin=0.01)
    verdict = found.compared[0].verdict
    assert verdict.name == name
    assert (verdict.code == "machine_changed") == (name == "inconclusive")
    assert found.calibration[0].case == "calib-copy"


def test_arms_that_alternate_need_no_control() -> None:
    arms = make_arms(EVEN[:4], times(1.1)[:4])
    controls = [calibration(arm) for arm in make_arms(EVEN[:4], times(1.2)[:4])]
    found = compare([source(*arms, *controls)])
    assert found.compared[0].verdict.name == "slower"


# --- cycles -------------------------------------------------------------------------------------


def clocked(record: Record, mhz: float) -> Source:
    """Return a bundle whose builds ran at this clock."""
    made = source(record)
    seen = made.observed[0]
    builds = tuple(
        each._replace(cycles=tuple(value + math.log(mhz) for value in each.runs)) for each in seen.builds
    )
    return made._replace(observed=(seen._replace(builds=builds, clock_mhz=mhz),))


def test_a_difference_that_is_not_there_in_cycles_may_come_from_the_clock() -> None:
    (pair,) = compare([clocked(old(), 1020.0), clocked(new(1.02), 1000.0)], margin=0.01).compared
    assert (pair.verdict.name, pair.verdict.code) == ("inconclusive", "clock")
    assert pair.cycles is not None
    assert pair.cycles.ratio == pytest.approx(1.0)


def test_a_difference_that_is_there_in_cycles_too_is_confirmed() -> None:
    (pair,) = compare([clocked(old(), 1000.0), clocked(new(1.1), 1001.0)]).compared
    assert pair.verdict.name == "slower"
    assert "cycles" not in pair.verdict.unconfirmed


def test_equal_times_at_another_clock_are_unconfirmed() -> None:
    (pair,) = compare([clocked(old(), 1000.0), clocked(new(), 1029.0)], margin=0.02).compared
    assert pair.verdict.name == "equivalent"
    assert "cycles" in pair.verdict.unconfirmed


# --- structures and layers ----------------------------------------------------------------------


def structured(record: Record, structures: str) -> Record:
    builds = tuple(
        replace(build, structure_hash=each * 64)
        for build, each in zip(record.builds, structures, strict=True)
    )
    return replace(record, builds=builds)


def test_modes_are_counted_and_tested_and_compared_within() -> None:
    a = structured(make_session((10.0, 10.01, 9.99, 10.5, 10.51), "a"), "aaabb")
    b = structured(make_session((10.01, 10.5, 10.49, 10.51, 10.5), "b"), "abbbb")
    pair = only(a, b)
    assert [(mode.a, mode.b) for mode in pair.modes] == [(2, 4), (3, 1)]
    # Of the C(10, 5) = 252 ways: those no likelier than C(6,2)·C(4,3) = 60: 15 + 60 on either side… by hand
    # 4·C(6,2)=60, 1·C(6,1)=6, and on the other side 60 and 6: (60 + 6 + 60 + 6) / 252.
    assert pair.modes_p == pytest.approx(132 / 252)
    within = pair.estimates[1]
    assert (within.estimand, within.verdict) == ("same_structure", "equivalent")


def test_structures_are_not_compared_within_across_releases() -> None:
    pair = only(structured(old(), "aaabb"), structured(new(), "aabbb"))
    assert [one.estimand for one in pair.estimates] == ["configuration"]
    assert len(pair.modes) == 2


def test_layers_are_aligned_where_both_sides_tell_them() -> None:
    layers = (Layer("conv1", "Convolution", "t1"),)
    changed = (Layer("conv1", "Convolution", "t2"),)
    pair = only(replace(old(), layers=layers), replace(new(), layers=changed))
    assert pair.layers is not None
    assert pair.layers[0].kind == "changed"
    assert only(replace(old(), layers=layers), new()).layers is None


# --- who stands against whom --------------------------------------------------------------------


def test_releases_stand_in_the_order_of_their_versions() -> None:
    records = [make_session(times(f), v, v) for v, f in (("1.10", 1.2), ("1.9", 1.1), ("1.8", 1.0))]
    found = compare([source(record) for record in records])
    assert [(pair.a.name, pair.b.name) for pair in found.compared] == [
        ("ort-1.8", "ort-1.9"),
        ("ort-1.8", "ort-1.10"),
    ]


def test_two_releases_stand_as_they_were_named() -> None:
    assert only(new(), old()).a.name == "ort-1.1"


def test_bundles_of_one_release_are_one_side() -> None:
    (pair,) = compare([source(old(name="o1")), source(new()), source(old(name="o2"))]).compared
    assert (pair.a.sessions, len(pair.a.builds), pair.b.sessions) == (2, 10, 1)


def test_bundles_that_differ_in_nothing_stand_for_themselves() -> None:
    found = compare([source(old(name="monday")), source(old(name="tuesday"))])
    assert (found.across, found.across_given) == ("release", False)
    assert (found.compared[0].a.name, found.compared[0].b.name) == ("monday", "tuesday")


def test_what_differs_first_is_what_is_compared() -> None:
    slow = old(1.1, "two")
    assert compare([source(old()), source(replace(slow, board=replace(slow.board, threads=2)))]).across == (
        "setting"
    )
    other = replace(slow, board=replace(slow.board, name="Another CPU"))
    assert compare([source(old()), source(other)]).across == "device"
    assert compare([source(old()), source(other)], across="release").compared[0].verdict.name == (
        "not_comparable"
    )


def test_variants_are_matched_by_name_and_judged_as_a_family() -> None:
    def both(make: Any, factor: float) -> Source:
        return source(*(variant(make(factor), name) for name in ("one", "two")))

    found = compare([both(old, 1.0), both(new, 1.0005)])
    assert [pair.variant for pair in found.compared] == ["one", "two"]
    assert all(pair.estimates[0].p_adjusted >= pair.estimates[0].p for pair in found.compared)
    assert found.compared[0].estimates[0].p_adjusted == pytest.approx(
        min(1.0, 2 * found.compared[0].estimates[0].p)
    )


def test_two_variants_across_a_setting_are_a_pair() -> None:
    hwc8 = variant(old(1.1, "two"), "hwc8")
    planned = {**hwc8.settings.planned, "io_layout": "hwc8"}
    hwc8 = replace(hwc8, settings=replace(hwc8.settings, planned=planned, effective={}))
    (pair,) = compare([source(old()), source(hwc8)], across="setting").compared
    assert pair.variant == "base → hwc8"


def test_the_geometric_mean_is_told_only_where_it_is_declared() -> None:
    sources = [source(*(variant(make(f), n) for n in ("one", "two"))) for make, f in ((old, 1.0), (new, 1.1))]
    assert compare(sources).geometric_mean is None
    found = compare(sources, declared_mean=True).geometric_mean
    assert found is not None
    assert found.ratio == pytest.approx(1.1)
    assert found.high - found.low < compare(sources).compared[0].estimates[0].high - 1.0


def test_arms_are_named_by_what_tells_them_apart() -> None:
    a, b = make_arms(EVEN[:4], EVEN[:4])
    same = replace(b, runtime=a.runtime)
    wide = replace(same, case=replace(same.case, variant="w"))
    assert [g.name for g in sides.arms([source(a, b)])] == ["ort-1.0", "ort-1.1"]
    assert [g.name for g in sides.arms([source(a, wide)])] == ["base", "w"]
    assert [g.name for g in sides.arms([source(a, same)])] == ["arm A", "arm B"]


def test_arms_that_are_two_variants_stand_against_each_other() -> None:
    a, b = make_arms(EVEN[:4], times(1.1)[:4])
    wide = replace(b, case=replace(b.case, variant="wide"), runtime=a.runtime)
    (pair,) = compare([source(a, wide)]).compared
    assert (pair.variant, pair.verdict.name) == ("base → wide", "slower")


def test_sessions_that_alternate_are_pooled_by_round() -> None:
    sources = [source(*make_arms(EVEN[:4], times(1.1)[:4], f"s{i}")) for i in range(2)]
    (pair,) = compare(sources).compared
    assert (pair.estimates[0].n_a, pair.a.sessions) == (4, 2)


# --- what can't be compared ---------------------------------------------------------------------


def test_one_ordinary_bundle_is_no_comparison() -> None:
    with pytest.raises(UsageError, match="holds one side only"):
        compare([source(old())])


def test_an_arm_alone_is_no_comparison() -> None:
    a, _ = make_arms(EVEN[:4], EVEN[:4])
    with pytest.raises(UsageError, match="has no arm B"):
        compare([source(a)])


def test_one_of_three_named_twice_counts_once() -> None:
    found = compare([source(old()), source(new()), source(new())])
    assert len(found.compared) == 1
    assert any("counts once" in note for note in found.notes)


def test_a_part_of_a_session_is_no_other_session() -> None:
    whole = source(old(), variant(old(), "wide"))
    with pytest.raises(Unavailable, match="hold the same runs"):
        compare([whole, source(old(), name="part")])


def test_a_failed_side_among_several_leaves_the_others() -> None:
    failed = make_failed(run_id="f", session_id="f")
    failed = replace(failed, runtime=make_session((1.0,), "f", "1.2").runtime)
    found = compare([source(old()), source(new(1.1)), source(failed)])
    assert [pair.verdict.name for pair in found.compared] == ["slower", "not_comparable"]


def test_only_calibrations_are_compared_as_subjects() -> None:
    with pytest.raises(Unavailable, match="no variant in common"):
        compare([source(calibration(old())), source(calibration(new()))])


def test_a_coarse_clock_makes_steps_no_evidence() -> None:
    def coarse(record: Record) -> Record:
        runs = tuple(
            replace(run, timer_check=replace(run.timer_check, step_share_of_median=0.05))
            for run in record.runs
        )
        return replace(record, runs=runs)

    a, b = make_session((10.0,) * 3, "a", "1.0"), make_session((10.2,) * 3, "b", "1.1")
    assert only(a, b, margin=0.01).verdict.name == "slower"
    assert only(coarse(a), coarse(b)).verdict.name == "inconclusive"


def test_a_record_of_another_case_is_not_matched() -> None:
    with pytest.raises(Unavailable):
        compare([source(make_record()), source(replace(new(), case=replace(new().case, id="other")))])
