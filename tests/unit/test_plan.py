"""What is decided before measuring."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import plan
from repro.backends import trtexec
from repro.errors import Unavailable, UsageError
from repro.plan import Request
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
    made = request("engine", device="x86", place="host", backend="trtexec", duration_s=0.5, calibrate=False)
    job, _ = plan.make(made)
    (subject,) = job.subjects
    assert job.place.standin
    assert [command.stage for command in subject.commands] == ["build", "profile", "check", "run"]
    assert subject.model_file.endswith("model.fp16.onnx")
    assert {s.setting: s.declared_by for s in subject.substitutions} == {
        "typing": "trtexec 11.1",
        "duration_s": "--duration",
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
        plan.make(request("engine", device="orin", place="host", calibrate=False))
