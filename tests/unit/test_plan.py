"""What is decided before measuring."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import adopt, cases, plan
from repro.errors import Unavailable, UsageError
from repro.plan import Request
from tests import nets

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


def test_of_several_variants_one_that_cant_run_is_planned_as_unavailable() -> None:
    job, experiments = plan.make(
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
    job, experiments = plan.make(own(tmp_path, share))
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
