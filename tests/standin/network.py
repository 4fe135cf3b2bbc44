"""What the stand-in knows of networks: outputs by ONNX Runtime, buffers in TensorRT's formats, layers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDTHS = {"chw": 1, "chw2": 2, "chw4": 4, "chw16": 16, "chw32": 32, "hwc": 1, "hwc8": 8, "hwc16": 16}
DTYPES: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "int32": np.dtype("<i4"),
}
WORDS = {"fp32": "Float", "fp16": "Half", "int8": "Int8", "int32": "Int32"}
LABELS = {"fp32": "FP32", "fp16": "FP16", "int8": "Int8", "int32": "Int32"}


class Tensor(NamedTuple):
    """An input or output of the network or of a layer; `dims` are the network's own, [n, c, h, w]."""

    name: str
    dims: tuple[int, ...]
    dtype: str
    layout: str

    def described(self) -> str:
        """Return the engine inspector's words for format and type."""
        label, width = LABELS[self.dtype], WIDTHS[self.layout]
        if self.layout == "chw":
            return f"Row major linear {label}" + (" format" if label != "FP32" else "")
        if self.layout.startswith("hwc"):
            return f"Channel major {label} format" + (f" where channel % {width} == 0" if width > 1 else "")
        number = {2: "Two", 4: "Four", 16: "Sixteen", 32: "Thirty-two"}[width]
        return f"{number} wide channel vectorized row major {label} format"

    def brief(self) -> str:
        """Return the verbose log's words: `Half[1,16:8,9,9]`."""
        width = WIDTHS[self.layout]
        dims = [f"{dim}:{width}" if i == 1 and width > 1 else str(dim) for i, dim in enumerate(self.dims)]
        return f"{WORDS[self.dtype]}[{','.join(dims)}]"

    def strides(self) -> str:
        """Return the words of the autotuning lines: `Half(72,1:8,9,1)`."""
        width, (_, c, h, w) = WIDTHS[self.layout], (*self.dims, 1, 1, 1, 1)[:4]
        groups = -(-c // width)
        if self.layout.startswith("hwc"):
            steps = (h * w * groups, f"1:{width}" if width > 1 else "1", w * groups, groups)
        else:
            steps = (groups * h * w, f"{h * w}:{width}" if width > 1 else str(h * w), w, 1)
        return f"{WORDS[self.dtype]}({','.join(map(str, steps))})"


class Layer(NamedTuple):
    """A layer of the made-up engine."""

    name: str
    kind: str
    tactic: str
    value: int
    source: Tensor
    target: Tensor
    share: float
    """Of the whole time."""


class Network:
    """An ONNX model with one input and one output."""

    def __init__(self, content: bytes) -> None:
        import onnx

        self.content = content
        self.model = onnx.load_from_string(content)
        kinds = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
        self.inputs, self.outputs = (
            tuple(
                Tensor(
                    value.name,
                    tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
                    kinds.get(value.type.tensor_type.elem_type, "fp32"),
                    "chw",
                )
                for value in values
            )
            for values in (self.model.graph.input, self.model.graph.output)
        )

    @property
    def quantised(self) -> bool:
        """Tell whether the graph has Q/DQ nodes."""
        return any(node.op_type == "QuantizeLinear" for node in self.model.graph.node)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return the outputs in the model's own types."""
        session: Any
        if os.environ.get("TRT_STANDIN_EVALUATOR") == "onnx":
            # ONNX Runtime does not run under qemu.
            from onnx.reference import ReferenceEvaluator

            session = ReferenceEvaluator(self.model)
        else:
            import onnxruntime as ort

            options = ort.SessionOptions()
            options.log_severity_level = 3
            session = ort.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])
        types = {tensor.name: DTYPES[tensor.dtype] for tensor in self.inputs}
        feed = {name: values.astype(types[name]) for name, values in inputs.items()}
        return dict(zip([t.name for t in self.outputs], session.run(None, feed), strict=True))

    def layers(self, source: Tensor, target: Tensor, precision: str, mode: int) -> tuple[Layer, ...]:
        """Return a made-up engine: convolutions with their activations fused, reformats where chw goes in.

        The tactics follow from the layer's place and the build's `mode`, so that modes differ in structure.
        """
        groups: list[list[Any]] = []
        for node in self.model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                continue  # Fused into its neighbours.
            if groups and node.op_type in ("Relu", "Add"):
                groups[-1].append(node)
            else:
                groups.append([node])
        inner = "hwc8" if precision == "fp16" else "chw"
        dims = source.dims
        made = []
        before = source
        if source.layout != inner or source.dtype != precision:
            name = f"Reformatting CopyNode for Input Tensor 0 to {_name(groups[0])}"
            after = Tensor(f"Reformatted Input Tensor 0 to {_name(groups[0])}", dims, precision, inner)
            made.append(Layer(name, "Reformat", "", 1002, before, after, 0.05))
            before = after
        reformats_out = target.layout != inner or target.dtype != precision
        share = (1.0 - 0.05 * len(made) - (0.05 if reformats_out else 0.0)) / len(groups)
        for i, group in enumerate(groups):
            last = i == len(groups) - 1
            shape = target.dims if last else (dims[0], self._channels(group[0], dims[1]), *dims[2:])
            final = "Reformatted Output Tensor 0 to " + _name(group) if reformats_out else target.name
            after = Tensor(final if last else group[-1].output[0], shape, precision, inner)
            digest = hashlib.sha256(f"{_name(group)} {mode} {precision}".encode()).digest()
            conv = group[0].op_type == "Conv"
            tactic = f"sm80_standin_fprop_{precision}_tile{(mode + 1) * 32}x{64 + i % 2 * 64}" if conv else ""
            kind = (
                "CaskConvolution"
                if conv
                else "MatrixMultiply"
                if group[0].op_type == "MatMul"
                else "PointWise"
            )
            made.append(
                Layer(_name(group), kind, tactic, int.from_bytes(digest[:8], "little"), before, after, share)
            )
            before, dims = after, shape
        if reformats_out:
            name = f"Reformatting CopyNode for Output Tensor 0 to {_name(groups[-1])}"
            made.append(Layer(name, "Reformat", "", 0, before, target, 0.05))
        return tuple(made)

    def _channels(self, node: Any, otherwise: int) -> int:
        """Return the channels that a convolution gives."""
        weights = node.input[1] if node.op_type == "Conv" else ""
        grids = {each.output[0]: each.input[0] for each in self.model.graph.node if each.input}
        for tensor in self.model.graph.initializer:
            if tensor.name == grids.get(weights, weights):
                return int(tensor.dims[0])
        return otherwise


