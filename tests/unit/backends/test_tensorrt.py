"""The Python API's backends, over a double of each kind of release and the tests' made-up driver.

What the real TensorRT-RTX makes of the same calls is in tests/e2e/test_tensorrt_rtx.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import backends, models, proc, turn
from repro.backends import bindings, cuda, nvinfer, tensorrt, tensorrt_rtx
from repro.errors import ExitCode, Unavailable, UsageError
from repro.lowering import ENGINE_FILE
from repro.schema import ConvStack, Protocol, Turn
from tests.builders import MODEL, make_subject
from tests.conftest import ROOT

DOUBLE = ROOT / "tests" / "double"
RELEASES = ("8.6.1.6", "10.3.0.26", "10.16.1.11", "11.1.0.106", "rtx")
STRONG_ONLY = ("11.1.0.106", "rtx")
WEAK_ONLY = ("8.6.1.6",)
NODES = ["conv1", "conv2"]

Play = Callable[..., turn.Result]


def forget() -> None:
    for name in ("tensorrt", "tensorrt_rtx", "scripted"):
        sys.modules.pop(name, None)
    bindings.look.cache_clear()


@pytest.fixture
def played(driver: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Return what puts a release's double in the API's place and gives the backend's name."""
    monkeypatch.setattr(cuda, "LIBRARY", str(driver / cuda.LIBRARY))
    monkeypatch.syspath_prepend(str(DOUBLE))
    monkeypatch.setenv("PYTHONPATH", f"{DOUBLE}{os.pathsep}{ROOT}")

    def play(release: str) -> str:
        monkeypatch.setenv("TRT_DOUBLE_RELEASE", release)
        forget()
        return "tensorrt_rtx" if release == "rtx" else "tensorrt"

    yield play
    forget()


@pytest.fixture
def run(played: Callable[[str], str], tmp_path: Path) -> Play:
    """Return a function that takes one turn on a release; the same `home` is the same build."""

    def take(
        release: str,
        *,
        spec: ConvStack = MODEL,
        model: bytes | None = None,
        measured: bool = False,
        home: str = "home",
        build_only: bool = False,
        **planned: Any,
    ) -> turn.Result:
        backend = played(release)
        asked = {"typing": "strong", "sparsity": False, "optimization_level": None, "precision": "fp16"}
        asked |= planned
        precision = str(asked.pop("precision"))
        subject = make_subject(spec, precision, **asked)
        file = "fp16" if precision == "fp16" and asked["typing"] == "strong" else "fp32"
        path = tmp_path / f"model.{file}.onnx"
        path.write_bytes(models.build(spec, file) if model is None else model)
        folder = tmp_path / home
        folder.mkdir(exist_ok=True)
        task = turn.Task(
            turn=Turn(0, 0, subject.record_name, 0, 0 if measured else None),
            subject=subject,
            model_path=str(path),
            backend=backend,
            gpu=True,
            build_only=build_only,
            threads=1,
            seed=7,
            protocol=Protocol("test", 1, 1, 0.001, 3, 0.0, None),
            process=0,
            origin_ns=0,
            home=str(folder),
        )
        return turn.run(task, folder)

    return take


def plan(tmp_path: Path, home: str = "home") -> dict[str, Any]:
    """Return what the double's builder was told."""
    found: dict[str, Any] = json.loads((tmp_path / home / ENGINE_FILE).read_bytes())
    return found


def stages(result: turn.Result) -> list[tuple[str, str]]:
    return [(stage.name, stage.status) for stage in result.stages]


def failure(result: turn.Result) -> tuple[str, str, str]:
    error = result.stages[-1].error
    assert error is not None
    return error.stage, str(error.code), error.message


BUILT = [("prepare", "ok"), ("build", "ok"), ("profile", "ok"), ("check", "ok")]


