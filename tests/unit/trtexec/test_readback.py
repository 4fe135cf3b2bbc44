"""Effective settings from echo, log and layers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from repro.schema import Effective, Layer, LayerTensor
from repro.trtexec import readback

PLANNED = {"precision": "fp16", "percentiles": "90,99"}
BUILD = {
    "Precision": "FP32+FP16 (obey precision constraints)",
    "Sparsity": "Disabled",
    "Input(s)": "fp16:chw",
    "Output(s)": "fp16:chw",
}
RUN = {
    "CUDA Graph": "Enabled",
    "Spin-wait": "Disabled",
    "Data transfers": "Enabled",
    "Duration": "3s (+ 200ms warm up)",
}


def layer(dtype: str | None, *, name: str = "conv", is_reformat: bool = False) -> Layer:
    tensor = LayerTensor(dtype, "chw", (1, 4, 2, 2))
    return Layer(name, "Convolution", "t", (tensor,), (tensor,), is_reformat)


def built(layers: Any = (), planned: Any = None, **echo: str | None) -> dict[str, Any]:
    lines = {label: value for label, value in {**BUILD, **echo}.items() if value is not None}
    found = readback.of_build(lines, layers, {**PLANNED, **(planned or {})})
    return {name: seen.value for name, seen in found.items()}


def test_a_build_as_planned() -> None:
    assert built([layer("fp16")]) == {
        "precision": "fp16",
        "typing": "weak",
        "io_layout": "chw",
        "sparsity": False,
        "optimization_level": None,
    }


@pytest.mark.parametrize(
    ("types", "precision"),
    [
        (["fp16", "fp32"], "mixed"),
        (["fp32", "fp32"], "fp32"),
        (["fp16", None, "int32"], "fp16"),
        ([None], "fp16"),
    ],
)
def test_the_layers_tell_the_precision_and_the_echo_where_they_don_t(types: Any, precision: str) -> None:
    assert built([layer(each) for each in types])["precision"] == precision


@pytest.mark.parametrize(
    ("types", "precision"), [(["int8", "fp32"], "int8"), (["fp32"], "fp32"), (["fp16", "fp32"], "mixed")]
)
def test_int8_holds_where_a_layer_that_computes_takes_it(types: Any, precision: str) -> None:
    assert built([layer(each) for each in types], {"precision": "int8"})["precision"] == precision
    copy = layer("int8", is_reformat=True)
    assert built([copy, layer("fp32")], {"precision": "int8"})["precision"] == "fp32"


def test_what_only_changes_a_layout_does_not_compute() -> None:
    assert built([layer("fp32", is_reformat=True), layer("fp16")])["precision"] == "fp16"


def test_a_strongly_typed_build_without_types_is_unknown() -> None:
    found = built([], Precision="Strongly Typed")
    assert (found["precision"], found["typing"]) == (None, "strong")


@pytest.mark.parametrize("planned", ["fp32", "tf32"])
def test_tf32_leaves_no_trace_in_layers(planned: str) -> None:
    assert built([layer("fp32")], {"precision": planned})["precision"] == planned


@pytest.mark.parametrize(
    ("source", "target", "layout"),
    [
        ("fp16:hwc8", "fp16:hwc8", "hwc8"),
        ("fp16:+hwc8", "fp16:+hwc8", "hwc8"),
        ("+chw16", "+chw16", "chw16"),
        ("chw", "hwc8", "mixed"),
    ],
)
def test_the_layout_is_that_of_both_ends(source: str, target: str, layout: str) -> None:
    assert built(**{"Input(s)": source, "Output(s)": target})["io_layout"] == layout


def test_the_default_layout_has_other_labels() -> None:
    ends = {
        "Input(s)": None,
        "Output(s)": None,
        "Input(s)s format": "fp32:CHW",
        "Output(s)s format": "fp32:CHW",
    }
    assert built(**ends)["io_layout"] == "chw"


@pytest.mark.parametrize(("said", "level"), [("-1", None), ("3", 3)])
def test_the_optimization_level(said: str, level: int | None) -> None:
    assert built(BuilderOptimizationLevel=said)["optimization_level"] == level


def test_a_run_as_echoed() -> None:
    found = readback.of_run(RUN, PLANNED, graph_lost=False)
    values = {name: seen.value for name, seen in found.items()}
    assert values == {
        "cuda_graph": True,
        "spin_wait": False,
        "transfers": True,
        "duration_s": 3.0,
        "warm_up_ms": 200,
        "percentiles": "90,99",
        "l2": "warm",
        "queue": "full",
    }


def test_what_happened_counts_and_not_what_was_echoed() -> None:
    found = readback.of_run(RUN, PLANNED, graph_lost=True)
    assert found["cuda_graph"] == Effective(False, "log")


def test_what_was_not_echoed_is_unknown() -> None:
    found = readback.of_run({}, PLANNED, graph_lost=False)
    assert {found[name].value for name in ("cuda_graph", "spin_wait", "transfers", "duration_s")} == {None}


def test_a_structure_is_names_types_tactics_and_formats_and_nothing_else() -> None:
    first = layer("fp16")
    same = msgspec.structs.replace(first, time_ns=5)
    assert readback.structure_hash([first]) == readback.structure_hash([same])
    tensor = LayerTensor("fp16", "hwc8", (1, 4, 2, 2))
    for changes in (
        {"name": "x"},
        {"type": "x"},
        {"tactic": "x"},
        {"inputs": (tensor,)},
        {"outputs": (tensor,)},
    ):
        other = msgspec.structs.replace(first, **changes)
        assert readback.structure_hash([other]) != readback.structure_hash([first])
    assert readback.structure_hash([first, same]) != readback.structure_hash([first])
