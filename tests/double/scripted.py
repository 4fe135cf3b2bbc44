"""TensorRT's Python API, played: the attributes of a release and no others, an engine that ONNX Runtime runs.

It stands in the API's place where there is no GPU, together with the made-up driver, whose memory is the
host's. A plan is JSON that holds what the builder was told, so that a test can read it. It knows nothing
of the kit. `TRT_DOUBLE_RELEASE` says which release it plays, `TRT_DOUBLE_FAIL` what goes wrong.
"""

from __future__ import annotations

import base64
import ctypes
import enum
import json
import math
import os
from typing import Any

FAIL = "TRT_DOUBLE_FAIL"
RELEASE = "TRT_DOUBLE_RELEASE"


class Number(enum.Enum):
    def __int__(self) -> int:
        return int(self.value)

    def __str__(self) -> str:
        return "what an enumerator's own words are differs from one to the next"


def enumeration(name: str, words: str) -> Any:
    members = {word: i for i, word in enumerate(words.split())}
    return Number(name, members)  # type: ignore[call-arg] # the functional form


def failing(what: str) -> bool:
    return os.environ.get(FAIL) == what


class Memory:
    """`IHostMemory`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data


class Strict:
    """Attributes that a class doesn't have can't be set either, as with the real ones."""

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)


def make(release: str) -> dict[str, Any]:
    """Return the names of the module that plays `release`; `rtx` plays TensorRT-RTX."""
    rtx = release == "rtx"
    major, minor = (99, 0) if rtx else tuple(map(int, release.split(".")[:2]))
    weak, strong, named = major < 11, (major, minor) >= (9, 0), major >= 10

    severity = enumeration("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
    network_flags = ["EXPLICIT_BATCH"] * weak + ["STRONGLY_TYPED"] * strong
    network_flag = enumeration("NetworkDefinitionCreationFlag", " ".join(network_flags))
    flag_words = "TF32 SPARSE_WEIGHTS" + " FP16 INT8 OBEY_PRECISION_CONSTRAINTS" * weak
    builder_flag = enumeration("BuilderFlag", flag_words)
    dtype = enumeration("DataType", "FLOAT HALF INT8 INT32 BOOL")
    layout = enumeration("TensorFormat", "LINEAR CHW2 HWC8 CHW4 CHW16 CHW32")
    layer_type = enumeration("LayerType", "CONVOLUTION CONSTANT SHUFFLE")
    mode = enumeration("TensorIOMode", "NONE INPUT OUTPUT")
    verbosity = enumeration("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
    information = enumeration("LayerInformationFormat", "ONELINE JSON")
    code = enumeration("ErrorCode", "SUCCESS INTERNAL_ERROR MODEL_DESERIALIZE_FAILED INVALID_NODE")

    class ILogger(Strict):
        Severity = severity

        def __init__(self) -> None:
            pass

        def log(self, severity: Any, message: str) -> None:
            raise NotImplementedError

    class IProfiler(Strict):
        def __init__(self) -> None:
            pass

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            raise NotImplementedError

    class Tensor(Strict):
        name: str = ""
        dtype: Any = None
        allowed_formats: int = 1

        def __init__(self, name: str, kind: Any) -> None:
            self.name, self.dtype = name, kind

    class Layer(Strict):
        type: Any = None
        num_outputs = 1

        def __init__(self, kind: Any, output: Tensor) -> None:
            self.type, self._output = kind, output
            self._held: Any = None

        def get_output(self, index: int) -> Tensor:
            assert index == 0
            return self._output

        if weak:
            precision: Any = None

            def set_output_type(self, index: int, kind: Any) -> None:
                assert index == 0
                self._held = kind

    class Network(Strict):
        name = "Unnamed Network 0"
        num_inputs = num_outputs = num_layers = 0

        def __init__(self, flags: int) -> None:
            known = sum(1 << int(flag) for flag in network_flag)
            assert flags & ~known == 0, f"{flags:b} has flags that {release} doesn't know"
            self._flags, self._model = flags, b""
            self._inputs: list[Tensor] = []
            self._outputs: list[Tensor] = []
            self._layers: list[Layer] = []

        def get_flag(self, flag: Any) -> bool:
            return bool(self._flags & 1 << int(flag))

        def get_input(self, index: int) -> Tensor:
            return self._inputs[index]

        def get_output(self, index: int) -> Tensor:
            return self._outputs[index]

        def get_layer(self, index: int) -> Layer:
            return self._layers[index]

    class ParserError:
        def __init__(self, kind: Any, words: str, index: int, name: str, operator: str) -> None:
            self._told = kind, words, index, name, operator

        def code(self) -> Any:
            return self._told[0]

        def desc(self) -> str:
            return self._told[1]

        def node(self) -> int:
            return self._told[2]

        if named:

            def node_name(self) -> str:
                return self._told[3]

            def node_operator(self) -> str:
                return self._told[4]

    class OnnxParser(Strict):
        num_errors = 0

        def __init__(self, network: Network, logger: Any) -> None:
            self._network, self._logger = network, logger
            self._errors: list[ParserError] = []

        def parse(self, model: bytes) -> bool:
            import onnx
            from google.protobuf.message import DecodeError

            try:
                graph = onnx.load_from_string(model).graph
            except DecodeError:
                words = "Failed to parse the ONNX model."
                self._errors = [ParserError(code.MODEL_DESERIALIZE_FAILED, words, -1, "", "")]
                self.num_errors = 1
                return False
            for i, node in enumerate(graph.node):
                if node.op_type not in ("Conv", "QuantizeLinear", "DequantizeLinear"):
                    words = 'creator && "Plugin not found, are the plugin name correct?"'
                    self._errors.append(ParserError(code.INVALID_NODE, words, i, node.name, node.op_type))
            self.num_errors = len(self._errors)
            kinds = {onnx.TensorProto.FLOAT: dtype.FLOAT, onnx.TensorProto.FLOAT16: dtype.HALF}
            whole = self._network
            whole._model = model
            whole._inputs = [Tensor(v.name, kinds[v.type.tensor_type.elem_type]) for v in graph.input]
            whole._outputs = [Tensor(v.name, kinds[v.type.tensor_type.elem_type]) for v in graph.output]
            whole._layers = [Layer(layer_type.CONSTANT, Tensor("w", dtype.FLOAT))]
            whole._layers += [Layer(layer_type.SHUFFLE, Tensor("shape", dtype.INT32))]
            whole._layers += [
                Layer(layer_type.CONVOLUTION, whole._outputs[0])
                if "output" in node.output
                else Layer(layer_type.CONVOLUTION, Tensor(node.output[0], whole._inputs[0].dtype))
                for node in graph.node
            ]
            whole.num_inputs, whole.num_outputs = len(whole._inputs), len(whole._outputs)
            whole.num_layers = len(whole._layers)
            return not self._errors

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

    class TimingCache:
        pass

    class Config(Strict):
        profiling_verbosity = verbosity.LAYER_NAMES_ONLY
        avg_timing_iterations = 1
        builder_optimization_level = 3
        max_aux_streams = -1

        def __init__(self) -> None:
            self._flags = {"TF32"}
            self._cache: object = None

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag.name)

        def get_flag(self, flag: Any) -> bool:
            return flag.name in self._flags

        def create_timing_cache(self, serialized: bytes) -> TimingCache:
            assert not rtx, "it would ask for a GPU"
            assert serialized == b""
            return TimingCache()

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            self._cache = cache
            return True

    class Builder:
        def __init__(self, logger: Any) -> None:
            if failing("builder"):
                logger.log(severity.ERROR, "createInferBuilder: Error Code 6: API Usage Error (no driver)")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def create_network(self, flags: int) -> Network:
            return Network(flags)

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: Network, config: Config) -> Memory | None:
            self._logger.log(severity.INFO, "Local timing cache in use.")
            if failing("out_of_memory"):
                self._logger.log(severity.ERROR, "[allocator] Error Code 2: OutOfMemory (requested 9 bytes)")
                return None
            if failing("build"):
                self._logger.log(
                    severity.ERROR, "IBuilder: Error Code 10: Internal Error (no implementation)"
                )
                return None
            if failing("build_silently"):
                return None
            ends = (network.get_input(0), network.get_output(0))
            held = [layer for layer in network._layers if layer._held is not None]
            plan = {
                "model": base64.b64encode(network._model).decode(),
                "names": [end.name for end in ends],
                "formats": [end.allowed_formats.bit_length() - 1 for end in ends],
                "dtypes": [end.dtype.name for end in ends],
                "network_flags": [flag.name for flag in network_flag if network.get_flag(flag)],
                "network_name": network.name,
                "flags": sorted(config._flags),
                "level": config.builder_optimization_level,
                "verbosity": config.profiling_verbosity.name,
                "timing_cache": config._cache is not None,
                "held": len(held),
            }
            return Memory(json.dumps(plan).encode())

    class Inspector:
        def __init__(self, plan: dict[str, Any]) -> None:
            self._plan = plan

        def get_engine_information(self, format: Any) -> str:  # noqa: A002 - its own name
            assert format is information.JSON
            if self._plan["verbosity"] != "DETAILED":
                return json.dumps({"Layers": nodes(self._plan)})
            kind = {"HALF": "FP16", "FLOAT": "FP32"}[self._plan["dtypes"][0]]
            words = "Row major linear"
            tensor: dict[str, Any] = {"Name": "t", "Dimensions": [1, 4, 12, 10]}
            if major < 11:
                tensor["Format/Datatype"] = f"{words} {kind} format"
            else:
                tensor |= {"Format": words, "Datatype": kind}
            layers = [
                {
                    "Name": name,
                    "LayerType": "CaskConvolution",
                    "Inputs": [tensor],
                    "Outputs": [tensor],
                    "TacticName": "played",
                }
                for name in nodes(self._plan)
            ]
            return json.dumps({"Layers": layers, "Bindings": []})

    class Context(Strict):
        profiler: Any = None

        def __init__(self, plan: dict[str, Any]) -> None:
            self._plan = plan
            self._addresses: dict[str, int] = {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            assert name in self._plan["names"]
            self._addresses[name] = address
            return not failing("address")

        def execute_async_v3(self, stream: int) -> bool:
            assert stream
            if failing("enqueue"):
                return False
            execute(self._plan, self._addresses)
            if self.profiler is not None:
                for i, name in enumerate(nodes(self._plan)):
                    self.profiler.report_layer_time(name, 0.5 + i)
            return True

        if rtx:

            def is_stream_capturable(self, stream: int) -> bool:
                return not failing("capture")

    class RuntimeCache:
        def __init__(self) -> None:
            self._data = b"compiled"

        def serialize(self) -> Memory:
            return Memory(self._data)

        def deserialize(self, data: bytes) -> bool:
            assert data == b"compiled"
            return True

    class RuntimeConfig:
        def set_runtime_cache(self, cache: RuntimeCache) -> bool:
            return True

        if rtx:

            def create_runtime_cache(self) -> RuntimeCache:
                return RuntimeCache()

    class Engine(Strict):
        num_io_tensors = 2

        def __init__(self, plan: dict[str, Any]) -> None:
            self._plan = plan

        def get_tensor_name(self, index: int) -> str:
            return str(self._plan["names"][index])

        def get_tensor_mode(self, name: str) -> Any:
            return (mode.INPUT, mode.OUTPUT)[self._plan["names"].index(name)]

        def get_tensor_format(self, name: str) -> Any:
            if failing("format"):
                return layout.CHW4
            return layout(self._plan["formats"][self._plan["names"].index(name)])

        def create_engine_inspector(self) -> Inspector:
            return Inspector(self._plan)

        def create_runtime_config(self) -> RuntimeConfig:
            return RuntimeConfig()

        def create_execution_context(self, *config: Any) -> Context | None:
            assert len(config) == (1 if rtx else 0)
            return None if failing("context") else Context(self._plan)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if failing("load"):
                self._logger.log(severity.ERROR, "Error Code 1: Serialization (Version tag does not match)")
                return None
            return Engine(json.loads(plan))

    names = {
        "__version__": "1.7.1.116" if rtx else release,
        "NetworkDefinitionCreationFlag": network_flag,
        "BuilderFlag": builder_flag,
        "DataType": dtype,
        "LayerInformationFormat": information,
        "LayerType": layer_type,
        "ProfilingVerbosity": verbosity,
        "TensorFormat": layout,
        "TensorIOMode": mode,
        "ILogger": ILogger,
        "IProfiler": IProfiler,
        "ParserError": ParserError,
        "OnnxParser": OnnxParser,
        "Builder": Builder,
        "Runtime": Runtime,
        "IBuilderConfig": Config,
        "IExecutionContext": Context,
    }
    return names | ({"IRuntimeConfig": RuntimeConfig} if rtx or major >= 10 else {})


def nodes(plan: dict[str, Any]) -> list[str]:
    """Return the names of the convolutions of a plan."""
    import onnx

    graph = onnx.load_from_string(base64.b64decode(plan["model"])).graph
    return [node.name for node in graph.node if node.op_type == "Conv"]


def execute(plan: dict[str, Any], addresses: dict[str, int]) -> None:
    """Run the model by ONNX Runtime, from and to the memory of the made-up driver."""
    import numpy as np
    import onnxruntime as ort

    session = ort.InferenceSession(base64.b64decode(plan["model"]), providers=["CPUExecutionProvider"])
    kinds = {"HALF": np.float16, "FLOAT": np.float32}
    own = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
    source, result = session.get_inputs()[0], session.get_outputs()[0]
    before, after = plan["names"]
    shape, kind = tuple(source.shape), np.dtype(kinds[plan["dtypes"][0]])
    width = 8 if plan["formats"][0] == 2 else 1
    n, c, h, w = shape
    padded = -(-c // width) * width
    data = ctypes.string_at(addresses[before], n * padded * h * w * kind.itemsize)
    values = np.frombuffer(data, kind)
    values = (
        values.reshape(n, h, w, padded).transpose(0, 3, 1, 2)[:, :c] if width > 1 else values.reshape(shape)
    )
    (answer,) = session.run([result.name], {source.name: values.astype(own[source.type])})
    answer = answer.astype(kinds[plan["dtypes"][1]])
    if failing("wrong"):
        answer = answer * 2
    if width > 1:
        channels = answer.shape[1]
        wide = np.zeros((n, -(-channels // width) * width, *answer.shape[2:]), answer.dtype)
        wide[:, :channels] = answer
        answer = wide.transpose(0, 2, 3, 1)
    blob = np.ascontiguousarray(answer).tobytes()
    assert len(blob) == math.prod(answer.shape) * answer.itemsize
    ctypes.memmove(addresses[after], blob, len(blob))
