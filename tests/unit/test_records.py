"""From turns to a record."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from repro import records
from repro.backends.cuda import Gpu
from repro.schema import Effective, ErrorSeen, Layer, Stage
from repro.turn import Result
from tests.builders import make_failed, make_record


def test_a_stage_failed_where_any_turn_failed_in_it() -> None:
    error = ErrorSeen("check", "wrong_output", None, "m", "s")
    good = Result(stages=(Stage("prepare", "ok", 0, 1, None), Stage("check", "ok", 1, 2, None)))
    bad = Result(stages=(Stage("prepare", "ok", 5, 6, None), Stage("check", "failed", 6, 7, error)))
    merged = {stage.name: stage for stage in records._stages([good, bad], records.STAGES)}
    assert (merged["prepare"].status, merged["prepare"].start_ns, merged["prepare"].end_ns) == ("ok", 0, 6)
    assert (merged["check"].status, merged["check"].error) == ("failed", error)
    assert merged["run"].status == "not_reached"


def test_what_a_turn_found_before_it_was_ended_is_kept(tmp_path: Path) -> None:
    begun = Stage("prepare", "ok", 0, 1, None), Stage("build", "ok", 2, None, None)
    (tmp_path / "stages.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, begun)))
    Result(stages=(), provider="somebody").write(tmp_path, "found.json")
    result = records.ended_early(tmp_path, "crash", "SIGSEGV", "the process was ended", 9)
    assert result.provider == "somebody"
    assert [(s.name, s.status, s.start_ns, s.end_ns) for s in result.stages] == [
        ("prepare", "ok", 0, 1),
        ("build", "failed", 2, 9),
    ]
    error = result.stages[-1].error
    assert error is not None
    assert (error.stage, error.code, error.signal) == ("build", "crash", "SIGSEGV")


def test_missing_names_each_gap_once_with_a_reason() -> None:
    gaps = {gap.what: gap.reason for gap in records.missing(make_record(boot=None))}
    assert gaps["boot"] == "this system names no boot"
    assert gaps["builds.plan_sha256"] == "this backend keeps no plan"
    assert "board.name" not in gaps
    assert len(gaps) == len(records.missing(make_record(boot=None)))


def test_a_record_survives_its_file() -> None:
    for record in (make_record(), make_failed()):
        assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


def layers(*reformats: bool) -> tuple[Layer, ...]:
    return tuple(Layer(f"l{i}", "x", is_reformat=each, time_ns=100) for i, each in enumerate(reformats))


def test_layers_that_only_move_data_are_flagged_with_their_share() -> None:
    (flag,) = records._of_engine(
        Result(stages=(), layers=layers(True, False, False, True)), Result(stages=()), None
    )
    assert flag.code == "reformat"
    assert flag.detail == "2 of 4 layers only change the layout, 50% of the profiled time"
    assert records._of_engine(Result(stages=(), layers=layers(False)), Result(stages=()), None) == []


def test_layers_that_were_not_timed_have_no_share() -> None:
    untimed = (Layer("l", "Cast", is_reformat=True),)
    assert records._of_engine(Result(stages=(), layers=untimed), Result(stages=()), None) == []


@pytest.mark.parametrize(
    ("integrated", "transfers", "flagged"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_managed_memory_on_an_integrated_gpu_is_flagged(
    integrated: bool, transfers: bool, flagged: bool
) -> None:
    gpu = Gpu("g", "GPU-0", "8.7", 14, integrated, 1, 1, "12.0")
    run = Result(stages=(), effective={"transfers": Effective(transfers, "echo")})
    codes = [flag.code for flag in records._of_engine(Result(stages=()), run, gpu)]
    assert codes == (["managed_memory"] if flagged else [])


@pytest.mark.parametrize(
    ("foreign_s", "measured_s", "flagged"),
    [
        (0.2, 3.0, True),
        (0.1, 3.0, False),
        (None, 3.0, False),
        # Two ticks within a short run are what the counters themselves leave uncertain.
        (0.02, 0.3, False),
        (0.06, 0.3, True),
    ],
)
def test_other_processes_are_flagged_where_the_counters_can_tell(
    foreign_s: float | None, measured_s: float, flagged: bool
) -> None:
    assert bool(records._foreign_load(foreign_s, measured_s)) is flagged