@pytest.mark.needs("cc")
@pytest.mark.parametrize("release", [each for each in RELEASES if each not in WEAK_ONLY])
@pytest.mark.parametrize("layout", ["chw", "hwc8"])
def test_a_strongly_typed_network_is_built_profiled_checked_and_run(
    run: Play, tmp_path: Path, release: str, layout: str
) -> None:
    built = run(release, io_layout=layout)
    assert stages(built) == BUILT
    assert built.build is not None
    assert built.build.check is not None
    assert built.build.check.ok
    told = plan(tmp_path)
    explicit = ["EXPLICIT_BATCH"] if release.startswith("10") else []
    assert told["network_flags"] == [*explicit, "STRONGLY_TYPED"]
    assert (told["network_name"], told["verbosity"], told["held"]) == ("made-up", "DETAILED", 0)
    assert told["flags"] == ["TF32"]
    assert told["timing_cache"] is (release != "rtx")
    assert built.build.timing_cache == (None if release == "rtx" else "local")
    assert (built.build.jit_seconds is None) is (release != "rtx")
    assert built.layers is not None
    assert [(layer.name, layer.time_ns) for layer in built.layers] == [
        ("conv1", 500_000),
        ("conv2", 1_500_000),
    ]
    seen = {name: each.value for name, each in built.effective.items()}
    assert seen == {
        "precision": "fp16",
        "typing": "strong",
        "io_layout": layout,
        "sparsity": False,
        "optimization_level": None,
        "cuda_graph": False,
    }
    ran = run(release, io_layout=layout, measured=True)
    assert stages(ran) == [("prepare", "ok"), ("run", "ok")]
    assert ran.run is not None
    assert ran.run.summary.n >= 3
    # The made-up driver's events are a virtual millisecond apart.
    assert ran.run.summary.median_ns == 1e6


@pytest.mark.needs("cc")
@pytest.mark.parametrize("release", [each for each in RELEASES if each not in STRONG_ONLY])
def test_weak_typing_holds_every_layer_of_floats_and_the_ends_to_fp16(
    run: Play, tmp_path: Path, release: str
) -> None:
    built = run(release, typing="weak")
    assert stages(built) == BUILT
    told = plan(tmp_path)
    assert told["network_flags"] == ["EXPLICIT_BATCH"]
    assert told["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS", "TF32"]
    # Neither the constant nor the shape.
    assert (told["held"], told["dtypes"]) == (len(NODES), ["HALF", "HALF"])
    assert built.effective["typing"].value == "weak"


@pytest.mark.needs("cc")
@pytest.mark.parametrize("release", RELEASES)
def test_other_settings_reach_the_builder_and_are_read_back(run: Play, tmp_path: Path, release: str) -> None:
    typing = "weak" if release in WEAK_ONLY else "strong"
    built = run(release, precision="fp32", typing=typing, sparsity=True, optimization_level=5)
    assert stages(built) == BUILT
    assert (plan(tmp_path)["flags"], plan(tmp_path)["level"]) == (["SPARSE_WEIGHTS"], 5)
    seen = {name: each.value for name, each in built.effective.items()}
    assert (seen["sparsity"], seen["optimization_level"], seen["precision"]) == (True, 5, "fp32")
    run(release, precision="tf32", typing=typing, home="tf32")
    assert plan(tmp_path, "tf32")["flags"] == ["TF32"]


@pytest.mark.needs("cc")
@pytest.mark.parametrize("release", [each for each in RELEASES if each not in STRONG_ONLY])
def test_weak_int8_comes_from_the_graphs_own_nodes(run: Play, tmp_path: Path, release: str) -> None:
    quantised = msgspec.structs.replace(MODEL, quantised=True)
    run(release, spec=quantised, precision="int8", typing="weak")
    assert plan(tmp_path)["flags"] == ["INT8", "TF32"]
    assert plan(tmp_path)["held"] == 0


@pytest.mark.needs("cc")
@pytest.mark.parametrize("release", ["10.16.1.11", "rtx"])
def test_a_cuda_graph_is_launched_and_its_output_checked(run: Play, release: str) -> None:
    built = run(release, cuda_graph=True)
    assert stages(built) == BUILT
    assert built.effective["cuda_graph"].value is True
    ran = run(release, cuda_graph=True, measured=True)
    assert stages(ran) == [("prepare", "ok"), ("run", "ok")]


