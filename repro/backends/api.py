"""TensorRT's Python API as far as the kit calls it, and as far as all releases from 8.6 to 11 have it.

The packages ship no types. What only some releases have is in the table of `bindings.py`; a test holds
all of this against the real TensorRT-RTX.
"""
# ruff: noqa: D102 - the methods are NVIDIA's, and documented there

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Memory(Protocol):
    """`IHostMemory`: bytes that the library owns; `bytes(memory)` copies them."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class Tensor(Protocol):
    """`ITensor`: an input or output of the network."""

    name: str
    dtype: Any
    allowed_formats: int


class Layer(Protocol):
    """`ILayer`; `precision` and `set_output_type` exist where typing may be weak."""

    type: Any
    num_outputs: int
    precision: Any

    def get_output(self, index: int) -> Tensor: ...
    def set_output_type(self, index: int, dtype: Any) -> None: ...


class Network(Protocol):
    """`INetworkDefinition`."""

    name: str
    num_inputs: int
    num_outputs: int
    num_layers: int

    def get_input(self, index: int) -> Tensor: ...
    def get_output(self, index: int) -> Tensor: ...
    def get_layer(self, index: int) -> Layer: ...
    def get_flag(self, flag: Any) -> bool: ...


class ParserError(Protocol):
    """`ParserError`; its `node_name()` and `node_operator()` came later."""

    def code(self) -> Any: ...
    def desc(self) -> str: ...
    def node(self) -> int: ...


class Parser(Protocol):
    """`OnnxParser`."""

    num_errors: int

    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class Config(Protocol):
    """`IBuilderConfig`."""

    profiling_verbosity: Any
    avg_timing_iterations: int
    builder_optimization_level: int
    max_aux_streams: int

    def set_flag(self, flag: Any) -> None: ...
    def clear_flag(self, flag: Any) -> None: ...
    def get_flag(self, flag: Any) -> bool: ...
    def create_timing_cache(self, serialized: bytes) -> Any: ...
    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool: ...


class Builder(Protocol):
    """`Builder`."""

    def create_network(self, flags: int) -> Network: ...
    def create_builder_config(self) -> Config: ...
    def build_serialized_network(self, network: Network, config: Config) -> Memory | None: ...


class Inspector(Protocol):
    """`EngineInspector`."""

    def get_engine_information(self, format: Any) -> str: ...  # noqa: A002 - its own name


class Context(Protocol):
    """`IExecutionContext`."""

    profiler: Any

    def set_tensor_address(self, name: str, address: int) -> bool: ...
    def execute_async_v3(self, stream: int) -> bool: ...


class Engine(Protocol):
    """`ICudaEngine`."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_format(self, name: str) -> Any: ...
    def create_engine_inspector(self) -> Inspector: ...
    def create_execution_context(self, *config: Any) -> Context | None: ...


class Runtime(Protocol):
    """`Runtime`."""

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None: ...


class Bindings(Protocol):
    """The module, as far as all releases have it; enumerations are `Any`."""

    __version__: str
    Builder: Callable[[Any], Builder]
    OnnxParser: Callable[[Network, Any], Parser]
    Runtime: Callable[[Any], Runtime]
    ILogger: Any
    IProfiler: Any
    BuilderFlag: Any
    DataType: Any
    LayerInformationFormat: Any
    LayerType: Any
    ProfilingVerbosity: Any
    TensorFormat: Any
    TensorIOMode: Any
