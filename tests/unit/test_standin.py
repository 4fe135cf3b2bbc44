"""The stand-in for trtexec plays its release, and knows nothing of the kit."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repro import cases
from tests import standin
from tests.e2e.conftest import CASES
from tests.standin.release import MARK

FOLDER = Path(standin.__file__).parent
RELEASES = ("8.4.1", "8.5.2", "8.6.1", "9.2.0", "10.3.0", "10.16.1", "11.0.0", "11.1.0", "11.4.0")

Ended = subprocess.CompletedProcess[str]


def call(program: Path, *arguments: str) -> Ended:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(cases.resolve(cases.load("tiny", CASES), None).onnx["fp32"])
    return path


def built(program: Path, model: Path, *more: str) -> Ended:
    return call(program, f"--onnx={model}", f"--saveEngine={program.with_name('e.plan')}", *more)


def loaded(program: Path, *more: str) -> Ended:
    return call(program, f"--loadEngine={program.with_name('e.plan')}", *more)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_it_imports_nothing_of_the_kit(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    assert names
    assert not [name for name in names if name.split(".")[0] == "repro"]


def test_running_it_loads_nothing_of_the_kit() -> None:
    code = (
        "import sys, tests.standin.inference, tests.standin.options\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'repro'])"
    )
    root = FOLDER.parents[1]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("release", RELEASES)
def test_a_build_and_a_run_of_each_release(release: str, tmp_path: Path, model: Path) -> None:
    program = standin.install(tmp_path / "bin", release)
    major, minor, *_ = map(int, release.split("."))
    skip = "--buildOnly" if (major, minor) < (8, 6) else "--skipInference"
    build = built(program, model, skip, "--profilingVerbosity=detailed")
    assert build.returncode == 0, build.stderr
    files = {
        name: tmp_path / f"{name}.json"
        for name in ("exportTimes", "exportProfile", "exportLayerInfo", "exportOutput")
    }
    run = loaded(program, "--separateProfileRun", *(f"--{name}={path}" for name, path in files.items()))
    assert run.returncode == 0, run.stderr
    assert MARK in build.stdout
    assert MARK in run.stdout
    for path in files.values():
        json.loads(path.read_text())
        assert MARK in path.read_text()


@pytest.mark.parametrize(
    ("release", "argument", "says"),
    [
        ("8.5.2", "--skipInference", "Unknown option: --skipInference "),
        ("10.3.0", "--buildOnly", "Unknown option: --buildOnly "),
        ("10.3.0", "--workspace=2048", "Unknown option: --workspace 2048"),
        ("11.1.0", "--fp16", "Unknown option: --fp16 "),
        ("11.1.0", "--inputIOFormats=fp16:chw", "Invalid TensorFormat fp16:chw"),
        ("10.16.1", "--inputIOFormats=chw", "Invalid IOFormat chw"),
        ("8.5.2", "--inputIOFormats=bf16:chw", "Invalid DataType bf16"),
        ("8.5.2", "--useSpinWait --useSpinWait", "Unknown option: --useSpinWait"),
    ],
)
def test_a_release_refuses_what_it_does_not_have(
    release: str, argument: str, says: str, tmp_path: Path, model: Path
) -> None:
    program = standin.install(tmp_path / "bin", release)
    ended = built(program, model, *argument.split())
    assert ended.returncode == 1
    assert f"[E] {says}" in ended.stderr
    assert not program.with_name("e.plan").exists()


def test_a_refusal_of_11_1_has_no_end_line(tmp_path: Path, model: Path) -> None:
    ends = {}
    for release in ("11.0.0", "11.1.0"):
        ended = built(standin.install(tmp_path / release, release), model, "--fp16")
        ends[release] = "&&&& FAILED" in ended.stdout
    assert ends == {"11.0.0": True, "11.1.0": False}


def test_the_measured_modes_changed_at_11(tmp_path: Path, model: Path) -> None:
    echoes = {}
    for release in ("10.16.1", "11.0.0"):
        stdout = built(standin.install(tmp_path / release, release), model).stdout
        echoes[release] = [
            line.split("] ")[-1]
            for line in stdout.splitlines()
            if "CUDA Graph:" in line or "transfers:" in line
        ]
    assert echoes == {
        "10.16.1": ["Data transfers: Enabled", "CUDA Graph: Disabled"],
        "11.0.0": ["Data transfers: Disabled", "CUDA Graph: Enabled"],
    }


@pytest.mark.parametrize(("output", "right"), [("right", True), ("wrong", False)])
def test_outputs_are_those_of_the_network(output: str, right: bool, tmp_path: Path, model: Path) -> None:
    import onnxruntime as ort

    program = standin.install(tmp_path / "bin", "8.5.2", output=output)
    source = np.random.default_rng(3).uniform(-1, 1, (1, 4, 24, 20)).astype(np.float16)
    packed = np.zeros((1, 24, 20, 8), np.float16)
    packed[..., :4] = source.transpose(0, 2, 3, 1)
    (tmp_path / "in.bin").write_bytes(packed.tobytes())
    formats = ("--inputIOFormats=fp16:hwc8", "--outputIOFormats=fp32:chw")
    assert built(program, model, "--buildOnly", "--fp16", *formats).returncode == 0
    target = tmp_path / "out.json"
    assert (
        loaded(program, f"--loadInputs=input:{tmp_path / 'in.bin'}", f"--exportOutput={target}").returncode
        == 0
    )
    (entry,) = json.loads(target.read_text())
    session = ort.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input": source.astype(np.float32)})
    assert entry["dimensions"] == "1x4x24x20"
    assert np.allclose(entry["values"], expected.reshape(-1), rtol=1e-5, atol=1e-6) == right


def test_a_failed_capture_is_ignored_and_told(tmp_path: Path, model: Path) -> None:
    program = standin.install(tmp_path / "bin", "8.5.2", graph_fails=True)
    assert built(program, model, "--buildOnly").returncode == 0
    ended = loaded(program, "--useCudaGraph")
    assert ended.returncode == 0
    assert "CUDA Graph: Enabled" in ended.stdout
    assert "flag has been ignored" in ended.stderr


def test_a_crash_leaves_no_end_line(tmp_path: Path, model: Path) -> None:
    program = standin.install(tmp_path / "bin", "8.5.2", crash="build")
    ended = built(program, model)
    assert ended.returncode == -6
    assert ended.stdout.count("&&&&") == 1


def test_builds_take_their_modes_in_turns(tmp_path: Path, model: Path) -> None:
    program = standin.install(tmp_path / "bin", "8.5.2", modes=[1.0, 1.5], noise=0.0, seed=1)
    medians = []
    for i in range(3):
        plan = tmp_path / f"{i}.plan"
        assert call(program, f"--onnx={model}", f"--saveEngine={plan}", "--buildOnly").returncode == 0
        target = tmp_path / f"{i}.json"
        assert call(program, f"--loadEngine={plan}", f"--exportTimes={target}").returncode == 0
        medians.append(float(np.median([entry["computeMs"] for entry in json.loads(target.read_text())])))
    assert medians == pytest.approx([0.5, 0.75, 0.5], rel=1e-3)


def test_only_the_same_release_loads_an_engine(tmp_path: Path, model: Path) -> None:
    program = standin.install(tmp_path / "bin", "8.5.2")
    assert built(program, model, "--buildOnly").returncode == 0
    ended = loaded(standin.install(tmp_path / "bin", "8.6.1"))
    assert ended.returncode == 1
    assert "Version tag does not match" in ended.stderr
