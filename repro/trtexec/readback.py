"""What trtexec really did: effective settings from its echo, its log and the engine's layers.

The echo tells what trtexec understood, the layers what the builder made of it, and the log what did not
come about. Settings that leave no trace are `assumed`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

from repro.schema import Effective, Layer, LayerTensor, Scalar

_FLOATS = frozenset({"fp32", "fp16", "bf16", "fp8"})
_SWITCH = {"enabled": True, "disabled": False}
_NUMBER = r"(\d{1,15}(?:\.\d{1,15})?(?:e[+-]?\d\d)?)"
_DURATION = re.compile(rf"{_NUMBER}s \(\+ {_NUMBER}ms warm up\)")
_LEVEL = re.compile(r"\d{1,9}")
GRAPH_LOST = re.compile(
    r"--useCudaGraph flag has been ignored|CUDA graph capture failed|not permitted under CUDA graph capture",
    re.IGNORECASE,
)
"""What trtexec says when it goes on without the CUDA graph: up to 10.x, from 11.0 on, and in both."""


def of_build(
    echo: Mapping[str, str], layers: Sequence[Layer] | None, planned: Mapping[str, Scalar | None]
) -> dict[str, Effective]:
    """Return the effective settings of a build."""
    precision = echo.get("Precision", "")
    level = echo.get("BuilderOptimizationLevel")
    return {
        "precision": precision_of(layers or (), precision, planned["precision"]),
        "typing": Effective("strong" if "strongly typed" in precision.lower() else "weak", "echo"),
        "io_layout": Effective(_layout(echo), "echo"),
        "sparsity": Effective(_SWITCH.get(echo.get("Sparsity", "").lower()), "echo"),
        "optimization_level": Effective(None, "assumed")
        if level is None
        else Effective(int(level) if _LEVEL.fullmatch(level) else None, "echo"),
    }


def of_run(
    echo: Mapping[str, str], planned: Mapping[str, Scalar | None], *, graph_lost: bool
) -> dict[str, Effective]:
    """Return the effective settings of a run; `graph_lost` tells that capturing the CUDA graph failed."""
    found = {
        setting: Effective(_SWITCH.get(echo.get(label, "").lower()), "echo")
        for setting, label in (
            ("cuda_graph", "CUDA Graph"),
            ("spin_wait", "Spin-wait"),
            ("transfers", "Data transfers"),
        )
    }
    if graph_lost:
        found["cuda_graph"] = Effective(False, "log")
    duration = _DURATION.fullmatch(echo.get("Duration", ""))
    found["duration_s"] = Effective(float(duration[1]) if duration else None, "echo")
    found["warm_up_ms"] = Effective(round(float(duration[2])) if duration else None, "echo")
    # All are recomputed from the times, whatever trtexec printed.
    found["percentiles"] = Effective(planned["percentiles"], "assumed")
    # Nothing flushes the cache, and one inference is always enqueued ahead (sampleInference.cpp).
    found["l2"], found["queue"] = Effective("warm", "assumed"), Effective("full", "assumed")
    return found


def precision_of(layers: Sequence[Layer], said: str, planned: Scalar | None) -> Effective:
    """Return the one type of all layers that compute, `mixed`, or what was said where layers tell none."""
    computing = [layer for layer in layers if not layer.is_reformat]
    if planned == "int8" and any(tensor.dtype == "int8" for layer in computing for tensor in layer.inputs):
        return Effective("int8", "graph")
    found = {
        tensor.dtype
        for layer in computing
        for tensor in (*layer.inputs, *layer.outputs)
        if tensor.dtype in _FLOATS
    }
    if len(found) > 1:
        return Effective("mixed", "graph")
    if not found:
        return Effective("fp16" if "FP16" in said else None if "Strongly" in said else "fp32", "echo")
    (one,) = found
    # The layers of an FP32 engine don't tell whether TF32 was allowed: that is an option only.
    return Effective(planned if one == "fp32" and planned in ("fp32", "tf32") else one, "graph")


def _layout(echo: Mapping[str, str]) -> str | None:
    """Return the one layout of inputs and outputs."""
    found = set()
    for end in ("Input", "Output"):
        said = echo.get(f"{end}(s)") or echo.get(f"{end}(s)s format") or ""
        found.add(said.rpartition(":")[2].strip().lstrip("+").lower())
    return found.pop() if len(found) == 1 else "mixed"


def structure_hash(layers: Sequence[Layer]) -> str:
    """Return sha256 over name, type, tactic and formats of all layers in order."""

    def formats(tensors: Sequence[LayerTensor]) -> list[list[str | None]]:
        return [[tensor.dtype, tensor.format] for tensor in tensors]

    described = [
        [layer.name, layer.type, layer.tactic, formats(layer.inputs), formats(layer.outputs)]
        for layer in layers
    ]
    return hashlib.sha256(json.dumps(described, separators=(",", ":")).encode()).hexdigest()
