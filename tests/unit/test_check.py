"""Right outputs pass, and every planted fault is caught by name.

The expected outputs come from SciPy's correlation, from onnxruntime and from NumPy, never from the
code that is tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy.signal import correlate2d

from repro import cases, check, models
from repro.backends import onnxruntime
from repro.schema import ConvStack, OutputCheck, TensorSpec, Tolerance

Array = npt.NDArray[Any]

SPEC = ConvStack("check", 2, 20, 17, (4, 6, 5), 3, True)
SEED = "1/0/positions"
EXACT = np.dtype(np.float64)
LIMITS = {"fp32": 1e-5, "fp16": 3e-3}


def no_library(model: bytes, source: Array) -> Array:
    raise AssertionError("the library was asked")


def weights_of(model: bytes) -> dict[str, Array]:
    graph = onnx.load_from_string(model).graph
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}


def convolve(values: Array, weight: Array, bias: Array, pad: str = "constant") -> Array:
    """Return a 'same' convolution in FP64, plane by plane."""
    n, _, height, width = values.shape
    k = weight.shape[2] // 2
    padded = np.pad(values, ((0, 0), (0, 0), (k, k), (k, k)), mode=pad)  # type: ignore[call-overload]
    result = np.zeros((n, len(weight), height, width))
    for i in range(n):
        for o, kernels in enumerate(weight):
            planes = zip(padded[i], kernels, strict=True)
            result[i, o] = sum(correlate2d(plane, kernel, "valid") for plane, kernel in planes) + bias[o]
    return result


class Net:
    """A conv_stack with its input, and its output computed by hand."""

    def __init__(self, precision: str, spec: ConvStack = SPEC) -> None:
        self.spec = spec
        self.model = models.build(spec, precision)
        self.source_spec, self.result_spec = models.tensors(spec, precision)
        self.source = models.inputs("1/0", self.source_spec)
        self.dtype = self.source.dtype
        self.weights = weights_of(self.model)
        self.limit = LIMITS[precision]

    def output(
        self,
        change: Callable[[dict[str, Array]], None] = lambda weights: None,
        pad: str = "constant",
        *,
        stored: bool = False,
    ) -> Array:
        """Return the output with changed weights; `stored`: each layer is stored at the net's type."""
        return self.exact(change, pad, self.dtype if stored else EXACT).astype(self.dtype)

    def exact(
        self,
        change: Callable[[dict[str, Array]], None] = lambda weights: None,
        pad: str = "constant",
        between: np.dtype[Any] = EXACT,
    ) -> Array:
        """Return the output in FP64; what passes `between` layers is rounded to that type."""
        weights = {name: values.copy() for name, values in self.weights.items()}
        change(weights)
        values: Array = self.source.astype(np.float64)
        for i in range(1, len(self.spec.channels)):
            values = convolve(values, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], pad)
            values = values.astype(between).astype(np.float64)
        return values

    def check(self, result: Array) -> OutputCheck:
        return check.output(
            self.model, self.source, result, self.result_spec, self.limit, seed=SEED, library=no_library
        )


@pytest.fixture(params=["fp32", "fp16"])
def net(request: pytest.FixtureRequest) -> Net:
    return Net(request.param)


# --- right answers ------------------------------------------------------------------------------


def test_the_right_output_passes(net: Net) -> None:
    verdict = net.check(net.output())
    assert (verdict.ok, verdict.problems, verdict.nan) == (True, (), False)
    assert verdict.method == "fp64_at_sampled_positions"
    assert (256, net.limit) == (verdict.positions, verdict.tolerance)
    assert verdict.error is not None
    assert verdict.error < net.limit / 5


def test_the_right_output_with_rounded_layers_passes(net: Net) -> None:
    assert net.check(net.output(stored=True)).problems == ()


def test_the_reference_is_that_of_scipy_where_nothing_is_rounded(net: Net) -> None:
    verdict = net.check(net.exact())
    assert verdict.error is not None
    assert verdict.error < 1e-14


def test_what_onnxruntime_computes_passes(net: Net) -> None:
    assert net.check(onnxruntime.unoptimised(net.model, net.source)).problems == ()


