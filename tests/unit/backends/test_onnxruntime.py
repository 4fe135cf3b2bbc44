"""The CPU backend reads back what its session really does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from repro import backends, models
from repro.backends import onnxruntime
from repro.schema import ConvStack
from tests.builders import make_subject

SPEC = ConvStack("made-up", 1, 12, 10, (4, 4, 4), 3, True)


def engine(folder: Path, precision: str = "fp32", spec: ConvStack = SPEC) -> Any:
    folder.mkdir(exist_ok=True)
    tensors = models.tensors(spec, precision)
    model = folder / "model.onnx"
    model.write_bytes(models.build(spec, precision))
    source = models.inputs("seed", tensors[0])
    result = np.full(tensors[1].shape, 7, source.dtype)
    return onnxruntime.build(
        model, folder, make_subject(spec, precision), gpu=False, threads=1, source=source, result=result
    )


def test_fp32_is_read_back_as_fp32(tmp_path: Path) -> None:
    effective = engine(tmp_path).effective()
    assert (effective["precision"].value, effective["precision"].source) == ("fp32", "graph")
    assert effective["io_layout"].value == "chw"


def test_an_fp16_file_is_read_back_as_fp32(tmp_path: Path) -> None:
    """The CPU provider accepts FP16 models and computes in FP32 without a word."""
    made = engine(tmp_path, "fp16")
    assert made.effective()["precision"].value == "fp32"
    assert any(layer.type == "Cast" for layer in made.layers())


def test_a_step_overwrites_what_was_in_the_output(tmp_path: Path) -> None:
    made = engine(tmp_path)
    assert np.all(made.output() == 7)
    made.step()
    assert not np.any(made.output() == 7)
    expected = onnxruntime.unoptimised(
        models.build(SPEC, "fp32"), models.inputs("seed", models.tensors(SPEC, "fp32")[0])
    )
    assert np.allclose(made.output(), expected, rtol=1e-4, atol=1e-5)


def test_the_options_that_change_speed_are_recorded_as_set(tmp_path: Path) -> None:
    made = engine(tmp_path)
    set_ = made._session.get_session_options()
    assert made.options["intra_op_num_threads"] == set_.intra_op_num_threads == 1
    assert made.options["inter_op_num_threads"] == set_.inter_op_num_threads == 1
    assert made.options["enable_mem_pattern"] == set_.enable_mem_pattern
    assert made.options["enable_cpu_mem_arena"] == set_.enable_cpu_mem_arena
    spinning = set_.get_session_config_entry("session.intra_op.allow_spinning")
    assert made.options["session.intra_op.allow_spinning"] == spinning
    assert made.providers == ("CPUExecutionProvider",)


def test_equal_structures_have_one_hash_and_others_another(tmp_path: Path) -> None:
    one = engine(tmp_path / "a").structure_hash()
    again = engine(tmp_path / "b").structure_hash()
    other_weights = engine(tmp_path / "c", spec=msgspec.structs.replace(SPEC, seed="another"))
    other_shape = engine(tmp_path / "d", spec=msgspec.structs.replace(SPEC, channels=(4, 8, 4)))
    half = engine(tmp_path / "e", "fp16")
    assert one == again == other_weights.structure_hash()
    assert len({one, other_shape.structure_hash(), half.structure_hash()}) == 3


def graph(*weights: tuple[str, int], casts: bool = False) -> onnx.GraphProto:
    """Return a graph whose nodes use constants of these types."""
    nodes = [onnx.helper.make_node("Add", ["x", name], [f"y{name}"]) for name, _ in weights]
    if casts:
        nodes = [onnx.helper.make_node("Cast", [name], [f"y{name}"], to=1) for name, _ in weights]
    constants = [onnx.helper.make_tensor(name, kind, [1], [1.0]) for name, kind in weights]
    return onnx.helper.make_graph(nodes, "made-up", [], [], constants)


@pytest.mark.parametrize(
    ("made", "precision"),
    [
        (graph(("a", onnx.TensorProto.FLOAT)), "fp32"),
        (graph(("a", onnx.TensorProto.FLOAT16)), "fp16"),
        (graph(("a", onnx.TensorProto.FLOAT16), ("b", onnx.TensorProto.FLOAT)), "mixed"),
        (graph(("a", onnx.TensorProto.DOUBLE)), "double"),
        (graph(("a", onnx.TensorProto.FLOAT16), casts=True), None),
        (graph(), None),
    ],
)
def test_the_precision_is_what_weighted_operators_consume(
    made: onnx.GraphProto, precision: str | None
) -> None:
    assert onnxruntime._precision(made) == precision


@pytest.mark.parametrize(
    ("planned", "reason"),
    [
        ({"precision": "fp32", "io_layout": "chw"}, None),
        ({"precision": "fp16", "io_layout": "chw"}, None),
        ({"precision": "int8", "io_layout": "chw"}, "no int8"),
        ({"precision": "fp32", "io_layout": "hwc8"}, "not hwc8"),
    ],
)
def test_what_it_cannot_run_is_refused_by_name(planned: dict[str, Any], reason: str | None) -> None:
    said = onnxruntime.refuse(planned, gpu=False)
    assert said is None if reason is None else reason in (said or "")


def test_a_backend_is_found_by_name() -> None:
    assert backends.load("onnxruntime") is onnxruntime
    assert {library.name for library in onnxruntime.libraries()} == {"numpy", "onnx", "onnxruntime"}
