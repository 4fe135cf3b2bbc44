"""Which release the stand-in plays, what happens in it, and how it prints."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

FACTS: dict[str, Any] = json.loads(Path(__file__).with_name("facts.json").read_text())
ROWS: list[str] = list(FACTS["covers"])
MARK = "STAND-IN FOR TESTS: this is no trtexec, and nothing here was measured"


class Scenario(NamedTuple):
    """What happens; stages are `build`, `run`, `profile` and `output`."""

    gpu_ms: float = 0.5
    noise: float = 0.002
    """Relative standard deviation of a query's time."""
    modes: Sequence[float] = (1.0,)
    """Factors on the time; the builds beside one scenario file take them in turns."""
    drift: float = 0.0
    """Relative change of the time from a run's first query to its last."""
    enqueue_ms: float = 0.01
    seed: int | None = None
    crash: str = ""
    """The stage that a signal ends."""
    hang: str = ""
    """The stage that never ends."""
    out_of_memory: str = ""
    """The stage that fails with the library's error."""
    graph_fails: bool = False
    """The capture of the CUDA graph fails, and is ignored as the releases do."""
    precision: str = ""
    """What the layers really use, whatever was asked for."""
    output: str = "right"
    """`right`, `wrong`, `nan` or `zeros`."""
    takes_s: float = 0.0
    """How long the inferences of a run take on the clock."""
    events: Sequence[tuple[float, str, str]] = ()
    """Files that are written meanwhile: (seconds after its start, path, text)."""
    device: str = "Made-up GPU"
    integrated: bool = False


class Stop(Exception):
    """The program ends here: an error line was printed, or there is no more to do."""

    def __init__(self, passed: bool, *, end_line: bool = True) -> None:
        super().__init__()
        self.passed, self.end_line = passed, end_line


class Release(NamedTuple):
    """One release, and the row of the facts that it plays."""

    version: tuple[int, ...]
    row: str

    @classmethod
    def named(cls, text: str) -> Release:
        version = tuple(map(int, [*text.split("."), "0", "0"][:3]))
        for row, covered in FACTS["covers"].items():
            if ".".join(map(str, version)) in covered:
                return cls(version, row)
        lower = [row for row in ROWS if tuple(map(int, row.split("."))) <= version]
        return cls(version, lower[-1] if lower else ROWS[0])

    @property
    def integer(self) -> int:
        major, minor, patch = self.version
        return (major * 1000 if major < 10 else major * 10000) + minor * 100 + patch

    @property
    def text(self) -> str:
        return ".".join(map(str, self.version))

    def at(self, spans: Iterable[Sequence[Any]]) -> Any:
        """Return the value of the span (first row, last row, value) that holds this release."""
        index = ROWS.index(self.row)
        for first, last, *value in spans:
            if ROWS.index(first) <= index <= ROWS.index(last):
                return value[0] if value else True
        return None


_NAMED = re.search(r"trtexec-(\d+(?:\.\d+)*)", Path(sys.argv[0]).name)
RELEASE = Release.named(os.environ.get("TRT_STANDIN_RELEASE") or (_NAMED[1] if _NAMED else "8.5.2"))
PLAN = os.environ.get("TRT_STANDIN_SCENARIO")
SCENARIO = Scenario(**json.loads(Path(PLAN).read_text())) if PLAN else Scenario()
COMMAND = " ".join([os.environ.get("TRT_STANDIN_NAME", sys.argv[0]), *sys.argv[1:]])


def log(text: str = "", severity: str = "I", *, library: bool = False) -> None:
    """Print a line; warnings and errors go to standard error, as trtexec's logger does."""
    stream = sys.stderr if severity in "WEF" else sys.stdout
    now = datetime.datetime.now().strftime("%m/%d/%Y-%H:%M:%S")
    print(f"[{now}] [{severity}] {'[TRT] ' if library else ''}{text}", file=stream, flush=severity in "WEF")


def banner(word: str) -> None:
    build = " [b99]" if RELEASE.version >= (10, 4) else ""
    print(f"&&&& {word} TensorRT.trtexec [TensorRT v{RELEASE.integer}]{build} # {COMMAND}", flush=True)


def fail(*lines: str, library: bool = False) -> NoReturn:
    for line in lines:
        log(line, "E", library=library)
    raise Stop(passed=False)


def number(value: float) -> str:
    """Print as a C++ stream does by default: six significant digits."""
    return f"{value:g}"


def pass_time() -> None:
    """Take the time of a run, and write what is to happen in it; a reader never sees half a file."""
    begin = time.monotonic()
    for at_s, path, text in sorted(SCENARIO.events):
        time.sleep(max(0.0, begin + at_s - time.monotonic()))
        part = Path(f"{path}.part")
        part.write_text(text)
        part.replace(path)
    time.sleep(max(0.0, begin + SCENARIO.takes_s - time.monotonic()))


def stage(name: str) -> None:
    """Do what the scenario has in store for a stage."""
    if SCENARIO.hang == name:
        sys.stdout.flush()
        time.sleep(3600)
    if SCENARIO.crash == name:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGABRT)
    if SCENARIO.out_of_memory == name:
        log(
            "Requested amount of GPU memory (1073741824 bytes) could not be allocated. There may not be enough free memory for allocation to succeed.",
            "E",
            library=True,
        )
        fail(
            "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
            library=True,
        )
