"""torch on an NVIDIA GPU: the case's own module with the case's weights, executed by cuDNN and cuBLAS.

The baseline that every ticket asks for. Nothing but a case that the kit itself ships is executed, and
only when its digest is the one of the experiment. What the libraries chose is read from a profile that
is taken apart from any timing. A build is the making of the module and ends with its process.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro import cases, export
from repro.backends import cuda
from repro.backends.cuda import Queue
from repro.errors import Unavailable
from repro.schema import KERNEL, Effective, Layer, Library, ReleaseSeen, Scalar, Subject

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating]

NAME = "torch"
PRODUCT = "PyTorch"
BUILD_OUTLIVES_PROCESS = TIMES_ITSELF = False
NEEDS_MODULE = True
"""What it executes is a case's `model.py`, not its ONNX."""

LOG_LINES = (
    re.compile(r"Traceback \(most recent call last\):"),
    re.compile(r"  File \".*\", line \d+, in \S+"),
    re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Warning): .*"),
)
"""The forms of lines in a turn's log that may be published."""

_REFORMAT = re.compile(r"nchwToNhwc|nhwcToNchw|transpose|permute", re.IGNORECASE)
_GRAPH_WARM_UP = 3


def settings(*, gpu: bool) -> frozenset[str]:  # noqa: ARG001 - the contract's; a GPU is all there is
    """Return the semantic settings that this backend has."""
    return frozenset(
        {
            "precision",
            "io_layout",
            "cuda_graph",
            "l2",
            "queue",
            "warm_up_ms",
            "duration_s",
            "percentiles",
        }
    )


def release(*, gpu: bool) -> ReleaseSeen:
    """Return the installed release; raise `Unavailable` where there is none for a GPU."""
    if not gpu:
        raise Unavailable("the torch backend measures on NVIDIA GPUs only", "use --backend onnxruntime")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("torch")
        if built := cuda.built_for("torch", "version.py"):
            name = f"torch-{version.partition('+')[0]}+cu{built.replace('.', '')}"
            return ReleaseSeen(name, version, cuda=built)
    raise Unavailable("torch with CUDA is not installed", "pip install torch")


def refuse(planned: Mapping[str, Scalar | None], *, gpu: bool) -> str | None:  # noqa: ARG001 - as above
    """Return why this backend can't run `planned`, or `None` when it can."""
    if planned["precision"] not in ("fp32", "tf32", "fp16"):
        return f"it has no {planned['precision']}"
    if planned["io_layout"] not in ("chw", "hwc8"):
        return f"its tensors are chw or hwc8, not {planned['io_layout']}"
    return None


