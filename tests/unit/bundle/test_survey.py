"""Models that lie of their size, or whose work nobody can tell, refused before any library opens them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from repro import cases, models
from repro.bundle.survey import MAX_NODES, survey
from repro.errors import Refused, ReproError, Unavailable
from repro.schema import TensorSpec

ENDS = (TensorSpec("input", (1, 4), "fp32", "chw"), TensorSpec("output", (1, 4), "fp32", "chw"))


def value(name: str, shape: tuple[int, ...] = (1, 4), kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def net(*nodes: onnx.NodeProto, weights: tuple[TensorProto, ...] = ()) -> onnx.ModelProto:
    made = nodes or (helper.make_node("Neg", ["input"], ["output"]),)
    return helper.make_model(helper.make_graph(made, "g", [value("input")], [value("output")], weights))


def lying(dims: list[int], **data: Any) -> TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, **data)


def survey_of(model: onnx.ModelProto) -> object:
    return survey("m.onnx", model.SerializeToString(), ENDS)


@pytest.mark.parametrize("case", ["conv16", "calib-copy", "calib-gemm"])
def test_the_kits_own_models_pass(case: str) -> None:
    experiment = cases.resolve(cases.load(case), None)
    for precision, data in experiment.onnx.items():
        found = survey("m.onnx", data, models.tensors(experiment.model, precision))
        assert found.nodes == len(onnx.load_from_string(data).graph.node)
        assert set(found.operators) == {node.op_type for node in onnx.load_from_string(data).graph.node}


def test_weights_of_every_kind_pass() -> None:
    kept = [numpy_helper.from_array(np.ones((3, 2), kind), "w") for kind in (np.float32, np.int8, np.float16)]
    kept.append(helper.make_tensor("w", TensorProto.INT64, [3], [1, 2, 300]))
    kept.append(helper.make_tensor("w", TensorProto.FLOAT, [], [1.0]))
    kept.append(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]))
    for tensor in kept:
        survey_of(net(weights=(tensor,)))
    as_input = net(weights=(kept[-1],))
    as_input.graph.input.append(value("w", (2,)))
    survey_of(as_input)


@pytest.mark.parametrize(
    "tensor",
    [
        lying([2**29]),
        lying([2**20, 512], raw_data=b"\0" * 1000),
        lying([1000], float_data=[1.0, 2.0]),
        lying([-1], raw_data=b"\0" * 8),
        lying([2**40]),
        lying([1] * 17, raw_data=b"\0" * 4),
    ],
)
@pytest.mark.parametrize("where", ["weight", "attribute"])
def test_a_tensor_that_is_declared_larger_than_it_is(tensor: TensorProto, where: str) -> None:
    if where == "weight":
        model = net(weights=(tensor,))
    else:
        nodes = [
            helper.make_node("Constant", [], ["c"], value=tensor),
            helper.make_node("Neg", ["input"], ["output"]),
        ]
        model = net(*nodes)
    assert len(model.SerializeToString()) < 2000
    with pytest.raises(Refused, match=r"declares a tensor of .* and doesn't hold it"):
        survey_of(model)


def with_a_loop() -> onnx.ModelProto:
    body = helper.make_graph([helper.make_node("Neg", ["input"], ["x"])], "b", [], [value("x")])
    return net(helper.make_node("Loop", ["n", "", "input"], ["output"], body=body))


def with_a_graph_under_another_name() -> onnx.ModelProto:
    body = helper.make_graph([helper.make_node("Neg", ["input"], ["x"])], "b", [], [value("x")])
    return net(helper.make_node("Neg", ["input"], ["output"], body=body))


def with_functions() -> onnx.ModelProto:
    model = net()
    node = helper.make_node("Neg", ["a"], ["b"])
    model.functions.append(
        helper.make_function("d", "f", ["a"], ["b"], [node], [helper.make_opsetid("", 13)])
    )
    return model


def with_sparse_weights() -> onnx.ModelProto:
    model = net()
    values, indices = (helper.make_tensor(n, k, [1], [0]) for n, k in (("v", 1), ("i", 7)))
    model.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=values, indices=indices, dims=[2**40])
    )
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (with_a_loop, "the operator Loop"),
        (with_a_graph_under_another_name, "graphs within operators"),
        (with_functions, "functions or training"),
        (with_sparse_weights, "sparse tensors"),
        (
            lambda: net(helper.make_node("PyOp", ["input"], ["output"], domain="ai.onnx.contrib")),
            "'ai.onnx.contrib'",
        ),
        (lambda: net(helper.make_node("X", ["input"], ["output"], domain="a\x1b[2Jb")), r"\\x1b"),
        (
            lambda: net(*[helper.make_node("Neg", ["input"], ["output"])] * (MAX_NODES + 1)),
            f"more than {MAX_NODES} operators",
        ),
    ],
)
def test_what_cannot_be_replayed(make: Callable[[], onnx.ModelProto], says: str) -> None:
    with pytest.raises(Unavailable, match=says):
        survey_of(make())


def renamed() -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph([helper.make_node("Neg", ["x"], ["output"])], "g", [value("x")], [value("output")])
    )


def reshaped() -> onnx.ModelProto:
    model = net()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**9
    return model


def opened() -> onnx.ModelProto:
    model = net()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    return model


def retyped() -> onnx.ModelProto:
    model = net()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


def doubled() -> onnx.ModelProto:
    model = net()
    model.graph.input.append(value("second"))
    return model


@pytest.mark.parametrize("make", [renamed, reshaped, opened, retyped, doubled])
def test_ends_that_are_not_those_of_the_description(make: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(Refused, match="that its description says"):
        survey_of(make())


@pytest.mark.parametrize(
    "data", [b"", b"\x3a", b"no model at all", b"\x3a\x05\xff\xff\xff\xff\xff", b"\x08\x08"]
)
def test_what_is_no_model(data: bytes) -> None:
    with pytest.raises(Refused, match="is no ONNX model"):
        survey("m.onnx", data, ENDS)


GOOD = net(weights=(numpy_helper.from_array(np.ones((2, 3), np.float32), "w"),)).SerializeToString()


def said(data: bytes) -> str:
    """Return what is wrong with a model, nothing where it passes; another exception is a failure."""
    try:
        survey("m.onnx", data, ENDS)
    except ReproError as error:
        return str(error)
    return ""


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_passes(at: int, byte: int) -> None:
    mutant = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    assert "\n" not in said(mutant)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(data: bytes) -> None:
    assert "\n" not in said(data)
