"""What a replay says of claims: each kind, holding and not, and what makes it another experiment."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from repro import answer, attained, boards
from repro.observed import Observed, observe
from repro.schema import (
    Absolute,
    AnyClaim,
    BelowRoof,
    ErrorSeen,
    Fails,
    OutputCheck,
    PowerMode,
    Ratio,
    Record,
    Reference,
    ReleaseSeen,
    Reply,
    Stage,
    StatedEfficiency,
    Work,
    WrongOutput,
)
from tests.builders import make_arms, make_failed, make_record, make_run

replace = msgspec.structs.replace
STEADY = (10.0, 10.01, 9.99, 10.0, 10.02)
HALF = tuple(each / 2 for each in STEADY)


def seen(*records: Record) -> list[Observed]:
    return [observe(record, "id", "file.zip", {}) for record in records]


def variant(name: str, medians: tuple[float, ...], **changes: Any) -> Record:
    record = make_record(medians, record_name=f"{name}-ort-1.0", **changes)
    return replace(record, case=replace(record.case, variant=None if name == "base" else name))


def on_another_board(record: Record) -> Record:
    return replace(record, board=replace(record.board, name="Another CPU"))


def ask(*claims: AnyClaim, there: Any, here: Any, references: tuple[Reference, ...] = ()) -> Reply:
    return answer.answer(claims, references, seen(*there), seen(*here))


def only(reply: Reply) -> tuple[str, str]:
    (one,) = reply.answers
    assert reply.outcome == one.outcome
    return one.outcome, one.code


BASE, WIDE = variant("base", STEADY), variant("wide", HALF)
RATIO = Ratio(record_a="base-ort-1.0", record_b="wide", factor=0.5, tolerance=0.05)

# --- ratio --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "tolerance", "wide", "expected"),
    [
        (0.5, 0.05, HALF, ("reproduced", "within")),
        (0.5, 0.05, STEADY, ("not_reproduced", "outside")),
        (0.5, 0.05, tuple(2.5 * each for each in STEADY), ("not_reproduced", "outside")),
        (0.9, 0.5, tuple(1.1 * each for each in STEADY), ("not_reproduced", "other_sign")),
        (1.02, 0.05, STEADY, ("not_reproduced", "no_sign")),
        (1.001, 0.05, STEADY, ("undecided", "no_sign")),
        (1.0, 0.05, STEADY, ("reproduced", "within")),
        (0.5, 0.01, tuple(each * 1.0099 for each in HALF), ("undecided", "across")),
        (0.5, 0.05, HALF[:1], ("undecided", "no_interval")),
    ],
)
def test_a_ratio_is_answered_by_interval_and_sign(
    factor: float, tolerance: float, wide: tuple[float, ...], expected: tuple[str, str]
) -> None:
    claim = replace(RATIO, factor=factor, tolerance=tolerance)
    few = STEADY[: len(wide)]
    reply = ask(claim, there=(BASE, WIDE), here=(variant("base", few), variant("wide", wide)))
    assert only(reply) == expected
    (one,) = reply.answers
    assert one.there is not None
    assert one.there.value == pytest.approx(0.5, rel=1e-3)
    assert one.here is not None
    assert one.here.unit == "ratio"


def test_a_ratio_holds_on_another_board_and_with_another_release() -> None:
    release = ReleaseSeen("ort-2.0", "2.0")
    here = [on_another_board(each) for each in (BASE, WIDE)]
    here = [replace(each, runtime=replace(each.runtime, release=release)) for each in here]
    assert only(ask(RATIO, there=(BASE, WIDE), here=here)) == ("reproduced", "within")


def test_a_ratio_of_another_model_or_precision_is_another_experiment() -> None:
    other = replace(WIDE, model=replace(WIDE.model, digests={"fp32": "b" * 64}))
    reply = ask(RATIO, there=(BASE, WIDE), here=(BASE, other))
    assert only(reply) == ("different_experiment", "differs")
    assert [each.field for each in reply.answers[0].because] == ["model"]


def test_the_arms_of_an_alternating_session_are_a_ratio() -> None:
    there = make_arms((10.0, 10.1) * 3, (5.0, 5.05) * 3)
    claim = Ratio(record_a="A", record_b="B", factor=0.5, tolerance=0.05)
    assert only(ask(claim, there=there, here=there)) == ("reproduced", "within")
    # And where nothing is claimed, their ratio is what is compared.
    assert only(ask(there=there, here=there)) == ("reproduced", "within")
    equal = make_arms((10.0, 10.1) * 3, (10.0, 10.1) * 3)
    assert only(ask(there=there, here=equal)) == ("not_reproduced", "outside")


# --- absolute -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (10.0, ("reproduced", "within")),
        (5.0, ("not_reproduced", "outside")),
        (20.0, ("not_reproduced", "outside")),
        (10.3, ("undecided", "across")),
    ],
)
def test_a_time_on_the_same_board(ms: float, expected: tuple[str, str]) -> None:
    assert only(ask(Absolute(record="base", ms=ms), there=(BASE,), here=(BASE,))) == expected


def with_power_mode(record: Record, name: str) -> Record:
    return replace(record, board=replace(record.board, power_mode=PowerMode(name, {})))


@pytest.mark.parametrize(
    ("there", "here", "field"),
    [
        (BASE, on_another_board(BASE), "board"),
        (
            BASE,
            replace(BASE, runtime=replace(BASE.runtime, release=ReleaseSeen("ort-2.0", "2.0"))),
            "release",
        ),
        (with_power_mode(BASE, "40W"), with_power_mode(BASE, "MAXN"), "power_mode"),
        (BASE, replace(BASE, board=replace(BASE.board, threads=2)), "threads"),
    ],
)
def test_a_time_elsewhere_is_another_experiment(there: Record, here: Record, field: str) -> None:
    reply = ask(Absolute(record="base", ms=10.0), there=(there,), here=(here,))
    assert only(reply) == ("different_experiment", "differs")
    assert field in [each.field for each in reply.answers[0].because]
    assert reply.answers[0].here is not None, "the times are told all the same"


# --- below a roof -------------------------------------------------------------------------------


def on_h100(record: Record) -> Record:
    """Return a record of a board whose roofs are known, with work that they are roofs of."""
    row = next(name for name in boards.table() if "h100" in name)
    board = replace(record.board, matched_id=row, compute_capability="9.0", sm_count=132, threads=None)
    runs = tuple(replace(run, sm_clock_mhz=1980.0, memory_clock_mhz=2619.0) for run in record.runs)
    return replace(record, board=board, work=Work(2 * 10**10, 10**9, 3 * 10**9, ()), runs=runs)


def test_a_share_of_a_roof() -> None:
    record = on_h100(BASE)
    found = attained.of(record, 0.01, attained.Calibration())
    assert found is not None
    roof = found.roofs[-1]
    claim = BelowRoof(record="base", roof=roof.name, fraction=roof.seconds / 0.01)
    assert only(ask(claim, there=(record,), here=(record,))) == ("reproduced", "within")
    slower = replace(claim, fraction=2 * claim.fraction)
    assert only(ask(slower, there=(record,), here=(record,))) == ("reproduced", "within"), "at most so much"
    quick = replace(record, runs=on_h100(WIDE).runs)
    assert only(ask(claim, there=(record,), here=(quick,))) == ("not_reproduced", "outside")
    unknown = replace(claim, roof="glass")
    assert only(ask(unknown, there=(record,), here=(record,))) == ("could_not_run", "no_roof")


# --- failures -----------------------------------------------------------------------------------


def failed(message: str, stage: str = "build", code: str = "RuntimeError") -> Record:
    record = make_failed(message)
    error = ErrorSeen(stage, code, None, message, f"{stage}/{code}: {message}")  # type: ignore[arg-type]
    stages = [Stage(each.name, "ok", 0, 1, None) for each in record.stages if each.name != stage]
    return replace(record, stages=(*stages, Stage(stage, "failed", 1, 2, error)))  # type: ignore[arg-type]


BROKEN = failed("it broke")
FAILS = Fails(stage="build", signature="build/RuntimeError: it broke")


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (BROKEN, ("reproduced", "same_failure")),
        (failed("it broke otherwise"), ("not_reproduced", "other_signature")),
        (failed("it broke", stage="run"), ("not_reproduced", "other_stage")),
        (make_record(), ("not_reproduced", "ran")),
        (failed("std::bad_alloc"), ("could_not_run", "memory")),
        (failed("no room", code="MemoryError"), ("could_not_run", "memory")),
        (make_record((), status="unavailable", reason="no int8 here"), ("could_not_run", "unavailable")),
    ],
)
def test_a_failure_is_answered_by_stage_and_signature(here: Record, expected: tuple[str, str]) -> None:
    assert only(ask(FAILS, there=(BROKEN,), here=(here,))) == expected


def test_running_out_of_memory_is_reproduced_where_it_is_the_claim() -> None:
    record = failed("std::bad_alloc")
    claim = Fails(stage="build", signature="build/RuntimeError: std::bad_alloc")
    assert only(ask(claim, there=(record,), here=(record,))) == ("reproduced", "same_failure")


def test_a_failure_here_is_no_answer_to_a_time() -> None:
    there = make_record(STEADY)
    reply = ask(Absolute(record="base", ms=10.0), there=(there,), here=(BROKEN,))
    assert only(reply) == ("could_not_run", "no_time_here")
    assert reply.answers[0].reason == FAILS.signature
    reply = ask(Absolute(record="base", ms=10.0), there=(BROKEN,), here=(there,))
    assert only(reply) == ("could_not_run", "no_time_there")


# --- wrong outputs ------------------------------------------------------------------------------


def wrong(error: float | None, problem: str = "error") -> Record:
    check = OutputCheck("fp64_at_sampled_positions", "x", 256, error, 1e-5, False, error is None, (problem,))
    record = failed(problem, stage="check", code="wrong_output")
    return replace(record, builds=tuple(replace(each, check=check) for each in BASE.builds[:1]))


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (wrong(0.11), ("reproduced", "as_wrong")),
        (wrong(5.0), ("reproduced", "as_wrong")),
        (wrong(0.001), ("not_reproduced", "otherwise_wrong")),
        (wrong(None, "nan"), ("not_reproduced", "otherwise_wrong")),
        (make_record(STEADY), ("not_reproduced", "right")),
        (replace(BROKEN, builds=()), ("could_not_run", "no_time_there")),
    ],
)
def test_a_wrong_output(here: Record, expected: tuple[str, str]) -> None:
    claim = WrongOutput(record="base", norm_error=0.1)
    assert only(ask(claim, there=(wrong(0.1),), here=(here,))) == expected


# --- what stands in a claim alone ---------------------------------------------------------------

STATED = StatedEfficiency(
    record="thread", flop=0.0287e12, peak_flops=47.3e12, peak_is_sparse=True, time_ms=9.0, percent=5.46
)
THREAD = Reference(id="thread", device="orin", board="b", release="r", statistics={}, source="s")


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(5.46, ("not_reproduced", "other_arithmetic")), (6.74, ("reproduced", "arithmetic"))],
)
def test_stated_efficiency_is_calculated_again_and_bears_on_nothing(
    percent: float, expected: tuple[str, str]
) -> None:
    claim = replace(STATED, percent=percent)
    reply = ask(claim, there=(BASE,), here=(BASE,), references=(THREAD,))
    stated, times = reply.answers
    assert (stated.outcome, stated.code, stated.counts) == (*expected, False)
    assert (times.claim, times.outcome, reply.outcome) == (None, "reproduced", "reproduced")


def test_stated_efficiency_of_a_record_is_a_time_where_its_arithmetic_holds() -> None:
    claim = replace(STATED, record="base", time_ms=10.0, percent=100 * 0.0287 / 47.3 / 0.01)
    assert only(ask(claim, there=(BASE,), here=(BASE,))) == ("reproduced", "within")
    assert only(ask(replace(claim, percent=1.0), there=(BASE,), here=(BASE,)))[1] == "other_arithmetic"


def test_a_figure_from_elsewhere_can_not_be_run_again() -> None:
    reply = ask(Absolute(record="thread", ms=9.0), there=(BASE,), here=(BASE,), references=(THREAD,))
    assert (reply.answers[0].code, reply.answers[0].counts) == ("elsewhere", False)
    assert reply.outcome == "reproduced", "of the times, which is what is left"


# --- the whole ----------------------------------------------------------------------------------


def test_nothing_claimed_sets_the_times_against_each_other() -> None:
    assert only(ask(there=(BASE,), here=(BASE,))) == ("reproduced", "within")
    assert only(ask(there=(BASE,), here=(variant("base", HALF),))) == ("not_reproduced", "outside")
    assert only(ask(there=(BASE,), here=(on_another_board(BASE),))) == ("different_experiment", "differs")


def test_the_overall_answer_is_the_weakest() -> None:
    good = RATIO
    bad = replace(RATIO, factor=2.0)
    elsewhere = Absolute(record="base", ms=10.0)
    here = [on_another_board(each) for each in (BASE, WIDE)]
    assert ask(good, bad, there=(BASE, WIDE), here=(BASE, WIDE)).outcome == "not_reproduced"
    assert ask(good, elsewhere, there=(BASE, WIDE), here=here).outcome == "different_experiment"
    assert ask(good, Absolute(record="nowhere", ms=1.0), there=(BASE, WIDE), here=(BASE, WIDE)).outcome == (
        "could_not_run"
    )
    assert ask(good, good, there=(BASE, WIDE), here=(BASE, WIDE)).outcome == "reproduced"


def test_a_name_that_could_be_two_records_is_none() -> None:
    other = replace(WIDE, record_name="wide-ort-2.0")
    assert only(ask(RATIO, there=(BASE, WIDE, other), here=(BASE, WIDE)))[1] == "no_record"


def test_nothing_to_answer_is_no_answer() -> None:
    assert ask(there=(), here=()).outcome == "could_not_run"


def test_without_running_each_claim_has_the_same_answer() -> None:
    reply = answer.without_running((RATIO, FAILS, STATED), (THREAD,), "could_not_run", "it is private")
    assert [each.outcome for each in reply.answers] == ["could_not_run", "could_not_run", "not_reproduced"]
    assert (reply.outcome, reply.reason) == ("could_not_run", "it is private")


@pytest.mark.parametrize(
    "claim",
    [
        replace(RATIO, factor=0.0),
        replace(RATIO, tolerance=-1.0),
        replace(RATIO, factor=1e400),
        replace(STATED, record="base", peak_flops=0.0),
        replace(STATED, record="base", time_ms=-1.0),
        Absolute(record="base", ms=0.0),
        Absolute(record="base", ms=math.nan),
    ],
)
def test_numbers_that_mean_nothing_answer_nothing(claim: AnyClaim) -> None:
    assert only(ask(claim, there=(BASE, WIDE), here=(BASE, WIDE))) == ("could_not_run", "meaningless")


def test_a_run_that_is_all_one_value_has_an_interval_of_the_clock() -> None:
    flat = replace(BASE, runs=tuple(make_run(i, 10.0) for i in range(5)))
    assert only(ask(Absolute(record="base", ms=10.0), there=(flat,), here=(flat,))) == (
        "reproduced",
        "within",
    )
