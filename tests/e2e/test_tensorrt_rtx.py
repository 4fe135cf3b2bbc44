"""NVIDIA's own parser and builder: TensorRT-RTX builds every variant of conv16 on a machine without a GPU.

Nothing here is played: what a test expects of layers and of errors was seen from TensorRT-RTX 1.7.1.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import backends, bundle, cases, compare, observed
from repro.backends import api, bindings, cuda, nvinfer, said
from repro.backends.said import Failed
from repro.errors import ExitCode
from repro.lowering import ENGINE_FILE
from repro.schema import Record
from tests.builders import make_subject
from tests.e2e.conftest import Call, Finished

pytestmark = pytest.mark.needs("tensorrt_rtx")

HAS_GPU = cuda.present()
CASE = cases.load("conv16")
REFUSED = {"chw16": "Assertion allowedFormatSet != FormatSet::kNONE failed"}
MOVES = {"hwc8": 0, "hwc8-nobias": 0, "chw32": 4, "int8": 1, "c3": None}
"""Layers that only change a layout; two where a variant isn't named, and `c3` is padded in its own way."""


def built(variant: str | None, folder: Path) -> nvinfer.Engine:
    experiment = cases.resolve(CASE, variant)
    settings = experiment.settings
    file = "fp16" if settings.precision == "fp16" else "fp32"
    path = folder / "model.onnx"
    path.write_bytes(experiment.onnx[file])
    subject = make_subject(
        experiment.model,
        settings.precision,
        typing="strong",
        io_layout=settings.io_layout,
        sparsity=settings.sparsity,
        optimization_level=None,
    )
    values = np.zeros(1, np.float16)
    engine: nvinfer.Engine = backends.load("tensorrt_rtx").build(
        path, folder, subject, gpu=False, threads=1, source=values, result=values
    )
    return engine


@pytest.mark.parametrize("variant", [None, *CASE.variants])
def test_nvidias_builder_makes_every_variant_or_says_why_not(variant: str | None, tmp_path: Path) -> None:
    if variant in REFUSED:
        with pytest.raises(Failed) as caught:
            built(variant, tmp_path)
        assert caught.value.code == "Error Code 2"
        assert REFUSED[variant] in str(caught.value)
        return
    experiment = cases.resolve(CASE, variant)
    engine = built(variant, tmp_path)
    layers = engine.layers()
    assert layers is not None
    convolutions = [layer for layer in layers if layer.type == "correlation"]
    model: Any = experiment.model
    assert len(convolutions) == len(model.channels) - 1
    moves = [layer for layer in layers if layer.is_reformat]
    expected = MOVES.get(variant or "", 2)
    if expected is not None:
        assert len(moves) == expected
    # Weights and biases are constants, and no inputs.
    assert {len(layer.inputs) for layer in convolutions} == {1}
    assert all(tensor.format == "hwc" for layer in convolutions for tensor in layer.inputs)
    seen = {name: each.value for name, each in engine.effective().items()}
    assert seen["precision"] == experiment.settings.precision
    assert seen["io_layout"] == experiment.settings.io_layout
    assert seen["sparsity"] == experiment.settings.sparsity
    assert (tmp_path / ENGINE_FILE).stat().st_size > 0


def test_with_linear_ends_the_convolutions_gain_transposes_and_with_hwc8_none(tmp_path: Path) -> None:
    ends = {}
    for variant in ("chw", "hwc8"):
        folder = tmp_path / variant
        folder.mkdir()
        layers = built(variant, folder).layers() or ()
        ends[variant] = [
            (layer.is_reformat, layer.inputs[0].format, layer.outputs[0].format) for layer in layers
        ]
    convolution = (False, "hwc", "hwc")
    assert ends["hwc8"] == [convolution] * 3
    assert ends["chw"] == [(True, "chw", "hwc"), *[convolution] * 3, (True, "hwc", "chw")]


