"""What is decided before measuring."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import adopt, cases, devices, environments, lowering, measure, plan
from repro.backends import trtexec
from repro.environments import Environment, Say
from repro.errors import Unavailable, UsageError
from repro.plan import ArmRequest, Request
from repro.schema import Job, ReleaseSeen
from repro.spec import parse
from tests import nets, standin

CASES = Path(__file__).parents[1] / "e2e" / "cases"


def request(case: str = "tiny", **changes: object) -> Request:
    return Request(case=case, cases_folder=CASES, **changes)  # type: ignore[arg-type]


def test_a_plan_holds_all_that_the_worker_needs() -> None:
    job, experiments, _ = plan.make(request("tiny:base,wide"))
    assert [subject.record_name for subject in job.subjects] == list(experiments)
    base, wide = job.subjects
    assert base.record_name.startswith("base-ort-")
    assert wide.case.variant == "wide"
    assert base.planned["precision"] == "fp32"
    assert "sparsity" in base.inapplicable
    assert job.protocol.name == "brief"


def test_the_job_folder_is_complete(tmp_path: Path) -> None:
    job, experiments, _ = plan.make(request())
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


def test_of_several_variants_one_that_cant_run_is_planned_as_unavailable() -> None:
    job, experiments, _ = plan.make(
        Request(case="conv16", variants="base,graph,hwc8,int8,sparse,fp32,dense24", device="cpu")
    )
    refused = {subject.record_name.split("-")[0]: subject.refused for subject in job.subjects}
    assert {name for name, why in refused.items() if why is None} == {"base", "fp32", "dense24"}
    assert "no setting cuda_graph" in str(refused["graph"])
    assert "no setting sparsity" in str(refused["sparse"])
    assert "not hwc8" in str(refused["hwc8"])
    assert "precision is what this variant is about" in str(refused["int8"])
    assert len(experiments) == 7


def test_a_variant_that_cant_run_alone_is_an_error() -> None:
    with pytest.raises(Unavailable, match=r"conv16:graph \(it has no setting cuda_graph"):
        plan.make(Request(case="conv16:graph", device="cpu"))
    with pytest.raises(Unavailable, match="nor the other 1"):
        plan.make(Request(case="conv16:graph,sparse", device="cpu"))


def test_the_work_is_counted_before_anything_runs() -> None:
    (subject,) = plan.make(Request(case="conv16", device="cpu"))[0].subjects
    assert subject.work is not None
    assert subject.work.flop == 28_665_446_400
    # The CPU computes in FP32.
    assert subject.work.bytes_high == 2 * 398_145_120


def test_variants_are_named_in_one_place() -> None:
    with pytest.raises(UsageError, match="named twice"):
        plan.make(Request(case="conv16:hwc8", variants="core", device="cpu"))


def test_the_time_is_estimated_by_the_protocol() -> None:
    one = plan.estimate_s(Request(case="conv16", device="cpu"))
    assert one < 60
    everything = plan.estimate_s(Request(case="conv16", variants="all", device="cpu"))
    # One round of 30 variants, as the budget of the protocol has it.
    assert 30 * 3 < everything < 30 * 20
    twice = plan.estimate_s(Request(case="conv16", device="cpu", builds=2, duration_s=1.0))
    assert twice < one


def own(tmp_path: Path, share: str = "none") -> Request:
    """Return a request to run a user's own network."""
    shape = {"secret_image": (1, 3, 16, 12)}
    path = nets.saved(nets.classifier(), tmp_path)
    made = adopt.adopt(path, shape, private=share == "none")
    cases.new("my-net", made, share, tmp_path / "cases")
    return Request(case="my-net", cases_folder=tmp_path / "cases", device="cpu")


@pytest.mark.parametrize("share", ["none", "model"])
def test_a_network_of_ones_own_is_planned_as_any(tmp_path: Path, share: str) -> None:
    job, experiments, _ = plan.make(own(tmp_path, share))
    (subject,) = job.subjects
    assert (subject.refused, subject.planned["precision"]) == (None, "fp32")
    assert subject.work is not None
    assert subject.work.flop == 2 * (8 * 16 * 12 * 27 + 10 * 8)
    plan.write_job(job, experiments, (), tmp_path / "job")
    written = b"".join(path.read_bytes() for path in (tmp_path / "job").rglob("*") if path.is_file())
    assert any(secret.encode() in written for secret in nets.SECRETS) == (share == "model")


def test_a_backend_that_runs_modules_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from repro.backends import onnxruntime

    monkeypatch.setattr(onnxruntime, "NEEDS_MODULE", True, raising=False)
    with pytest.raises(Unavailable, match="runs the modules of the kit's own cases only"):
        plan.make(own(tmp_path))


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
    job, *_ = plan.make(made)
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


def test_int8_without_quantised_nodes_is_refused() -> None:
    case = cases.load("conv16")
    quantised, plain = cases.resolve(case, "int8"), cases.resolve(case, None, {"precision": "int8"})
    device, protocol = devices.DEVICES["x86"], measure.PROTOCOLS["standard"]
    assert isinstance(plan.for_trtexec(quantised, device, "10.3", protocol), lowering.Commands)
    refused = plan.for_trtexec(plain, device, "10.3", protocol)
    assert isinstance(refused, lowering.Unsupported)
    assert "this model has none" in refused.reason


def test_what_a_release_of_trtexec_can_t_run_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTEXEC", str(standin.install(tmp_path / "bin", "11.1.0")))
    monkeypatch.setenv(trtexec.STANDIN_SWITCH, "1")
    with pytest.raises(Unavailable, match=r"can't run engine \(JetPack is not supported"):
        plan.make(request("engine", device="orin", place="host", calibrate=False))


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
