"""The same bytes everywhere: known digests, exact numbers, and the thread's own torch module."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from repro import cases, export, models
from repro.backends import onnxruntime
from repro.schema import ConvStack, ModelSpec, TensorSpec
from tests.conftest import ONNX_117, ROOT

SPEC = ConvStack("made-up", 2, 12, 10, (3, 5, 4), 3, True)

# Written down once. A change here is another experiment: it needs a new version of the case.
CONV16 = {
    "fp32": "ba2f5e46b6f442bfc7e7561bca9ba5f4bc93fded5f18a697c1c2366da8783100",
    "fp16": "0fa279d8c0c4147680e0d7e5a53d869613917a5d19425228a45fb17d568abaee",
}


def conv16() -> cases.Experiment:
    return cases.resolve(cases.load("conv16"), None)


def loaded(data: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(data)


def initializers(data: bytes) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded(data).graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


# --- bytes --------------------------------------------------------------------------------------


def test_the_files_of_conv16_have_the_published_digests() -> None:
    assert conv16().model_digests == CONV16


@pytest.mark.needs("onnx-1.17")
def test_onnx_1_17_writes_the_same_bytes() -> None:
    script = """
import hashlib, json, sys, msgspec, onnx
from repro import models
from repro.schema import ConvStack
specs = msgspec.json.decode(sys.stdin.buffer.read(), type=list[ConvStack])
digests = [[hashlib.sha256(models.build(spec, p)).hexdigest() for p in models.PRECISIONS] for spec in specs]
print(json.dumps([onnx.__version__, digests]))
"""
    specs = [conv16().model, SPEC, msgspec.structs.replace(SPEC, bias=False, kernel=5)]
    finished = subprocess.run(
        [sys.executable, "-c", script],
        input=msgspec.json.encode(specs),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ONNX_117), str(ROOT)])},
        capture_output=True,
        timeout=120,
        check=True,
    )
    version, digests = json.loads(finished.stdout)
    here = [[hashlib.sha256(models.build(spec, p)).hexdigest() for p in models.PRECISIONS] for spec in specs]
    assert version.startswith("1.17.")
    assert here == digests
    assert digests[0] == list(CONV16.values())


@pytest.mark.parametrize("precision", models.PRECISIONS)
def test_a_model_passes_the_full_check_of_onnx(precision: str) -> None:
    onnx.checker.check_model(loaded(models.build(SPEC, precision)), full_check=True)


@pytest.mark.parametrize("precision", models.PRECISIONS)
def test_nothing_is_left_to_the_defaults_of_onnx(precision: str) -> None:
    model = loaded(models.build(SPEC, precision))
    assert (model.ir_version, model.producer_name, model.producer_version) == (8, "trt-repro", "1")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]
    schema = onnx.defs.get_schema("Conv", 11)
    for node in model.graph.node:
        assert {item.name for item in node.attribute} == set(schema.attributes) - {"auto_pad"}
    assert [node.name for node in model.graph.node] == ["conv1", "conv2"]


def test_the_graph_is_what_the_description_says() -> None:
    graph = loaded(models.build(SPEC, "fp32")).graph
    assert [list(node.input) for node in graph.node] == [
        ["input", "conv1.weight", "conv1.bias"],
        ["conv1.out", "conv2.weight", "conv2.bias"],
    ]
    assert [list(node.output) for node in graph.node] == [["conv1.out"], ["output"]]
    assert [attributes(node) for node in graph.node] == 2 * [
        {
            "dilations": [1, 1],
            "group": 1,
            "kernel_shape": [3, 3],
            "pads": [1, 1, 1, 1],
            "strides": [1, 1],
        }
    ]
    shapes = {name: values.shape for name, values in initializers(models.build(SPEC, "fp32")).items()}
    assert shapes == {
        "conv1.weight": (5, 3, 3, 3),
        "conv1.bias": (5,),
        "conv2.weight": (4, 5, 3, 3),
        "conv2.bias": (4,),
    }


def test_a_net_without_bias_has_none() -> None:
    data = models.build(msgspec.structs.replace(SPEC, bias=False), "fp32")
    assert list(initializers(data)) == ["conv1.weight", "conv2.weight"]


def test_every_part_of_the_description_changes_the_bytes() -> None:
    changes: list[dict[str, Any]] = [
        {"seed": "other"},
        {"batch": 1},
        {"height": 13},
        {"width": 11},
        {"channels": (3, 4, 4)},
        {"kernel": 5},
        {"bias": False},
    ]
    specs = [SPEC, *(msgspec.structs.replace(SPEC, **change) for change in changes)]
    assert len({models.build(spec, "fp32") for spec in specs}) == len(specs)


@pytest.mark.parametrize(("precision", "code"), [("fp32", TensorProto.FLOAT), ("fp16", TensorProto.FLOAT16)])
def test_input_output_and_weights_have_the_precision_of_the_file(precision: str, code: int) -> None:
    graph = loaded(models.build(SPEC, precision)).graph
    assert {tensor.data_type for tensor in graph.initializer} == {code}
    for value, spec in zip((graph.input[0], graph.output[0]), models.tensors(SPEC, precision), strict=True):
        kind = value.type.tensor_type
        assert kind.elem_type == code
        assert (value.name, tuple(dim.dim_value for dim in kind.shape.dim)) == (spec.name, spec.shape)
        assert (spec.dtype, spec.layout) == (precision, "chw")


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_an_odd_kernel_keeps_the_size_of_the_map(kernel: int) -> None:
    spec = msgspec.structs.replace(SPEC, kernel=kernel)
    result = onnxruntime.unoptimised(
        models.build(spec, "fp32"), models.inputs("s", models.tensors(spec, "fp32")[0])
    )
    assert result.shape == models.tensors(spec, "fp32")[1].shape


# --- sparse and quantised -----------------------------------------------------------------------


def test_of_four_weights_along_the_inputs_two_are_kept() -> None:
    spec = msgspec.structs.replace(SPEC, channels=(8, 12, 6), weights="2:4")
    for name, values in initializers(models.build(spec, "fp32")).items():
        if name.endswith("weight"):
            outputs, inputs, *taps = values.shape
            zeros = (values.reshape(outputs, inputs // 4, 4, *taps) == 0).sum(axis=2)
            # A weight may be 0 by itself, too.
            assert zeros.min() == 2
            assert zeros.mean() < 2.05


def test_the_pattern_of_zeros_follows_from_seed_and_name_and_has_all_pairs() -> None:
    mask = models.kept("seed", "name", (16, 16, 3, 3))
    assert (mask == models.kept("seed", "name", (16, 16, 3, 3))).all()
    assert (mask != models.kept("seed", "other", (16, 16, 3, 3))).any()
    pairs = np.moveaxis(mask.reshape(16, 4, 4, 9), 2, 3).reshape(-1, 4)
    assert len(np.unique(pairs, axis=0)) == 6
    assert (pairs.sum(axis=1) == 2).all()


def test_sparse_weights_are_the_dense_ones_where_they_are_kept() -> None:
    dense = initializers(models.build(msgspec.structs.replace(SPEC, channels=(8, 8)), "fp32"))
    spec = msgspec.structs.replace(SPEC, channels=(8, 8), weights="2:4")
    sparse = initializers(models.build(spec, "fp32"))["conv1.weight"]
    kept = sparse != 0
    # The exponent may be another one: a layer has half the summands.
    ratios = np.unique(sparse[kept] / dense["conv1.weight"][kept])
    assert ratios.tolist() in ([1.0], [2.0])


QUANTISED = msgspec.structs.replace(SPEC, channels=(4, 4, 4), quantised=True)


def test_a_quantised_net_is_int8_around_each_layer() -> None:
    data = models.build(QUANTISED, "fp32")
    onnx.checker.check_model(loaded(data), full_check=True)
    kinds = [node.op_type for node in loaded(data).graph.node]
    layer = ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"]
    assert kinds == 2 * layer
    values = initializers(data)
    assert str(values["conv1.weight.int8"].dtype) == "int8"
    scales = [float(each) for name, each in values.items() if name.endswith("scale")]
    assert all(math.log2(scale).is_integer() for scale in scales)
    assert len(scales) == 4
    assert models.file_precisions(QUANTISED) == ("fp32",)


def test_quantised_weights_are_the_nearest_to_the_plain_ones() -> None:
    plain = initializers(models.build(msgspec.structs.replace(QUANTISED, quantised=False), "fp32"))
    values = initializers(models.build(QUANTISED, "fp32"))
    steps = values["conv1.weight.int8"].astype(np.float64)
    scale = float(values["conv1.weight.scale"])
    assert np.abs(steps * scale - plain["conv1.weight"]).max() <= 1.5 * scale
    assert np.abs(steps).max() > 64


# --- numbers ------------------------------------------------------------------------------------


def test_the_first_integers_of_a_seed_are_known() -> None:
    # SHAKE-128 of "conv16", NUL, "conv1.weight": four bytes summed, 510 taken off, in plain Python.
    stream = hashlib.shake_128(b"conv16\0conv1.weight").digest(40)
    expected = [sum(stream[i : i + 4]) - 510 for i in range(0, 40, 4)]
    assert models.integers("conv16", "conv1.weight", 10).tolist() == expected
    assert expected[:4] == [-132, 145, -49, -67]


@given(st.text(max_size=12), st.text(max_size=12), st.integers(0, 200))
def test_integers_are_sums_of_four_bytes_of_the_stream(seed: str, name: str, count: int) -> None:
    stream = hashlib.shake_128(f"{seed}\0{name}".encode()).digest(4 * count)
    expected = [sum(stream[i : i + 4]) - 510 for i in range(0, 4 * count, 4)]
    assert expected == models.integers(seed, name, count).tolist()


def test_integers_are_near_normal() -> None:
    values = models.integers("seed", "name", 100_000).astype(np.float64)
    # Four bytes: variance 4 · (256² − 1) / 12 = 21845, a standard deviation of 147.8.
    assert abs(values.mean()) < 3 * 147.8 / np.sqrt(values.size)
    assert values.std() == pytest.approx(147.8, rel=0.01)
    assert np.mean(np.abs(values) < 147.8) == pytest.approx(0.68, abs=0.02)


@pytest.mark.parametrize("exponent", range(-14, 7))
def test_weights_are_exact_in_fp16_over_the_promised_exponents(exponent: int) -> None:
    every = np.arange(-510, 511) * 2.0**exponent
    assert (every.astype(np.float16).astype(np.float64) == every).all()
    drawn = models.weights("seed", "name", (64, 64), exponent)
    assert (drawn.astype(np.float16).astype(np.float32) == drawn).all()
    assert drawn.dtype == np.float32


@pytest.mark.parametrize(
    ("fan_in", "expected"),
    [(1, -7), (2, -8), (4, -8), (5, -9), (16, -9), (17, -10), (64, -10), (65, -11), (144, -11), (257, -12)],
)
def test_weight_exponents_by_hand(fan_in: int, expected: int) -> None:
    assert models.weight_exponent(fan_in) == expected


@given(st.integers(1, 10**6))
def test_a_layer_neither_grows_nor_dies(fan_in: int) -> None:
    assert 0.577 < 147.8 * 2.0 ** models.weight_exponent(fan_in) * fan_in**0.5 < 1.16


def test_both_files_of_a_case_hold_equal_numbers() -> None:
    files = conv16().onnx
    narrow, wide = initializers(files["fp16"]), initializers(files["fp32"])
    assert list(narrow) == list(wide)
    for name, values in wide.items():
        assert [str(narrow[name].dtype), str(values.dtype)] == ["float16", "float32"]
        assert (narrow[name].astype(np.float64) == values.astype(np.float64)).all()
        assert values.any()


def test_inputs_of_both_precisions_are_equal_numbers() -> None:
    shape = (1, 4, 40, 30)
    wide, narrow = (models.inputs("seed", TensorSpec("input", shape, p, "chw")) for p in models.PRECISIONS)
    assert [str(wide.dtype), str(narrow.dtype)] == ["float32", "float16"]
    assert wide.shape == narrow.shape == shape
    assert (wide.astype(np.float64) == narrow.astype(np.float64)).all()
    assert wide.std() == pytest.approx(1.15, rel=0.05)


def test_inputs_are_integers_over_128_in_fp64() -> None:
    spec = TensorSpec("input", (1, 2, 5, 4), "fp16", "chw")
    expected = models.integers("seed", "input", 40).astype(np.float64) / 128
    assert (models.inputs("seed", spec).astype(np.float64).ravel() == expected).all()


def test_another_seed_gives_another_input() -> None:
    spec = TensorSpec("input", (1, 2, 5, 4), "fp32", "chw")
    assert (models.inputs("1/0", spec) != models.inputs("1/1", spec)).any()


# --- the module of the thread -------------------------------------------------------------------


MODULE = ROOT / "cases" / "conv16" / "model.py"


def exported(spec: ModelSpec) -> bytes:
    return export.export(export.network(MODULE, spec, models.build(spec, "fp32")), spec)


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("height", "width"), [(1920, 1080), (64, 48)])
def test_the_torch_module_of_the_case_exports_to_the_same_net(height: int, width: int) -> None:
    spec = msgspec.structs.replace(conv16().model, height=height, width=width)
    ours, theirs = models.build(spec, "fp32"), exported(spec)
    structure, weights = export.renamed(ours)
    their_structure, their_weights = export.renamed(theirs)
    assert structure == their_structure
    assert [w.tobytes() for w in weights] == [w.tobytes() for w in their_weights]


@pytest.mark.needs("torch")
def test_the_torch_module_of_the_case_gives_the_same_output() -> None:
    import torch

    spec = msgspec.structs.replace(conv16().model, height=64, width=48)
    source = models.inputs("input", models.tensors(spec, "fp32")[0])
    ours = onnxruntime.unoptimised(models.build(spec, "fp32"), source)
    theirs = onnxruntime.unoptimised(exported(spec), source)
    assert np.abs(ours - theirs).max() <= 1e-6

    network = export.network(MODULE, spec, models.build(spec, "fp32"))
    with torch.no_grad():
        direct = network(torch.from_numpy(source.copy())).numpy()
    assert np.linalg.norm(ours - direct) / np.linalg.norm(direct) <= 1e-6


LAYOUTS: dict[str, Any] = {
    "chw": lambda v: v,
    "hwc8": lambda v: np.pad(v, ((0, 0), (0, 5), (0, 0), (0, 0))).transpose(0, 2, 3, 1),
    "chw16": lambda v: np.pad(v, ((0, 0), (0, 13), (0, 0), (0, 0))).transpose(0, 2, 3, 1)[:, None],
}
"""Of three channels."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_packed_buffer_has_padded_channels_where_the_layout_says(layout: str) -> None:
    values = models.inputs("x", TensorSpec("input", (2, 3, 4, 5), "fp16", "chw"))
    assert models.packed(values, layout) == LAYOUTS[layout](values).tobytes()


