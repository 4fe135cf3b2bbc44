"""TensorRT through its Python API: for installations by pip, which have no trtexec.

`tensorrt_rtx` is this module for the other product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from repro.backends import bindings, cuda
from repro.backends.bindings import Product
from repro.backends.nvinfer import Engine
from repro.errors import Unavailable
from repro.lowering import FP16_LAYOUTS
from repro.schema import Library, ReleaseSeen, Scalar, Subject
from repro.trtexec.forms import LOG_LINES as LOG_LINES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating]

SETTINGS = frozenset(
    {
        "precision",
        "typing",
        "io_layout",
        "sparsity",
        "cuda_graph",
        "l2",
        "queue",
        "warm_up_ms",
        "duration_s",
        "optimization_level",
        "percentiles",
    }
)
"""Nothing is copied along, and there is one way of waiting: `transfers` and `spin_wait` mean nothing here."""


class Api:
    """What a backend module of this API has, for one product."""

    def __init__(self, product: Product) -> None:
        self.product = product

    def settings(self, *, gpu: bool) -> frozenset[str]:  # noqa: ARG002 - the contract's
        """Return the semantic settings that this backend has."""
        return SETTINGS

    def release(self, *, gpu: bool) -> ReleaseSeen:
        """Return the installed release; raise `Unavailable` where there is none for a GPU."""
        if not gpu:
            raise Unavailable(
                f"{self.product.name} measures on NVIDIA GPUs only", "use --backend onnxruntime"
            )
        return bindings.release(self.product)

    def refuse(self, planned: Mapping[str, Scalar | None], *, gpu: bool) -> str | None:  # noqa: ARG002
        """Return why this backend can't run `planned`, or `None` when it can."""
        precision, layout = planned["precision"], planned["io_layout"]
        if layout in FP16_LAYOUTS and precision != "fp16":
            return f"the layout {layout} holds fp16, not {precision}"
        return None

    def typings(self, version: str) -> tuple[str, ...]:
        """Return how this version may type a network: `weak`, `strong` or both."""
        return bindings.typings(self.product, version)

    def libraries(self) -> tuple[Library, ...]:
        """Return the library by version."""
        return (Library(self.product.key, bindings.look(self.product).version),)

    def unoptimised(self, model: bytes, source: Array) -> Array:
        """Return the model's whole output by ONNX Runtime, for a check that has no rule of its own."""
        from repro.backends import onnxruntime

        return onnxruntime.unoptimised(model, source)

    def build(
        self,
        model: Path,
        folder: Path,
        subject: Subject,
        *,
        gpu: bool,
        threads: int,  # noqa: ARG002 - the contract's, as the next
        source: Array,
        result: Array,  # noqa: ARG002
    ) -> Engine:
        """Build an engine into `folder` and load it; without a GPU, read it from the builder's words."""
        engine = Engine(self.product, folder, subject)
        engine.build(model.read_bytes(), subject, cuda.Driver().describe() if gpu else None)
        if gpu:
            engine.load(source)
        else:
            engine.read_text()
        return engine

    def reload(self, folder: Path, subject: Subject, source: Callable[[], Array]) -> Engine:
        """Return the engine that an earlier turn built into `folder`, with `source` in its input."""
        engine = Engine(self.product, folder, subject)
        engine.load(source())
        return engine


_API = Api(bindings.TENSORRT)
NAME, PRODUCT, MODULES = _API.product.key, _API.product.name, _API.product.modules
BUILD_OUTLIVES_PROCESS, TIMES_ITSELF, BUILDS_WITHOUT_GPU = True, False, False
settings, release, refuse, typings = _API.settings, _API.release, _API.refuse, _API.typings
libraries, unoptimised, build, reload = _API.libraries, _API.unoptimised, _API.build, _API.reload