@pytest.mark.needs("cc")
def test_a_graph_that_cannot_be_captured_is_a_failure_by_name(
    run: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRT_DOUBLE_FAIL", "capture")
    assert failure(run("rtx", cuda_graph=True))[:2] == ("build", "cuda_graph")
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuGraphInstantiateWithFlags=900")
    stage, code, message = failure(run("10.3.0.26", cuda_graph=True, home="other"))
    assert (stage, code) == ("build", "cuda_graph")
    assert "CUDA_ERROR_900" in message


@pytest.mark.needs("cc")
def test_what_the_jit_compiled_stays_with_the_build(run: Play, tmp_path: Path) -> None:
    run("rtx")
    kernels = tmp_path / "home" / nvinfer.KERNELS_FILE
    assert kernels.read_bytes() == b"compiled"
    kernels.write_bytes(b"other")  # The double accepts its own only.
    assert failure(run("rtx", measured=True))[0] == "prepare"


@pytest.mark.needs("cc")
def test_two_builds_of_one_recipe_have_one_structure_and_one_plan(run: Play) -> None:
    first, second = run("10.3.0.26"), run("10.3.0.26", home="again")
    assert first.build is not None
    assert second.build is not None
    for name in ("recipe_hash", "structure_hash", "plan_sha256"):
        assert getattr(first.build, name) == getattr(second.build, name) is not None
    other = run("10.3.0.26", optimization_level=1, home="other").build
    assert other is not None
    assert other.recipe_hash != first.build.recipe_hash


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    ("what", "stage", "code", "words"),
    [
        ("builder", "build", "Error Code 6", "no driver"),
        ("build", "build", "Error Code 10", "no implementation"),
        ("build_silently", "build", "no_engine", "gave no reason"),
        ("out_of_memory", "build", "out_of_memory", "requested 9 bytes"),
        ("load", "build", "Error Code 1", "Version tag does not match"),
        ("context", "build", "no_context", "no reason is given"),
        ("address", "build", "address", "the buffer of input was refused"),
        ("format", "build", "not_as_planned", "io_layout is chw4, planned was chw"),
        ("enqueue", "profile", "not_enqueued", "was not enqueued"),
        ("wrong", "check", "wrong_output", ""),
    ],
)
@pytest.mark.parametrize("release", ["10.16.1.11", "rtx"])
def test_whatever_fails_is_told_in_the_librarys_words(
    run: Play, monkeypatch: pytest.MonkeyPatch, release: str, what: str, stage: str, code: str, words: str
) -> None:
    monkeypatch.setenv("TRT_DOUBLE_FAIL", what)
    found = failure(run(release))
    assert found[:2] == (stage, code)
    assert words in found[2]


@pytest.mark.needs("cc")
def test_memory_of_the_device_that_runs_out_is_the_drivers_own_code(
    run: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuMemAlloc_v2=2")
    assert failure(run("10.3.0.26"))[:2] == ("build", "CUDA_ERROR_2")


@pytest.mark.needs("cc")
@pytest.mark.parametrize("release", RELEASES)
def test_every_error_of_the_parser_is_told_with_its_node(run: Play, release: str) -> None:
    """8.6 tells a node's number only; its name is then read from the model."""
    import onnx

    model = onnx.load_from_string(models.build(MODEL, "fp16"))
    for node in model.graph.node:
        node.op_type = "Frobnicate"
    typing = "weak" if release in WEAK_ONLY else "strong"
    stage, code, message = failure(run(release, model=model.SerializeToString(), typing=typing))
    assert (stage, code) == ("build", "INVALID_NODE")
    lines = message.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"node '{name}' (Frobnicate)" for name in NODES]
    assert all("Plugin not found" in line and "the kit loads no plugins" in line for line in lines)


@pytest.mark.needs("cc")
@pytest.mark.parametrize("release", RELEASES)
def test_what_is_no_onnx_at_all_is_told_without_a_node(run: Play, release: str) -> None:
    typing = "weak" if release in WEAK_ONLY else "strong"
    found = failure(run(release, model=models.build(MODEL, "fp16")[:-100], typing=typing))
    assert found == ("build", "MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model.")


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_has_what_the_table_says(played: Callable[[str], str], release: str) -> None:
    product = bindings.PRODUCTS[played(release)]
    module = bindings.load(product)
    for path in bindings.DIFFERENCES:
        if path.startswith(("IRuntimeConfig.", "IExecutionContext.")) and release != "rtx":
            continue
        assert (bindings.find(module, path) is not None) == bindings.has(product, release, path), path


