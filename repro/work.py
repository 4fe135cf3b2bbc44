"""Operations and bytes of one inference, counted from the graph by a rule per operator.

A multiply-add is two operations, and only convolutions and matrix products count as `flop`; bias,
activations, pooling and the like are elements, reported apart as `other_ops`. Bytes are what a layer
must read and write at least: each input, weight and output once, at the engine's type, with channels
padded to the vector of the layout. An operator without a rule is named, and never counted as nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from repro.schema import Layer, LayerTensor, LayerWork, Work

if TYPE_CHECKING:
    import onnx

VECTORS = {"chw": 1, "hwc8": 8, "chw16": 16, "chw32": 32}
"""Channels that are stored together, to a multiple of which they are padded."""
FLOAT_BITS = {"fp32": 32, "tf32": 32, "fp16": 16}
"""Of the engine's floating-point tensors; with `int8`, what is not quantised keeps the graph's type."""

_FLOATS = {"FLOAT": 32, "DOUBLE": 64, "FLOAT16": 16, "BFLOAT16": 16}
_BITS = {
    **_FLOATS,
    **dict.fromkeys(("INT64", "UINT64"), 64),
    **dict.fromkeys(("INT32", "UINT32"), 32),
    **dict.fromkeys(("INT16", "UINT16"), 16),
    **dict.fromkeys(("INT8", "UINT8", "BOOL"), 8),
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"), 8),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
}

# By what they do to memory and arithmetic. Names are those of ONNX's default domain.
_VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity Dropout".split())
"""The same bytes under another shape: nothing moves."""
_FREE = frozenset({"Shape", "Size"})
"""Known before anything runs."""
_MOVES = frozenset("Transpose Concat Pad Expand Tile DepthToSpace SpaceToDepth Cast".split())
"""Bytes move, nothing is calculated."""
_PICKS = frozenset("Slice Split Gather GatherElements GatherND".split())
"""Of the first input only as much is read as is written."""
_ELEMENTWISE = frozenset(
    """Abs Add And BitShift Ceil Celu Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual
    HardSigmoid HardSwish LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow
    Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu
    Where Xor Resize Upsample QuantizeLinear DequantizeLinear""".split()
)
"""One operation for each element of the output."""
_REDUCTIONS = frozenset(
    """GlobalAveragePool GlobalMaxPool ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare ArgMax ArgMin Softmax LogSoftmax BatchNormalization InstanceNormalization
    LayerNormalization GroupNormalization RMSNormalization LpNormalization LRN CumSum TopK""".split()
)
"""One operation for each element of the first input."""
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class _Tensor(NamedTuple):
    dims: tuple[int, ...] | None
    kind: str


class _Unknown(Exception):
    """An operator can't be counted."""


