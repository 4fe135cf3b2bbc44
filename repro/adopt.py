"""A user's own ONNX made fit to be a case: one file, shapes bound, ends named as everywhere.

A private network is renamed by position (`Conv_3`, `t17`) and loses every comment before anything is built
from it, so that no runtime ever sees a name that could reach a bundle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from repro.errors import ReproError, UsageError, unknown
from repro.models import WEIGHTED
from repro.schema import OnnxFile

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 2**30
"""With its external data; protobuf itself ends at 2 GiB."""
FILE = "model.onnx"
INPUT, OUTPUT = "input", "output"

_PRECISIONS: dict[str, Literal["fp32", "fp16"]] = {"FLOAT": "fp32", "FLOAT16": "fp16"}
_OWN = ("", "ai.onnx")


class Adopted(NamedTuple):
    """What a case is made of."""

    model: bytes
    spec: OnnxFile
    quantised: bool = False
    """It has QuantizeLinear nodes: what runs is INT8, whatever goes in and out."""


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read a binding such as `x:1x3x720x1280`; raise `UsageError` for anything else."""
    name, _, sizes = text.rpartition(":")
    if not name or not re.fullmatch(r"[1-9]\d*(?:x[1-9]\d*)*", sizes):
        raise UsageError(f"'{text}' is no shape", "write NAME:1x3x720x1280")
    return name, tuple(map(int, sizes.split("x")))


def adopt(path: Path, shapes: Mapping[str, tuple[int, ...]], *, private: bool) -> Adopted:
    """Read an ONNX file and make it a case's model; raise `ReproError` with the node and what to do."""
    import onnx
    from onnx import inliner

    model = parse(_read(path, MAX_BYTES), path.name)
    _embed(model, path)
    _check_versions(model, path.name)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _check_operators(model.graph)
    source, result = _ends(model.graph)
    # An output without a shape is common, and will get one below.
    result.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise UsageError(f"{path.name} is no valid ONNX model ({_line(error)})", "export it anew") from None
    _bind(source, shapes)
    model = _inferred(model)
    _check_channels(model.graph)
    source, result = _ends(model.graph)
    precision = _precision(source, "input")
    if _precision(result, "output") != precision:
        raise UsageError(f"output '{result.name}' has another type than the input", "give both one type")
    sizes = _known(source, "input"), _known(result, "output")
    _rename(model, everything=private)
    layers = sum(node.op_type in WEIGHTED for node in _nodes(model.graph))
    spec = OnnxFile(FILE, precision, *sizes, max(1, layers))
    quantised = any(node.op_type == "QuantizeLinear" for node in _nodes(model.graph))
    return Adopted(bytes(model.SerializeToString(deterministic=True)), spec, quantised)