class Engine:
    """The module on the device, with a static input: `enqueue()` is one inference and nothing else."""

    providers = ("CUDA",)
    plan_sha256: str | None = None
    recipe_hash: str | None = None
    timing_cache: str | None = None

    def __init__(self, model: Path, subject: Subject, source: Array) -> None:
        import torch

        self._torch = torch
        tf32 = subject.planned["precision"] == "tf32"
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        # Nothing here is ever differentiated; entered once, so that no inference pays for it.
        self._mode = torch.inference_mode()
        self._mode.__enter__()
        stream = torch.cuda.Stream()
        torch.cuda.set_stream(stream)
        self.queue = Queue(stream.cuda_stream)
        self.options: dict[str, Scalar] = {
            "cudnn.benchmark": True,
            "cudnn.allow_tf32": tf32,
            "cuda.matmul.allow_tf32": tf32,
            "matmul.allow_fp16_reduced_precision_reduction": bool(
                torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
            ),
        }
        last = subject.planned["io_layout"] == "hwc8"
        self._format = torch.channels_last if last else torch.contiguous_format
        self._input = torch.from_numpy(source).cuda().contiguous(memory_format=self._format)
        module = export.network(
            cases.module(subject.case, subject.settings), subject.model, model.read_bytes()
        )
        self._module = module.to(self._input.dtype).cuda().eval()
        if last:
            self._module = self._module.to(memory_format=torch.channels_last)
        self._output = self._module(self._input)
        self._seen: tuple[str, ...] | None = None
        self._graph: Any = None
        if subject.planned["cuda_graph"]:
            for _ in range(_GRAPH_WARM_UP):
                self._output = self._module(self._input)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream):
                self._output = self._module(self._input)
        self.queue.wait()

    def enqueue(self) -> None:
        """Begin one inference."""
        if self._graph is not None:
            self._graph.replay()
        else:
            self._output = self._module(self._input)

    def step(self) -> None:
        """Run one inference; returns when the output is written."""
        self.enqueue()
        self.queue.wait()

    def poison(self, values: Array) -> None:
        """Fill the output with `values`, so that what the next inference does not write shows.

        Without a CUDA graph, the next output takes memory of the same size that was just let go.
        """
        self._output.copy_(self._torch.from_numpy(values))
        if self._graph is None:
            del self._output

    def output(self) -> Array:
        """Return the output of the last inference, [n, c, h, w]."""
        values: Array = self._output.contiguous().cpu().numpy()
        return values

    def effective(self) -> dict[str, Effective]:
        """Read back what really is: the tensors' types and strides, and the libraries' switches."""
        torch = self._torch
        names = {torch.float16: "fp16", torch.float32: "fp32"}
        seen = {self._input.dtype, self._output.dtype, *(p.dtype for p in self._module.parameters())}
        precision = names.get(seen.pop()) if len(seen) == 1 else "mixed"
        if precision == "fp32" and torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32:
            precision = "tf32"
        return {
            "precision": Effective(precision, "graph"),
            "io_layout": Effective(self._layout(), "graph"),
            "cuda_graph": Effective(self._graph is not None, "echo"),
        }

    def _layout(self) -> str | None:
        ends = (self._input, self._output)
        if all(end.is_contiguous() for end in ends):
            return "chw"
        last = all(end.is_contiguous(memory_format=self._torch.channels_last) for end in ends)
        return "hwc8" if last and all(end.shape[1] % 8 == 0 for end in ends) else None

    def kernels(self) -> tuple[str, ...] | None:
        """Return the kernels of one inference in order, from a profile taken apart from timing."""
        torch = self._torch
        if self._seen is not None:
            return self._seen
        with contextlib.suppress(RuntimeError):
            activities = [torch.profiler.ProfilerActivity.CUDA]
            with torch.profiler.profile(activities=activities, acc_events=True) as profile:
                self.step()
            cuda = torch.autograd.DeviceType.CUDA
            events = [event for event in profile.events() if event.device_type == cuda]
            events.sort(key=lambda event: event.time_range.start)
            self._seen = tuple(event.name for event in events) or None
        return self._seen

    def layers(self) -> tuple[Layer, ...] | None:
        """Return the kernels as layers."""
        names = self.kernels()
        if names is None:
            return None
        return tuple(
            Layer(f"kernel {i}", KERNEL, tactic=name, is_reformat=bool(_REFORMAT.search(name)))
            for i, name in enumerate(names)
        )

    def structure_hash(self) -> str | None:
        """Return sha256 over the names of the kernels in order; `None` where they can't be seen."""
        names = self.kernels()
        return None if names is None else hashlib.sha256("\n".join(names).encode()).hexdigest()


def build(
    model: Path,
    folder: Path,  # noqa: ARG001 - the contract's, as those below
    subject: Subject,
    *,
    gpu: bool,  # noqa: ARG001
    threads: int,  # noqa: ARG001
    source: Array,
    result: Array,  # noqa: ARG001
) -> Engine:
    """Make the module of a case on the GPU."""
    return Engine(model, subject, source)


def libraries() -> tuple[Library, ...]:
    """Return the libraries that take part, by version."""
    import torch

    cudnn = torch.backends.cudnn.version()
    found = [Library("torch", str(torch.__version__))]
    if torch.version.cuda:
        found.append(Library("cuda", torch.version.cuda))
    if cudnn:
        found.append(Library("cudnn", f"{cudnn // 10000}.{cudnn % 10000 // 100}.{cudnn % 100}"))
    return tuple(found)


def unoptimised(model: bytes, source: Array) -> Array:  # noqa: ARG001 - the contract's
    """Evaluate a model with operators that the check has no rule for; nothing here can."""
    raise Unavailable("this case's output can only be checked with ONNX Runtime", "use --backend onnxruntime")
