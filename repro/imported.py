"""Records of what others ran: a trtexec log pasted into a ticket, and the exports beside it.

Nothing in such a record was measured by the kit, and nobody vouches for it; it is marked `imported` and
holds what its files say. Each process of trtexec gives one record. What the files don't tell stands in
`missing`, with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from repro import stats
from repro.errors import ReproError, UsageError, signature
from repro.plan import kit
from repro.schema import SCHEMA_VERSION, Effective, ErrorSeen, Kit, Missing, StageName
from repro.trtexec import exports, layers, readback
from repro.trtexec import log as trtexec_log
from repro.trtexec.seen import Statistics, TrtexecLog

Kind = Literal["log", "times", "profile", "layers"]
PEEK_BYTES = 1 << 16
_FLAGS = {"times": "--exportTimes", "profile": "--exportProfile", "layers": "--exportLayerInfo"}
# A log may begin with a bracket too: that of its time stamp.
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*(?:\"|\}|$)|\[\s*(?:\{|\]|$))")
_MARKS: tuple[tuple[Kind, re.Pattern[bytes]], ...] = (
    ("times", re.compile(rb'"(?:startEnqMs|computeMs)"')),
    ("profile", re.compile(rb'"(?:timeMs|count)"')),
    ("layers", re.compile(rb'"(?:Layers|Bindings|I/O Tensors)"')),
)
_OUTPUTS = re.compile(rb'"dimensions"\s*:\s*"[\dx]*"\s*,\s*"values"')
_CODE = re.compile(r"Error Code (\d+)")
_REFUSED = ("Unknown option", "Invalid ", "Model missing", "Cannot ")
_TYPES = {"fp32", "fp16", "bf16", "fp8", "int8", "int4"}
_SAME = 2e-5
"""Largest relative difference between a printed figure and the same from the times, both of six digits."""


class ExportedTimes(msgspec.Struct, frozen=True):
    """What `--exportTimes` gives, recalculated from each inference; percentiles by trtexec's own rule."""

    file: str
    n: int
    latency: Statistics
    h2d: Statistics
    gpu_compute: Statistics
    d2h: Statistics


class ImportedRecord(TrtexecLog, frozen=True, kw_only=True):
    """What one process of trtexec printed and exported, and what that shows.

    `layers` and `profile` are the exported ones where they were given, else those of the log.
    """

    origin: Literal["imported"] = "imported"
    status: Literal["imported"] = "imported"
    product: str
    files: tuple[str, ...]
    """The log, then its exports."""
    settings: dict[str, Effective]
    """Only what the log shows; how a loaded engine was built, it doesn't."""
    error: ErrorSeen | None
    """What went wrong, in the log's words; `None`: nothing, or it doesn't say."""
    times: ExportedTimes | None


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What `repro log` makes of its files."""

    schema_version: int = SCHEMA_VERSION
    kit: Kit
    records: dict[str, ImportedRecord]


def load(path: Path) -> Imported:
    """Read what `repro log --json` wrote."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Imported)
    except OSError as error:
        raise ReproError(f"can't read {path}", error.strerror or "") from None
    except (msgspec.DecodeError, RecursionError) as error:
        hint = "`repro log` reads a log, and `repro show` what `repro log --json` wrote"
        raise ReproError(f"{path} is no imported record ({str(error)[:120]})", hint) from None


def is_json(path: Path) -> bool:
    """Return whether a file begins as JSON does; raise `ReproError` where it can't be read."""
    return bool(_JSON.match(_head(path)))


def read(paths: Sequence[Path]) -> Imported:
    """Make records of logs and of the exports beside them; raise `ReproError` for what can't be read."""
    kinds = {path: _kind(path) for path in paths}
    logs: list[TrtexecLog] = []
    for path in (path for path, kind in kinds.items() if kind == "log"):
        with path.open("rb") as file:
            logs += trtexec_log.read_all(file, path.name)
    if not logs:
        raise UsageError("none of these files is a log", "give the log beside its exports")
    beside: list[dict[Kind, Path]] = [{} for _ in logs]
    for path, kind in kinds.items():
        if kind != "log":
            owner = beside[_owner(path, kind, logs)]
            if kind in owner:
                raise UsageError(f"{owner[kind]} and {path} are both {kind} of one run", "give one of them")
            owner[kind] = path
    records = map(_record, logs, beside)
    return Imported(kit=kit(), records=dict(zip(_names(logs), records, strict=True)))


