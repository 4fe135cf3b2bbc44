"""ONNX Runtime: on its CPU provider, and on its CUDA provider where the device is a GPU.

Every option that changes speed is set here and recorded. The CPU provider accepts an FP16 model and
silently computes in FP32, and the CUDA provider leaves to the CPU what it can't do or load; so the
effective precision is read from the optimised graph of the very session that is measured, and any node
that the provider did not take is a failure by name. A build is the making of a session and ends with
its process.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from repro.backends import cuda
from repro.backends.cuda import Queue
from repro.errors import Unavailable
from repro.schema import Effective, Layer, Library, ReleaseSeen, Scalar, Subject

if TYPE_CHECKING:
    import onnx

NAME = "onnxruntime"
PRODUCT = "ONNX Runtime"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
BUILD_OUTLIVES_PROCESS = TIMES_ITSELF = False
LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu")

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


def settings(*, gpu: bool) -> frozenset[str]:
    """Return the semantic settings that this backend has."""
    both = {"precision", "io_layout", "warm_up_ms", "duration_s", "percentiles"}
    return frozenset(both | {"cuda_graph", "l2", "queue"} if gpu else both)


def release(*, gpu: bool) -> ReleaseSeen:
    """Return the installed release; raise `Unavailable` where there is none."""
    for name in ("onnxruntime-gpu",) if gpu else ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            built = cuda.built_for("onnxruntime", "capi/build_and_package_info.py") if gpu else None
            suffix = f"+cuda{built.partition('.')[0]}" if built else ""
            return ReleaseSeen(f"ort-{version}{suffix}", version, cuda=built)
    if gpu:
        raise Unavailable(
            "ONNX Runtime with CUDA is not installed", "pip install onnxruntime-gpu in place of onnxruntime"
        )
    raise Unavailable("ONNX Runtime is not installed", "pip install 'trt-repro[run]', or `make repro`")


def refuse(planned: Mapping[str, Scalar | None], *, gpu: bool) -> str | None:
    """Return why this backend can't run `planned`, or `None` when it can."""
    precision, layout = planned["precision"], planned["io_layout"]
    if precision not in (("fp32", "tf32", "fp16") if gpu else ("fp32", "fp16")):
        return f"its {'CUDA' if gpu else 'CPU'} provider has no {precision}"
    if layout not in (("chw", "hwc8") if gpu else ("chw",)):
        return f"its inputs and outputs are {'chw or hwc8' if gpu else 'chw'}, not {layout}"
    return None


class Engine:
    """A session with bound buffers: `step()` is one inference and nothing else."""

    queue: Queue | None = None
    """Where the device executes on its own: what is enqueued to it."""
    plan_sha256: str | None = None
    recipe_hash: str | None = None
    timing_cache: str | None = None

    def __init__(self, model: bytes, folder: Path, threads: int, source: Array, result: Array) -> None:
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
        self._session = self._open(model, options)
        self._run_options = ort.RunOptions()
        self._binding = self._session.io_binding()
        self._source, self._result = self._on_device(source), self._on_device(result)
        self._binding.bind_ortvalue_input("input", self._source)
        self._binding.bind_ortvalue_output("output", self._result)
        self.providers = tuple(self._session.get_providers())
        self._graph = _load(optimised)

    def _open(self, model: bytes, options: Any) -> Any:
        import onnxruntime as ort

        return ort.InferenceSession(model, options, providers=[CPU])

    def _on_device(self, values: Array) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(values)

    def enqueue(self) -> None:
        """Begin one inference; on the CPU, run it."""
        self._session.run_with_iobinding(self._binding, self._run_options)

    def step(self) -> None:
        """Run one inference; returns when the output is written."""
        self.enqueue()

    def poison(self, values: Array) -> None:
        """Fill the output with `values`, so that what the next inference does not write shows."""
        self._result.update_inplace(values)

    def output(self) -> Array:
        """Return the output of the last inference, [n, c, h, w]."""
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


class CudaEngine(Engine):
    """A session on the CUDA provider, with its buffers in device memory and a stream of ours."""

    def __init__(
        self, model: bytes, folder: Path, subject: Subject, threads: int, source: Array, result: Array
    ) -> None:
        import onnxruntime as ort

        self.queue = self._stream = Queue()
        self._hwc = subject.planned["io_layout"] == "hwc8"
        self._precision = str(subject.planned["precision"])
        self._told = {
            "device_id": "0",
            "user_compute_stream": str(self.queue.stream),
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "use_tf32": "1" if self._precision == "tf32" else "0",
            "prefer_nhwc": "1" if self._hwc else "0",
            "enable_cuda_graph": "1" if subject.planned["cuda_graph"] else "0",
        }
        if self._hwc:
            model = with_hwc_ends(model)
            source, result = _hwc(source), _hwc(result)
        super().__init__(model, folder, threads, source, result)
        # The provider would wait for the device at the end of each inference.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._said = self._session.get_provider_options().get(CUDA, {})
        told = {key: value for key, value in self._told.items() if key != "user_compute_stream"}
        self.options |= {key: self._said.get(key, value) for key, value in told.items()}
        self.options["onnxruntime"] = ort.__version__

    def _open(self, model: bytes, options: Any) -> Any:
        import onnxruntime as ort

        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        load_libraries()
        session = ort.InferenceSession(model, options, providers=[(CUDA, self._told), CPU])
        if CUDA not in session.get_providers():
            raise Refusal("wrong_provider", f"the CUDA provider could not be loaded: {why_not_cuda()}")
        assigned = session.get_provider_graph_assignment_info()
        elsewhere = [
            f"{node.name or node.op_type} on {part.ep_name}"
            for part in assigned
            if part.ep_name != CUDA
            for node in part.get_nodes()
        ]
        if elsewhere:
            raise Refusal("wrong_provider", f"not on the CUDA provider: {', '.join(elsewhere)}")
        return session

    def _on_device(self, values: Array) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values), "cuda", 0)

    def step(self) -> None:
        """Run one inference; returns when the output is written."""
        self.enqueue()
        self._stream.wait()

    def poison(self, values: Array) -> None:
        """Fill the output with `values`, so that what the next inference does not write shows."""
        super().poison(_hwc(values) if self._hwc else values)

    def output(self) -> Array:
        """Return the output of the last inference, [n, c, h, w]."""
        values = super().output()
        return values.transpose(0, 3, 1, 2) if self._hwc else values

    def effective(self) -> dict[str, Effective]:
        """Read back what the session really does; TF32 can't be seen in a graph, only in the options."""
        found = super().effective()
        if found["precision"].value == "fp32" and self._said.get("use_tf32") == "1":
            found["precision"] = Effective("tf32", "echo")
        graph = self._said.get("enable_cuda_graph") == "1"
        return found | {
            "io_layout": Effective(_ends(self._graph, hwc=self._hwc), "graph"),
            "cuda_graph": Effective(graph, "echo"),
        }