def test_the_same_model_and_settings_give_the_same_plan(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        engine = built("hwc8", tmp_path / name)
        digests.append((engine.plan_sha256, engine.recipe_hash, engine.structure_hash()))
    assert digests[0] == digests[1]


def test_the_real_api_has_what_the_kit_calls() -> None:
    module = bindings.load(bindings.RTX)
    owners = {
        "Memory": "IHostMemory",
        "Tensor": "ITensor",
        "Network": "INetworkDefinition",
        "ParserError": "ParserError",
        "Parser": "OnnxParser",
        "Config": "IBuilderConfig",
        "Builder": "Builder",
        "Inspector": "EngineInspector",
        "Context": "IExecutionContext",
        "Engine": "ICudaEngine",
        "Runtime": "Runtime",
    }
    calls = 0
    for own, theirs in owners.items():
        protocol = getattr(api, own)
        names = {name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if name[0] != "_"}
        names |= set(inspect.get_annotations(protocol))
        for name in names:
            assert hasattr(getattr(module, theirs), name), f"{theirs}.{name}"
            calls += 1
    assert calls > 30
    for name in api.Bindings.__annotations__:
        assert hasattr(module, name), name


def test_the_table_of_differences_holds_for_the_real_one() -> None:
    module = bindings.load(bindings.RTX)
    for path, row in bindings.DIFFERENCES.items():
        assert (bindings.find(module, path) is not None) == row.rtx, path


# --- broken models ----------------------------------------------------------------------------------


def broken(kind: str) -> bytes:
    """Return a model of one convolution, named `c1`, that is broken in one way."""
    import onnx
    from onnx import TensorProto, helper

    def tensor(name: str, *shape: int, dtype: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor(name, dtype, shape, np.zeros(int(np.prod(shape)), np.float32))

    def model(nodes: list[Any], weights: list[Any], dtype: int = TensorProto.FLOAT) -> bytes:
        ends = [helper.make_tensor_value_info(name, dtype, (1, 16, 8, 8)) for name in ("input", "output")]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        return bytes(whole.SerializeToString())

    def conv(weights: str) -> Any:
        return helper.make_node("Conv", ["input", weights], ["output"], name="c1", pads=[1, 1, 1, 1])

    w = tensor("w", 16, 16, 3, 3)
    if kind == "cut":
        return model([conv("w")], [w])[:-200]
    if kind == "no ONNX":
        return b""
    if kind == "unknown operator":
        return model([helper.make_node("Frobnicate", ["input"], ["output"], name="c1")], [])
    if kind == "two unknown operators":
        nodes = [
            helper.make_node("Frobnicate", ["input"], ["mid"], name="f1"),
            helper.make_node("Frobnicate", ["mid"], ["output"], name="f2"),
        ]
        return model(nodes, [])
    if kind == "custom domain":
        node = helper.make_node("Own", ["input"], ["output"], name="c1", domain="acme.example")
        return model([node], [])
    if kind == "wrong shape":
        return model([conv("w")], [tensor("w", 16, 8, 3, 3)])
    if kind == "missing input":
        return model([conv("nowhere")], [w])
    if kind == "mixed types":
        node = helper.make_node("Add", ["input", "half"], ["output"], name="c1")
        return model([node], [tensor("half", 1, 16, 8, 8, dtype=TensorProto.FLOAT16)])
    if kind == "unsupported type":
        return model([helper.make_node("Relu", ["input"], ["output"], name="c1")], [], TensorProto.COMPLEX64)
    if kind == "missing output":
        return model([helper.make_node("Relu", ["input"], ["other"], name="c1")], [])
    assert kind == "weights elsewhere"
    whole = onnx.load_from_string(model([conv("w")], [w]))
    place = whole.graph.initializer[0]
    place.ClearField("float_data")
    place.data_location = TensorProto.EXTERNAL
    entry = place.external_data.add()
    entry.key, entry.value = "location", "w.bin"
    return bytes(whole.SerializeToString())


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("cut", "MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model"),
        ("no ONNX", "no_network", "0 inputs and 0 outputs"),
        (
            "unknown operator",
            "INVALID_NODE",
            r"node 'c1' \(Frobnicate\): .*Plugin not found.*loads no plugins",
        ),
        (
            "two unknown operators",
            "INVALID_NODE",
            r"node 'f1' \(Frobnicate\): .*\nnode 'f2' \(Frobnicate\): ",
        ),
        ("custom domain", "INVALID_NODE", r"node 'c1' \(Own\): .*Plugin not found"),
        ("wrong shape", "INVALID_NODE", r"node 'c1' \(Conv\): .*Kernel weight dimension failed to broadcast"),
        ("missing input", "INVALID_GRAPH", r"node 'c1' \(Conv\): .*Node input was not registered"),
        ("mixed types", "INVALID_NODE", r"node 'c1' \(Add\): .*must have same input types"),
        ("unsupported type", "UNSUPPORTED_NODE", "Failed to convert ONNX date type"),
        ("missing output", "INTERNAL_ERROR", "null tensor"),
        ("weights elsewhere", "INVALID_GRAPH", "Failed to import initializer: w"),
    ],
)
def test_a_broken_model_gives_the_parsers_own_errors(kind: str, code: str, words: str) -> None:
    trt = bindings.load(bindings.RTX)
    log = said.logger(trt, said.Said())
    network = trt.Builder(log).create_network(0)
    with pytest.raises(Failed) as caught:
        said.parse(trt, network, broken(kind), log)
    assert caught.value.code == code
    assert re.search(words, str(caught.value))


