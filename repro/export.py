"""Is the case's torch module the network that the kit builds? Shown by exporting it.

Equal means: after shape inference and renaming, the same operators with the same attributes in
topological order, weights that are equal bit by bit, and outputs within 1e-6. Executes the module, so
only that of a case which the kit ships will do. Needs torch and ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from repro import cases, models
from repro.cases import Experiment
from repro.errors import ReproError, Unavailable
from repro.schema import ConvStack, ModelSpec, OnnxFile

if TYPE_CHECKING:
    import onnx

SAME_OUTPUT = 1e-6
SMALL = 64

Array = npt.NDArray[Any]


def check(experiment: Experiment) -> float:
    """Prove the case's torch module equal to its ONNX; return the largest difference of their outputs.

    Raise `ReproError` with the first thing that differs, `Unavailable` without torch.
    """
    if importlib.util.find_spec("torch") is None:
        raise Unavailable("torch is not installed", "pip install torch")
    from repro.backends.onnxruntime import unoptimised

    # Neither operators nor weights depend on the map's size; a small one takes seconds, not minutes.
    spec = experiment.model
    if isinstance(spec, ConvStack):
        spec = msgspec.structs.replace(
            spec, height=min(spec.height, SMALL), width=min(spec.width, SMALL // 2)
        )
    ours = models.build(spec, "fp32")
    theirs = export(network(cases.module(experiment.ref, experiment.settings), spec, ours), spec)
    (structure, weights), (their_structure, their_weights) = renamed(ours), renamed(theirs)
    label = experiment.label
    if len(structure) != len(their_structure):
        raise ReproError(f"{label}: {len(structure)} operators, torch exports {len(their_structure)}")
    for node, their_node in zip(structure, their_structure, strict=True):
        for ours_is, theirs_is in zip(node, their_node, strict=True):
            if ours_is != theirs_is:
                raise ReproError(f"{label}: {node[0]}: {ours_is} here, {theirs_is} in what torch exports")
    if [w.tobytes() for w in weights] != [w.tobytes() for w in their_weights]:
        raise ReproError(f"{label}: the weights differ from those that torch exports")
    source = models.inputs("check", models.tensors(spec, "fp32")[0])
    difference = float(np.abs(unoptimised(ours, source) - unoptimised(theirs, source)).max())
    if not difference <= SAME_OUTPUT:
        raise ReproError(f"{label}: the outputs differ by {difference:.2g}, allowed is {SAME_OUTPUT:g}")
    return difference


def has_module(experiment: Experiment) -> bool:
    """Tell whether a torch module stands for this network; none is quantised, none a user's own."""
    if isinstance(experiment.model, OnnxFile):
        return False
    return not (isinstance(experiment.model, ConvStack) and experiment.model.quantised)


def network(path: Path, spec: ModelSpec, model: bytes) -> Any:
    """Return the torch module in the file `path` as `spec` describes it, with the weights of `model`."""
    import onnx
    import torch
    from onnx import numpy_helper

    found = importlib.util.spec_from_file_location(f"case_{path.parent.name}", path)
    if found is None or found.loader is None:
        raise Unavailable(f"{path} can't be loaded")
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    if isinstance(spec, ConvStack):
        thread = len(spec.channels) == 4 and len(set(spec.channels)) == 1
        module = (
            loaded.TestModel(n_feats=spec.channels[0], kernel_size=spec.kernel, bias=spec.bias)
            if thread
            else loaded.Stack(spec.channels, spec.kernel, bias=spec.bias)
        )
    else:
        module = loaded.TestModel()
    graph = onnx.load_from_string(model).graph
    module.load_state_dict(
        {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    )
    return module


def export(module: Any, spec: ModelSpec) -> bytes:
    """Return what `torch.onnx.export` makes of a module, in FP32."""
    import torch

    example = torch.from_numpy(models.inputs("example", models.tensors(spec, "fp32")[0]).copy())
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript; that the older one is on its way out is known.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            (example,),
            buffer,
            input_names=["input"],
            output_names=["output"],
            opset_version=models.OPSET,
            do_constant_folding=False,
            dynamo=False,
        )
    return buffer.getvalue()


def renamed(model: bytes) -> tuple[list[tuple[Any, ...]], list[Array]]:
    """Return operators, attributes, wiring and shapes by position, and the weights in order of use."""
    import onnx
    from onnx import helper, numpy_helper, shape_inference

    graph = shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    numbers: dict[str, int] = {value.name: i for i, value in enumerate(graph.input)}
    nodes: list[tuple[Any, ...]] = []
    used: list[Array] = []
    for node in graph.node:
        wires: list[object] = []
        for name in node.input:
            if name in constants:
                used.append(constants[name])
                wires.append(("constant", constants[name].shape, str(constants[name].dtype)))
            else:
                wires.append(numbers[name])
        for name in node.output:
            numbers[name] = len(numbers)
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Conv":
            attributes.setdefault("auto_pad", b"NOTSET")
        ends = [numbers[value.name] for value in graph.output if value.name in node.output]
        position = f"operator {len(nodes) + 1}"
        results = [shapes[name] for name in node.output]
        nodes.append((position, node.op_type, sorted(attributes.items()), wires, results, ends))
    return nodes, used


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    kind = value.type.tensor_type
    return [kind.elem_type, *(dim.dim_value for dim in kind.shape.dim)]
