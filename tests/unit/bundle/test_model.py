"""ONNX files of strangers, looked at before any library opens them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from repro import bundle, models
from repro.bundle import model
from repro.errors import Refused
from tests.builders import MODEL, make_files, make_predicate, make_record

NAME = "records/base/case/model.fp32.onnx"


def elsewhere(location: str = "../../etc/passwd") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def whole() -> TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])


def graph(*initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "g", [], [], initializers)


def of(g: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(g)


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[1])


def in_a_sparse_initializer(tensor: TensorProto) -> onnx.ModelProto:
    made = of(graph())
    made.graph.sparse_initializer.append(sparse(whole(), tensor))
    return made


def in_an_attribute(tensor: TensorProto) -> onnx.ModelProto:
    return of(graph(nodes=(helper.make_node("Constant", [], ["c"], value=tensor),)))


def in_tensors_of_an_attribute(tensor: TensorProto) -> onnx.ModelProto:
    return of(graph(nodes=(helper.make_node("X", [], ["c"], domain="d", values=[whole(), tensor]),)))


def in_a_sparse_attribute(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["c"], sparse_value=sparse(tensor, whole()))
    return of(graph(nodes=(node,)))


def in_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("If", ["x"], ["y"], then_branch=graph(tensor), else_branch=graph())
    return of(graph(nodes=(node,)))


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    made = of(graph())
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    made.functions.append(helper.make_function("d", "f", [], ["c"], [node], [helper.make_opsetid("", 13)]))
    return made


def in_training(tensor: TensorProto) -> onnx.ModelProto:
    made = of(graph())
    made.training_info.add().algorithm.CopyFrom(graph(tensor))
    return made


PLACES: list[Callable[[TensorProto], onnx.ModelProto]] = [
    lambda tensor: of(graph(whole(), tensor)),
    in_a_sparse_initializer,
    in_an_attribute,
    in_tensors_of_an_attribute,
    in_a_sparse_attribute,
    in_a_branch,
    in_a_function,
    in_training,
]


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_refused_wherever_it_hangs(
    place: Callable[[TensorProto], onnx.ModelProto],
) -> None:
    model.check(NAME, place(whole()).SerializeToString())
    with pytest.raises(Refused, match="another file"):
        model.check(NAME, place(elsewhere()).SerializeToString())


@pytest.mark.parametrize("location", ["/etc/passwd", "../x", "x.bin", "", "C:\\x", "a/../../b"])
def test_no_location_is_good_enough(location: str) -> None:
    with pytest.raises(Refused, match="another file"):
        model.check(NAME, of(graph(elsewhere(location))).SerializeToString())


def test_a_location_without_the_word_external_is_refused_too() -> None:
    tensor = elsewhere()
    tensor.ClearField("data_location")
    with pytest.raises(Refused, match="another file"):
        model.check(NAME, of(graph(tensor)).SerializeToString())


@pytest.mark.parametrize("precision", models.PRECISIONS)
def test_the_kits_own_models_are_whole(precision: str) -> None:
    model.check(NAME, models.build(MODEL, precision))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\x3a\x05abc",
        b"\x0f",
        b"\x38\x01",
        b"\xff" * 11,
        b"PK\3\4",
        b'{"a": 1}',
        b"\xba\x80\x80\x80\x10\0",
        b"\0\1",
    ],
    ids=[
        "cut tag",
        "too long",
        "a group",
        "a graph that is a number",
        "endless",
        "a zip",
        "json",
        "a graph to some",
        "no field",
    ],
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="no ONNX model"):
        model.check(NAME, data)


def test_depth_and_work_are_bounded() -> None:
    nested = graph()
    for _ in range(20):
        nested = graph(nodes=(helper.make_node("If", ["x"], ["y"], then_branch=nested),))
    with pytest.raises(Refused, match="nested deeper"):
        model.check(NAME, of(nested).SerializeToString())
    with pytest.raises(Refused, match="more parts"):
        model.check(NAME, b"\x08\x01" * model.MAX_FIELDS)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 20))
def test_any_bytes_are_refused_or_read_as_protobuf_reads_them(data: bytes, at: int, cut: int) -> None:
    good = of(graph(whole())).SerializeToString()
    for mutant in (data, good[:at] + data + good[at + cut :]):
        try:
            model.check(NAME, mutant)
        except Refused:
            continue
        try:
            read = onnx.ModelProto.FromString(mutant)
        except Exception:  # noqa: BLE001 - protobuf is stricter: text must be text
            continue
        assert not any(tensor.external_data for tensor in read.graph.initializer)


def test_a_bundle_with_such_a_model_is_refused(tmp_path: Path) -> None:
    record = make_record()
    for tensor, refused in ((whole(), False), (elsewhere(), True)):
        files = make_files(record)
        files[f"records/{record.record_name}/case/model.fp32.onnx"] = of(graph(tensor)).SerializeToString()
        sealed = bundle.seal(files, make_predicate(record), key=None, target=tmp_path, stem="x")
        found = bundle.inspect(sealed.path)
        assert (found.contents.state == "refused") == refused
        assert ("another file" in found.contents.text) == refused
