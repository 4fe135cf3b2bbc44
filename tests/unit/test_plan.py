"""What is decided before measuring."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import environments, plan
from repro.backends import trtexec
from repro.environments import Environment, Say
from repro.errors import Unavailable, UsageError
from repro.plan import ArmRequest, Request
from repro.schema import Job, ReleaseSeen
from repro.spec import parse
from tests import standin

CASES = Path(__file__).parents[1] / "e2e" / "cases"


def request(case: str = "tiny", **changes: object) -> Request:
    return Request(case=case, cases_folder=CASES, **changes)  # type: ignore[arg-type]


def test_a_plan_holds_all_that_the_worker_needs() -> None:
    job, experiments = plan.make(request("tiny:base,wide"))
    assert [subject.record_name for subject in job.subjects] == list(experiments)
    base, wide = job.subjects
    assert base.record_name.startswith("base-ort-")
    assert wide.case.variant == "wide"
    assert base.planned["precision"] == "fp32"
    assert "sparsity" in base.inapplicable
    assert job.protocol.name == "brief"


def test_the_job_folder_is_complete(tmp_path: Path) -> None:
    job, experiments = plan.make(request())
    plan.write_job(job, experiments, (), tmp_path / "job")
    (subject,) = job.subjects
    assert (tmp_path / "job" / subject.model_file).read_bytes() == experiments[subject.record_name].onnx[
        "fp32"
    ]
    assert (tmp_path / "job" / "job.json").is_file()


@pytest.mark.parametrize(
    ("settings", "words"),
    [('precision = "int8"', "has no int8"), ('io_layout = "hwc8"', "not hwc8")],
)
def test_what_the_backend_lacks_is_said_before_anything_runs(
    tmp_path: Path, settings: str, words: str
) -> None:
    text = (CASES / "tiny" / "case.toml").read_text()
    key = settings.split(" ")[0]
    lines = [settings if line.startswith(f"{key} =") else line for line in text.splitlines()]
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "case.toml").write_text("\n".join(lines))
    with pytest.raises(Unavailable, match=words):
        plan.make(Request(case="tiny", cases_folder=tmp_path))


def test_a_private_case_is_not_run_while_its_model_could_not_stay_private(tmp_path: Path) -> None:
    text = (CASES / "tiny" / "case.toml").read_text().replace('share = "full"', 'share = "none"')
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "case.toml").write_text(text)
    with pytest.raises(Unavailable, match="tiny is private"):
        plan.make(Request(case="tiny", cases_folder=tmp_path))


def test_a_variant_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        plan.make(request("tiny:wide,wide"))


def test_the_kit_knows_its_own_source() -> None:
    assert plan.kit() == plan.kit()
    assert len(plan.kit().tree_sha256) == 64


def test_a_log_to_keep_is_trtexec_s() -> None:
    with pytest.raises(UsageError, match="--keep-log keeps trtexec's log"):
        plan.make(request(keep_log=True))


def test_for_trtexec_the_job_has_commands_and_what_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTEXEC", str(standin.install(tmp_path / "bin", "11.1.0")))
    monkeypatch.setenv(trtexec.STANDIN_SWITCH, "1")
    made = request("engine", device="x86", backend="trtexec", duration_s=0.5, calibrate=False)
    job, _ = plan.make(made)
    (subject,) = job.subjects
    assert job.place.standin
    assert [command.stage for command in subject.commands] == ["build", "profile", "check", "run"]
    assert subject.model_file.endswith("model.fp16.onnx")
    assert {s.setting: s.declared_by for s in subject.substitutions} == {
        "typing": "trtexec 11.1",
        "duration_s": "protocol",
    }
    assert (subject.planned["typing"], subject.planned["duration_s"]) == ("strong", 0.5)
    assert "--iterations=200" in subject.commands[-1].argv
    assert subject.inapplicable == ()


def test_what_a_release_of_trtexec_can_t_run_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTEXEC", str(standin.install(tmp_path / "bin", "11.1.0")))
    monkeypatch.setenv(trtexec.STANDIN_SWITCH, "1")
    with pytest.raises(Unavailable, match=r"can't run engine on orin .*JetPack is not supported"):
        plan.make(request("engine", device="orin", calibrate=False))


# --- alternating --------------------------------------------------------------------------------


def arms(a: str, b: str, say: Say = lambda text: None, **changes: object) -> Job:
    sides = (ArmRequest(parse(a)), ArmRequest(parse(b)))
    return plan.make(Request(arms=sides, cases_folder=CASES, **changes), say)[0]  # type: ignore[arg-type]


def test_arms_are_two_records_of_one_session() -> None:
    job = arms("tiny", "tiny:wide+threads=1", rounds=4)
    a, b = job.subjects
    assert (a.arm, b.arm) == ("A", "B")
    assert a.record_name == f"a-base-{job.release}"
    assert b.record_name == f"b-wide-{job.release}"
    assert (a.threads, b.threads) == (None, 1)
    assert a.release == b.release == job.release
    assert job.protocol.builds == 8
    assert job.parent is None


def test_settings_of_an_arm_are_those_of_its_experiment() -> None:
    a, b = arms("tiny+warm_up_ms=7", "tiny").subjects
    assert a.planned["warm_up_ms"] == a.settings.warm_up_ms == 7
    assert b.planned["warm_up_ms"] != 7


def test_two_releases_stand_in_the_file_name_as_multi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Environment(ReleaseSeen("ort-9.9.9", "9.9.9"), tmp_path / "python")
    own = environments.choose
    monkeypatch.setattr(
        environments, "choose", lambda name, *args, **how: other if name else own(name, *args, **how)
    )
    job = arms("tiny@ort-9.9.9", "tiny")
    a, b = job.subjects
    assert job.release == "multi"
    assert (a.release, a.interpreter) == ("ort-9.9.9", str(tmp_path / "python"))
    assert b.interpreter is None
    assert a.record_name == "a-base-ort-9.9.9"


def test_arms_that_are_the_same_are_said_to_be() -> None:
    said: list[str] = []
    arms("tiny", "tiny", said.append)
    assert said == ["both arms are the same experiment: this shows the noise of the machine and nothing else"]
    said.clear()
    arms("tiny", "tiny+threads=1", said.append)
    assert said == []
    arms("tiny", "tiny:wide", said.append)
    assert said == ["the arms are two models: times can be set side by side, but there is no verdict"]


@pytest.mark.parametrize(
    ("a", "b", "error", "words"),
    [
        ("tiny", "conv16", UsageError, "tiny and conv16 are two cases"),
        ("tiny", "tiny:nope", UsageError, "unknown variant"),
        ("tiny", "tiny@ort-0.0", UsageError, "unknown release"),
        ("tiny", "tiny@trt-8.6", Unavailable, "does not exist for cpu"),
        ("tiny+spin_wait=true", "tiny", Unavailable, "ONNX Runtime on cpu has no setting 'spin_wait'"),
        ("tiny+io_layout=hwc8", "tiny", Unavailable, "not hwc8"),
        ("conv16+precision=fp16", "conv16", Unavailable, "always runs with precision=fp32 on cpu"),
    ],
)
def test_arms_that_can_not_be_had_are_told(a: str, b: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        arms(a, b, device="cpu")


def test_rounds_are_for_arms() -> None:
    with pytest.raises(UsageError, match="--rounds is for alternating"):
        plan.make(request(rounds=3))
