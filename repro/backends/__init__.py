"""Backends: what builds an engine and executes it. Each is a module that knows nothing of the others.

A backend module has `NAME`, `PRODUCT`, `BUILD_OUTLIVES_PROCESS`, `LOG_LINES` (the forms of log lines
that may be published), `settings(gpu=…)` (the semantic settings that it has), `release(gpu=…)`,
`refuse(planned, gpu=…)`, `libraries()`, `unoptimised(model, source)` and `build(…)`, which gives an
engine: `step()`, `output()`, `effective()`, `layers()`, `structure_hash()`, `options`, `providers`,
and on a GPU `queue` and `enqueue()`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from repro.errors import unknown

_MODULES = {"onnxruntime": "repro.backends.onnxruntime", "torch": "repro.backends.torch"}


def names() -> tuple[str, ...]:
    """Return the backends of this version."""
    return tuple(_MODULES)


def load(name: str) -> ModuleType:
    """Return the backend module `name`; raise `UsageError` for an unknown one."""
    if name not in _MODULES:
        raise unknown("backend", name, _MODULES)
    return importlib.import_module(_MODULES[name])
