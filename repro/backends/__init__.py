"""Backends: what builds an engine and executes it. Each is a module that knows nothing of the others.

A backend module has `NAME`, `PRODUCT`, `BUILD_OUTLIVES_PROCESS`, `TIMES_ITSELF`, `LOG_LINES` (the forms
of log lines that may be published), `settings(gpu=…)` (the semantic settings that it has),
`release(gpu=…)`, `refuse(planned, gpu=…)`, `libraries()`, `unoptimised(model, source)` and `build(…)`,
which gives an engine: `poison(values)`, `step()`, `output()`, `effective()`, `layers()`,
`structure_hash()`, `plan_sha256`, `timing_cache`, `options`, `providers`.

Where a build outlives its process it lies in a folder, and `reload(folder, subject, source)` gives the
engine again; such an engine also has `profile()`, its layers with their times, taken apart from any timing.
One that compiles when it is loaded tells in `jit_seconds` how long that took. A module that
`BUILDS_WITHOUT_GPU` gives, without one, an engine that tells its layers and is never executed.
An engine is measured by the kit's own loop over `step()`, or on a GPU over `enqueue()` on its `queue`;
one that times itself has `time()` instead, and its module `TIMER`, which says how.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from repro.errors import unknown

_MODULES = {
    "trtexec": "repro.backends.trtexec",
    "tensorrt": "repro.backends.tensorrt",
    "tensorrt_rtx": "repro.backends.tensorrt_rtx",
    "torch": "repro.backends.torch",
    "onnxruntime": "repro.backends.onnxruntime",
}


def names() -> tuple[str, ...]:
    """Return the backends of this version."""
    return tuple(_MODULES)


def builds_without_gpu(name: str) -> bool:
    """Tell whether a backend for GPUs builds where none is."""
    return getattr(load(name), "BUILDS_WITHOUT_GPU", False)


def load(name: str) -> ModuleType:
    """Return the backend module `name`; raise `UsageError` for an unknown one."""
    if name not in _MODULES:
        raise unknown("backend", name, _MODULES)
    return importlib.import_module(_MODULES[name])