def test_more_channels_than_a_vector_are_several_groups() -> None:
    values = models.inputs("x", TensorSpec("input", (1, 33, 2, 3), "fp16", "chw"))
    buffer = np.frombuffer(models.packed(values, "chw32"), np.float16).reshape(1, 2, 2, 3, 32)
    assert np.array_equal(buffer[0, 1, :, :, 0], values[0, 32])
    assert np.array_equal(buffer[0, 0, 1, 2], values[0, :32, 1, 2])
    assert not buffer[0, 1, :, :, 1:].any()


@pytest.mark.parametrize("layout", ["chw", "hwc8", "chw16", "chw32"])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_the_code_in_a_report_writes_the_same_input_with_numpy_alone(
    dtype: str, layout: str, tmp_path: Path
) -> None:
    spec = TensorSpec("input", (2, 20, 4, 5), dtype, layout)
    code = models.input_code("7/0", spec)
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True, timeout=60)
    expected = models.packed(models.inputs("7/0", spec), layout)
    assert (tmp_path / "input.bin").read_bytes() == expected


def test_the_code_for_an_input_of_any_shape(tmp_path: Path) -> None:
    spec = TensorSpec("input", (2, 37), "fp32", "chw")
    subprocess.run([sys.executable, "-I", "-c", models.input_code("7/0", spec)], cwd=tmp_path, check=True)
    assert (tmp_path / "input.bin").read_bytes() == models.inputs("7/0", spec).tobytes()


@pytest.mark.parametrize("layout", ["chw", "hwc8", "chw16", "chw32"])
@pytest.mark.parametrize("channels", [3, 16, 40])
def test_what_was_packed_is_unpacked_as_it_was(layout: str, channels: int) -> None:
    spec = TensorSpec("input", (2, channels, 3, 5), "fp16", "chw")
    values = models.inputs("any", spec)
    assert np.array_equal(models.unpacked(models.packed(values, layout), layout, spec), values)
