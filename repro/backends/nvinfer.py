"""An engine through the Python API of TensorRT or TensorRT-RTX: parsed, built, read back, executed.

The engine lies in its build's folder and is loaded again by the turns that run it. Where no GPU is here
nothing is loaded: TensorRT-RTX builds without one, and its layers are then read from what the builder
prints. How a step failed is told in the library's own words.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from repro import measure, models
from repro.backends import api, bindings, cuda
from repro.backends.api import Bindings
from repro.backends.bindings import Product, find
from repro.backends.said import Failed, Said, logger, name_of, parse
from repro.lowering import ENGINE_FILE, LAYERS_FILE
from repro.schema import Effective, Layer, Scalar, Subject, TensorSpec
from repro.trtexec import exports, layers, readback

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating]

KERNELS_FILE = "kernels.cache"
PROFILED_INFERENCES = 20
FORMATS = {"chw": "LINEAR", "hwc8": "HWC8", "chw16": "CHW16", "chw32": "CHW32"}
"""A case's layouts by their names in `TensorFormat`."""

# --- an engine ------------------------------------------------------------------------------------


class Engine:
    """An engine in its folder; loaded, `enqueue()` is one inference and nothing else."""

    queue: cuda.Queue | None = None
    recipe_hash: str | None = None
    timing_cache: str | None = None
    plan_sha256: str | None = None
    jit_seconds: float | None = None
    """What loading took where that compiles the kernels; `None` where the builder has compiled them."""

    def __init__(self, product: Product, home: Path, subject: Subject) -> None:
        self._product, self._home, self._planned = product, home, subject.planned
        self._trt = bindings.load(product)
        self._said = Said()
        self._log = logger(self._trt, self._said)
        self._layout = str(subject.planned["io_layout"])
        precision = models.file_precision(str(subject.planned["precision"]))
        self._ends = models.tensors(subject.model, precision)
        self._layers: tuple[Layer, ...] | None = None
        self._effective: dict[str, Effective] = {}
        self._launch: Callable[[], None] | None = None
        self.providers = (product.name,)
        self.options: dict[str, Scalar] = {}

    # --- build

    def build(self, model: bytes, subject: Subject, gpu: cuda.Gpu | None) -> None:
        """Build the engine into its folder, for `gpu` where one is here."""
        trt = self._trt
        try:
            builder = trt.Builder(self._log)
        except (RuntimeError, TypeError) as error:  # pybind11's words for "no object came of it"
            raise self._said.failed("no_builder", str(error)) from None
        network = builder.create_network(self._creation())
        # An unnamed one is numbered by the process, and no two plans would be the same.
        network.name = subject.case.id
        parse(trt, network, model, self._log)
        config = builder.create_builder_config()
        self._configure(network, config)
        for tensor in (network.get_input(0), network.get_output(0)):
            tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, FORMATS[self._layout]))
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._said.failed("no_engine", "the builder made no engine and gave no reason")
        data = bytes(plan)
        (self._home / ENGINE_FILE).write_bytes(data)
        self.plan_sha256 = hashlib.sha256(data).hexdigest()
        self._effective = {
            "typing": Effective(self._typing(network), "echo"),
            "sparsity": Effective(config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS), "echo"),
            "optimization_level": Effective(None, "assumed")
            if self._planned["optimization_level"] is None
            else Effective(config.builder_optimization_level, "echo"),
        }
        self.options |= {
            "network.name": network.name,
            "profiling_verbosity": name_of(config.profiling_verbosity).lower(),
            "avg_timing_iterations": config.avg_timing_iterations,
            "builder_optimization_level": config.builder_optimization_level,
            "max_aux_streams": config.max_aux_streams,
        }
        device = [gpu.name, gpu.compute_capability, gpu.sm_count] if gpu else None
        version = [self._product.key, str(trt.__version__)]
        recipe = [subject.model_digests, self._planned, self.options, version, device]
        self.recipe_hash = hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()

    def read_text(self) -> None:
        """Read layers and layout from what the builder printed: nothing can be loaded here."""
        text = self._said.engine
        self._layers = layers.of_engine(text) or None
        self._read(layers.io_layout(text), "log")

    def _creation(self) -> int:
        """Return the flags that a network is created with."""
        words = ["EXPLICIT_BATCH", "STRONGLY_TYPED"][: 2 if self._planned["typing"] == "strong" else 1]
        flags = [find(self._trt, f"NetworkDefinitionCreationFlag.{word}") for word in words]
        return sum(1 << int(flag) for flag in flags if flag is not None)

    def _typing(self, network: api.Network) -> str:
        if find(self._trt, "BuilderFlag.FP16") is None:
            return "strong"  # It knows no other, and ignores the flag.
        flag = find(self._trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED")
        return "strong" if flag is not None and network.get_flag(flag) else "weak"

    def _configure(self, network: api.Network, config: api.Config) -> None:
        """Tell the builder what is planned; what the kit leaves to it is recorded."""
        trt, planned = self._trt, self._planned
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if planned["precision"] == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)
        if planned["sparsity"]:
            config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        if planned["optimization_level"] is not None:
            config.builder_optimization_level = int(planned["optimization_level"])
        if self._product.by_version:
            # Each build times its tactics itself. RTX has nothing to time, and would ask for a GPU.
            config.set_timing_cache(config.create_timing_cache(b""), False)
            self.timing_cache = "local"
        if planned["typing"] == "strong":
            return
        if planned["precision"] == "int8":
            config.set_flag(find(trt, "BuilderFlag.INT8"))
        if planned["precision"] == "fp16":
            config.set_flag(find(trt, "BuilderFlag.FP16"))
            config.set_flag(find(trt, "BuilderFlag.OBEY_PRECISION_CONSTRAINTS"))
            _narrow(trt, network)

    # --- load

    def load(self, source: Array) -> None:
        """Load the engine onto the GPU, with its buffers and `source` in the input."""
        trt = self._trt
        self.queue = self._stream = cuda.Queue()
        begin = measure.now_ns()
        plan = (self._home / ENGINE_FILE).read_bytes()
        self._runtime = trt.Runtime(self._log)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._said.failed("not_loaded", "the engine can't be loaded, and no reason is given")
        self._engine = engine
        self._context = self._new_context()
        if not self._product.by_version:
            self.jit_seconds = (measure.now_ns() - begin) / 1e9
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(names) != 2 or len(inputs) != 1:
            raise Failed("tensors", f"the engine has the tensors {', '.join(names)}; one goes in, one out")
        (self._input_name,) = inputs
        (self._output_name,) = set(names) - set(inputs)
        data = models.packed(source, self._layout)
        self._input = self._stream.buffer(len(data))
        self._input.write(data)
        self._output = self._stream.buffer(_packed_bytes(self._ends[1], self._layout))
        self._bind(self._context)
        formats = {name_of(engine.get_tensor_format(name)) for name in names}
        words = {name: layout for layout, name in FORMATS.items()}
        found = {words.get(each, each.lower()) for each in formats}
        (self._home / LAYERS_FILE).write_text(
            engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        )
        self._layers = exports.layers(self._home / LAYERS_FILE)
        self._read(found.pop() if len(found) == 1 else "mixed", "graph")
        if self._planned["cuda_graph"]:
            self._capture()
        self._effective["cuda_graph"] = Effective(self._launch is not None, "echo")

    def _new_context(self) -> api.Context:
        """Make a context; where a JIT compiles, with what it has compiled for this build already."""
        config: tuple[Any, ...] = ()
        cache: Any = None
        kernels = self._home / KERNELS_FILE
        if find(self._trt, "IRuntimeConfig.create_runtime_cache"):
            engine: Any = self._engine
            config = (engine.create_runtime_config(),)
            cache = config[0].create_runtime_cache()
            if kernels.is_file():
                cache.deserialize(kernels.read_bytes())
            config[0].set_runtime_cache(cache)
        context = self._engine.create_execution_context(*config)
        if context is None:
            raise self._said.failed("no_context", "no execution context, and no reason is given")
        if cache is not None and not kernels.is_file():
            kernels.write_bytes(bytes(cache.serialize()))
        return context

    def _bind(self, context: api.Context) -> None:
        ends = ((self._input_name, self._input), (self._output_name, self._output))
        for name, buffer in ends:
            if not context.set_tensor_address(name, buffer.address):
                raise self._said.failed("address", f"the buffer of {name} was refused")

    def _capture(self) -> None:
        """Record one inference as a CUDA graph, after one that allocates what it needs."""
        self.step()
        ready: Any = self._context
        asked = find(self._trt, "IExecutionContext.is_stream_capturable")
        if asked and not ready.is_stream_capturable(self._stream.stream):
            raise Failed("cuda_graph", "the engine says that it can't be captured in a CUDA graph")
        try:
            self._launch = self._stream.capture(self._execute)
        except cuda.CudaError as error:
            raise Failed("cuda_graph", f"the inference can't be captured in a CUDA graph: {error}") from None

    # --- run

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.stream):
            raise self._said.failed("not_enqueued", "the inference was not enqueued, and no reason is given")

    def enqueue(self) -> None:
        """Begin one inference."""
        if self._launch is None:
            self._execute()
        else:
            self._launch()

    def step(self) -> None:
        """Run one inference; returns when the output is written."""
        self.enqueue()
        self._stream.wait()

    def poison(self, values: Array) -> None:
        """Fill the output with `values`, so that what the next inference does not write shows."""
        self._output.write(models.packed(values, self._layout))

    def output(self) -> Array:
        """Return the output of the last inference, [n, c, h, w]."""
        return models.unpacked(self._output.read(), self._layout, self._ends[1])

    def profile(self) -> tuple[Layer, ...] | None:
        """Return the layers with their times: each one's median over inferences that nothing else times."""
        trt = self._trt
        times: dict[str, list[float]] = {}

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined] # as the logger
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        context = self._new_context()
        context.profiler = Profiler()
        self._bind(context)
        for _ in range(1 + PROFILED_INFERENCES):
            if not context.execute_async_v3(self._stream.stream):
                raise self._said.failed("not_enqueued", "the inference was not enqueued to be profiled")
            self._stream.wait()
        self._layers = layers.timed(self._layers or (), _profile(times))
        return self._layers

    # --- read back

    def _read(self, layout: str | None, source: Any) -> None:
        planned = self._planned["precision"]
        self._effective |= {
            "io_layout": Effective(layout, source),
            "precision": readback.precision_of(self._layers or (), "Strongly", planned),
        }

    def effective(self) -> dict[str, Effective]:
        """Return the effective settings."""
        return self._effective

    def layers(self) -> tuple[Layer, ...] | None:
        """Return the engine's layers, `None` where nothing tells them."""
        return self._layers

    def structure_hash(self) -> str | None:
        """Return sha256 over name, type, tactic and formats of all layers."""
        return readback.structure_hash(self._layers) if self._layers else None