# --- the whole path, where there is no GPU ------------------------------------------------------------


def sealed(call: Call, tmp_path: Path, spec: str) -> tuple[Finished, Path]:
    folder = tmp_path / spec.partition(":")[2]
    done = call("run", spec, "--backend", "tensorrt_rtx", "--builds", "1", "--yes", "--output", folder)
    (path,) = folder.glob("*.zip")
    return done, path


def only(path: Path) -> Record:
    (record,) = bundle.read(path).records.values()
    return record


@pytest.mark.needs("ssh-keygen", "linux")
@pytest.mark.skipif(HAS_GPU, reason="here it would run")
def test_without_a_gpu_it_is_built_sealed_shown_and_compared_by_layers(call: Call, tmp_path: Path) -> None:
    paths = []
    for variant in ("chw", "hwc8"):
        done, path = sealed(call, tmp_path, f"conv16:{variant}")
        assert done.returncode == ExitCode.DONE, done.stderr
        assert "building for x86, and not running: there is no NVIDIA driver here" in done.stderr
        assert "none of them run" in done.stdout
        record = only(path)
        assert (record.status, record.runs) == ("built", ())
        assert "no NVIDIA driver" in str(record.reason)
        assert (record.runtime.product, record.runtime.backend) == ("TensorRT-RTX", "tensorrt_rtx")
        assert {stage.name: stage.status for stage in record.stages} == {
            "prepare": "ok",
            "build": "ok",
            "profile": "not_reached",
            "check": "not_reached",
            "run": "not_reached",
        }
        (build,) = record.builds
        assert (build.check, build.jit_seconds, build.timing_cache) == (None, None, None)
        assert all(layer.time_ns is None for layer in record.layers or ())
        assert {"builds.check", "builds.jit_seconds"} <= {each.what for each in record.missing}
        assert [(each.setting, each.requested, each.planned) for each in record.substitutions] == [
            ("typing", "weak", "strong")
        ]
        assert record.board.compute_capability is None
        paths.append(path)

    assert call("verify", paths[0]).returncode == ExitCode.DONE
    shown = call("show", "--layers", paths[0])
    assert (shown.returncode, shown.stdout.count("correlation")) == (ExitCode.DONE, 3)
    compared = call("compare", *paths)
    assert compared.returncode == ExitCode.DOES_NOT_APPLY
    assert "NOT COMPARABLE" in compared.stdout
    assert "a record without a measurement" in compared.stdout
    assert compared.stdout.count("gone (reformat)") == 2
    (pair,) = compare.compare([observed.load(path) for path in paths]).compared
    assert [each.kind for each in pair.layers or ()].count("same") == 3


@pytest.mark.needs("ssh-keygen", "linux")
@pytest.mark.skipif(HAS_GPU, reason="here it would run")
def test_a_format_that_the_builder_refuses_is_a_failed_record_in_its_words(
    call: Call, tmp_path: Path
) -> None:
    done, path = sealed(call, tmp_path, "conv16:chw16")
    assert done.returncode == ExitCode.NEGATIVE, done.stderr
    record = only(path)
    error = next(stage.error for stage in record.stages if stage.error)
    assert (record.status, error.stage, error.code) == ("failed", "build", "Error Code 2")
    assert REFUSED["chw16"] in error.message
    assert REFUSED["chw16"] in str(record.reason)


@pytest.mark.skipif(HAS_GPU, reason="here it would run")
def test_tensorrt_itself_needs_a_gpu_to_be_asked_for_anything(call: Call) -> None:
    done = call("run", "conv16", "--device", "x86", "--backend", "tensorrt")
    assert done.returncode == ExitCode.DOES_NOT_APPLY
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("repro: ")]
    assert "there is no NVIDIA driver here" in line