# --- which file is what ---------------------------------------------------------------------------------


def _head(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file", "name files; - is standard input, for `repro log`")
    try:
        with path.open("rb") as file:
            return file.read(PEEK_BYTES)
    except OSError as error:
        raise ReproError(f"can't read {path}", error.strerror or "") from None


def _kind(path: Path) -> Kind:
    head = _head(path)
    if not head.strip():
        raise ReproError(f"{path} is empty", "give what trtexec printed, as text")
    if not _JSON.match(head):
        return "log"
    for kind, mark in _MARKS:
        if mark.search(head):
            return kind
    if _OUTPUTS.search(head):
        raise UsageError(f"{path} holds outputs, which tell nothing of a run", "leave it out")
    raise ReproError(
        f"{path}, line 1: JSON, but none that trtexec exports", "give times, a profile or layer information"
    )


def _owner(path: Path, kind: Kind, logs: Sequence[TrtexecLog]) -> int:
    """Return the position of the log whose command exports this file, else of the only log."""
    named = [
        i
        for i, log in enumerate(logs)
        for word in log.command or ()
        if word.startswith(f"{_FLAGS[kind]}=") and Path(word.partition("=")[2]).name == path.name
    ]
    if len(named) == 1 or len(logs) == 1:
        return named[0] if named else 0
    raise UsageError(
        f"which of the {len(logs)} logs {path} is of, no command tells", "give it with that log alone"
    )


def _names(logs: Sequence[TrtexecLog]) -> list[str]:
    """Return a name for each log: that of its file, numbered where there are several of it."""
    every = [log.name for log in logs]
    return [
        name if every.count(name) == 1 else f"{name}#{every[: i + 1].count(name)}"
        for i, name in enumerate(every)
    ]


# --- a record -------------------------------------------------------------------------------------------


def _record(log: TrtexecLog, files: dict[Kind, Path]) -> ImportedRecord:
    missing = list(log.missing)
    profile, found, times = log.profile, log.layers, None
    if "profile" in files:
        profile = exports.profile(files["profile"])
        missing = [each for each in missing if each.what != "profile"]
    if "layers" in files:
        found = exports.layers(files["layers"])
        missing = [each for each in missing if each.what != "layers"]
    if found and profile and ("layers" in files or log.profile is None):
        found = layers.timed(found, profile)
    if "times" in files:
        times = _times(files["times"], log)
    else:
        missing.append(Missing("times", "no --exportTimes file was given"))
    settings = _settings(msgspec.structs.replace(log, layers=found))
    missing += _unknown_settings(log, settings)
    told = {name: getattr(log, name) for name in TrtexecLog.__struct_fields__}
    # The UUID names one GPU on earth; it says nothing about a result.
    device = log.device and msgspec.structs.replace(log.device, uuid=None)
    told |= {"layers": found, "profile": profile, "missing": tuple(missing), "device": device}
    return ImportedRecord(
        **told,
        product="TensorRT",
        files=(log.name, *(path.name for path in files.values())),
        settings=settings,
        error=_error(log),
        times=times,
    )


def _times(path: Path, log: TrtexecLog) -> ExportedTimes:
    """Return the figures of an export; raise `ReproError` where they aren't those of the log."""
    series = exports.times(path)
    printed = log.summary.gpu_compute if log.summary else None
    percentiles = [p for p in printed.percentiles_ms if float(p) <= 100] if printed else ("90", "95", "99")
    own = {
        name: _statistics(getattr(series, f"{column}_ms"), percentiles)
        for name, column in (
            ("latency", "latency"),
            ("h2d", "h2d"),
            ("gpu_compute", "compute"),
            ("d2h", "d2h"),
        )
    }
    if printed:
        for figure in ("min_ms", "median_ms", "max_ms"):
            said, exported = getattr(printed, figure), getattr(own["gpu_compute"], figure)
            if said is not None and not math.isclose(said, exported, rel_tol=_SAME):
                raise ReproError(
                    f"{path} is of another run than {log.name}: its GPU compute times have the {figure[:-3]} "
                    f"{exported:g} ms, the log's {said:g} ms",
                    "give the files of one run",
                )
    return ExportedTimes(path.name, len(series.compute_ms), **own)


def _statistics(values: exports.Milliseconds, percentiles: Sequence[str]) -> Statistics:
    ordered = np.sort(values)
    return Statistics(
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        mean_ms=float(np.mean(ordered)),
        median_ms=float(np.median(ordered)),
        percentiles_ms={each: stats.trtexec_percentile(ordered, float(each)) for each in percentiles},
    )


def _loads(log: TrtexecLog) -> bool:
    """Return whether the process loaded an engine that another one had built."""
    named = any(word.startswith("--loadEngine") for word in log.command or ())
    return named or bool(log.option("Load engine"))


def _settings(log: TrtexecLog) -> dict[str, Effective]:
    """Return what the log shows of the settings; what it doesn't show is not there.

    Up to 8.6 the build options are echoed where an engine is loaded too, and mean nothing then.
    """
    echo = log.echo()
    found: dict[str, Effective] = {}
    seen = readback.of_run(
        echo, {"percentiles": None}, graph_lost=bool(log.run and log.run.graph == "ignored")
    )
    found |= {name: each for name, each in seen.items() if each.source != "assumed"}
    types = {
        tensor.dtype
        for layer in log.layers or ()
        if not layer.is_reformat
        for tensor in (*layer.inputs, *layer.outputs)
    } & _TYPES
    if types:
        found["precision"] = Effective(types.pop() if len(types) == 1 else "mixed", "graph")
    if not _loads(log):
        # As wide as the echo: `fp32+fp16` lets the builder choose.
        said = echo.get("Precision", "").partition(" (")[0].lower()
        if said and "strongly" not in said:
            found.setdefault("precision", Effective(said, "echo"))
        built = readback.of_build(echo, log.layers, {"precision": None})
        for name, labels in (
            ("typing", {"Precision"}),
            ("io_layout", {"Input(s)s format", "Input(s)"}),
            ("sparsity", {"Sparsity"}),
            ("optimization_level", {"BuilderOptimizationLevel"}),
        ):
            if labels & echo.keys():
                found[name] = built[name]
    return {name: each for name, each in found.items() if each.value is not None}


def _unknown_settings(log: TrtexecLog, settings: dict[str, Effective]) -> Iterator[Missing]:
    built = (
        "the engine was loaded: its log doesn't tell how it was built" if _loads(log) else "not in the log"
    )
    for name in ("precision", "typing", "io_layout", "sparsity"):
        if name not in settings:
            yield Missing(f"settings.{name}", built)
    for name in ("cuda_graph", "spin_wait", "transfers", "duration_s", "warm_up_ms"):
        if name not in settings:
            yield Missing(f"settings.{name}", "not in the log")
    yield Missing("machine_state", "a log tells neither clocks in use, power mode, heat nor load")


def _error(log: TrtexecLog) -> ErrorSeen | None:
    """Return what went wrong, in the log's own words."""
    if log.outcome == "passed" or (log.outcome in (None, "waived") and not log.errors):
        return None
    message = log.errors[0] if log.errors else log.ending[-1] if log.ending else ""
    if not message:
        return None
    stage: StageName = "build"
    if message.startswith(_REFUSED) and log.device is None:
        stage = "prepare"
    elif _loads(log) or log.bindings or log.run:
        stage = "run"
    code = match[1] if (match := _CODE.search(message)) else None
    return ErrorSeen(stage, code, None, message, signature(stage, code, message))
