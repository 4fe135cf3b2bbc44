"""trtexec: the vendor's own tool, one process for each build, profile, output check and run.

The commands are those of the job (`lowering.lower`); all are executed in the build's folder, where the
engine stays. Times are the raw ones that trtexec exports, never those that it prints, and the printed
ones are used to check them. How a process ended is told in its log's own words.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from repro import measure, models, proc, stats
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
    StageName,
    Subject,
)
from repro.trtexec import exports, log, readback

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

LOG_LINES = (
    # [05/25/2023-18:31:49] [I] [TRT] words; what is verbose names files and layers, and is left out.
    re.compile(r"\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[[IWEF]\] .*"),
    re.compile(r"&&&& (?:RUNNING|PASSED|FAILED|WAIVED) TensorRT\.trtexec .*"),
)
"""The forms of lines in a turn's log that may be published."""

_ERROR = re.compile(r"\[[EF]\] (?:\[TRT\] )?(.*)")
_CODE = re.compile(r"Error Code (\d+)")
_NO_MEMORY = re.compile(r"out of memory|OutOfMemory|memory \(\d+ bytes\) could not be allocated", re.IGNORECASE)
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

    log: log.TrtexecLog
    graph_lost: bool
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
        raise Unavailable("there is no trtexec here", "install TensorRT, or set TRTEXEC to its path")
    return Path(found).absolute()


@functools.cache
def _ask(path: Path) -> Tool:
    """Return what a trtexec says of itself; its help begins with a banner that has the version."""
    try:
        finished = proc.run([str(path), "--help"], timeout_s=HELP_TIMEOUT_S)
    except ReproError as error:
        raise Unavailable(error.what, "does it run by hand?") from None
    said = finished.stdout + finished.stderr
    told = log.read(said.splitlines(keepends=True), "trtexec --help")
    if told.version is None:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise Unavailable(f"{path} does not say which release it is ({last[:200]})", "does it run by hand?")
    return Tool(path, told.version, told.build, b"STAND-IN" in said)


def is_standin() -> bool:
    """Tell whether the trtexec here is a stand-in of the kit's tests."""
    return _ask(find()).standin


def release(*, gpu: bool) -> ReleaseSeen:
    """Return the installed release; raise `Unavailable` where there is none for a GPU."""
    if not gpu:
        raise Unavailable("trtexec measures on NVIDIA GPUs only", "use --backend onnxruntime")
    tool = _ask(find())
    if tool.standin and os.environ.get(STANDIN_SWITCH) != "1":
        raise Unavailable(
            f"{tool.path} is a stand-in for tests, and measures nothing", "put TensorRT's own on the PATH"
        )
    version, cuda = _package(tool) or (tool.version if tool.build is None else f"{tool.version}.{tool.build}", None)
    name = f"trt-{version}" if cuda is None else f"trt-{version}+cuda{cuda}"
    return ReleaseSeen(name, tool.version, build=tool.build or version.removeprefix(tool.version).lstrip(".") or None, cuda=cuda)


def _package(tool: Tool) -> tuple[str, str] | None:
    """Return version and CUDA of the Debian package that a trtexec came in, `None` where it came otherwise."""
    try:
        owner = proc.run(["dpkg-query", "-S", str(tool.path.resolve())]).stdout.decode().partition(":")[0]
        told = proc.run(["dpkg-query", "-W", "-f", "${Version}", owner]).stdout.decode() if owner else ""
    except ReproError:
        return None
    match = re.match(r"([\d.]+)-\S*\+cuda([\d.]+)", told)
    return (match[1], match[2]) if match and match[1].startswith(tool.version) else None


def settings(*, gpu: bool) -> frozenset[str]:  # noqa: ARG001 - the contract's; a GPU is all there is
    """Return the semantic settings that this backend has: all of them."""
    return frozenset(SETTINGS)