def parse(data: bytes, name: str) -> onnx.ModelProto:
    """Return the model in `data`; raise `UsageError` where there is none."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(data)
    except (DecodeError, ValueError):
        model = onnx.ModelProto()
    if not model.graph.node:
        raise UsageError(f"{name} is no ONNX model", "name the file that the exporter wrote")
    return model


def check(data: bytes, spec: OnnxFile, *, private: bool) -> None:
    """Raise `ValueError` where a case's model isn't what its description says, or not fit to be private."""
    try:
        model = parse(data, spec.file)
    except UsageError as error:
        raise ValueError(error.what) from None
    if any(tensor.data_location for tensor in _tensors(model.graph)):
        raise ValueError(f"{spec.file} keeps a tensor in another file")
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    for found, name, size in ((inputs, INPUT, spec.input), (graph.output, OUTPUT, spec.output)):
        shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in found}
        if shapes != {name: tuple(size)}:
            raise ValueError(f"{spec.file} doesn't have `{name}` of {list(size)} alone")
    if private:
        before = model.SerializeToString(deterministic=True)
        _rename(model, everything=True)
        if model.SerializeToString(deterministic=True) != before:
            raise ValueError(f"{spec.file} holds names, and the case is private: make it by `repro case new`")


def _read(path: Path, left: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > left:
            raise UsageError(
                f"{path.name} has {size / 2**20:.0f} MiB, and a case's model may have {MAX_BYTES >> 20} MiB",
                "take a smaller network, or a part of it that shows the problem",
            )
        return path.read_bytes()
    except OSError as error:
        raise ReproError(f"can't read {path} ({error.strerror})") from None


def _embed(model: onnx.ModelProto, path: Path) -> None:
    """Take in what lies in other files, if these lie flat beside the model."""
    from onnx import TensorProto

    left = MAX_BYTES - path.stat().st_size
    read: dict[str, bytes] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        name = told.get("location", "")
        file = path.parent / name
        if not re.fullmatch(r"[\w.+-]+", name) or name in (".", "..") or file.is_symlink():
            raise UsageError(
                f"tensor '{tensor.name}' lies in '{name}', which is not a file beside {path.name}",
                "export the model with its data in one file",
            )
        if name not in read:
            read[name] = _read(file, left)
            left -= len(read[name])
        try:
            start = int(told.get("offset", 0))
            length = int(told.get("length", len(read[name]) - start))
        except ValueError:
            start, length = -1, 0
        if start < 0 or length < 0 or start + length > len(read[name]):
            raise UsageError(f"tensor '{tensor.name}' reaches beyond '{name}'", "export the model anew")
        tensor.raw_data = read[name][start : start + length]
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _check_versions(model: onnx.ModelProto, name: str) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    opset = max((each.version for each in model.opset_import if each.domain in _OWN), default=0)
    if not 1 <= opset <= newest:
        raise UsageError(f"{name} has opset {opset}, and 1 to {newest} are known here", "export an older one")
    if model.ir_version > onnx.IR_VERSION:
        raise UsageError(
            f"{name} has IR version {model.ir_version}, and up to {onnx.IR_VERSION} are known here",
            "export it with an older onnx, or update onnx here",
        )


def _check_operators(graph: onnx.GraphProto) -> None:
    for node in _nodes(graph):
        if node.domain not in _OWN:
            raise UsageError(
                f"node '{node.name or node.output[0]}' is {node.domain}.{node.op_type}, a custom operator",
                "export the network with ONNX's own operators only",
            )


def _check_channels(graph: onnx.GraphProto) -> None:
    """Check what shape inference passes over: that convolutions have weights for the channels they get."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in weights or len(shapes.get(node.input[0], ())) < 2:
            continue
        group = next((item.i for item in node.attribute if item.name == "group"), 1)
        channels, wanted = shapes[node.input[0]][1], weights[node.input[1]][1] * group
        if channels != wanted:
            raise UsageError(
                f"node '{node.name or node.output[0]}' has weights for {wanted} channels and gets {channels}",
                "name another --shape",
            )


