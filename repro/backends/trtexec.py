"""trtexec: the vendor's own tool, one process for each build, profile, output check and run.

The commands are those of the job (`lowering.lower`); all are executed in the build's folder, where the
engine stays. Times are the raw ones that trtexec exports, never those that it prints, and the printed
ones are used to check them. How a process ended is told in its log's own words.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from repro import measure, models, proc, stats
from repro.backends import cuda
from repro.errors import ReproError, Unavailable
from repro.lowering import ENGINE_FILE, INPUT_FILE, LAYERS_FILE, OUTPUT_FILE, PROFILE_FILE, TIMES_FILE
from repro.schema import (
    Effective,
    Flag,
    Layer,
    Library,
    Phase,
    Preheat,
    ReleaseSeen,
    Scalar,
    Settings,
    StageName,
    Subject,
    TensorSpec,
)
from repro.trtexec import exports, layers, readback
from repro.trtexec.forms import LOG_LINES as LOG_LINES
from repro.trtexec.heard import Heard, Outcome, Printed, cause

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating]

NAME = "trtexec"
PRODUCT = "TensorRT"
BUILD_OUTLIVES_PROCESS = TIMES_ITSELF = True
TIMER = "CUDA events before and after each inference, by trtexec"
USUAL_PATH = Path("/usr/src/tensorrt/bin/trtexec")
STANDIN_SWITCH = "TRT_REPRO_TEST_STANDIN"
HELP_TIMEOUT_S = 60.0

_TOLD = (
    "Memory Pools",
    "avgTiming",
    "Tactic sources",
    "timingCacheMode",
    "Preview Features",
    "MaxAuxStreams",
    "Profiling verbosity",
)
"""Labels of the echo that are recorded as they stand: what the kit leaves to trtexec."""
_BYTES_PER_EXPORTED_VALUE = 16
"""An output's value as text, with its separator: six significant digits, a sign and an exponent."""
_DIGITS = 2e-5
"""Largest relative difference between a printed figure and the same from the times, both of six digits."""
_MEAN_DIGITS = 1e-3
"""As above for the mean, which trtexec adds up in float32 (off by 1e-4 for 158,000 values)."""


class Failed(Exception):
    """A process of trtexec failed; in its log's own words where it has any."""

    def __init__(self, code: str, message: str, signal: str | None = None) -> None:
        super().__init__(message)
        self.code, self.signal = code, signal


class Tool(NamedTuple):
    """A trtexec, by what it says of itself."""

    path: Path
    version: str
    build: str | None
    standin: bool


class Ended(NamedTuple):
    """A process of trtexec that passed."""

    heard: Heard
    start_ns: int
    end_ns: int
    """On `measure.now_ns`; the end is that of the timing where the log tells it."""


# --- which trtexec -------------------------------------------------------------------------------


def find() -> Path:
    """Return the trtexec to use: $TRTEXEC, on the PATH, or where TensorRT installs it."""
    if named := os.environ.get("TRTEXEC"):
        if not os.access(named, os.X_OK):
            raise Unavailable(f"TRTEXEC names {named}, which can't be executed", "name trtexec itself")
        return Path(named).absolute()
    found = shutil.which("trtexec")
    if found is None and os.access(USUAL_PATH, os.X_OK):
        return USUAL_PATH
    if found is None:
        raise Unavailable(
            "there is no trtexec here", "install TensorRT or set TRTEXEC; DEVICE=cpu needs neither"
        )
    return Path(found).absolute()


@functools.cache
def _ask(path: Path) -> Tool:
    """Return what a trtexec says of itself; its help begins with a banner that has the version."""
    try:
        finished = proc.run([str(path), "--help"], timeout_s=HELP_TIMEOUT_S)
    except ReproError as error:
        raise Unavailable(error.what, "does it run by hand?") from None
    said = finished.stdout + finished.stderr
    heard = Heard()
    for line in said.decode(errors="replace").splitlines():
        heard.line(line)
    if heard.version is None:
        raise Unavailable(
            f"{path} does not say which release it is ({heard.last[:200]})", "does it run by hand?"
        )
    return Tool(path, heard.version, heard.build, b"STAND-IN" in said)


