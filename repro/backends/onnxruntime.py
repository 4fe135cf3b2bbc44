"""ONNX Runtime on its CPU provider.

Every option that changes speed is set here and recorded. The provider accepts an FP16 model and
silently computes in FP32, so the effective precision is read from the optimised graph of the very
session that is measured. A build is the making of a session and ends with its process.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from repro.errors import Unavailable
from repro.schema import Effective, Layer, Library, ReleaseSeen, Scalar, TensorSpec

if TYPE_CHECKING:
    import onnx

NAME = "onnxruntime"
PRODUCT = "ONNX Runtime"
PROVIDER = "CPUExecutionProvider"
TIMER = "host clock around each inference"
L2_STATE = "not_controlled"
BUILD_OUTLIVES_PROCESS = False
SETTINGS = frozenset({"precision", "io_layout", "warm_up_ms", "duration_s", "percentiles"})
LIBRARIES = ("numpy", "onnx", "onnxruntime")

LOG_LINES = (
    # 2026-11-24 13:57:20.750385486 [W:onnxruntime:, inference_session.cc:3240 operator()] words
    re.compile(r"[\d-]+ [\d:.]+ \[[VIWEF]:onnxruntime:[^\]]*\] .*"),
    re.compile(r"Traceback \(most recent call last\):"),
    re.compile(r"  File \".*\", line \d+, in \S+"),
    re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Warning|Fail|InvalidGraph|InvalidArgument): .*"),
)
"""The forms of lines in a turn's log that may be published."""

_REFORMATS = frozenset({"ReorderInput", "ReorderOutput", "Cast", "Transpose"})

Array = npt.NDArray[np.floating]


def release() -> ReleaseSeen:
    """Return the installed release; raise `Unavailable` where there is none."""
    try:
        version = importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(
            "ONNX Runtime is not installed", "pip install 'trt-repro[run]', or `make repro`"
        ) from None
    return ReleaseSeen(f"ort-{version}", version)


def refuse(planned: Mapping[str, Scalar | None]) -> str | None:
    """Return why this backend can't run `planned`, or `None` when it can."""
    if planned["precision"] not in ("fp32", "fp16"):
        return f"its CPU provider has no {planned['precision']}"
    if planned["io_layout"] != "chw":
        return f"its inputs and outputs are chw, not {planned['io_layout']}"
    return None


class Engine:
    """A session with bound buffers: `step()` is one inference and nothing else."""

    def __init__(
        self, model: Path, folder: Path, threads: int, source: Array, result: Array, names: tuple[str, str]
    ) -> None:
        import onnxruntime as ort

        self.options: dict[str, Scalar] = {
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            "execution_mode": "sequential",
            "graph_optimization_level": "all",
            "session.intra_op.allow_spinning": "1",
            "enable_mem_pattern": True,
            "enable_cpu_mem_arena": True,
        }
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.enable_mem_pattern = True
        options.enable_cpu_mem_arena = True
        optimised = folder / "optimised.onnx"
        options.optimized_model_filepath = str(optimised)
        # The saved graph is for reading back only; the warning that it is not portable is known.
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(model), options, providers=[PROVIDER])
        self._binding = self._session.io_binding()
        self._result = ort.OrtValue.ortvalue_from_numpy(result)
        self._source = ort.OrtValue.ortvalue_from_numpy(source)
        self._binding.bind_ortvalue_input(names[0], self._source)
        self._binding.bind_ortvalue_output(names[1], self._result)
        self.providers = tuple(self._session.get_providers())
        self._graph = _load(optimised)

    def step(self) -> None:
        """Run one inference; returns when the output is written."""
        self._session.run_with_iobinding(self._binding)

    def output(self) -> Array:
        """Return the output of the last inference."""
        return np.asarray(self._result.numpy())

    def effective(self) -> dict[str, Effective]:
        """Read back what the session really does."""
        return {
            "precision": Effective(_precision(self._graph), "graph"),
            "io_layout": Effective(_io_layout(self._graph), "graph"),
        }

    def layers(self) -> tuple[Layer, ...]:
        """Return the nodes of the optimised graph in order."""
        return tuple(
            Layer(
                name=node.name,
                type=f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
                is_reformat=node.op_type in _REFORMATS,
            )
            for node in self._graph.node
        )

    def structure_hash(self) -> str:
        """Return sha256 over operators, attributes, wiring and types, without names and weights."""
        names: dict[str, int] = {}
        described = [
            {
                "op": [node.domain, node.op_type],
                "attributes": sorted(item.SerializeToString().hex() for item in node.attribute),
                "inputs": [names.setdefault(name, len(names)) for name in node.input],
                "outputs": [names.setdefault(name, len(names)) for name in node.output],
            }
            for node in self._graph.node
        ]
        constants = sorted(
            [names.get(tensor.name, -1), tensor.data_type, *tensor.dims] for tensor in self._graph.initializer
        )
        text = json.dumps([described, constants], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def build(
    model: Path,
    folder: Path,
    *,
    threads: int,
    source: Array,
    result: Array,
    tensors: tuple[TensorSpec, TensorSpec],
) -> Engine:
    """Make a session of `model` that reads `source` and writes `result` in place."""
    return Engine(model, folder, threads, source, result, (tensors[0].name, tensors[1].name))


def unoptimised(model: bytes, source: Array) -> Array:
    """Return the model's whole output with every optimisation off, for the output check."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=[PROVIDER])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: source})[0])


def libraries() -> tuple[Library, ...]:
    """Return the libraries that take part, by version."""
    return tuple(Library(name, importlib.metadata.version(name)) for name in LIBRARIES)


def _load(path: Path) -> onnx.GraphProto:
    import onnx

    return onnx.load(str(path), load_external_data=False).graph


def _precision(graph: onnx.GraphProto) -> str | None:
    """Return the type that the weighted operators compute in, or `mixed`, by their constants."""
    import onnx

    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
    consumed = {name for node in graph.node if node.op_type not in _REFORMATS for name in node.input}
    found = {
        names.get(tensor.data_type, onnx.TensorProto.DataType.Name(tensor.data_type).lower())
        for tensor in graph.initializer
        if tensor.name in consumed
    }
    return found.pop() if len(found) == 1 else "mixed" if found else None


def _io_layout(graph: onnx.GraphProto) -> str | None:
    """Return `chw` where inputs and outputs of the optimised graph are the plain 4-D tensors."""
    ends = (*graph.input, *graph.output)
    return "chw" if all(len(value.type.tensor_type.shape.dim) == 4 for value in ends) else None