def test_what_is_not_in_the_table_is_not_asked_for(played: Callable[[str], str]) -> None:
    module = bindings.load(bindings.PRODUCTS[played("10.3.0.26")])
    with pytest.raises(KeyError, match=r"BuilderFlag\.BF16"):
        bindings.find(module, "BuilderFlag.BF16")


@pytest.mark.parametrize(
    ("version", "typings"),
    [("8.6.1", ("weak",)), ("10.3.0", ("weak", "strong")), ("11.0.0", ("strong",)), ("11.1.0", ("strong",))],
)
def test_how_a_release_types_follows_from_the_table(version: str, typings: tuple[str, ...]) -> None:
    assert tensorrt.typings(version) == typings
    assert tensorrt_rtx.typings("1.7.1") == ("strong",)


# --- which one is here ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "name", "version", "build"),
    [
        ("8.6.1.6", "trt-8.6.1.6", "8.6.1", "6"),
        ("10.16.1.11", "trt-10.16.1.11", "10.16.1", "11"),
        ("11.1.0", "trt-11.1.0", "11.1.0", None),
    ],
)
def test_a_release_is_named_by_its_package(
    played: Callable[[str], str], release: str, name: str, version: str, build: str | None
) -> None:
    found = backends.load(played(release)).release(gpu=True)
    assert (found.name, found.version, found.build) == (name, version, build)


def test_below_8_6_trtexec_is_the_way(played: Callable[[str], str]) -> None:
    with pytest.raises(Unavailable) as caught:
        backends.load(played("8.5.2.2")).release(gpu=True)
    assert "8.5.2.2" in caught.value.what
    assert "trtexec" in caught.value.hint
    assert caught.value.code is ExitCode.DOES_NOT_APPLY


@pytest.mark.parametrize("backend", [tensorrt, tensorrt_rtx])
def test_it_measures_on_gpus_only(backend: Any) -> None:
    with pytest.raises(Unavailable, match="NVIDIA GPUs only"):
        backend.release(gpu=False)


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        (
            "raise ImportError('libnvinfer.so.10: cannot open shared object file: No such file')",
            "libnvinfer.so.10: cannot open shared object file",
            "a library is missing: pip install tensorrt",
        ),
        (
            "raise ImportError('Python version mismatch: module was compiled for Python 3.8')",
            "compiled for Python 3.8",
            f"bindings for Python {sys.version_info.major}.{sys.version_info.minor}",
        ),
        ("import tensorrt.tensorrt", "No module named 'tensorrt.tensorrt'", "bindings for Python"),
        ("raise RuntimeError('first\\nsecond')", "(first)", "by hand"),
        ("import os; os.abort()", "ended the process", "by hand"),
    ],
)
def test_one_that_does_not_load_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, what: str, hint: str
) -> None:
    package = tmp_path / "tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text(f"{text}\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    forget()
    with pytest.raises(Unavailable) as caught:
        tensorrt.release(gpu=True)
    forget()
    assert what in caught.value.what
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_one_that_is_not_installed_says_how_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = bindings.TENSORRT._replace(modules=("no_such_module",))
    monkeypatch.setitem(bindings.PRODUCTS, "tensorrt", absent)
    assert bindings.main("tensorrt") == 1
    said = capsys.readouterr().err.strip()
    monkeypatch.setattr(proc, "run", lambda *_, **__: proc.Finished(1, b"", said.encode()))
    bindings.look.cache_clear()
    for ask in (bindings.look, bindings.load):
        with pytest.raises(Unavailable) as caught:
            ask(absent)
        assert str(caught.value) == "TensorRT's Python API is not installed: pip install tensorrt"


def test_a_layout_for_fp16_is_refused_for_other_types() -> None:
    assert tensorrt.refuse({"precision": "fp16", "io_layout": "hwc8"}, gpu=True) is None
    assert tensorrt.refuse({"precision": "fp32", "io_layout": "hwc8"}, gpu=True) == (
        "the layout hwc8 holds fp16, not fp32"
    )


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="tensorrt"):
        backends.load("tensort")