def is_standin() -> bool:
    """Tell whether there is a trtexec here that is a stand-in of the kit's tests."""
    try:
        return _ask(find()).standin
    except Unavailable:
        return False


def release(*, gpu: bool) -> ReleaseSeen:
    """Return the installed release; raise `Unavailable` where there is none for a GPU."""
    if not gpu:
        raise Unavailable("trtexec measures on NVIDIA GPUs only", "use --backend onnxruntime")
    tool = _ask(find())
    if tool.standin and os.environ.get(STANDIN_SWITCH) != "1":
        raise Unavailable(
            f"{tool.path} is a stand-in for tests, and measures nothing", "put TensorRT's own on the PATH"
        )
    packaged = _package(tool)
    version = packaged[0] if packaged else ".".join(filter(None, (tool.version, tool.build)))
    cuda = packaged[1] if packaged else None
    return ReleaseSeen(
        f"trt-{version}" if cuda is None else f"trt-{version}+cuda{cuda}",
        tool.version,
        build=version.removeprefix(tool.version).lstrip(".") or None,
        cuda=cuda,
    )


def _package(tool: Tool) -> tuple[str, str] | None:
    """Return version and CUDA of the Debian package that a trtexec came in, `None` if it came otherwise."""
    try:
        owner = proc.run(["dpkg-query", "-S", str(tool.path.resolve())]).stdout.decode().partition(":")[0]
        told = proc.run(["dpkg-query", "-W", "-f", "${Version}", owner]).stdout.decode() if owner else ""
    except ReproError:
        return None
    match = re.match(r"([\d.]+)-\S*\+cuda([\d.]+)", told)
    return (match[1], match[2]) if match and match[1].startswith(tool.version) else None


def settings(*, gpu: bool) -> frozenset[str]:  # noqa: ARG001 - the contract's; a GPU is all there is
    """Return the semantic settings that this backend has: all of them."""
    return frozenset(field.name for field in msgspec.structs.fields(Settings))


def refuse(planned: Mapping[str, Scalar | None], *, gpu: bool) -> str | None:  # noqa: ARG001 - as above
    """Return `None`: whether a release can run something is told where its commands are made."""
    return None


def libraries() -> tuple[Library, ...]:
    """Return TensorRT by the version that trtexec was built with."""
    return (Library("tensorrt", _ask(find()).version),)


def unoptimised(model: bytes, source: Array) -> Array:
    """Return the model's whole output by ONNX Runtime, for a check that has no rule of its own."""
    from repro.backends import onnxruntime

    return onnxruntime.unoptimised(model, source)


# --- an engine -----------------------------------------------------------------------------------