def _narrow(trt: Bindings, network: api.Network) -> None:
    """Hold every layer of floats, and the network's ends, to FP16: what trtexec's `*:fp16` does."""
    floats = (trt.DataType.FLOAT, trt.DataType.HALF)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        outputs = range(layer.num_outputs)
        if layer.type == trt.LayerType.CONSTANT or any(
            layer.get_output(j).dtype not in floats for j in outputs
        ):
            continue
        layer.precision = trt.DataType.HALF
        for j in outputs:
            layer.set_output_type(j, trt.DataType.HALF)
    for tensor in (network.get_input(0), network.get_output(0)):
        tensor.dtype = trt.DataType.HALF


def _profile(times: Mapping[str, list[float]]) -> layers.Profile:
    """Return the times of each layer as a profile; the first inference is left out."""
    rows = []
    for name, every in times.items():
        # A name that several layers share is reported once for each of them.
        kept = every[len(every) // (1 + PROFILED_INFERENCES) :]
        total = sum(kept)
        rows.append(layers.ProfileRow(name, total, total / len(kept), statistics.median(kept), 0.0))
    return layers.Profile(PROFILED_INFERENCES, tuple(rows))


def _packed_bytes(spec: TensorSpec, layout: str) -> int:
    """Return the size of a tensor's buffer: channels padded to the layout's vectors."""
    n, c, h, w = spec.shape if len(spec.shape) == 4 else (1, 1, 1, math.prod(spec.shape))
    width = 1 if layout == "chw" else int(layout[3:])
    return n * -(-c // width) * width * h * w * (2 if spec.dtype == "fp16" else 4)
