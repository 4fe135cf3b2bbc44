"""The place `host`: the worker as a process of this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from repro.errors import Interrupted, Lost
from repro.proc import Child, signal_name
from repro.worker import Progress


def launch(job_folder: Path, out: Path, tell: Callable[[Progress], None]) -> None:
    """Run the worker on `job_folder` until its records lie under `out`, passing on its progress."""
    out.mkdir()
    log = out / "worker.log"
    argv = [sys.executable, "-m", "repro.worker", str(job_folder), str(out)]
    try:
        with log.open("wb") as errors, Child(argv, stdout=Child.PIPE, stderr=errors) as worker:
            for line in worker.lines():
                # A line that isn't progress is noise of the interpreter; the log is elsewhere.
                with contextlib.suppress(msgspec.DecodeError):
                    tell(msgspec.json.decode(line, type=Progress))
            status = worker.wait()
    except KeyboardInterrupt:
        raise Interrupted("interrupted", f"what was measured so far is in {out.parent}") from None
    if status:
        how = signal_name(status) or f"status {status}"
        raise Lost(f"the worker ended with {how}", f"what it left lies in {out}; its words in {log}")
