"""The same ONNX bytes from the same description, on any machine and any version of onnx.

Weights and inputs come from integers alone: the bytes of SHAKE-128, four summed and 510 taken off
(near normal, standard deviation 147.8), times a power of two. They have at most ten significant
bits, so FP16 and FP32 files hold the same numbers. Everything that `onnx` would fill in by itself
is set explicitly. The only module that imports `onnx` to write.
"""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from repro.schema import ConvStack, ModelSpec, Negate, Square, TensorSpec, Work

if TYPE_CHECKING:
    import onnx

OPSET = 13
IR_VERSION = 8
PRODUCER = ("trt-repro", "1")
"""Version 1 of this generator: a change of its bytes is a new version and a new case version."""
PRECISIONS = ("fp32", "fp16")
DTYPES = {"fp32": np.float32, "fp16": np.float16}

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


def input_code(seed: str, spec: TensorSpec) -> str:
    """Return Python that writes `packed(inputs(seed, spec), layout)` to input.bin, with numpy alone."""
    kind = np.dtype(DTYPES[spec.dtype]).name
    n, c, h, w = spec.shape
    code = (
        "import hashlib, numpy as np; "
        f'b = np.frombuffer(hashlib.shake_128(b"{seed}\\0{spec.name}").digest({4 * n * c * h * w}), "<u2"); '
        f'p = (b & 255) + (b >> 8); v = ((p[0::2] + p[1::2]).astype("i2") - 510).astype("{kind}"); '
        f"v = (v * np.{kind}(2**-7)).reshape({n}, {c}, {h}, {w})"
    )
    if spec.layout != "chw":
        width = int(spec.layout[3:])
        groups = -(-c // width)
        code += f"; v = np.pad(v, ((0, 0), (0, {groups * width - c}), (0, 0), (0, 0)))"
        if spec.layout.startswith("hwc"):
            code += ".transpose(0, 2, 3, 1)"
        else:
            code += f".reshape({n}, {groups}, {width}, {h}, {w}).transpose(0, 1, 3, 4, 2)"
    return f'{code}; v.tofile("input.bin")'


def weight_exponent(fan_in: int) -> int:
    """Return k such that 147.8 × 2^k × √`fan_in` lies between 0.58 and 1.16, by integers alone."""
    half = 0
    while 4**half < fan_in:
        half += 1
    return -7 - half


def shapes(spec: ModelSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the network's input and output, [n, c, h, w]."""
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


def file_precision(precision: str) -> str:
    """Return the precision of the model file for a planned one: TF32 is how FP32 numbers are multiplied."""
    return "fp32" if precision == "tf32" else precision


def weighted_layers(spec: ModelSpec) -> int:
    """Return how many layers multiply, one after another."""
    return len(spec.channels) - 1 if isinstance(spec, ConvStack) else 1


def work(spec: ModelSpec, precision: str) -> Work:
    """Count floating-point operations (a multiply-add is two) and bytes of one inference.

    `bytes_low` reads the input and the weights and writes the output, once; `bytes_high` moves every
    tensor between layers, too. The bias's additions are not counted.
    """
    size = np.dtype(DTYPES[precision]).itemsize
    source, result = (math.prod(shape) for shape in shapes(spec))
    if isinstance(spec, Square):
        return Work(2 * spec.size**3, size * (source + result), size * (source + result), ())
    if isinstance(spec, Negate):
        return Work(0, size * (source + result), size * (source + result), ())
    place = spec.batch * spec.height * spec.width
    pairs = list(pairwise(spec.channels))
    constants = sum(a * b * spec.kernel**2 + (b if spec.bias else 0) for a, b in pairs)
    return Work(
        flop=sum(2 * place * a * b * spec.kernel**2 for a, b in pairs),
        bytes_low=size * (source + result + constants),
        bytes_high=size * (sum(place * (a + b) for a, b in pairs) + constants),
        unknown_ops=(),
    )


def build(spec: ModelSpec, precision: str) -> bytes:
    """Return the serialized ONNX model of `spec`; `precision` is one of `PRECISIONS`."""
    import onnx
    from onnx import helper

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
    from onnx import helper

    layers = len(spec.channels) - 1
    pad = spec.kernel // 2
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    def initializer(name: str, shape: tuple[int, ...], exponent: int) -> str:
        values = weights(spec.seed, name, shape, exponent).astype(DTYPES[precision])
        raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
        initializers.append(helper.make_tensor(name, dtype, shape, raw, raw=True))
        return name

    for i in range(1, layers + 1):
        c_in, c_out = spec.channels[i - 1], spec.channels[i]
        exponent = weight_exponent(c_in * spec.kernel**2)
        operands = ["input" if i == 1 else f"conv{i - 1}.out"]
        operands.append(initializer(f"conv{i}.weight", (c_out, c_in, spec.kernel, spec.kernel), exponent))
        if spec.bias:
            operands.append(initializer(f"conv{i}.bias", (c_out,), -10))
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