class Engine:
    """An engine in its folder, with the processes that run it."""

    providers = (PRODUCT,)

    def __init__(self, home: Path, subject: Subject) -> None:
        self._home, self._planned = home, subject.planned
        self._argv = {command.stage: command.argv[1:] for command in subject.commands}
        self._layers: tuple[Layer, ...] | None = None
        self._effective: dict[str, Effective] = {}
        self._result: Array | None = None
        self.options: dict[str, Scalar] = {}
        self.timing_cache: str | None = None
        self.plan_sha256: str | None = None
        self.recipe_hash: str | None = None

    def build(self, model: Path, subject: Subject, source: Array) -> None:
        """Build the engine, and read back what became of the settings."""
        spec = models.tensors(subject.model, models.file_precision(str(self._planned["precision"])))
        self._room(spec)
        shutil.copyfile(model, self._home / model.name)
        layout = str(self._planned["io_layout"])
        (self._home / INPUT_FILE).write_bytes(models.packed(source, layout))
        ended = self._run("build")
        plan = self._home / ENGINE_FILE
        if not plan.is_file():
            raise Failed("no_engine", "trtexec passed, but wrote no engine")
        with plan.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
        self.plan_sha256 = digest.hexdigest()
        echo = ended.heard.echo
        self._layers = exports.layers(self._home / LAYERS_FILE)
        self._effective = readback.of_build(echo, self._layers, self._planned)
        self.timing_cache = echo.get("timingCacheMode")
        self.options = {label: echo[label] for label in _TOLD if label in echo}
        heard = ended.heard
        recipe = [subject.model_digests, self._argv["build"], heard.version, heard.build, heard.device()]
        self.recipe_hash = hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()

    def _room(self, spec: Sequence[TensorSpec]) -> None:
        """Raise `Failed` where the folder has no room for the input and for the output as text."""
        counts = [math.prod(tensor.shape) for tensor in spec]
        needed = 4 * counts[0] + _BYTES_PER_EXPORTED_VALUE * counts[1]
        free = shutil.disk_usage(self._home).free
        if free < needed:
            raise Failed(
                "no_space", f"the work folder has {free >> 20} MiB; input and output take {needed >> 20} MiB"
            )

    def profile(self) -> tuple[Layer, ...] | None:
        """Return the layers with their times, taken apart from any timing."""
        self._run("profile")
        self._layers = layers.timed(self._layers or (), exports.profile(self._home / PROFILE_FILE))
        return self._layers

    def poison(self, values: Array) -> None:
        """Take the buffer that the next output goes to, so that what is not exported shows."""
        self._result = values

    def step(self) -> None:
        """Run the output process."""
        self._run("check")
        if self._result is None:
            raise RuntimeError("no buffer for the output")
        file = self._home / OUTPUT_FILE
        found = exports.outputs(file)
        if len(found) != 1:
            raise Failed("outputs", f"trtexec exported {len(found)} outputs; the network has one")
        (values,) = found.values()
        self._result = values.astype(self._result.dtype)
        # Of conv16 they are 64 and 300 MB, for each build.
        file.unlink()
        (self._home / INPUT_FILE).unlink()

    def output(self) -> Array:
        """Return the output of the last output process, [n, c, h, w]."""
        assert self._result is not None  # noqa: S101 - `step` has filled it
        return self._result

    def time(self) -> measure.Timed:
        """Run the timing process, and check what it printed against the times that it exported."""
        ended = self._run("run")
        self._effective = readback.of_run(ended.heard.echo, self._planned, graph_lost=ended.heard.graph_lost)
        found = exports.times(self._home / TIMES_FILE)
        copies = bool(self._planned["transfers"])
        series = measure.Series(
            found.ns("start_ms"),
            found.ns("compute_ms"),
            None,
            h2d_ns=found.ns("h2d_ms") if copies else None,
            d2h_ns=found.ns("d2h_ms") if copies else None,
        )
        _agree(found.compute_ms, ended.heard.printed.get("GPU Compute Time"))
        enqueue = ended.heard.printed.get("Enqueue Time")
        span_ns = int(series.start_ns[-1] + series.duration_ns[-1] - series.start_ns[0])
        begin_ns = max(ended.start_ns, ended.end_ns - span_ns)
        return measure.Timed(
            series=series,
            preheat=Preheat(None, int(self._planned["warm_up_ms"] or 0) / 1e3),
            timer_check=measure.event_check(series, cuda.RESOLUTION_NS, None),
            phases=(Phase("preheat", ended.start_ns, begin_ns), Phase("measure", begin_ns, ended.end_ns)),
            flags=tuple(Flag("trtexec", warning) for warning in ended.heard.warnings),
            enqueue_median_ns=enqueue.median * 1e6 if enqueue else None,
        )

    def effective(self) -> dict[str, Effective]:
        """Return the effective settings of the last build or run."""
        return self._effective

    def layers(self) -> tuple[Layer, ...] | None:
        """Return the engine's layers, `None` where the build told none."""
        return self._layers

    def structure_hash(self) -> str | None:
        """Return sha256 over name, type, tactic and formats of all layers."""
        return readback.structure_hash(self._layers) if self._layers else None

    def _run(self, stage: StageName) -> Ended:
        """Run a process of trtexec to its end; raise `Failed` in its own words."""
        tool, killed = _ask(find()), proc.oom_kills()
        file = self._home / f"{stage}.log"
        heard = Heard()
        end_ns: int | None = None

        def note(line: bytes) -> None:
            nonlocal end_ns
            whole.write(line)
            text = line.decode(errors="replace").rstrip()
            if heard.line(text) != "V":
                sys.stdout.write(text + "\n")
            if "Timing trace has" in text:
                end_ns = measure.now_ns()

        start_ns = measure.now_ns()
        with file.open("wb") as whole:
            status = proc.follow([str(tool.path), *self._argv[stage]], cwd=self._home, note=note)
        sys.stdout.flush()
        if status or heard.outcome != "passed":
            raise _failure(status, heard.outcome, heard.errors, heard.last, oom=proc.oom_kills() > killed)
        return Ended(heard, start_ns, end_ns or measure.now_ns())