def _name(group: list[Any]) -> str:
    return " + ".join(node.name or node.output[0] for node in group)


def read_buffer(path: Path, tensor: Tensor) -> Array:
    """Return what a raw file in the tensor's format holds, as [n, c, h, w]; `ValueError` if it is short."""
    width = WIDTHS[tensor.layout]
    n, c, h, w = (*tensor.dims, 1, 1, 1)[:4] if len(tensor.dims) < 4 else tensor.dims
    groups = -(-c // width)
    shape = (n, h, w, groups * width) if tensor.layout.startswith("hwc") else (n, groups, h, w, width)
    expected = int(np.prod(shape)) * DTYPES[tensor.dtype].itemsize
    content = path.read_bytes()[:expected]
    if len(content) != expected:
        raise ValueError(
            f"Unexpected file size for input file: {path}. Note: Input file size is {len(content)} bytes, "
            f"expected {expected} bytes"
        )
    packed = np.frombuffer(content, DTYPES[tensor.dtype]).reshape(shape)
    if tensor.layout.startswith("hwc"):
        return packed[..., :c].transpose(0, 3, 1, 2).reshape(tensor.dims)
    return packed.transpose(0, 1, 4, 2, 3).reshape(n, groups * width, h, w)[:, :c].reshape(tensor.dims)
