"""Counts by hand, and against torch's own counter: no tolerance for convolutions and products."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repro import cases, models, work
from repro.schema import ConvStack, Layer, LayerTensor, Negate, Square, Work
from tests.conftest import ROOT


def graph(
    nodes: list[Any], inputs: dict[str, list[int]], outputs: dict[str, list[int]], **weights: Any
) -> bytes:
    """Return a model in FP32; `weights` are arrays by name."""
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "made",
        [value(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [value(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("made.up", 1)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString())


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"the_{kind}", **attributes)


def zeros(*dims: int) -> Any:
    return np.zeros(dims, np.float32)


# --- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "flop"),
    [
        (
            graph(
                [node("Conv", "x w", "y", strides=[2, 2], pads=[1, 1, 1, 1])],
                {"x": [2, 4, 8, 8]},
                {"y": [2, 6, 4, 4]},
                w=zeros(6, 4, 3, 3),
            ),
            2 * (2 * 6 * 4 * 4) * 4 * 9,
        ),
        (
            graph(
                [node("Conv", "x w", "y", group=4)],
                {"x": [1, 4, 8, 8]},
                {"y": [1, 4, 6, 6]},
                w=zeros(4, 1, 3, 3),
            ),
            2 * (4 * 6 * 6) * 9,
        ),
        (
            graph(
                [node("ConvTranspose", "x w", "y", strides=[2, 2])],
                {"x": [1, 4, 5, 5]},
                {"y": [1, 3, 10, 10]},
                w=zeros(4, 3, 2, 2),
            ),
            2 * (4 * 5 * 5) * 3 * 4,
        ),
        (
            graph(
                [node("Gemm", "x w", "y", transA=1, transB=1)], {"x": [7, 5]}, {"y": [5, 3]}, w=zeros(3, 7)
            ),
            2 * 5 * 3 * 7,
        ),
        (
            graph([node("MatMul", "x w", "y")], {"x": [2, 3, 4, 5]}, {"y": [2, 3, 4, 6]}, w=zeros(5, 6)),
            2 * (2 * 3 * 4 * 6) * 5,
        ),
    ],
    ids=["conv", "depthwise", "transposed", "gemm", "matmul"],
)
def test_products_by_hand(made: bytes, flop: int) -> None:
    counted = work.count(made, "fp32")
    assert (counted.flop, counted.unknown_ops) == (flop, ())


def test_the_calibration_cases() -> None:
    size = 64
    square = work.count(models.build(Square(size), "fp16"), "fp16")
    assert (square.flop, square.bytes_low, square.bytes_high) == (2 * size**3, 4 * size**2, 4 * size**2)
    negate = work.count(models.build(Negate(2, 3, 5), "fp16"), "fp16")
    assert (negate.flop, negate.other_ops, negate.bytes_low) == (0, 30, 120)


SPEC = ConvStack("made-up", 1, 16, 8, (3, 5, 4), 3, True)


def test_bytes_of_a_stack_by_hand() -> None:
    place = 16 * 8
    weights = [4 * (5 * 3 * 9 + 5), 4 * (4 * 5 * 9 + 4)]
    counted = work.count(models.build(SPEC, "fp32"), "fp32")
    assert [layer.bytes for layer in counted.layers] == [
        4 * place * (3 + 5) + weights[0],
        4 * place * (5 + 4) + weights[1],
    ]
    assert counted.bytes_low == 4 * place * (3 + 4) + sum(weights)
    assert counted.bytes_high == sum(layer.bytes for layer in counted.layers)
    assert counted.bytes_ends == 4 * place * 7
    assert [layer.passed_bytes for layer in counted.layers] == [4 * place * 5, 0]
    assert counted.other_ops == place * 9


@pytest.mark.parametrize(("layout", "channels"), [("chw", 3), ("hwc8", 8), ("chw16", 16), ("chw32", 32)])
def test_channels_are_padded_to_the_vector_of_the_layout(layout: str, channels: int) -> None:
    counted = work.count(models.build(SPEC, "fp16"), "fp16", layout)
    padded = {"chw": 4, "hwc8": 8, "chw16": 16, "chw32": 32}[layout]
    assert counted.bytes_ends == 2 * 16 * 8 * (channels + padded)
    assert counted.flop == work.count(models.build(SPEC, "fp16"), "fp16").flop


def test_the_thread_in_chw32_doubles_every_tensor() -> None:
    model = cases.resolve(cases.load("conv16"), None).onnx["fp16"]
    plain, hwc8, chw16, chw32 = (work.count(model, "fp16", layout) for layout in work.VECTORS)
    assert plain == hwc8 == chw16
    assert (chw32.bytes_ends or 0) - (plain.bytes_ends or 0) == 2 * 66_355_200


def test_the_engines_type_counts_and_not_the_files() -> None:
    wide = work.count(models.build(SPEC, "fp32"), "fp32")
    assert work.count(models.build(SPEC, "fp32"), "fp16") == work.count(models.build(SPEC, "fp16"), "fp16")
    assert work.count(models.build(SPEC, "fp32"), "tf32") == wide
    assert wide.bytes_low == 2 * work.count(models.build(SPEC, "fp32"), "fp16").bytes_low


def test_quantised_tensors_count_as_they_are_stored() -> None:
    spec = ConvStack("made-up", 1, 16, 8, (4, 4, 4), 3, False, quantised=True)
    counted = work.count(models.build(spec, "fp32"), "int8")
    place = 16 * 8 * 4
    scales = 5
    assert [(layer.type, layer.bytes) for layer in counted.layers] == [
        ("QuantizeLinear", place * (4 + 1) + scales),
        ("Conv", place * (1 + 1) + 4 * 4 * 9),
        ("Conv", place * (1 + 4) + 4 * 4 * 9),
    ]
    plain = work.count(models.build(ConvStack("made-up", 1, 16, 8, (4, 4, 4), 3, False), "fp32"), "fp32")
    assert counted.flop == plain.flop


# --- what moves and what doesn't ------------------------------------------------------------------


def test_views_and_folded_constants_cost_nothing() -> None:
    made = graph(
        [
            node("Reshape", "x shape", "flat"),
            node("Transpose", "w", "turned", perm=[1, 0]),
            node("MatMul", "flat turned", "y"),
        ],
        {"x": [2, 2, 3]},
        {"y": [2, 4]},
        shape=np.array([2, 6], np.int64),
        w=zeros(4, 6),
    )
    counted = work.count(made, "fp32")
    assert [layer.type for layer in counted.layers] == ["MatMul"]
    assert counted.flop == 2 * 2 * 4 * 6
    assert counted.bytes_high == 4 * (12 + 24 + 8)


def test_a_slice_reads_what_it_takes() -> None:
    made = graph(
        [node("Slice", "x from to axes", "y")],
        {"x": [1, 8, 4, 4]},
        {"y": [1, 2, 4, 4]},
        **{"from": np.array([0]), "to": np.array([2]), "axes": np.array([1])},
    )
    assert work.count(made, "fp32").bytes_high == 4 * (32 + 32) + 3 * 8


def test_a_tensor_read_twice_by_one_operator_is_read_once() -> None:
    made = graph([node("Mul", "x x", "y")], {"x": [1, 2, 4, 4]}, {"y": [1, 2, 4, 4]})
    assert work.count(made, "fp32").bytes_high == 2 * 4 * 32


def test_what_somebody_else_reads_later_is_not_passed_on() -> None:
    made = graph(
        [node("Relu", "x", "a"), node("Abs", "a", "b"), node("Add", "a b", "y")],
        {"x": [1, 2, 4, 4]},
        {"y": [1, 2, 4, 4]},
    )
    assert [layer.passed_bytes for layer in work.count(made, "fp32").layers] == [0, 128, 0]


# --- what is not known ----------------------------------------------------------------------------


def test_an_operator_without_a_rule_is_named_and_not_counted() -> None:
    made = graph(
        [
            node("Relu", "x", "a"),
            helper.make_node("Warp", ["a"], ["b"], name="w", domain="made.up"),
            node("Relu", "b", "y"),
            node("Det", "y", "z"),
        ],
        {"x": [1, 1, 4, 4]},
        {"y": [1, 1, 4, 4], "z": [1, 1]},
    )
    counted = work.count(made, "fp32")
    assert counted.unknown_ops == (
        "made.up.Warp 'w'",
        "Relu 'the_Relu': a shape is not known",
        "Det 'the_Det'",
    )
    assert [layer.type for layer in counted.layers] == ["Relu"]


def test_a_shape_that_is_not_known_is_no_zero() -> None:
    made = graph([node("Conv", "x w", "y")], {"x": [1, 4, 8, 8]}, {"y": [1, 4, 8, 8]}, w=zeros(4, 4, 1, 1))
    model = onnx.load_from_string(made)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "h"
    counted = work.count(model.SerializeToString(), "fp32")
    assert counted.unknown_ops == ("Conv 'the_Conv': a shape is not known",)
    assert counted.layers == ()


def test_functions_of_the_model_are_taken_apart() -> None:
    function = helper.make_function(
        "made.up",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    model = onnx.load_from_string(
        graph([helper.make_node("Twice", ["x"], ["y"], domain="made.up")], {"x": [2, 3]}, {"y": [2, 3]})
    )
    model.functions.append(function)
    counted = work.count(model.SerializeToString(), "fp32")
    assert (counted.unknown_ops, counted.other_ops) == ((), 6)


# --- what a run adds ------------------------------------------------------------------------------


def counted() -> Work:
    return work.count(models.build(SPEC, "fp32"), "fp32")


def test_a_small_tensor_may_stay_in_the_l2() -> None:
    between = 4 * 16 * 8 * 5
    assert work.observed(counted(), 2 * between + 1, None).bytes_l2 == counted().bytes_high - 2 * between
    assert work.observed(counted(), 2 * between, None).bytes_l2 == counted().bytes_high
    assert work.observed(counted(), None, None).bytes_l2 is None


def test_reformats_count_what_they_read_and_write() -> None:
    narrow, padded = LayerTensor("fp16", "chw", (1, 16, 4, 4)), LayerTensor("fp16", "chw32", (1, 16, 4, 4))
    layers = (
        Layer("copy", "Reformat", inputs=(narrow,), outputs=(padded,), is_reformat=True),
        Layer("conv", "Convolution", inputs=(padded,), outputs=(padded,), is_reformat=False),
    )
    assert work.reformat_bytes(layers) == 2 * (16 + 32) * 16
    assert work.reformat_bytes(layers[1:]) == 0
    assert work.reformat_bytes(None) is None
    untold = (Layer("nchwToNhwc", "kernel", is_reformat=True),)
    assert work.reformat_bytes(untold) is None
    assert work.reformat_bytes((Layer("?", "kernel"),)) is None
    assert (
        work.reformat_bytes(
            (
                Layer(
                    "a", "b", inputs=(LayerTensor("fp16", "chw", None),), outputs=(narrow,), is_reformat=True
                ),
            )
        )
        is None
    )


# --- torch's own counter --------------------------------------------------------------------------


def by_torch(network: Any, *inputs: Any) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return int(counter.get_total_flops())


def exported(network: Any, *inputs: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.onnx.export(network.eval(), inputs, buffer, opset_version=17, dynamo=False)
    return buffer.getvalue()


FLOATS = [name for name in (None, *cases.load("conv16").variants) if name != "int8"]


@pytest.mark.needs("torch")
@pytest.mark.parametrize("variant", FLOATS)
def test_the_variants_of_the_case_count_as_torch_does(variant: str | None) -> None:
    import torch

    found = importlib.util.spec_from_file_location("conv16_model", ROOT / "cases" / "conv16" / "model.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    experiment = cases.resolve(cases.load("conv16"), variant)
    spec = experiment.model
    assert isinstance(spec, ConvStack)
    with torch.device("meta"):
        network = module.Stack(spec.channels, spec.kernel, bias=spec.bias)
        source = torch.empty(models.shapes(spec)[0])
    counted = work.count(experiment.onnx["fp32"], "fp32")
    assert (counted.flop, counted.unknown_ops) == (by_torch(network, source), ())


def residual() -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    class Residual(nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 7, stride=2, padding=3)
            self.norm = nn.BatchNorm2d(16)
            self.pool = nn.MaxPool2d(3, 2, 1)
            self.first = nn.Conv2d(16, 32, 3, stride=2, padding=1)
            self.second = nn.Conv2d(32, 32, 3, padding=1)
            self.short = nn.Conv2d(16, 32, 1, stride=2)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Any) -> Any:
            x = self.pool(self.norm(self.stem(x)).relu())
            x = (self.second(self.first(x).relu()) + self.short(x)).relu()
            return self.head(x.mean((2, 3)))

    return Residual(), (2, 3, 64, 64)


def depthwise() -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    layers = (
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.ReLU6(),
        nn.Conv2d(8, 24, 1),
        nn.Conv2d(24, 24, 5, groups=6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    return nn.Sequential(*layers), (1, 3, 40, 32)


def transformer() -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    class Block(nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
            self.mixed, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
            self.wide, self.narrow = nn.Linear(32, 128), nn.Linear(128, 32)

        def forward(self, x: Any) -> Any:
            batch, length, width = x.shape
            parts = self.mixed(self.norm(x)).reshape(batch, length, 3, 4, width // 4)
            query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
            weights = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)
            x = x + self.out((weights @ value).transpose(1, 2).reshape(batch, length, width))
            return x + self.narrow(nn.functional.gelu(self.wide(self.after(x))))

    return Block(), (2, 24, 32)


def unet() -> tuple[Any, tuple[int, ...]]:
    import torch
    from torch import nn

    class UNet(nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
            self.deep = nn.Conv2d(16, 32, 3, 2, 1)
            self.up2 = nn.ConvTranspose2d(32, 16, 2, stride=2)
            self.up1 = nn.ConvTranspose2d(32, 8, 4, stride=2, padding=1, groups=4)
            self.out = nn.Conv2d(19, 1, 1)

        def forward(self, x: Any) -> Any:
            first = self.down1(x).relu()
            second = self.down2(first).relu()
            deep = self.up2(self.deep(second).relu())
            up = self.up1(torch.cat([deep, second], 1))
            small = nn.functional.interpolate(x[:, :, ::2, ::2], scale_factor=2, mode="nearest")
            return self.out(torch.cat([up, first, small], 1)).sigmoid()

    return UNet(), (1, 3, 32, 48)


def detector() -> tuple[Any, tuple[int, ...]]:
    import torch
    from torch import nn

    class Head(nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 16, 3, stride=4, padding=1)
            self.next = nn.Conv2d(16, 24, 3, stride=2, padding=1)
            self.boxes = nn.ModuleList([nn.Conv2d(c, 4 * 3, 3, padding=1) for c in (16, 24)])
            self.classes = nn.ModuleList([nn.Conv2d(c, 5 * 3, 1) for c in (16, 24)])

        def forward(self, x: Any) -> Any:
            near = nn.functional.silu(self.body(x))
            levels = (near, nn.functional.silu(self.next(near)))
            found = []
            for level, box, kind in zip(levels, self.boxes, self.classes, strict=True):
                raw = torch.cat([box(level).exp(), kind(level).sigmoid()], 1)
                found.append(raw.flatten(2).transpose(1, 2))
            return torch.cat(found, 1)

    return Head(), (1, 3, 64, 96)


def branches() -> tuple[Any, tuple[int, ...]]:
    import torch
    from torch import nn

    class Branches(nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(8, 4, 1)
            self.b = nn.Sequential(
                nn.Conv2d(8, 6, (1, 7), padding=(0, 3)), nn.Conv2d(6, 6, (7, 1), padding=(3, 0))
            )
            self.c = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 5, 1))
            self.mix = nn.Conv2d(15, 8, 3, padding=1, bias=False)

        def forward(self, x: Any) -> Any:
            return self.mix(torch.cat([self.a(x), self.b(x), self.c(x)], 1)) * 0.5 + x

    return Branches(), (2, 8, 20, 20)


NETWORKS = [residual, depthwise, transformer, unet, detector, branches]


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_networks_of_all_kinds_count_as_torch_does(
    make: Callable[[], tuple[Any, tuple[int, ...]]],
) -> None:
    import torch

    network, dims = make()
    source = torch.randn(dims)
    counted = work.count(exported(network, source), "fp32")
    assert counted.unknown_ops == ()
    assert counted.flop == by_torch(network.eval(), source)
    assert counted.bytes_low < counted.bytes_high