def test_a_verdict_travels_as_json(net: Net) -> None:
    for result in (net.output(), np.full_like(net.output(), np.inf), np.zeros_like(net.output())):
        verdict = net.check(result)
        assert verdict == msgspec.json.decode(msgspec.json.encode(verdict), type=OutputCheck)


# --- planted faults -----------------------------------------------------------------------------


def drop_bias(layer: int) -> Callable[[dict[str, Array]], None]:
    return lambda weights: weights[f"conv{layer}.bias"].fill(0)


def swap_inputs(weights: dict[str, Array]) -> None:
    weights["conv2.weight"][:, [0, 1]] = weights["conv2.weight"][:, [1, 0]]


def flip_kernel(weights: dict[str, Array]) -> None:
    weights["conv1.weight"] = weights["conv1.weight"][:, :, ::-1, ::-1]


FAULTS: dict[str, Callable[[Net], Array]] = {
    "hwc data in a chw buffer": lambda net: np.moveaxis(net.output(), 1, -1).reshape(net.output().shape),
    "rows and columns swapped": lambda net: np.swapaxes(net.output(), 2, 3).reshape(net.output().shape),
    "batch swapped": lambda net: net.output()[::-1],
    "first bias dropped": lambda net: net.output(drop_bias(1)),
    "last bias dropped": lambda net: net.output(drop_bias(2)),
    "two output channels swapped": lambda net: net.output()[:, [1, 0, 2, 3, 4]],
    "two channels between layers swapped": lambda net: net.output(swap_inputs),
    "convolution instead of correlation": lambda net: net.output(flip_kernel),
    "borders padded by repetition": lambda net: net.output(pad="edge"),
    "borders padded by reflection": lambda net: net.output(pad="reflect"),
    "shifted by one column": lambda net: np.roll(net.output(), 1, axis=3),
    "twice as large": lambda net: 2 * net.output(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_output_is_caught_by_its_error(net: Net, fault: str) -> None:
    verdict = net.check(FAULTS[fault](net).astype(net.dtype))
    assert not verdict.ok
    assert verdict.error is not None
    assert verdict.error > 2 * net.limit
    assert (f"error {verdict.error:.2g} is above the tolerance {net.limit:.2g}",) == verdict.problems


def test_a_border_that_was_left_out_is_caught() -> None:
    net = Net("fp32", msgspec.structs.replace(SPEC, height=300, width=200))
    result = net.output()
    result[:, :, [0, -1]] = result[:, :, :, [0, -1]] = 0
    (problem,) = net.check(result).problems
    assert problem.startswith("error ")


@pytest.mark.parametrize("edge", [np.s_[:, :, 0], np.s_[:, :, -1], np.s_[..., 0], np.s_[..., -1]])
def test_each_side_of_the_border_is_looked_at(edge: Any) -> None:
    net = Net("fp32", msgspec.structs.replace(SPEC, height=300, width=200))
    result = net.output()
    result[edge] += 1
    assert not net.check(result).ok


def problems(net: Net, result: Array) -> tuple[str, ...]:
    verdict = net.check(result)
    assert not verdict.ok
    return verdict.problems


def test_a_nan_anywhere_is_caught(net: Net) -> None:
    result = net.output()
    result[1, 2, 3, 4] = np.nan
    verdict = net.check(result)
    assert verdict.problems[:1] == ("nan",)
    assert (verdict.ok, verdict.nan) == (False, True)


def test_an_infinity_at_a_place_that_is_not_sampled_is_caught() -> None:
    net = Net("fp32", msgspec.structs.replace(SPEC, height=60, width=50))
    sampled = set(zip(*(axis.tolist() for axis in check.positions(SEED, net.result_spec.shape)), strict=True))
    spot = next((0, y, x) for y in range(60) for x in range(50) if (0, y, x) not in sampled)
    result = net.output()
    result[spot[0], 2, spot[1], spot[2]] = -np.inf
    verdict = net.check(result)
    assert verdict.problems == ("infinite",)
    assert verdict.error is not None


def test_infinities_everywhere_give_no_error_but_a_problem(net: Net) -> None:
    verdict = net.check(np.full_like(net.output(), np.inf))
    assert verdict.problems == ("infinite",)
    assert (verdict.error, verdict.nan) == (None, False)


def test_nans_everywhere_give_no_error_but_a_problem(net: Net) -> None:
    verdict = net.check(np.full_like(net.output(), np.nan))
    assert (verdict.problems, verdict.error, verdict.nan) == (("nan",), None, True)


def test_zeros_are_caught(net: Net) -> None:
    assert problems(net, np.zeros_like(net.output()))[0] == "all zeros"


def test_a_constant_is_caught(net: Net) -> None:
    assert problems(net, np.full_like(net.output(), 0.5))[0] == "constant"


def test_an_output_that_was_never_written_is_caught(net: Net) -> None:
    result = check.poison(net.result_spec)
    assert (f"{result.size} values were never written", "nan") == problems(net, result)


def test_a_strip_that_was_never_written_is_counted(net: Net) -> None:
    result = check.poison(net.result_spec)
    result[:, :, 2:] = net.output()[:, :, 2:]
    assert (f"{2 * 5 * 2 * 17} values were never written", "nan") == problems(net, result)


def test_poison_left_in_a_buffer_of_strided_memory_is_counted(net: Net) -> None:
    result = net.output()
    result[0, 0, 0, :2] = check.poison(net.result_spec)[0, 0, 0, :2]
    strided = np.asfortranarray(result)
    assert problems(net, strided)[0] == "2 values were never written"


@pytest.mark.parametrize("shape", [(2, 5, 17, 20), (2, 5, 20), (1, 5, 20, 17), (2, 5, 20, 18)])
def test_a_wrong_shape_is_told(net: Net, shape: tuple[int, ...]) -> None:
    verdict = net.check(np.resize(net.output(), shape))
    assert (f"shape {list(shape)} instead of [2, 5, 20, 17]",) == verdict.problems
    assert verdict.error is None


def test_the_poison_is_a_nan_that_no_computation_gives() -> None:
    for precision, quiet in (("fp32", np.float32(np.nan)), ("fp16", np.float16(np.nan))):
        buffer = check.poison(TensorSpec("output", (2, 3), precision, "chw"))
        assert buffer.shape == (2, 3)
        assert np.isnan(buffer).all()
        assert quiet.tobytes() not in (buffer[:1, :1].tobytes(), (-buffer[:1, :1]).tobytes())


# --- the tolerances of the shipped case ---------------------------------------------------------


def conv16(precision: str) -> Net:
    """Return the shipped net on a smaller map, with the tolerance that its case allows."""
    experiment = cases.resolve(cases.load("conv16"), None)
    assert isinstance(experiment.model, ConvStack)
    net = Net(precision, msgspec.structs.replace(experiment.model, height=48, width=40))
    net.limit = check.tolerance(experiment.case.tolerance[precision], 3)
    return net


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_conv16_allows_the_right_output_with_rounded_layers(precision: str) -> None:
    net = conv16(precision)
    assert net.check(net.output(stored=True)).problems == ()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_conv16_does_not_allow_a_dropped_bias_not_even_of_one_channel(precision: str, layer: int) -> None:
    def drop_one(weights: dict[str, Array]) -> None:
        bias = weights[f"conv{layer}.bias"]
        bias[np.argsort(np.abs(bias))[len(bias) // 2]] = 0

    net = conv16(precision)
    assert not net.check(net.output(drop_bias(layer))).ok
    assert not net.check(net.output(drop_one)).ok


# --- tolerance and positions --------------------------------------------------------------------


def test_a_tolerance_grows_with_the_root_of_the_layers_where_it_says_so() -> None:
    assert check.tolerance(Tolerance(0.5), 4) == 0.5
    assert check.tolerance(Tolerance(0.5, "sqrt_layers"), 4) == 1.0
    assert check.tolerance(Tolerance(2e-3, "sqrt_layers"), 3) == pytest.approx(2e-3 * math.sqrt(3))


@given(st.text(max_size=8), st.tuples(*[st.integers(1, 40)] * 4))
def test_positions_lie_inside_and_a_quarter_on_the_border(
    seed: str, shape: tuple[int, int, int, int]
) -> None:
    n, y, x = check.positions(seed, shape)
    assert 256 == len(n) == len(y) == len(x)
    assert (n >= 0).all()
    assert (n < shape[0]).all()
    assert (y >= 0).all()
    assert (y < shape[2]).all()
    assert (x >= 0).all()
    assert (x < shape[3]).all()
    border = (y == 0) | (y == shape[2] - 1) | (x == 0) | (x == shape[3] - 1)
    assert border[:64].all()


def test_positions_follow_from_the_seed() -> None:
    def flat(seed: str) -> list[int]:
        return [int(i) for axis in check.positions(seed, (1, 4, 99, 98)) for i in axis]

    assert flat("a") == flat("a")
    assert flat("a") != flat("b")


def test_all_four_sides_are_sampled() -> None:
    _, y, x = check.positions("any", (1, 1, 1000, 1000))
    for axis in (y, x):
        for side in (0, 999):
            assert (axis[:64] == side).sum() > 4


# --- other nets ---------------------------------------------------------------------------------


def constant(name: str, shape: tuple[int, ...]) -> TensorProto:
    values = models.weights("nets", name, shape, -9)
    return numpy_helper.from_array(values, name)


def graph(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto],
    shape: tuple[int, ...],
    *,
    opset: int = 13,
    domains: tuple[str, ...] = (),
) -> bytes:
    """Return a model from `input` [1, 8, 15, 13] to `output`."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 8, 15, 13))],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def conv(source: str, result: str, weight: str, bias: str | None = None, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight, *([bias] if bias else [])], [result], **attributes)


PADDED: dict[str, Any] = {"pads": [1, 1, 1, 1]}
W = constant("w", (8, 8, 3, 3))
B = constant("b", (8,))

NETS: dict[str, tuple[list[onnx.NodeProto], list[TensorProto], tuple[int, ...]]] = {
    "one layer without bias": ([conv("input", "output", "w", **PADDED)], [W], (1, 8, 15, 13)),
    "no padding": ([conv("input", "output", "w", "b")], [W, B], (1, 8, 13, 11)),
    "stride 2": ([conv("input", "output", "w", "b", strides=[2, 2], **PADDED)], [W, B], (1, 8, 8, 7)),
    "unequal strides": ([conv("input", "output", "w", strides=[3, 1], **PADDED)], [W], (1, 8, 5, 13)),
    "dilation": (
        [conv("input", "output", "w", "b", dilations=[2, 3], pads=[2, 3, 2, 3])],
        [W, B],
        (1, 8, 15, 13),
    ),
    "unequal padding": ([conv("input", "output", "w", pads=[0, 2, 1, 1])], [W], (1, 8, 14, 14)),
    "stride, dilation and padding": (
        [conv("input", "output", "w", "b", strides=[2, 3], dilations=[2, 1], pads=[1, 2, 0, 1])],
        [W, B],
        (1, 8, 6, 5),
    ),
    "groups": (
        [conv("input", "output", "g", "b", group=4, **PADDED)],
        [constant("g", (8, 2, 3, 3)), B],
        (1, 8, 15, 13),
    ),
    "depthwise with more channels": (
        [conv("input", "output", "d", group=8, strides=[2, 2], **PADDED)],
        [constant("d", (16, 1, 3, 3))],
        (1, 16, 8, 7),
    ),
    "pointwise": ([conv("input", "output", "p")], [constant("p", (3, 8, 1, 1))], (1, 3, 15, 13)),
    "an even kernel": ([conv("input", "output", "e")], [constant("e", (8, 8, 2, 4))], (1, 8, 14, 10)),
    "strides in two layers": (
        [
            conv("input", "a", "w", "b", strides=[2, 2], **PADDED),
            conv("a", "output", "v", strides=[2, 1], **PADDED),
        ],
        [W, B, constant("v", (4, 8, 3, 3))],
        (1, 4, 4, 7),
    ),
    "Relu between": (
        [
            conv("input", "a", "w", "b", **PADDED),
            helper.make_node("Relu", ["a"], ["r"]),
            conv("r", "output", "v", **PADDED),
        ],
        [W, B, constant("v", (4, 8, 3, 3))],
        (1, 4, 15, 13),
    ),
    "a residual block": (
        [
            conv("input", "a", "w", "b", **PADDED),
            helper.make_node("Relu", ["a"], ["r"]),
            conv("r", "c", "v", **PADDED),
            helper.make_node("Add", ["c", "input"], ["s"]),
            helper.make_node("Relu", ["s"], ["output"]),
        ],
        [W, B, constant("v", (8, 8, 3, 3))],
        (1, 8, 15, 13),
    ),
}


def examine(
    model: bytes, shape: tuple[int, ...], result: Array, library: Callable[[bytes, Array], Array]
) -> OutputCheck:
    return check.output(
        model,
        models.inputs("nets", TensorSpec("input", (1, 8, 15, 13), "fp32", "chw")),
        result,
        TensorSpec("output", shape, "fp32", "chw"),
        1e-5,
        seed=SEED,
        library=library,
    )


def library_output(model: bytes) -> Array:
    source = models.inputs("nets", TensorSpec("input", (1, 8, 15, 13), "fp32", "chw"))
    return onnxruntime.unoptimised(model, source)


@pytest.mark.parametrize("name", NETS)
def test_the_reference_of_other_nets_is_what_onnxruntime_computes(name: str) -> None:
    nodes, initializers, shape = NETS[name]
    model = graph(nodes, initializers, shape)
    result = library_output(model)
    verdict = examine(model, shape, result, no_library)
    assert verdict.problems == ()
    assert verdict.method == "fp64_at_sampled_positions"
    assert verdict.error is not None
    assert verdict.error < 1e-6
    assert not examine(model, shape, result[:, ::-1], no_library).ok


def unruly() -> dict[str, tuple[bytes, str]]:
    padded = conv("input", "a", "w", "b", **PADDED)
    whole = (1, 8, 15, 13)
    shapes = [
        numpy_helper.from_array(np.array([1, 8, 195]), "flat"),
        numpy_helper.from_array(np.array(whole), "whole"),
    ]
    return {
        "an operator without a rule": (
            graph([padded, helper.make_node("Sigmoid", ["a"], ["output"])], [W, B], whole),
            "no rule for Sigmoid",
        ),
        "an operator of another domain": (
            graph(
                [
                    padded,
                    helper.make_node("Gelu", ["a"], ["g"], domain="com.microsoft"),
                    conv("g", "output", "w", **PADDED),
                ],
                [W, B],
                whole,
                domains=("com.microsoft",),
            ),
            "no rule for Gelu",
        ),
        "automatic padding": (
            graph([conv("input", "output", "w", auto_pad="SAME_UPPER")], [W], whole),
            "no rule for this Conv",
        ),
        "a weight that is computed": (
            graph(
                [helper.make_node("Relu", ["w"], ["u"]), conv("input", "output", "u", **PADDED)], [W], whole
            ),
            "no rule for this Conv",
        ),
        "a bias that is computed": (
            graph(
                [helper.make_node("Relu", ["b"], ["c"]), conv("input", "output", "w", "c", **PADDED)],
                [W, B],
                whole,
            ),
            "no rule for this Conv",
        ),
        "an Add that broadcasts": (
            graph(
                [padded, helper.make_node("Add", ["a", "s"], ["output"])],
                [W, B, constant("s", (1, 8, 1, 1))],
                whole,
            ),
            "no rule for an Add that broadcasts",
        ),
        "tensors of three dimensions between": (
            graph(
                [
                    padded,
                    helper.make_node("Reshape", ["a", "flat"], ["f"]),
                    helper.make_node("Relu", ["f"], ["r"]),
                    helper.make_node("Reshape", ["r", "whole"], ["output"]),
                ],
                [W, B, *shapes],
                whole,
            ),
            "no rule for Reshape",
        ),
    }


UNRULY = unruly()


@pytest.mark.parametrize("name", UNRULY)
def test_a_net_without_rules_is_left_to_the_same_library_and_says_so(name: str) -> None:
    model, why = UNRULY[name]
    shape = (1, 8, 15, 13)
    asked: list[bytes] = []

    def library(model: bytes, source: Array) -> Array:
        asked.append(model)
        return onnxruntime.unoptimised(model, source)

    verdict = examine(model, shape, library_output(model), library)
    assert [model] == asked
    assert (verdict.method, verdict.problems, verdict.error) == ("same_library", (), 0.0)
    assert f"ONNX Runtime without optimisation ({why})" == verdict.reference
    assert not examine(model, shape, library_output(model)[:, ::-1], library).ok


def test_a_tensor_of_unknown_size_is_left_to_the_library() -> None:
    model = onnx.load_from_string(graph([conv("input", "output", "w", **PADDED)], [W], (1, 8, 15, 13)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    data = model.SerializeToString()
    verdict = examine(data, (1, 8, 15, 13), library_output(data), onnxruntime.unoptimised)
    assert (verdict.method, verdict.ok) == ("same_library", True)


QUANTISED = ConvStack("check", 1, 20, 17, (4, 8, 4), 3, True, quantised=True)


def test_a_quantised_net_is_rounded_as_its_graph_says() -> None:
    model = models.build(QUANTISED, "fp32")
    source_spec, spec = models.tensors(QUANTISED, "fp32")
    source = models.inputs("1/0", source_spec)
    result = onnxruntime.unoptimised(model, source)
    right = check.output(model, source, result, spec, 1e-6, seed=SEED, library=no_library)
    assert (right.ok, right.method) == (True, "fp64_at_sampled_positions")
    # Without rounding it would be another net.
    plain = models.build(msgspec.structs.replace(QUANTISED, quantised=False), "fp32")
    other = onnxruntime.unoptimised(plain, source)
    assert not check.output(model, source, other, spec, 2e-3, seed=SEED, library=no_library).ok


def _quantised_by(scale: Any, zero: Any) -> bytes:
    value = helper.make_tensor_value_info
    constants = {"scale": np.asarray(scale, np.float32), "zero": np.asarray(zero)}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["output"]),
        ],
        "quantised",
        [value("input", TensorProto.FLOAT, [1, 2, 6, 6])],
        [value("output", TensorProto.FLOAT, [1, 2, 6, 6])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(-7), np.uint8(100)], ids=str)
def test_rounding_is_half_to_even_with_zero_point_and_saturation(zero: Any) -> None:
    model = _quantised_by(0.25, zero)
    # Halves of a step, and values beyond the range.
    source = (np.arange(72, dtype=np.float32).reshape(1, 2, 6, 6) - 36) * np.float32(0.125)
    source[0, 0, 0] *= 40
    result = onnxruntime.unoptimised(model, source)
    spec = TensorSpec("output", (1, 2, 6, 6), "fp32", "chw")
    found = check.output(model, source, result, spec, 1e-7, seed=SEED, library=no_library)
    assert (found.ok, found.error) == (True, 0.0)


def test_a_scale_for_each_channel_has_no_rule() -> None:
    model = _quantised_by([0.25, 0.5], np.zeros(2, np.int8))
    source = np.ones((1, 2, 6, 6), np.float32)
    spec = TensorSpec("output", (1, 2, 6, 6), "fp32", "chw")
    found = check.output(model, source, source, spec, 1e-7, seed=SEED, library=lambda model, source: source)
    assert found.method == "same_library"


def test_an_output_whose_reference_is_zero_has_no_relative_error() -> None:
    zero = numpy_helper.from_array(np.zeros((8, 8, 3, 3), np.float32), "w")
    shape = (1, 8, 15, 13)
    model = graph([conv("input", "output", "w", **PADDED)], [zero], shape)
    verdict = examine(model, shape, np.ones(shape, np.float32) * np.arange(13, dtype=np.float32), no_library)
    assert (verdict.ok, verdict.error) == (False, None)
    assert verdict.problems == ("error inf is above the tolerance 1e-05",)