def _ends(graph: onnx.GraphProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    for what, found in (("inputs", inputs), ("outputs", list(graph.output))):
        if len(found) != 1:
            names = ", ".join(value.name for value in found) or "none"
            raise UsageError(
                f"the network has {len(found)} {what} ({names})",
                "this version runs networks with one input and one output",
            )
    return inputs[0], graph.output[0]


def _bind(source: onnx.ValueInfoProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the input the shape that was asked for."""
    for name in shapes:
        if name != source.name:
            raise unknown("input", name, [source.name])
    dims = source.type.tensor_type.shape.dim
    wanted = shapes.get(source.name)
    shown = "x".join(str(d.dim_value) if d.dim_value else d.dim_param or "?" for d in dims)
    if wanted is None:
        if any(not dim.dim_value for dim in dims):
            raise UsageError(
                f"input '{source.name}' has the open shape {shown}", f"add --shape {source.name}:…"
            )
        return
    fits = len(wanted) == len(dims) and all(
        d.dim_value in (0, size) for d, size in zip(dims, wanted, strict=True)
    )
    if not fits:
        asked = "x".join(map(str, wanted))
        raise UsageError(f"input '{source.name}' is {shown}, and --shape says {asked}", "make them fit")
    for dim, size in zip(dims, wanted, strict=True):
        dim.dim_value = size


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the shapes that follow from its input's."""
    from onnx import shape_inference

    del model.graph.value_info[:]
    for value in model.graph.output:
        # What an exporter wrote there may hold for another input.
        value.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise UsageError(
            f"the input's shape doesn't fit the network ({_line(error)})", "name another --shape"
        ) from None


def _precision(value: onnx.ValueInfoProto, what: str) -> Literal["fp32", "fp16"]:
    from onnx import TensorProto

    kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if kind not in _PRECISIONS:
        raise UsageError(f"{what} '{value.name}' is {kind}", "this version has FP32 and FP16 there")
    return _PRECISIONS[kind]


def _known(value: onnx.ValueInfoProto, what: str) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    if not dims or any(dim.dim_value < 1 for dim in dims):
        raise UsageError(
            f"the shape of {what} '{value.name}' doesn't follow from that of the input",
            "end the network before the operator that makes its size depend on values",
        )
    return tuple(dim.dim_value for dim in dims)


# --- names --------------------------------------------------------------------------------------


def _rename(model: onnx.ModelProto, *, everything: bool) -> None:
    """Call the ends `input` and `output`; with `everything`, all else by position, without comments."""
    graph = model.graph
    source, result = _ends(graph)
    names = {"": "", source.name: INPUT, result.name: OUTPUT}
    there = set(_tensor_names(graph))
    for name in _tensor_names(graph):
        if name not in names:
            names[name] = f"t{len(names) - 3}" if everything else _free(name, there)
    for part in _graphs(graph):
        for tensor in part.initializer:
            tensor.name = names[tensor.name]
        for sparse in part.sparse_initializer:
            sparse.values.name = names[sparse.values.name]
        for value in (*part.input, *part.output):
            value.name = names[value.name]
        del part.value_info[:]
        del part.quantization_annotation[:]
        for node in part.node:
            node.input[:] = [names[name] for name in node.input]
            node.output[:] = [names[name] for name in node.output]
    if everything:
        _strip(model)


def _free(name: str, there: set[str]) -> str:
    """Return the name of an inner tensor that is not one of the ends'."""
    while name in (INPUT, OUTPUT) or (name.endswith("_") and name in there and name[:-1] in (INPUT, OUTPUT)):
        name += "_"
    return name


def _strip(model: onnx.ModelProto) -> None:
    """Take out whatever somebody may have written into a model, and number its nodes."""
    kept = [(each.domain, each.version) for each in model.opset_import if each.domain in _OWN]
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        model.ClearField(field)
    for repeated in (model.metadata_props, model.training_info, model.functions, model.opset_import):
        del repeated[:]
    for domain, version in kept:
        model.opset_import.add(domain=domain, version=version)
    count = 0
    for part in _graphs(model.graph):
        part.name = "graph"
        part.ClearField("doc_string")
        _clear(part)
        for value in (*part.input, *part.output):
            value.ClearField("doc_string")
            _clear(value)
            value.type.ClearField("denotation")
            for dim in value.type.tensor_type.shape.dim:
                dim.ClearField("denotation")
                dim.ClearField("dim_param")
        for node in part.node:
            node.name = f"{node.op_type}_{count}"
            count += 1
            node.ClearField("doc_string")
            _clear(node)
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
                for tensor in (
                    (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors
                ):
                    tensor.ClearField("name")
    for tensor in _tensors(model.graph):
        tensor.ClearField("doc_string")
        _clear(tensor)


def _clear(message: onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto) -> None:
    if hasattr(message, "metadata_props"):  # Older versions of onnx have none there.
        del message.metadata_props[:]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Give a graph and all graphs within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for part in _graphs(graph):
        yield from part.node


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Give every tensor of a model, as weights or as attributes."""
    for part in _graphs(graph):
        yield from part.initializer
        for sparse in part.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _tensor_names(graph: onnx.GraphProto) -> Iterator[str]:
    for part in _graphs(graph):
        found: list[Sequence[str]] = [
            [value.name for value in part.input],
            [tensor.name for tensor in part.initializer],
            [sparse.values.name for sparse in part.sparse_initializer],
        ]
        found += [each for node in part.node for each in (node.input, node.output)]
        for names in (*found, [value.name for value in part.output]):
            yield from names


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:199]}…"
