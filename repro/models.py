"""The same ONNX bytes from the same description, on any machine and any version of onnx.

Weights and inputs come from integers alone: the bytes of SHAKE-128, four summed and 510 taken off
(near normal, standard deviation 147.8), times a power of two. They have at most ten significant
bits, so FP16 and FP32 files hold the same numbers. Everything that `onnx` would fill in by itself
is set explicitly. The only module that imports `onnx` to write.
"""

from __future__ import annotations

import hashlib
import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from repro.schema import ConvStack, ModelSpec, Negate, OnnxFile, Square, TensorSpec

if TYPE_CHECKING:
    import onnx

OPSET = 13
IR_VERSION = 8
PRODUCER = ("trt-repro", "1")
"""Version 1 of this generator: a change of its bytes is a new version and a new case version."""
PRECISIONS = ("fp32", "fp16")
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that multiply."""
DTYPES = {"fp32": np.float32, "fp16": np.float16}
ACTIVATION_EXPONENT = -5
"""INT8 activations are multiples of 2^-5, up to ±4: more than three standard deviations."""

FloatArray = npt.NDArray[np.floating]


def integers(seed: str, name: str, count: int) -> npt.NDArray[np.int16]:
    """Return `count` integers from −510 to 510, near normal, that follow from `seed` and `name`."""
    stream = hashlib.shake_128(f"{seed}\0{name}".encode()).digest(4 * count)
    # Pairs first, as 16-bit lanes: a sum over an axis of length 4 takes five times as long.
    pairs = np.frombuffer(stream, "<u2")
    halves = (pairs & 0xFF) + (pairs >> 8)
    return (halves[0::2] + halves[1::2]).astype(np.int16) - np.int16(510)


def weights(seed: str, name: str, shape: tuple[int, ...], exponent: int) -> FloatArray:
    """Return `integers` × 2^`exponent` in the given shape, exact in FP16 from 2^-14 up to 2^6."""
    count = int(np.prod(shape))
    return np.ldexp(integers(seed, name, count).astype(np.float32), exponent).reshape(shape)


def inputs(seed: str, spec: TensorSpec) -> FloatArray:
    """Return a network input of standard deviation 1.15, exact in FP16."""
    values = integers(seed, spec.name, int(np.prod(spec.shape))).astype(DTYPES[spec.dtype])
    values *= DTYPES[spec.dtype](2.0**-7)
    return values.reshape(spec.shape)


def packed(values: FloatArray, layout: str) -> bytes:
    """Return [n, c, h, w] values as the bytes of a TensorRT buffer in `layout`, channels padded with zeros.

    `hwc8` is [n, h, w, c] with c a multiple of 8; `chw16` and `chw32` are [n, c / 16, h, w, 16] and so on
    (TensorRT developer guide, I/O formats).
    """
    if layout == "chw":
        return values.tobytes()
    width = int(layout[3:])
    n, c, h, w = values.shape
    groups = -(-c // width)
    padded = np.zeros((n, groups * width, h, w), values.dtype)
    padded[:, :c] = values
    if layout.startswith("hwc"):
        return padded.transpose(0, 2, 3, 1).tobytes()
    return padded.reshape(n, groups, width, h, w).transpose(0, 1, 3, 4, 2).tobytes()


def unpacked(data: bytes, layout: str, spec: TensorSpec) -> FloatArray:
    """Return the bytes of a TensorRT buffer in `layout` as [n, c, h, w] values, as `packed` has them."""
    values = np.frombuffer(data, DTYPES[spec.dtype])
    if layout == "chw":
        return values.reshape(spec.shape)
    width = int(layout[3:])
    n, c, h, w = spec.shape
    groups = -(-c // width)
    if layout.startswith("hwc"):
        return values.reshape(n, h, w, groups * width).transpose(0, 3, 1, 2)[:, :c]
    whole = values.reshape(n, groups, h, w, width).transpose(0, 1, 4, 2, 3)
    return whole.reshape(n, groups * width, h, w)[:, :c]


def input_code(seed: str, spec: TensorSpec) -> str:
    """Return Python that writes `packed(inputs(seed, spec), layout)` to input.bin, with numpy alone."""
    kind = np.dtype(DTYPES[spec.dtype]).name
    count = math.prod(spec.shape)
    code = (
        "import hashlib, numpy as np; "
        f'b = np.frombuffer(hashlib.shake_128(b"{seed}\\0{spec.name}").digest({4 * count}), "<u2"); '
        f'p = (b & 255) + (b >> 8); v = ((p[0::2] + p[1::2]).astype("i2") - 510).astype("{kind}"); '
        f"v = v * np.{kind}(2**-7)"
    )
    if spec.layout != "chw":
        n, c, h, w = spec.shape
        code += f"; v = v.reshape({n}, {c}, {h}, {w})"
        width = int(spec.layout[3:])
        groups = -(-c // width)
        code += f"; v = np.pad(v, ((0, 0), (0, {groups * width - c}), (0, 0), (0, 0)))"
        if spec.layout.startswith("hwc"):
            code += ".transpose(0, 2, 3, 1)"
        else:
            code += f".reshape({n}, {groups}, {width}, {h}, {w}).transpose(0, 1, 3, 4, 2)"
    return f'{code}; v.tofile("input.bin")'


def kept(seed: str, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return which weights [out, in, …] a 2:4 sparse layer keeps: two of each four along the inputs.

    The pairs follow from one byte of SHAKE-128 each, modulo 6.
    """
    outputs, inputs, *taps = shape
    fours = outputs * inputs // 4 * int(np.prod(taps))
    stream = hashlib.shake_128(f"{seed}\0{name}\x002:4".encode()).digest(fours)
    masks = np.zeros((6, 4), dtype=np.bool_)
    for row, pair in zip(masks, combinations(range(4), 2), strict=True):
        row[list(pair)] = True
    chosen = masks[np.frombuffer(stream, np.uint8) % 6].reshape(outputs, inputs // 4, *taps, 4)
    return np.moveaxis(chosen, -1, 2).reshape(shape)


def weight_exponent(fan_in: int) -> int:
    """Return k such that 147.8 × 2^k × √`fan_in` lies between 0.58 and 1.16, by integers alone."""
    half = 0
    while 4**half < fan_in:
        half += 1
    return -7 - half


def shapes(spec: ModelSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the network's input and output; those of our own are [n, c, h, w]."""
    if isinstance(spec, OnnxFile):
        return spec.input, spec.output
    if isinstance(spec, ConvStack):
        place = (spec.height, spec.width)
        return (spec.batch, spec.channels[0], *place), (spec.batch, spec.channels[-1], *place)
    shape = (1, 1, spec.size, spec.size) if isinstance(spec, Square) else _plane(spec)
    return shape, shape


def _plane(spec: Negate) -> tuple[int, ...]:
    return (1, spec.channels, spec.height, spec.width)


def tensors(spec: ModelSpec, precision: str) -> tuple[TensorSpec, TensorSpec]:
    """Return the network's input and output."""
    source, result = shapes(spec)
    return TensorSpec("input", source, precision, "chw"), TensorSpec("output", result, precision, "chw")


def size_bytes(spec: TensorSpec) -> int:
    """Return what a network input or output takes."""
    return math.prod(spec.shape) * np.dtype(DTYPES[spec.dtype]).itemsize


def file_precision(precision: str) -> str:
    """Return the precision of the model file for a planned one.

    TF32 is how FP32 numbers are multiplied, and a quantised graph is FP32 outside of what it quantises.
    """
    return "fp32" if precision in ("tf32", "int8") else precision


def file_precisions(spec: ModelSpec) -> tuple[str, ...]:
    """Return the precisions that a network has files in; opset 13 quantises from FP32 only."""
    if isinstance(spec, OnnxFile):
        return (spec.precision,)
    return ("fp32",) if isinstance(spec, ConvStack) and spec.quantised else PRECISIONS


def may_be_quantised(spec: ModelSpec) -> bool:
    """Tell whether the graph has Q/DQ nodes; of a user's own network only its case knows."""
    return isinstance(spec, OnnxFile) or (isinstance(spec, ConvStack) and spec.quantised)


def weighted_layers(spec: ModelSpec) -> int:
    """Return how many layers multiply, one after another."""
    if isinstance(spec, OnnxFile):
        return spec.layers
    return len(spec.channels) - 1 if isinstance(spec, ConvStack) else 1


def build(spec: ModelSpec, precision: str) -> bytes:
    """Return the serialized ONNX model of `spec`; `precision` is one of `PRECISIONS`.

    A user's own network is a file, and isn't built here.
    """
    import onnx
    from onnx import helper

    if isinstance(spec, OnnxFile):
        raise TypeError(spec)

    dtype = onnx.TensorProto.FLOAT if precision == "fp32" else onnx.TensorProto.FLOAT16
    if isinstance(spec, ConvStack):
        network, (nodes, initializers) = "conv_stack", _conv_stack(spec, precision, dtype)
    elif isinstance(spec, Square):
        network, initializers = "square", []
        nodes = [helper.make_node("MatMul", ["input", "input"], ["output"], name="square")]
    else:
        network, initializers = "negate", []
        nodes = [helper.make_node("Neg", ["input"], ["output"], name="negate")]
    source, result = (
        helper.make_tensor_value_info(tensor.name, dtype, tensor.shape) for tensor in tensors(spec, precision)
    )
    graph = helper.make_graph(nodes, network, [source], [result], initializers)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER[0],
        producer_version=PRODUCER[1],
    )
    return bytes(model.SerializeToString(deterministic=True))


def _conv_stack(
    spec: ConvStack, precision: str, dtype: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    import onnx
    from onnx import helper

    layers = len(spec.channels) - 1
    pad = spec.kernel // 2
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    def initializer(name: str, values: npt.NDArray[Any], kind: int) -> str:
        raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
        initializers.append(helper.make_tensor(name, kind, values.shape, raw, raw=True))
        return name

    def scale(name: str, exponent: int) -> list[str]:
        """Add a scale of 2^`exponent` and a zero point of 0."""
        return [
            initializer(f"{name}.scale", np.array(2.0**exponent, np.float32), onnx.TensorProto.FLOAT),
            initializer(f"{name}.zero", np.array(0, np.int8), onnx.TensorProto.INT8),
        ]

    def quantised(name: str) -> str:
        """Round a tensor to INT8 and take it back; return what it is called then."""
        grid = scale(name, ACTIVATION_EXPONENT)
        for kind, source, result in (
            ("QuantizeLinear", name, f"{name}.int8"),
            ("DequantizeLinear", f"{name}.int8", f"{name}.grid"),
        ):
            nodes.append(helper.make_node(kind, [source, *grid], [result], name=f"{result}.{kind}", axis=1))
        return f"{name}.grid"

    def weight(name: str, shape: tuple[int, ...]) -> str:
        sparse = spec.weights == "2:4"
        exponent = weight_exponent(shape[1] * spec.kernel**2 // (2 if sparse else 1))
        mask = kept(spec.seed, name, shape) if sparse else True
        if not spec.quantised:
            values = weights(spec.seed, name, shape, exponent) * mask
            return initializer(name, values.astype(DTYPES[precision]), dtype)
        whole = integers(spec.seed, name, int(np.prod(shape))).reshape(shape) * mask
        # A quarter, rounded half up, fits INT8 but for the largest.
        quarter = ((whole + 2) >> 2).clip(-127, 127).astype(np.int8)
        stored = initializer(f"{name}.int8", quarter, onnx.TensorProto.INT8)
        grid = scale(name, exponent + 2)
        nodes.append(
            helper.make_node("DequantizeLinear", [stored, *grid], [name], name=f"{name}.grid", axis=0)
        )
        return name

    for i in range(1, layers + 1):
        c_in, c_out = spec.channels[i - 1], spec.channels[i]
        source = "input" if i == 1 else f"conv{i - 1}.out"
        operands = [quantised(source) if spec.quantised else source]
        operands.append(weight(f"conv{i}.weight", (c_out, c_in, spec.kernel, spec.kernel)))
        if spec.bias:
            values = weights(spec.seed, f"conv{i}.bias", (c_out,), -10)
            operands.append(initializer(f"conv{i}.bias", values.astype(DTYPES[precision]), dtype))
        nodes.append(
            helper.make_node(
                "Conv",
                operands,
                ["output" if i == layers else f"conv{i}.out"],
                name=f"conv{i}",
                dilations=[1, 1],
                group=1,
                kernel_shape=[spec.kernel, spec.kernel],
                pads=[pad, pad, pad, pad],
                strides=[1, 1],
            )
        )
    return nodes, initializers