def _failure(status: int, outcome: Outcome, errors: Sequence[str], last: str, *, oom: bool) -> Failed:
    """Return how a process failed, in its log's own words."""
    words = errors[0] if errors else last or "it printed nothing"
    signal = proc.signal_name(status)
    if oom and signal == "SIGKILL":
        return Failed("out_of_memory", "the kernel ended trtexec: out of memory", signal)
    if signal:
        return Failed("crash", f"trtexec was ended by {signal} after: {words}", signal)
    if "Unknown option" in words:
        return Failed("unknown_option", "; ".join(error for error in errors if "Unknown option" in error))
    if known := cause(errors):
        return Failed(*known)
    if status:
        return Failed("failed" if outcome == "failed" else f"exit {status}", words)
    return Failed("unfinished", f"trtexec ended without saying that it passed, after: {words}")


def _agree(times_ms: npt.NDArray[np.float64], printed: Printed | None) -> None:
    """Raise `Failed` where the printed figures are not those of the exported times.

    Percentiles are taken by trtexec's own rule, in float32 and without interpolation.
    """
    if printed is None:
        raise Failed("no_summary", "trtexec passed, but printed no summary of its times")
    ordered = sorted(times_ms.tolist())
    figures = [
        ("min", ordered[0], printed.minimum, _DIGITS),
        ("max", ordered[-1], printed.maximum, _DIGITS),
        ("median", statistics.median(ordered), printed.median, _DIGITS),
        ("mean", statistics.fmean(ordered), printed.mean, _MEAN_DIGITS),
        *(
            (f"percentile {percent:g}", stats.trtexec_percentile(ordered, percent), value, _DIGITS)
            for percent, value in printed.percentiles.items()
        ),
    ]
    for name, own, said, digits in figures:
        if not math.isclose(own, said, rel_tol=digits):
            raise Failed(
                "summary_disagrees", f"the {name} of the exported times is {own:g} ms, printed was {said:g}"
            )


def build(
    model: Path,
    folder: Path,
    subject: Subject,
    *,
    gpu: bool,  # noqa: ARG001 - the contract's, as those below
    threads: int,  # noqa: ARG001
    source: Array,
    result: Array,  # noqa: ARG001
) -> Engine:
    """Build an engine into `folder`."""
    engine = Engine(folder, subject)
    engine.build(model, subject, source)
    return engine


def reload(
    folder: Path,
    subject: Subject,
    source: Callable[[], Array],  # noqa: ARG001 - the contract's: trtexec makes up its own
) -> Engine:
    """Return the engine that an earlier turn built into `folder`."""
    return Engine(folder, subject)
