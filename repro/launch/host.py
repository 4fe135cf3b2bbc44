"""The place `host`: the worker as a process of this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from repro.proc import Child, signal_name
from repro.worker import Progress


def launch(
    job_folder: Path, out: Path, tell: Callable[[Progress], None], confined: Sequence[str] = ()
) -> str | None:
    """Run the worker on `job_folder`, passing on its progress, until its records lie under `out`.

    `confined` is put in front of its command (see `confine`).
    Returns `None`, or how the worker ended before it had written them.
    """
    out.mkdir()
    argv = [*confined, sys.executable, "-m", "repro.worker", str(job_folder), str(out)]
    with (
        (out / "worker.log").open("wb") as errors,
        Child(argv, stdout=Child.PIPE, stderr=errors) as worker,
    ):
        for line in worker.lines():
            # A line that isn't progress is noise of the interpreter; the log is elsewhere.
            with contextlib.suppress(msgspec.DecodeError):
                tell(msgspec.json.decode(line, type=Progress))
        status = worker.wait()
    return f"the worker was ended by {signal_name(status) or f'status {status}'}" if status else None