class Refusal(Exception):
    """The session is not what was asked for."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def load_libraries() -> None:
    """Load CUDA and cuDNN from where pip has put them: NVIDIA's wheels, or torch with its own."""
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        # It prints what it misses; what matters is whether the provider loads, and that is asked next.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    if why_not_cuda() and importlib.util.find_spec("torch"):
        importlib.import_module("torch")


def why_not_cuda() -> str | None:
    """Return why the CUDA provider's library does not load, `None` where it does."""
    import onnxruntime as ort

    if CUDA not in ort.get_available_providers():
        return "this ONNX Runtime was built without it (pip install onnxruntime-gpu)"
    folder = Path(ort.__file__).parent / "capi"
    try:
        # It leans on a library that the runtime itself has loaded by now, or would load first.
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        major = str(getattr(ort, "cuda_version", "")).partition(".")[0] or "?"
        return (
            f"{error}; it needs CUDA {major} and cuDNN 9: install torch for CUDA {major}, "
            f"or nvidia-cudnn-cu{major} and its like"
        )
    return None


def with_hwc_ends(model: bytes) -> bytes:
    """Return the model with [n, h, w, c] input and output: transposed to and from, for ORT to cancel."""
    import onnx
    from onnx import helper

    loaded = onnx.load_from_string(model)
    graph = loaded.graph
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = {"input": "input.chw", "output": "output.chw"}.get(name, name)
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        n, c, h, w = (dim.dim_value for dim in dims)
        for dim, size in zip(dims, (n, h, w, c), strict=True):
            dim.dim_value = size
    graph.node.insert(0, helper.make_node("Transpose", ["input"], ["input.chw"], "to_chw", perm=[0, 3, 1, 2]))
    graph.node.append(helper.make_node("Transpose", ["output.chw"], ["output"], "to_hwc", perm=[0, 2, 3, 1]))
    return bytes(loaded.SerializeToString(deterministic=True))


def _hwc(values: Array) -> Array:
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1))


def build(
    model: Path, folder: Path, subject: Subject, *, gpu: bool, threads: int, source: Array, result: Array
) -> Engine:
    """Make a session of `model` that reads `source` and writes `result` in place."""
    data = model.read_bytes()
    if gpu:
        return CudaEngine(data, folder, subject, threads, source, result)
    return Engine(data, folder, threads, source, result)


def unoptimised(model: bytes, source: Array) -> Array:
    """Return the model's whole output with every optimisation off, for the output check."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=[CPU])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: source})[0])


def libraries() -> tuple[Library, ...]:
    """Return the libraries that take part, by version."""
    found = []
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(Library(name, importlib.metadata.version(name)))
    return tuple(found)


def _load(path: Path) -> onnx.GraphProto:
    import onnx

    return onnx.load(str(path), load_external_data=False).graph


def _precision(graph: onnx.GraphProto) -> str | None:
    """Return the type that the operators compute in, or `mixed`.

    It follows from the operators' constants; one without any computes in the type of what it reads.
    Shapes and indices are no precision.
    """
    import onnx

    whole = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}

    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types = constants | {value.name: value.type.tensor_type.elem_type for value in graph.input}
    found = set()
    for node in graph.node:
        read = [types[name] for name in node.input if name in types]
        if node.op_type == "Cast":
            (kind,) = [item.i for item in node.attribute if item.name == "to"]
        elif read:
            kind = read[0]
            weighted = [constants[name] for name in node.input if name in constants]
            if node.op_type not in _REFORMATS:
                found.update(set(weighted) - whole or {kind} - whole)
        else:
            continue
        types |= dict.fromkeys(node.output, kind)
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
    shown = {names.get(kind, onnx.TensorProto.DataType.Name(kind).lower()) for kind in found}
    return shown.pop() if len(shown) == 1 else "mixed" if shown else None


def _io_layout(graph: onnx.GraphProto) -> str | None:
    """Return `chw` where inputs and outputs of the optimised graph are plain tensors of known size."""
    sizes = [
        dim.dim_value for value in (*graph.input, *graph.output) for dim in value.type.tensor_type.shape.dim
    ]
    return "chw" if sizes and min(sizes) > 0 else None


def _ends(graph: onnx.GraphProto, *, hwc: bool) -> str | None:
    """Return the layout of input and output; with `hwc`, whether the channels really come last."""
    if not hwc:
        return _io_layout(graph)
    channels = {value.type.tensor_type.shape.dim[3].dim_value % 8 for value in (*graph.input, *graph.output)}
    return "hwc8" if channels == {0} else None
