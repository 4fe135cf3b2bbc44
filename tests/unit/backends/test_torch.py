"""The torch backend, as far as it goes without a GPU: what it has, what it refuses, the case's own module."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from repro import cases, check, export, models
from repro.backends import cuda
from repro.backends import torch as backend
from repro.errors import ExitCode, Unavailable, UsageError
from repro.schema import ConvStack, Subject
from tests.builders import make_subject


def subject_of(variant: str | None) -> Subject:
    experiment = cases.resolve(cases.load("conv16"), variant)
    subject = make_subject(experiment.model, "fp16")
    return msgspec.structs.replace(subject, case=experiment.ref, settings=experiment.settings)


@pytest.mark.parametrize(
    ("planned", "reason"),
    [
        ({"precision": "fp16", "io_layout": "chw"}, None),
        ({"precision": "tf32", "io_layout": "hwc8"}, None),
        ({"precision": "int8", "io_layout": "chw"}, "int8"),
        ({"precision": "fp16", "io_layout": "chw32"}, "chw32"),
    ],
)
def test_what_it_cannot_run_is_refused_by_name(planned: dict[str, Any], reason: str | None) -> None:
    said = backend.refuse(planned, gpu=True)
    assert said is None if reason is None else reason in (said or "")


def test_it_measures_on_gpus_only() -> None:
    with pytest.raises(Unavailable, match="NVIDIA GPUs only") as caught:
        backend.release(gpu=False)
    assert caught.value.code is ExitCode.DOES_NOT_APPLY


@pytest.mark.parametrize(("built", "name"), [("13.0", "torch-2.11.0+cu130"), ("12.8", "torch-2.11.0+cu128")])
def test_a_release_says_which_cuda_it_was_built_for(
    monkeypatch: pytest.MonkeyPatch, built: str, name: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.11.0")
    monkeypatch.setattr(cuda, "built_for", lambda package, file: built)
    seen = backend.release(gpu=True)
    assert (seen.name, seen.version, seen.cuda) == (name, "2.11.0", built)


def test_a_build_for_processors_is_none_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.13.0+cpu")
    monkeypatch.setattr(cuda, "built_for", lambda package, file: None)
    with pytest.raises(Unavailable, match="torch with CUDA is not installed"):
        backend.release(gpu=True)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("variant", [None, "hwc8", "nobias"])
def test_the_cases_module_gets_the_cases_weights(tmp_path: Path, variant: str | None) -> None:
    import torch

    subject = subject_of(variant)
    path = tmp_path / "model.fp32.onnx"
    spec = subject.model
    assert isinstance(spec, ConvStack)
    path.write_bytes(models.build(spec, "fp32"))
    small = msgspec.structs.replace(spec, height=24, width=20)
    source = models.inputs("1", models.tensors(small, "fp32")[0])
    module = export.network(cases.module(subject.case, subject.settings), subject.model, path.read_bytes())
    with torch.no_grad():
        result = module(torch.from_numpy(source)).numpy()
    reference = models.build(small, "fp32")
    found = check.output(
        reference,
        source,
        np.ascontiguousarray(result),
        models.tensors(small, "fp32")[1],
        1e-6,
        seed="1",
        library=lambda *_: result,
    )
    assert (found.ok, found.method) == (True, "fp64_at_sampled_positions")


@pytest.mark.needs("torch")
def test_a_module_is_executed_only_for_the_shipped_case_with_its_very_digest() -> None:
    subject = subject_of(None)
    other = msgspec.structs.replace(subject.case, digest="0" * 64)
    with pytest.raises(UsageError, match="not one that this kit ships"):
        cases.module(other, subject.settings)


def test_without_a_rule_there_is_no_second_opinion(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="only be checked with ONNX Runtime"):
        backend.unoptimised(b"", np.zeros((1, 1, 1, 1), np.float32))
