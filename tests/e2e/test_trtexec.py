"""The whole path over trtexec, played by a stand-in: from build to bundle, verify and show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import bundle, check, measure, models
from repro.backends.trtexec import STANDIN_SWITCH
from repro.bundle import archive
from repro.schema import ErrorSeen, Record
from repro.trtexec import exports, readback
from tests import standin
from tests.e2e.conftest import CASES, Call, Finished, bundle_of
from tests.e2e.test_run import record_of

pytestmark = pytest.mark.needs("ssh-keygen", "linux")

RELEASES = ("8.5.2", "8.6.1", "10.3.0", "10.16.1", "11.1.0")
TWICE = ("--builds", "2", "--runs", "2")
Measure = Callable[..., Finished]


@pytest.fixture
def engine(run_case: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Return a function that runs a case on a release that the stand-in plays."""
    monkeypatch.setenv(STANDIN_SWITCH, "1")
    monkeypatch.delenv("TRTEXEC", raising=False)

    def run(release: str, case: str = "engine", *more: str, scenario: Any = None) -> Finished:
        program = standin.install(tmp_path / "bin", release, **(scenario or {}))
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return run_case(case, "--device", "x86", "--no-calibrate", "--iterations", "20", *more)

    return run


def error_of(folder: Path) -> ErrorSeen:
    record = record_of(bundle_of(folder))
    assert record.status == "failed"
    (error,) = [stage.error for stage in record.stages if stage.error]
    return error


