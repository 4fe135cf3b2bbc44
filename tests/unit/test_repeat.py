"""From a bundle back to a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import bundle, cases, lowering, repeat
from repro.backends import onnxruntime
from repro.errors import Refused, ReproError, Unavailable, UsageError
from repro.plan import Request
from repro.schema import Protocol, Record, SettingsSeen, Turn
from tests.builders import make_record, seal

CASES = Path(__file__).parents[1] / "e2e" / "cases"
PROTOCOL = Protocol("brief", 4, 1, 0.5, 20, 1.0, 50.0)
replace = msgspec.structs.replace


def record(variant: str | None = None, name: str | None = None, **changes: Any) -> Record:
    """Return a record of the case `tiny` as it is here."""
    experiment = cases.resolve(cases.load("tiny", CASES), variant)
    planned = lowering.plan(experiment.settings, {}, "cpu", onnxruntime.settings(gpu=False))
    base = make_record()
    installed = onnxruntime.release(gpu=False)
    name = name or f"{variant or 'base'}-{installed.name}"
    made = replace(
        base,
        record_name=name,
        case=experiment.ref,
        model=replace(base.model, digests=experiment.model_digests),
        settings=SettingsSeen(experiment.settings, planned.planned, {}, planned.inapplicable),
        runtime=replace(base.runtime, release=installed),
        protocol=replace(base.protocol, planned=PROTOCOL, seed=99, order=(Turn(0, 0, name, 0, 0),)),
    )
    return replace(made, **changes)


def opened(folder: Path, *records: Record) -> Path:
    return seal(folder / "b.zip", *records).path


def request(**changes: Any) -> Request:
    return Request(cases_folder=CASES, **changes)


def make(said: list[str] | None = None, **changes: Any) -> Any:
    return repeat.make(request(**changes), (said if said is not None else []).append)


# --- --like -------------------------------------------------------------------------------------


def test_like_takes_everything_from_the_records(tmp_path: Path) -> None:
    path = opened(tmp_path, record(), record("wide"))
    said: list[str] = []
    job, experiments, _ = make(said, like=path)
    assert [subject.record_name for subject in job.subjects] == list(bundle.read(path).records)
    assert (job.seed, job.protocol) == (99, PROTOCOL)
    assert {subject.threads for subject in job.subjects} == {1}, "as the records say, not as the default is"
    assert [each.variant for each in experiments.values()] == [None, "wide"]
    assert job.parent == bundle.read(path).id
    assert said[0] == "repeats b.zip; signer nobody signed this"
    assert said[1].startswith("it was made by another state of the kit (0.0.0)")


def test_like_repeats_settings_that_were_given_on_top(tmp_path: Path) -> None:
    experiment = cases.resolve(cases.load("tiny", CASES), None, {"warm_up_ms": "3"})
    seen = record()
    planned = {**seen.settings.planned, "warm_up_ms": 3}
    settings = replace(seen.settings, requested=experiment.settings, planned=planned)
    job, *_ = make(like=opened(tmp_path, replace(seen, case=experiment.ref, settings=settings)))
    assert job.subjects[0].settings.warm_up_ms == 3


def test_like_repeats_an_alternating_session_as_one(tmp_path: Path) -> None:
    names = [f"{arm.lower()}-base-{onnxruntime.release(gpu=False).name}" for arm in "AB"]
    order = tuple(Turn(0, i, name, 0, 0, arm) for i, (name, arm) in enumerate(zip(names, "AB", strict=True)))
    both = [record(name=name) for name in names]
    both = [replace(each, protocol=replace(each.protocol, order=order)) for each in both]
    said: list[str] = []
    job, *_ = make(said, like=opened(tmp_path, *both))
    assert [(s.arm, s.record_name) for s in job.subjects] == list(zip("AB", names, strict=True))
    assert "both arms are the same" in said[-1]


@pytest.mark.parametrize(
    "option",
    [
        {"release": "ort-1"},
        {"backend": "onnxruntime"},
        {"protocol": "forum"},
        {"builds": 3},
        {"runs": 1},
        {"duration_s": 1.0},
        {"iterations": 3},
        {"threads": 1},
        {"calibrate": False},
        {"rounds": 3},
    ],
)
def test_like_takes_no_option_that_changes_the_experiment(tmp_path: Path, option: dict[str, Any]) -> None:
    (name,) = option
    shown = "--" + name.removesuffix("_s")
    with pytest.raises(UsageError, match=f"--like repeats everything, so {shown} can't be given"):
        make(like=opened(tmp_path, record()), **option)


def test_like_takes_no_case_and_no_second_bundle(tmp_path: Path) -> None:
    path = opened(tmp_path, record())
    with pytest.raises(UsageError, match="takes the case from the bundle"):
        make(like=path, case="tiny")
    with pytest.raises(UsageError, match="exclude each other"):
        make(like=path, against=path)


# --- what can't be repeated ---------------------------------------------------------------------

GOOD = record()


def with_case(**changes: Any) -> Record:
    return replace(GOOD, case=replace(GOOD.case, **changes))


def with_runtime(**changes: Any) -> Record:
    return replace(GOOD, runtime=replace(GOOD.runtime, **changes))


def with_protocol(**changes: Any) -> Record:
    return replace(GOOD, protocol=replace(GOOD.protocol, planned=replace(PROTOCOL, **changes)))


@pytest.mark.parametrize("how", ["like", "against"])
@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (with_case(id="elsewhere"), Unavailable, "case elsewhere is not known here: .* --cases"),
        (with_case(digest="0" * 64), Unavailable, r"is another experiment here .*its model is the same"),
        (with_case(variant="nope"), Unavailable, "unknown variant"),
        (with_case(id="a\x1b[2J"), Refused, "names things as the kit never does"),
        (with_runtime(device="orin"), Unavailable, "onnxruntime does not measure on orin"),
        (with_runtime(device="toaster"), Unavailable, "unknown device"),
        (with_runtime(backend="abacus"), Unavailable, "unknown backend"),
        (
            with_runtime(release=replace(GOOD.runtime.release, name="ort-0.1")),
            Unavailable,
            "unknown release 'ort-0.1'",
        ),
        (replace(GOOD, board=replace(GOOD.board, threads=4096)), Unavailable, "it ran on 4096 threads"),
        (replace(GOOD, board=replace(GOOD.board, threads=-1)), Unavailable, "it ran on -1 threads"),
        (replace(GOOD, origin="imported"), Unavailable, "was imported"),
        (replace(GOOD, role="calibration"), Unavailable, "is not of one session"),
        (with_protocol(builds=10**9), Refused, "builds=1000000000: 1 to 1000 can be repeated"),
        (with_protocol(seconds=-1.0), Refused, "seconds=-1.0"),
        (with_protocol(iterations=0), Refused, "iterations=0"),
    ],
)
def test_what_can_not_be_repeated_here_is_told(
    tmp_path: Path, how: str, changed: Record, error: type[ReproError], words: str
) -> None:
    with pytest.raises(error, match=words):
        make(None, **{how: opened(tmp_path, changed)})


def test_another_model_of_the_same_name_is_told(tmp_path: Path) -> None:
    other = replace(with_case(digest="0" * 64), model=replace(GOOD.model, digests={"fp32": "b" * 64}))
    with pytest.raises(Unavailable, match="its model differs"):
        make(like=opened(tmp_path, other))


def test_a_kit_that_plans_otherwise_is_told(tmp_path: Path) -> None:
    settings = replace(GOOD.settings, planned={**GOOD.settings.planned, "precision": "fp16"})
    with pytest.raises(Unavailable, match="precision is fp32 here and fp16 there"):
        make(like=opened(tmp_path, replace(GOOD, settings=settings)))


def test_records_of_two_sessions_are_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is not of one session"):
        make(like=opened(tmp_path, GOOD, record("wide", session_id="another")))


@pytest.mark.parametrize("how", ["like", "against"])
def test_a_bundle_of_another_device_than_the_one_named_is_told(tmp_path: Path, how: str) -> None:
    with pytest.raises(ReproError, match="the bundle is of cpu, not of x86"):
        make(None, **{how: opened(tmp_path, GOOD)}, device="x86")


@pytest.mark.parametrize("how", ["like", "against"])
def test_a_bundle_that_was_changed_is_refused(tmp_path: Path, how: str) -> None:
    path = opened(tmp_path, GOOD)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Refused):
        make(None, **{how: path})


# --- --against ----------------------------------------------------------------------------------


def test_against_repeats_the_bundle_as_arm_a_beside_what_is_said(tmp_path: Path) -> None:
    path = opened(tmp_path, GOOD)
    job, *_ = make(against=path, case="tiny:wide", rounds=3, duration_s=0.1)
    a, b = job.subjects
    assert (a.arm, a.case, a.threads) == ("A", GOOD.case, 1)
    assert (b.arm, b.case.variant, b.threads) == ("B", "wide", 1)
    assert job.protocol == replace(PROTOCOL, builds=6, runs=1, seconds=0.1, budget_s=None)
    assert job.parent == bundle.read(path).id
    assert job.seed != 99, "another session, so other inputs"


def test_against_without_a_case_changes_only_what_the_options_say(tmp_path: Path) -> None:
    said: list[str] = []
    job, *_ = make(said, against=opened(tmp_path, GOOD))
    a, b = job.subjects
    assert (a.case, a.threads, a.release) == (b.case, b.threads, b.release)
    assert "both arms are the same" in said[-1]
    assert job.protocol.builds == 12
    job, *_ = make(against=tmp_path / "b.zip", threads=2)
    assert [subject.threads for subject in job.subjects] == [1, 2]


def test_against_a_bundle_of_several_the_variant_says_which(tmp_path: Path) -> None:
    path = opened(tmp_path, GOOD, record("wide"))
    with pytest.raises(UsageError, match=r"holds 2 experiments \(tiny:base, tiny:wide\)"):
        make(against=path)
    job, *_ = make(against=path, case="tiny:wide+threads=1")
    assert [subject.case.variant for subject in job.subjects] == ["wide", "wide"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"builds": 3}, "so --builds can't be given"),
        ({"calibrate": True}, "so --calibrate can't be given"),
        ({"case": "conv16"}, "the bundle is of tiny: not of conv16"),
        ({"case": "tiny@ort-1", "release": "ort-1"}, "both --release and tiny@ort-1 name a release"),
        ({"protocol": "fast"}, "unknown protocol"),
        ({"threads": 0}, "--threads must be above 0"),
        ({"rounds": 0}, "--rounds must be above 0"),
    ],
)
def test_against_says_what_does_not_go_together(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make(against=opened(tmp_path, GOOD), **options)
