"""One turn, with a backend double that fails in every stage."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from repro import backends, models, turn
from repro.backends import onnxruntime as real
from repro.schema import CaseRef, Effective, Protocol, Subject, Tolerance, Turn
from tests.builders import MODEL, SETTINGS

Wrap = Callable[[Any], Any]


def task(folder: Path, **changes: Any) -> turn.Task:
    model = folder / "tiny.fp32.onnx"
    model.write_bytes(models.build(MODEL, "fp32"))
    subject = Subject(
        record_name="base",
        role="subject",
        case=CaseRef("made-up", 1, None, "d" * 64, "full"),
        model=MODEL,
        settings=SETTINGS,
        planned={
            "precision": "fp32",
            "io_layout": "chw",
            "warm_up_ms": 1,
            "duration_s": 3.0,
            "percentiles": "90",
        },
        inapplicable=(),
        substitutions=(),
        model_file=model.name,
        model_digests={},
        tolerances={"fp32": Tolerance(1e-5)},
    )
    values: dict[str, Any] = {
        "turn": Turn(0, 0, "base", 0, 0),
        "subject": subject,
        "model_path": str(model),
        "backend": "onnxruntime",
        "gpu": False,
        "threads": 1,
        "seed": 7,
        "protocol": Protocol("test", 1, 1, 0.001, 3, 0.0, None),
        "process": 0,
        "origin_ns": 0,
        "home": str(folder),
    }
    return turn.Task(**{**values, **changes})


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Callable[[Wrap], None]:
    """Return a function that puts a changed engine in the place of ONNX Runtime's."""

    def install(wrap: Wrap) -> None:
        module = types.SimpleNamespace(
            build=lambda *args, **kwargs: wrap(real.build(*args, **kwargs)),
            libraries=real.libraries,
            unoptimised=real.unoptimised,
            BUILD_OUTLIVES_PROCESS=False,
            TIMES_ITSELF=False,
        )
        monkeypatch.setattr(backends, "load", lambda name: module)

    return install


def stages(result: turn.Result) -> list[tuple[str, str]]:
    return [(stage.name, stage.status) for stage in result.stages]


def error_of(result: turn.Result) -> tuple[str, str | None, str]:
    error = result.stages[-1].error
    assert error is not None
    return error.stage, error.code, error.message


def test_a_good_turn_has_build_check_and_run(tmp_path: Path) -> None:
    result = turn.run(task(tmp_path), tmp_path)
    assert stages(result) == [("prepare", "ok"), ("build", "ok"), ("check", "ok"), ("run", "ok")]
    assert result.build is not None
    assert result.build.check is not None
    assert result.build.check.ok
    assert result.run is not None
    assert result.run.summary.n == result.run.samples.n >= 3
    size = (tmp_path / "samples.bin").stat().st_size
    assert size == 8 * result.run.samples.n * len(result.run.samples.columns)
    assert [phase.name for phase in result.run.phases] == ["preheat", "measure"]


def test_stages_are_written_down_as_they_end(tmp_path: Path) -> None:
    result = turn.run(task(tmp_path), tmp_path)
    assert turn.read_stages(tmp_path) == result.stages


def test_a_build_error_is_a_result(tmp_path: Path, double: Callable[[Wrap], None]) -> None:
    def refuse(engine: Any) -> Any:
        raise RuntimeError("no kernel for /home/someone/model.onnx at 0x7f00")

    double(refuse)
    result = turn.run(task(tmp_path), tmp_path)
    assert stages(result) == [("prepare", "ok"), ("build", "failed")]
    assert result.stages[-1].error is not None
    assert result.stages[-1].error.signature == "build/RuntimeError: no kernel for <path> at <address>"
    assert result.build is None
    assert result.run is None


def test_a_setting_that_did_not_hold_fails_by_its_name(
    tmp_path: Path, double: Callable[[Wrap], None]
) -> None:
    def quiet_tf32(engine: Any) -> Any:
        engine.effective = lambda: {"precision": Effective("tf32", "graph")}
        return engine

    double(quiet_tf32)
    result = turn.run(task(tmp_path), tmp_path)
    assert error_of(result) == ("build", "not_as_planned", "precision is tf32, planned was fp32")
    assert result.effective["precision"].value == "tf32", "what was seen is kept"


def test_a_wrong_output_fails_and_is_not_measured(tmp_path: Path, double: Callable[[Wrap], None]) -> None:
    def off(engine: Any) -> Any:
        output = engine.output
        engine.output = lambda: np.asarray(output()) * 1.001
        return engine

    double(off)
    result = turn.run(task(tmp_path), tmp_path)
    assert stages(result)[-1] == ("check", "failed")
    assert error_of(result)[1] == "wrong_output"
    assert result.run is None
    assert result.build is not None
    assert result.build.check is not None
    assert result.build.check.error == pytest.approx(1e-3, rel=0.01)


def test_an_error_while_measuring_keeps_the_build(tmp_path: Path, double: Callable[[Wrap], None]) -> None:
    def fail_later(engine: Any) -> Any:
        step = engine.step
        calls: list[None] = []

        def stepping() -> None:
            calls.append(None)
            if len(calls) > 2:
                raise MemoryError
            step()

        engine.step = stepping
        return engine

    double(fail_later)
    result = turn.run(task(tmp_path), tmp_path)
    assert error_of(result) == ("run", "MemoryError", "MemoryError")
    assert result.build is not None
    found = turn.Result.read(tmp_path, "found.json")
    assert found is not None
    assert found.build == result.build, "a crash at this point would have left the same"


def test_a_precision_without_tolerance_is_named(tmp_path: Path) -> None:
    subject = msgspec.structs.replace(task(tmp_path).subject, tolerances={"fp16": Tolerance(2e-3)})
    message = error_of(turn.run(task(tmp_path, subject=subject), tmp_path))[2]
    assert "no error for fp32: add it to [tolerance]" in message


def test_inputs_follow_from_seed_and_build(tmp_path: Path) -> None:
    def input_hash(**changes: Any) -> str:
        build = turn.run(task(tmp_path, **changes), tmp_path).build
        assert build is not None
        return build.input_hash

    first = input_hash()
    assert input_hash() == first
    assert input_hash(seed=8) != first
    assert input_hash(turn=Turn(1, 0, "base", 1, 0)) != first


def test_a_torn_line_of_the_trace_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "stages.jsonl").write_text(
        '{"name":"prepare","status":"ok","start_ns":0,"end_ns":1,"error":null}\n{"na'
    )
    assert [stage.name for stage in turn.read_stages(tmp_path)] == ["prepare"]