@pytest.mark.parametrize("release", RELEASES)
def test_the_whole_path(engine: Measure, call: Call, tmp_path: Path, release: str) -> None:
    done = engine(release, "engine", *TWICE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("STAND-IN")
    path = bundle_of(tmp_path)
    assert call("verify", path).returncode == 0
    shown = call("show", path).stdout
    assert shown.startswith("STAND-IN")
    assert "95 % over 2 builds" in shown
    record = record_of(path)
    assert (record.status, record.runtime.place.standin) == ("measured", True)
    assert record.runtime.release.version == release
    assert [(stage.name, stage.status) for stage in record.stages] == [
        (name, "ok") for name in ("prepare", "build", "profile", "check", "run")
    ]
    assert [build.id for build in record.builds] == ["b0", "b1"]
    assert sorted(run.id for run in record.runs) == ["b0r0", "b0r1", "b1r0", "b1r1"]
    effective = {name: seen.value for name, seen in record.settings.effective.items()}
    assert effective == record.settings.planned
    assert record.mismatches == ()
    typing = "strong" if release.startswith("11") else "weak"
    assert effective["typing"] == typing
    assert record.model.built_from == ("fp16" if typing == "strong" else "fp32")
    assert record.model.inputs[0].dtype == "fp16"
    assert {s.setting for s in record.substitutions} == ({"typing"} if typing == "strong" else set())
    assert {flag.code for run in record.runs for flag in run.flags} >= {"reformat"}, "chw into an FP16 engine"


def test_what_identifies_an_engine(engine: Measure, tmp_path: Path) -> None:
    engine("10.3.0", "engine", "--builds", "2")
    first, second = record_of(bundle_of(tmp_path)).builds
    assert first.structure_hash == second.structure_hash
    assert first.recipe_hash == second.recipe_hash
    assert first.input_hash != second.input_hash
    (work,) = (tmp_path / "work").iterdir()
    for build in (first, second):
        assert build.plan_sha256
        assert build.timing_cache == "local"
        assert (work / "out" / "engines" / "base-trt-10.3.0" / build.id / "engine.plan").is_file()
    with archive.opened(bundle_of(tmp_path)) as zipped:
        assert not [name for name in zipped.names if "plan" in name or "input" in name]


def test_the_samples_are_the_exported_times(engine: Measure, tmp_path: Path) -> None:
    engine("10.16.1", "engine", scenario={"seed": 5})
    record = record_of(bundle_of(tmp_path))
    (run,) = record.runs
    (work,) = (tmp_path / "work").iterdir()
    times = exports.times(work / "out" / "engines" / record.record_name / "b0" / "times.json")
    with archive.opened(bundle_of(tmp_path)) as zipped:
        data = zipped.read(f"records/{record.record_name}/{run.samples.file}")
    columns = measure.unpack(data, run.samples.columns, run.samples.n)
    assert list(columns) == ["start_ns", "duration_ns", "h2d_ns", "d2h_ns"]
    assert np.array_equal(columns["duration_ns"], np.rint(times.compute_ms * 1e6))
    assert run.summary.median_ns == pytest.approx(float(np.median(times.compute_ms)) * 1e6)
    assert run.enqueue_median_ns is not None
    assert record.protocol.timer == "CUDA events before and after each inference, by trtexec"
    window = run.phases[-1]
    assert window.name == "measure"
    assert 0 < window.start_ns < window.end_ns


@pytest.mark.parametrize("release", ["8.5.2", "11.1.0"])
@pytest.mark.parametrize("variant", ["hwc8", "chw16", "int8", "other"])
def test_layouts_and_modes_are_read_back(engine: Measure, tmp_path: Path, release: str, variant: str) -> None:
    done = engine(release, f"engine:{variant}")
    assert done.returncode == 0, done.stderr + done.stdout
    record = record_of(bundle_of(tmp_path))
    effective = {name: seen.value for name, seen in record.settings.effective.items()}
    assert effective == record.settings.planned
    if variant == "other":
        columns = [column.name for column in record.runs[0].samples.columns]
        assert columns == ["start_ns", "duration_ns"], "what was not copied was not timed"


def test_builds_of_another_structure_are_other_modes(engine: Measure, call: Call, tmp_path: Path) -> None:
    engine("8.6.1", "engine", *TWICE, scenario={"modes": [1.0, 1.5]})
    path = bundle_of(tmp_path)
    record = record_of(path)
    assert len({build.structure_hash for build in record.builds}) == 2
    assert [build.layers for build in record.builds] == [None, "layers/b1.json"]
    shown = call("show", path, "--layers").stdout
    assert "mode A (build b0)" in shown
    assert "mode B (build b1)" in shown
    assert shown.count("conv2") >= 2
    assert "not all of one structure: A b0" in call("show", path, "--markdown").stdout.replace("\\", "")


@pytest.mark.parametrize("release", ["8.5.2", "10.3.0", "11.1.0"])
def test_a_cuda_graph_that_was_silently_ignored_is_caught(
    engine: Measure, tmp_path: Path, release: str
) -> None:
    done = engine(release, "engine:graph", scenario={"graph_fails": True})
    assert done.returncode == 1
    error = error_of(tmp_path)
    assert (error.stage, error.code) == ("run", "not_as_planned")
    assert error.message == "cuda_graph is False, planned was True"
    (mismatch,) = record_of(bundle_of(tmp_path)).mismatches
    assert (mismatch.setting, mismatch.effective, mismatch.source) == ("cuda_graph", False, "log")
    assert record_of(bundle_of(tmp_path)).runs == ()


def test_a_cuda_graph_that_was_captured_is_fine(engine: Measure, tmp_path: Path) -> None:
    assert engine("8.5.2", "engine:graph").returncode == 0
    assert record_of(bundle_of(tmp_path)).settings.effective["cuda_graph"].value is True


def test_a_precision_that_was_not_obeyed_is_caught(engine: Measure, tmp_path: Path) -> None:
    assert engine("8.5.2", scenario={"precision": "fp32"}).returncode == 1
    error = error_of(tmp_path)
    assert (error.stage, error.code) == ("build", "not_as_planned")
    assert error.message.startswith("precision is ")


@pytest.mark.parametrize(
    ("stage", "name"), [("build", "build"), ("profile", "profile"), ("output", "check"), ("run", "run")]
)
def test_a_crash_without_an_end_line(engine: Measure, tmp_path: Path, stage: str, name: str) -> None:
    assert engine("8.5.2", scenario={"crash": stage}).returncode == 1
    error = error_of(tmp_path)
    assert (error.stage, error.code, error.signal) == (name, "crash", "SIGABRT")
    assert error.message.startswith("trtexec was ended by SIGABRT after: ")


@pytest.mark.parametrize("stage", ["build", "run"])
def test_out_of_memory_in_the_log_s_own_words(engine: Measure, tmp_path: Path, stage: str) -> None:
    assert engine("10.3.0", scenario={"out_of_memory": stage}).returncode == 1
    error = error_of(tmp_path)
    assert (error.stage, error.code) == (stage, "out_of_memory")
    assert "could not be allocated" in error.message


@pytest.mark.parametrize("stage", ["build", "run"])
def test_a_hang_ends_by_its_time_limit_and_leaves_no_process(
    engine: Measure, tmp_path: Path, stage: str
) -> None:
    limit = ("--timeout-build", "8s") if stage == "build" else ("--timeout-run", "3s")
    assert engine("8.5.2", "engine", *limit, scenario={"hang": stage}).returncode == 1
    error = error_of(tmp_path)
    assert (error.stage, error.code) == (stage, "timeout")
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _runs_in(path.parent, tmp_path)]


