"""Is the output right? A fast wrong answer is a failure, not a result.

The reference is the graph itself, evaluated in FP64 at 256 seeded positions of the output, each from
its receptive field alone: about 0.01 s where the whole net would take a minute. All channels of a
position are compared, and a quarter of the positions lies on the border, where padding shows. A net
with an operator that has no rule here is evaluated by ONNX Runtime with optimisation off, and the
check then says that it used the same library.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from repro.schema import OutputCheck, TensorSpec, Tolerance

if TYPE_CHECKING:
    import onnx

POSITIONS = 256
BORDER_POSITIONS = 64

Array = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]

_POISON_BITS = {"fp32": (np.uint32, 0x7FC5AC1E), "fp16": (np.uint16, 0x7E5A)}
_DTYPES = {"fp32": np.float32, "fp16": np.float16}


class _NoRule(Exception):
    """The graph has an operator without a rule."""


def poison(spec: TensorSpec) -> Array:
    """Return an output buffer of NaNs with a payload that no computation gives."""
    bits, pattern = _POISON_BITS[spec.dtype]
    return np.full(spec.shape, pattern, dtype=bits).view(_DTYPES[spec.dtype])


def tolerance(rule: Tolerance, layers: int) -> float:
    """Return the largest allowed error of a net of `layers` weighted layers."""
    return rule.error * (math.sqrt(layers) if rule.grows == "sqrt_layers" else 1.0)


def positions(seed: str, shape: tuple[int, ...]) -> tuple[Indices, Indices, Indices]:
    """Return batch, row and column of the sampled positions of a [n, c, h, w] output."""
    batch, _, height, width = shape
    choose = random.Random(seed)  # noqa: S311 - positions, not secrets
    spots = [
        (choose.randrange(batch), choose.randrange(height), choose.randrange(width)) for _ in range(POSITIONS)
    ]
    for i in range(BORDER_POSITIONS):
        n, y, x = spots[i]
        edge = choose.randrange(4)
        spots[i] = (n, [0, height - 1, y, y][edge], [x, x, 0, width - 1][edge])
    n, y, x = np.array(spots, dtype=np.int64).T
    return n, y, x


def output(
    model: bytes,
    source: Array,
    result: Array,
    spec: TensorSpec,
    limit: float,
    *,
    seed: str,
    library: Callable[[bytes, Array], Array],
) -> OutputCheck:
    """Compare `result` with the reference of `model` on the input `source`.

    `library` evaluates the whole model without optimisation; it is called only where an operator has
    no rule. The error is ‖y − r‖₂ / ‖r‖₂ over the sampled outputs.
    """
    # What is not [n, c, h, w] is looked at as one long row.
    planes = spec.shape if len(spec.shape) == 4 else (1, 1, 1, math.prod(spec.shape))
    where = positions(seed, planes)
    method: Literal["fp64_at_sampled_positions", "same_library"]
    try:
        reference = _Graph(model, source).at(where)
        method, described = "fp64_at_sampled_positions", "numpy float64 through the graph's operators"
    except _NoRule as operator:
        reference = _sample(library(model, source).reshape(planes), where)
        method, described = "same_library", f"ONNX Runtime without optimisation ({operator})"
    problems = _problems(result, spec)
    error: float | None = None
    if result.shape == spec.shape:
        sampled = _sample(result.reshape(planes), where)
        if np.isfinite(sampled).all():
            norm = float(np.linalg.norm(reference))
            error = float(np.linalg.norm(sampled - reference)) / norm if norm else math.inf
            if not error <= limit:
                problems.append(f"error {error:.2g} is above the tolerance {limit:.2g}")
    return OutputCheck(
        method=method,
        reference=described,
        positions=POSITIONS,
        error=error if error is None or math.isfinite(error) else None,
        tolerance=limit,
        ok=not problems,
        nan="nan" in problems,
        problems=tuple(problems),
    )


def _problems(result: Array, spec: TensorSpec) -> list[str]:
    if result.shape != spec.shape:
        return [f"shape {list(result.shape)} instead of {list(spec.shape)}"]
    problems = []
    if result.dtype == _DTYPES[spec.dtype]:
        bits, pattern = _POISON_BITS[spec.dtype]
        left = int(np.count_nonzero(np.ascontiguousarray(result).view(bits) == pattern))
        if left:
            problems.append(f"{left} values were never written")
    if np.isnan(result).any():
        problems.append("nan")
    elif np.isinf(result).any():
        problems.append("infinite")
    elif not result.any():
        problems.append("all zeros")
    elif result.min() == result.max():
        problems.append("constant")
    return problems


def _sample(values: Array, where: tuple[Indices, Indices, Indices]) -> npt.NDArray[np.float64]:
    n, y, x = where
    return values[n, :, y, x].astype(np.float64)


class _Graph:
    """Evaluates windows of a graph's tensors in FP64, asking backwards from the output."""

    def __init__(self, model: bytes, source: Array) -> None:
        import onnx
        from onnx import numpy_helper, shape_inference

        graph = shape_inference.infer_shapes(onnx.load_from_string(model)).graph
        self._source = source
        self._input = graph.input[0].name
        self._output = graph.output[0].name
        self._producer: dict[str, onnx.NodeProto] = {
            name: node for node in graph.node for name in node.output
        }
        self._weights = {
            tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.initializer
        }
        self._kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for node in graph.node:
            # Weights that are stored quantised are constants all the same.
            if node.op_type == "DequantizeLinear" and self._weights.keys() >= set(node.input):
                values = self._weights[node.input[0]]
                self._weights[node.output[0]] = (values - self._zero(node)) * self._scale(node)
        self._shape = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
        }

    def at(self, where: tuple[Indices, Indices, Indices]) -> npt.NDArray[np.float64]:
        """Return the output at the positions, [position, channel]."""
        n, y, x = where
        return self._window(self._output, n, y, x, 1, 1)[:, :, 0, 0]

    def _window(
        self, name: str, n: Indices, y: Indices, x: Indices, h: int, w: int
    ) -> npt.NDArray[np.float64]:
        """Return [position, channel, h, w] of a tensor from row `y` and column `x` on.

        What lies outside the tensor is 0: it is the padding of the operator that asks.
        """
        node = self._producer.get(name)
        if name != self._input:
            if node is None:
                raise _NoRule(f"no rule for a second source, {name}")
            if node.op_type not in _RULES or node.domain not in ("", "ai.onnx"):
                raise _NoRule(f"no rule for {node.op_type}")
        shape = self._shape.get(name, ())
        if len(shape) != 4 or 0 in shape:
            raise _NoRule("no rule for a tensor that is not [n, c, h, w] of known size")
        _, _, height, width = shape
        rows, columns = y[:, None] + np.arange(h), x[:, None] + np.arange(w)
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
            :, None, :
        ]
        if node is None:
            picked = self._source[
                n[:, None, None],
                :,
                rows.clip(0, height - 1)[:, :, None],
                columns.clip(0, width - 1)[:, None, :],
            ]
            values = np.moveaxis(picked, 3, 1).astype(np.float64)
        else:
            values = _RULES[node.op_type](self, node, n, y, x, h, w)
        return np.where(inside[:, None], values, 0.0)

    def _conv(
        self, node: onnx.NodeProto, n: Indices, y: Indices, x: Indices, h: int, w: int
    ) -> npt.NDArray[np.float64]:
        from onnx import helper

        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        constants = [name for name in node.input[1:] if name]
        if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or not self._weights.keys() >= set(constants):
            raise _NoRule("no rule for this Conv")
        weight = self._weights[node.input[1]]
        c_out, c_in, kh, kw = weight.shape
        sy, sx = attributes.get("strides", [1, 1])
        dy, dx = attributes.get("dilations", [1, 1])
        top, left = attributes.get("pads", [0, 0, 0, 0])[:2]
        group = attributes.get("group", 1)
        field = self._window(
            node.input[0],
            n,
            y * sy - top,
            x * sx - left,
            (h - 1) * sy + (kh - 1) * dy + 1,
            (w - 1) * sx + (kw - 1) * dx + 1,
        )
        field = field.reshape(len(n), group, c_in, *field.shape[2:])
        kernel = weight.reshape(group, c_out // group, c_in, kh, kw)
        total = np.zeros((len(n), group, c_out // group, h, w))
        for i in range(kh):
            for j in range(kw):
                tap = field[
                    :, :, :, i * dy : i * dy + (h - 1) * sy + 1 : sy, j * dx : j * dx + (w - 1) * sx + 1 : sx
                ]
                total += np.einsum("pgchw,goc->pgohw", tap, kernel[..., i, j], optimize=True)
        values = total.reshape(len(n), c_out, h, w)
        if len(node.input) > 2 and node.input[2]:
            values = values + self._weights[node.input[2]][:, None, None]
        return values

    def _relu(
        self, node: onnx.NodeProto, n: Indices, y: Indices, x: Indices, h: int, w: int
    ) -> npt.NDArray[np.float64]:
        return np.maximum(self._window(node.input[0], n, y, x, h, w), 0.0)

    def _add(
        self, node: onnx.NodeProto, n: Indices, y: Indices, x: Indices, h: int, w: int
    ) -> npt.NDArray[np.float64]:
        first, second = node.input
        if self._shape.get(first) != self._shape.get(second):
            raise _NoRule("no rule for an Add that broadcasts")
        return self._window(first, n, y, x, h, w) + self._window(second, n, y, x, h, w)

    def _neg(
        self, node: onnx.NodeProto, n: Indices, y: Indices, x: Indices, h: int, w: int
    ) -> npt.NDArray[np.float64]:
        return -self._window(node.input[0], n, y, x, h, w)

    def _scale(self, node: onnx.NodeProto) -> float:
        """Return the one scale of a node that quantises or takes back."""
        scale = self._weights.get(node.input[1])
        if scale is None or scale.size != 1:
            raise _NoRule(f"no rule for {node.op_type} with a scale for each channel")
        return float(scale.reshape(-1)[0])

    def _zero(self, node: onnx.NodeProto) -> float:
        if len(node.input) < 3 or not node.input[2]:
            return 0.0
        zero = self._weights.get(node.input[2])
        if zero is None or zero.size != 1:
            raise _NoRule(f"no rule for {node.op_type} with a zero point for each channel")
        return float(zero.reshape(-1)[0])

    def _quantise(
        self, node: onnx.NodeProto, n: Indices, y: Indices, x: Indices, h: int, w: int
    ) -> npt.NDArray[np.float64]:
        """Divide by the scale, round half to even, add the zero point, saturate (ONNX QuantizeLinear)."""
        import onnx

        kinds = {onnx.TensorProto.INT8: (-128, 127), onnx.TensorProto.UINT8: (0, 255)}
        # Without a zero point the type is UINT8.
        kind = self._kinds.get(node.input[2]) if len(node.input) > 2 else onnx.TensorProto.UINT8
        if kind not in kinds:
            raise _NoRule("no rule for QuantizeLinear to this type")
        values = self._window(node.input[0], n, y, x, h, w)
        return (np.rint(values / self._scale(node)) + self._zero(node)).clip(*kinds[kind])

    def _dequantise(
        self, node: onnx.NodeProto, n: Indices, y: Indices, x: Indices, h: int, w: int
    ) -> npt.NDArray[np.float64]:
        return (self._window(node.input[0], n, y, x, h, w) - self._zero(node)) * self._scale(node)

    def _matmul(
        self, node: onnx.NodeProto, n: Indices, y: Indices, x: Indices, h: int, w: int
    ) -> npt.NDArray[np.float64]:
        """Multiply whole rows by whole columns of the network's own input; nothing else has them at hand."""
        if set(node.input) != {self._input} or (h, w) != (1, 1):
            raise _NoRule("no rule for this MatMul")
        _, _, height, width = self._source.shape
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        rows = self._source[n, :, y.clip(0, height - 1), :].astype(np.float64)
        columns = self._source[n, :, :, x.clip(0, width - 1)].astype(np.float64)
        products: npt.NDArray[np.float64] = np.einsum("pck,pck->pc", rows, columns)
        return np.where(inside[:, None], products, 0.0)[:, :, None, None]


_RULES = {
    "Conv": _Graph._conv,
    "Relu": _Graph._relu,
    "Add": _Graph._add,
    "Neg": _Graph._neg,
    "MatMul": _Graph._matmul,
    "QuantizeLinear": _Graph._quantise,
    "DequantizeLinear": _Graph._dequantise,
}