def count(model: bytes, precision: str, layout: str = "chw") -> Work:
    """Count one inference of an ONNX model at the engine's `precision` and input and output `layout`.

    Functions of the model's own are taken apart first; all shapes must follow from those of the inputs.
    """
    import onnx
    from onnx import inliner, shape_inference

    loaded = onnx.load_from_string(model)
    if loaded.functions:
        loaded = inliner.inline_local_functions(loaded)
    try:
        loaded = shape_inference.infer_shapes(loaded, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        # What can't be inferred is missing in the graph then, and its operators are named below.
        loaded = shape_inference.infer_shapes(loaded)
    return _Counter(loaded.graph, precision, layout).work()


def observed(work: Work, l2_bytes: int | None, layers: Sequence[Layer] | None) -> Work:
    """Return `work` with what only a run shows: the L2's size and the layers that change layouts.

    A tensor smaller than half the L2 that only the very next layer reads may never reach memory.
    """
    kept = None
    if l2_bytes is not None:
        passed = sum(2 * each.passed_bytes for each in work.layers if each.passed_bytes < l2_bytes / 2)
        kept = work.bytes_high - passed
    return msgspec.structs.replace(work, bytes_l2=kept, bytes_reformats=reformat_bytes(layers))


def reformat_bytes(layers: Sequence[Layer] | None) -> int | None:
    """Return what layers that only change a layout read and write; `None` where that isn't told."""
    if layers is None or any(layer.is_reformat is None for layer in layers):
        return None
    ends = [(*layer.inputs, *layer.outputs) for layer in layers if layer.is_reformat]
    sizes = [_tensor_bytes(tensor) for tensors in ends for tensor in tensors]
    if any(size is None for size in sizes) or any(len(tensors) < 2 for tensors in ends):
        return None
    return sum(size for size in sizes if size is not None)


def _tensor_bytes(tensor: LayerTensor) -> int | None:
    bits = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int32": 32, "int64": 64, "bool": 8}
    if tensor.dims is None or tensor.dtype not in bits:
        return None
    vector = next((size for name, size in VECTORS.items() if tensor.format == name), 1)
    return _padded(tensor.dims, vector) * bits[tensor.dtype] // 8


def _padded(dims: Sequence[int], vector: int) -> int:
    """Return the elements that a tensor takes; only [n, c, h, w] has channels to pad."""
    if len(dims) == 4:
        dims = (dims[0], -(-dims[1] // vector) * vector, *dims[2:])
    return math.prod(dims)


class _Counter:
    def __init__(self, graph: onnx.GraphProto, precision: str, layout: str) -> None:
        self._graph = graph
        self._bits = FLOAT_BITS.get(precision)
        self._vector = VECTORS[layout]
        self._tensors: dict[str, _Tensor] = {}
        self._constants: set[str] = set()
        self._root: dict[str, str] = {}
        """Of a view, the tensor that it is one of; of what is dequantised, what is stored."""
        self._read_tensors()
        self._outputs = {value.name for value in graph.output}
        self._inputs = {value.name for value in graph.input} - self._constants

    def _read_tensors(self) -> None:
        from onnx import TensorProto

        name_of = TensorProto.DataType.Name
        for value in (*self._graph.input, *self._graph.value_info, *self._graph.output):
            kind = value.type.tensor_type
            known = value.type.HasField("tensor_type") and kind.HasField("shape")
            dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
            good = known and -1 not in dims
            self._tensors[value.name] = _Tensor(dims if good else None, name_of(kind.elem_type))
        for tensor in self._graph.initializer:
            self._tensors[tensor.name] = _Tensor(tuple(tensor.dims), name_of(tensor.data_type))
            self._constants.add(tensor.name)

    def work(self) -> Work:
        """Return the counts of the whole graph."""
        layers: list[LayerWork] = []
        unknown: dict[str, None] = {}
        weights: dict[str, int] = {}
        running = [node for node in self._graph.node if not self._is_folded(node)]
        quantised_where_written = self._absorb_quantisation(running)
        running = [node for node in running if node.output[0] not in quantised_where_written]
        readers = self._readers(running)
        for index, node in enumerate(running):
            counted = self._counted(node, index, readers, weights)
            if isinstance(counted, LayerWork):
                layers.append(counted)
            else:
                unknown[counted] = None
        ends = sum(self._bytes(name) for name in (*self._inputs, *self._outputs) if self._known(name))
        return Work(
            flop=sum(layer.flop for layer in layers),
            bytes_low=ends + sum(weights.values()),
            bytes_high=sum(layer.bytes for layer in layers),
            unknown_ops=tuple(unknown),
            bytes_ends=ends,
            other_ops=sum(layer.other_ops for layer in layers),
            layers=tuple(layers),
        )

    def _is_folded(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node does nothing while running; its outputs become constants or views."""
        if node.domain not in ("", "ai.onnx"):
            return False
        read = [name for name in node.input if name]
        if all(name in self._constants for name in read) and not node.op_type.startswith("Random"):
            self._constants.update(node.output)
            if node.op_type == "DequantizeLinear":
                self._root[node.output[0]] = node.input[0]
            return True
        if node.op_type in _FREE:
            self._constants.update(node.output)
            return True
        if node.op_type in _VIEWS:
            self._root[node.output[0]] = self._origin(node.input[0])
            return True
        return False

    def _absorb_quantisation(self, nodes: Sequence[onnx.NodeProto]) -> set[str]:
        """Let tensors be stored quantised where they are written; return the outputs of nodes that vanish.

        A runtime reads and writes INT8 in the layers around DequantizeLinear and QuantizeLinear.
        """
        gone: set[str] = set()
        readers = self._readers(nodes)
        producers = {name: node for node in nodes for name in node.output}
        for node in nodes:
            if node.op_type == "DequantizeLinear" and node.output[0] not in self._outputs:
                self._root[node.output[0]] = self._origin(node.input[0])
                gone.add(node.output[0])
            elif node.op_type == "QuantizeLinear":
                source = self._origin(node.input[0])
                alone = len(readers.get(source, ())) == 1 and source not in self._outputs
                if alone and source in producers:
                    self._tensors[source] = self._tensors[source]._replace(kind="INT8")
                    self._root[node.output[0]] = source
                    gone.add(node.output[0])
        return gone

    def _readers(self, nodes: Iterable[onnx.NodeProto]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, node in enumerate(nodes):
            for name in dict.fromkeys(map(self._origin, filter(None, node.input))):
                found.setdefault(name, []).append(index)
        return found

    def _origin(self, name: str) -> str:
        while name in self._root:
            name = self._root[name]
        return name

    def _known(self, name: str) -> bool:
        tensor = self._tensors.get(name)
        return tensor is not None and tensor.dims is not None and tensor.kind in _BITS

    def _dims(self, name: str) -> tuple[int, ...]:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.dims is None:
            raise _Unknown("a shape is not known")
        return tensor.dims

    def _bytes(self, name: str) -> int:
        """Return the bytes that a tensor takes in the engine; views take those of what they show."""
        stored = self._origin(name)
        dims, kind = self._dims(stored), self._tensors[stored].kind
        if kind not in _BITS:
            raise _Unknown(f"a type is not known ({kind})")
        bits = self._bits if kind in _FLOATS and self._bits else _BITS[kind]
        elements = math.prod(dims) if stored in self._constants else _padded(dims, self._vector)
        return -(-elements * bits // 8)

    def _counted(
        self, node: onnx.NodeProto, index: int, readers: dict[str, list[int]], weights: dict[str, int]
    ) -> LayerWork | str:
        """Return the counts of a node, or its name where there is no rule; note the weights that it reads."""
        label = f"{node.op_type} '{node.name or node.output[0]}'"
        if node.domain not in ("", "ai.onnx"):
            return f"{node.domain}.{label}"
        try:
            flop, other = self._operations(node)
            written = sum(self._bytes(name) for name in node.output if name)
            read = 0
            for name in dict.fromkeys(filter(None, node.input)):
                size = self._bytes(name) if self._is_stored(name) else 0
                if node.op_type in _PICKS and name == node.input[0]:
                    size = min(size, written)
                if name in self._constants:
                    weights.setdefault(self._origin(name), size)
                read += size
        except _Unknown as error:
            return f"{label}: {error}" if str(error) else label
        passed = sum(
            self._bytes(name)
            for name in node.output
            if name not in self._outputs and readers.get(self._origin(name)) == [index + 1]
        )
        return LayerWork(node.name or node.output[0], node.op_type, flop, other, read + written, passed)

    def _is_stored(self, name: str) -> bool:
        """Tell whether reading a tensor means reading memory; what was folded by shape alone isn't there."""
        return name not in self._constants or self._known(self._origin(name))

    def _operations(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Return FLOP and other operations of a node; raise `_Unknown` where there is no rule."""
        kind = node.op_type
        if kind in _PRODUCTS:
            return _RULES[kind](self, node)
        result = math.prod(self._dims(node.output[0])) if node.output else 0
        if kind in _MOVES or kind in _PICKS:
            return 0, 0
        if kind in _ELEMENTWISE:
            return 0, result
        if kind in _REDUCTIONS:
            return 0, math.prod(self._dims(node.input[0]))
        if kind in _POOLS:
            return 0, result * math.prod(_attributes(node)["kernel_shape"])
        raise _Unknown

    def _conv(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Multiply-adds: each output × input channels of its group × taps."""
        result, weight = math.prod(self._dims(node.output[0])), self._dims(node.input[1])
        return 2 * result * math.prod(weight[1:]), self._bias(node, result)

    def _conv_transpose(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Multiply-adds: each input × output channels of its group × taps."""
        source, weight = math.prod(self._dims(node.input[0])), self._dims(node.input[1])
        return 2 * source * math.prod(weight[1:]), self._bias(node, math.prod(self._dims(node.output[0])))

    def _gemm(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Multiply-adds: each output × length of the sum."""
        length = self._dims(node.input[0])[0 if _attributes(node).get("transA") else 1]
        result = math.prod(self._dims(node.output[0]))
        return 2 * result * length, self._bias(node, result)

    def _matmul(self, node: onnx.NodeProto) -> tuple[int, int]:
        return 2 * math.prod(self._dims(node.output[0])) * self._dims(node.input[0])[-1], 0

    @staticmethod
    def _bias(node: onnx.NodeProto, result: int) -> int:
        return result if len(node.input) > 2 and node.input[2] else 0


_RULES: dict[str, Callable[[_Counter, onnx.NodeProto], tuple[int, int]]] = {
    "Conv": _Counter._conv,
    "ConvTranspose": _Counter._conv_transpose,
    "Gemm": _Counter._gemm,
    "MatMul": _Counter._matmul,
}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


if __name__ == "__main__":
    # Of a model on standard input, for whoever wants it opened by another process.
    precision_of, layout_of = sys.argv[1:]
    counted = count(sys.stdin.buffer.read(), precision_of, layout_of)
    sys.stdout.buffer.write(msgspec.json.encode(counted))