def _runs_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").resolve().is_relative_to(folder)
    except OSError:
        return False


@pytest.mark.parametrize("output", ["wrong", "nan", "zeros"])
def test_a_wrong_output_is_not_timed(engine: Measure, tmp_path: Path, output: str) -> None:
    assert engine("8.6.1", scenario={"output": output}).returncode == 1
    error = error_of(tmp_path)
    assert (error.stage, error.code) == ("check", "wrong_output")
    assert record_of(bundle_of(tmp_path)).runs == ()


def test_an_unknown_option_is_told_in_trtexec_s_words(
    engine: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A trtexec that calls itself 8.6 and takes the options of 8.4.
    new = standin.install(tmp_path / "new", "8.6.1")
    old = standin.install(tmp_path / "old", "8.4.1")
    mixed = tmp_path / "mixed"
    mixed.write_text(f'#!/bin/sh\n[ "$1" = --help ] && exec {new} --help\nexec {old} "$@"\n')
    mixed.chmod(0o755)
    monkeypatch.setenv("TRTEXEC", str(mixed))
    assert engine("8.5.2").returncode == 1
    error = error_of(tmp_path)
    assert (error.stage, error.code) == ("build", "unknown_option")
    assert "--skipInference" in error.message


def test_a_stand_in_is_refused_without_the_switch(
    engine: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STANDIN_SWITCH)
    done = engine("8.5.2", "engine", "--backend", "trtexec")
    assert done.returncode == 4
    assert "is a stand-in for tests, and measures nothing" in done.stderr
    assert not (tmp_path / "work").exists()


def test_logs_leave_in_known_lines_and_whole_only_when_asked(engine: Measure, tmp_path: Path) -> None:
    engine("8.5.2", "engine", "--keep-log")
    (record,) = bundle.read(bundle_of(tmp_path)).records.values()
    logs = {log.turn: log for log in record.logs}
    assert set(logs) == {"b0", "b0r0", "b0.whole"}
    with archive.opened(bundle_of(tmp_path)) as zipped:
        text = {turn: zipped.read(str(log.file)).decode() for turn, log in logs.items() if log.file}
    assert "GPU Compute Time: min" in text["b0r0"]
    assert "[V]" not in text["b0"]
    assert "Timing Runner" in text["b0.whole"]
    for content in text.values():
        assert str(tmp_path) not in content


def test_without_being_asked_the_verbose_log_stays(engine: Measure, tmp_path: Path) -> None:
    engine("8.5.2", "engine")
    with archive.opened(bundle_of(tmp_path)) as zipped:
        assert not [name for name in zipped.names if "whole" in name]
        assert not any(
            b"Timing Runner" in zipped.read(name) for name in zipped.names if name.endswith(".txt")
        )


def measured_on(engine: Measure, folder: Path, release: str, *more: str, **scenario: Any) -> Path:
    """Return the bundle of three builds on a release, in a folder of its own."""
    before = set((folder / "bundles").glob("*.zip"))
    done = engine(release, *(more or ("engine",)), "--builds", "3", scenario={"seed": 7, **scenario})
    assert done.returncode == 0, done.stderr
    (path,) = set((folder / "bundles").glob("*.zip")) - before
    return path


@pytest.mark.parametrize(("old", "new"), [("8.5.2", "8.6.1"), ("10.3.0", "10.16.1")])
def test_two_releases_are_compared(engine: Measure, call: Call, tmp_path: Path, old: str, new: str) -> None:
    a = measured_on(engine, tmp_path, old)
    b = measured_on(engine, tmp_path, new, modes=[1.3])
    done = call("compare", a, b)
    assert done.returncode == 1, done.stdout
    assert done.stdout.startswith("STAND-IN")
    assert "SLOWER (THESE SESSIONS)" in done.stdout
    assert "+30" in done.stdout


def test_releases_that_know_other_typings_are_compared_where_the_case_asks_for_one_that_both_know(
    engine: Measure, call: Call, tmp_path: Path
) -> None:
    weak = [measured_on(engine, tmp_path, release) for release in ("10.16.1", "11.1.0")]
    done = call("compare", *weak)
    assert done.returncode == 4
    assert "NOT COMPARABLE" in done.stdout
    assert "typing" in done.stdout
    strong = [measured_on(engine, tmp_path, release, "engine:other") for release in ("10.16.1", "11.1.0")]
    done = call("compare", *strong)
    assert done.returncode in (0, 1, 3), done.stdout


def test_two_variants_alternate_on_engines_that_outlive_their_processes(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STANDIN_SWITCH, "1")
    monkeypatch.setenv("TRTEXEC", str(standin.install(tmp_path / "bin", "8.5.2", seed=7)))
    places = ("--cases", CASES, "--output", tmp_path / "bundles", "--work", tmp_path / "work")
    quick = ("--device", "x86", "--rounds", "2", "--duration", "0.05s", "--iterations", "20")
    done = call("ab", "engine", "engine:hwc8", *places, *quick)
    assert done.returncode in (0, 1, 3), done.stderr
    a, b = bundle.read(bundle_of(tmp_path)).records.values()
    rounds: dict[int, str] = {}
    for turn in a.protocol.order:
        rounds[turn.round] = rounds.get(turn.round, "") + str(turn.arm)
        assert (turn.run is None) is (turn.round == 0), "all is built first"
    assert sorted(rounds.pop(0)) == ["A", "A", "B", "B"]
    assert sorted(rounds.values()) == ["ABBA", "BAAB"]
    for record in (a, b):
        assert sorted(run.id for run in record.runs) == ["b0r0", "b0r1", "b1r0", "b1r1"]
        assert record.commands
    assert "over 2 rounds" in call("compare", bundle_of(tmp_path)).stdout


@pytest.mark.needs("unzip")
@pytest.mark.parametrize(("release", "case"), [("8.5.2", "engine:hwc8"), ("11.1.0", "engine")])
def test_the_printed_commands_run_without_the_kit(
    engine: Measure, call: Call, tmp_path: Path, release: str, case: str
) -> None:
    engine(release, case, scenario={"seed": 5})
    page = call("show", bundle_of(tmp_path), "--markdown").stdout
    (script,) = re.findall(r"^```\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert script.splitlines()[0].startswith("cd records/")
    place = tmp_path / "unzipped"
    with zipfile.ZipFile(bundle_of(tmp_path)) as zipped:
        zipped.extractall(place)
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = record_of(bundle_of(tmp_path))
    folder = place / "records" / record.record_name / "case"
    times = exports.times(folder / "times.json")
    assert float(np.median(times.compute_ms)) * 1e6 == pytest.approx(record.runs[0].summary.median_ns)
    built = exports.layers(folder / "layers.json")
    assert readback.structure_hash(built) == record.builds[0].structure_hash
    _same_output(record, folder)


def _same_output(record: Record, folder: Path) -> None:
    """Check the output of the printed commands as the kit checks its own."""
    (output,) = exports.outputs(folder / "output.json").values()
    verdict = check.output(
        (folder / f"model.{record.model.built_from}.onnx").read_bytes(),
        models.inputs(f"{record.protocol.seed}/0", record.model.inputs[0]),
        output.astype(np.float16),
        record.model.outputs[0],
        2e-3 * 2**0.5,
        seed="any",
        library=lambda model, values: values,
    )
    assert verdict.ok, verdict.problems
