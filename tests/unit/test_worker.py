"""The worker's bookkeeping; its processes are tested in tests/e2e."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import measure, worker
from repro.records import Sitting, Taken
from repro.schema import CutShort, Job, Kit, Place, Protocol, Stage, Turn
from repro.turn import Result
from tests.unit.test_turn import task


def make_session(folder: Path, **protocol: Any) -> worker.Session:
    plan = msgspec.structs.replace(Protocol("test", 3, 1, 0.001, 3, 0.0, None), **protocol)
    job = Job(
        kit=Kit("0", "0"),
        run_id="r",
        session_id="r",
        seed=1,
        device="cpu",
        backend="onnxruntime",
        release="ort-1.0",
        protocol=plan,
        threads=1,
        timeout_build_s=60,
        timeout_run_s=60,
        place=Place("host"),
        subjects=(task(folder).subject,),
    )
    return worker.Session(job, folder, folder / "out", Sitting.begin(job), lambda event: None)


@pytest.mark.parametrize(
    ("elapsed_s", "rounds_done", "cut"),
    [
        (24.0, 1, False),
        (25.0, 1, False),
        (25.1, 1, True),
        (100.0, 0, False),
        (33.0, 2, False),
        (34.0, 2, True),
    ],
)
def test_a_round_that_would_exceed_the_budget_is_not_begun(
    tmp_path: Path, elapsed_s: float, rounds_done: int, cut: bool
) -> None:
    session = make_session(tmp_path, budget_s=50.0)
    found = worker._cut(session, rounds_done, elapsed_s)
    assert (found is not None) == cut
    if found:
        assert found.rounds_done == rounds_done


def test_without_a_budget_nothing_is_cut(tmp_path: Path) -> None:
    assert worker._cut(make_session(tmp_path), 1, 1e6) is None


def test_a_cut_is_named_in_the_taken_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(tmp_path, budget_s=1e-9)
    order = measure.order(["base"], session.job.protocol, 1, build_outlives_process=False)
    good = Result(stages=(Stage("run", "ok", 0, 1, None),))
    monkeypatch.setattr(worker, "take_turn", lambda s, turn, i, left: Taken(turn, tmp_path, good, 1))
    taken, cut = worker.take_turns(session, order)
    assert [entry.turn.round for entry in taken] == [0]
    assert cut is not None
    assert cut.rounds_done == 1
    assert "would take the session beyond" in cut.reason


def test_a_failed_subject_takes_no_more_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(tmp_path)
    order = measure.order(["base", "other"], session.job.protocol, 1, build_outlives_process=False)

    def take(s: object, turn: Turn, i: int, left: object) -> Taken:
        status = "failed" if turn.subject == "base" else "ok"
        return Taken(turn, tmp_path, Result(stages=(Stage("run", status, 0, 1, None),)), 1)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "take_turn", take)
    taken, _ = worker.take_turns(session, order)
    subjects = [entry.turn.subject for entry in taken]
    assert (subjects.count("base"), subjects.count("other")) == (1, 3)


def test_arms_alternate_and_other_subjects_are_shuffled(tmp_path: Path) -> None:
    job = make_session(tmp_path, builds=4).job
    (subject,) = job.subjects
    replace = msgspec.structs.replace
    both = tuple(replace(subject, record_name=arm.lower(), arm=arm) for arm in ("A", "B"))
    order = worker.order_of(replace(job, subjects=both))
    assert [turn.round for turn in order] == [0] * 4 + [1] * 4
    assert [turn.arm for turn in order][:4] in (list("ABBA"), list("BAAB"))
    assert {turn.arm for turn in worker.order_of(job)} == {None}


def test_when_an_arm_fails_its_quad_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(tmp_path)
    plan = msgspec.structs.replace(session.job.protocol, builds=6)
    order = measure.alternating("a", "b", plan, 1, build_outlives_process=False)

    def take(s: object, turn: Turn, i: int, left: object) -> Taken:
        status = "failed" if turn.subject == "a" and turn.round == 1 else "ok"
        return Taken(turn, tmp_path, Result(stages=(Stage("run", status, 0, 1, None),)), 1)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "take_turn", take)
    taken, cut = worker.take_turns(session, order)
    subjects = [(entry.turn.round, entry.turn.subject) for entry in taken]
    assert Counter(subjects) == {(0, "a"): 2, (0, "b"): 2, (1, "a"): 1, (1, "b"): 2}
    assert cut == CutShort("a failed", 2)


@pytest.mark.parametrize(
    ("late", "status", "oom", "code", "signal"),
    [
        ("the run took longer than 1 s", -9, False, "timeout", None),
        (None, -9, True, "out_of_memory", "SIGKILL"),
        (None, -11, False, "crash", "SIGSEGV"),
        (None, 3, False, "exit", None),
    ],
)
def test_every_early_end_is_told_apart(
    late: str | None, status: int, oom: bool, code: str, signal: str | None
) -> None:
    assert worker._why(late, status, oom=oom)[:2] == (code, signal)
