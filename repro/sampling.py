"""The sampler's process: one thread per probe, so one that hangs or fails loses only its own channels.

It writes each reading at once, as a row of a file, and holds no history; a killed sampler leaves what it
had read. Rows are on the clock of `measure.now_ns`, like the phases of the runs. `telemetry` starts it and
reads what it left.

Files of a probe: `<probe>.json` (`Opening`), `<probe>.rows` (int64 time, then one float64 per open channel,
NaN where a reading was missed), `<probe>.end.json` (`Closing`).
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from repro.probes import Absent, ChannelSpec, Listening, Probe, Reading, jetson
from repro.probes.host import Host
from repro.probes.jetson import Jetson
from repro.probes.jetson_power import JetsonPower
from repro.probes.jtop import Jtop
from repro.probes.nvml import Nvml
from repro.probes.tegrastats import Tegrastats
from repro.proc import hold_lifeline
from repro.schema import Fact

T = TypeVar("T")

END_GRACE_S = 2.0
OTHER_REASONS = 8
"""So many different reasons are counted for a channel; a garbled file could have a new one each time."""
PROBES: dict[str, Callable[[int, str | None], Probe]] = {
    "host": lambda pid, _gpu: Host(pid),
    "nvml": Nvml,
    "jetson": lambda _pid, _gpu: Jetson(jetson.root()),
    "jetson_power": lambda _pid, _gpu: JetsonPower(jetson.root()),
    "tegrastats": lambda _pid, _gpu: Tegrastats(),
    "jtop": lambda _pid, _gpu: Jtop(),
}
"""By name: what reads, given the process to watch and the UUID of the GPU under test."""


class Opening(msgspec.Struct, frozen=True):
    """A probe's first words: what it has here, which of it is read, and facts and counters before."""

    channels: tuple[ChannelSpec, ...]
    rate_hz: float
    open: tuple[str, ...]
    absent: dict[str, Absent]
    facts: tuple[Fact, ...]
    counters: dict[str, tuple[str, int]]


class Closing(msgspec.Struct, frozen=True):
    """A probe's last words: facts and counters after, and why readings were missed, by channel."""

    facts: tuple[Fact, ...]
    counters: dict[str, tuple[str, int]]
    error: str | None
    missed: dict[str, dict[str, int]] = {}


class SamplerCost(msgspec.Struct, frozen=True):
    """What the sampler used."""

    cpu_seconds: float
    pinned_to: tuple[int, ...] | None = None


def record(probe: Probe, folder: Path, stop: threading.Event) -> None:
    """Read `probe` at its rate until `stop`; one thread of the sampler."""
    error: str | None = None

    def attempt(ask: Callable[[], T], otherwise: T) -> T:
        nonlocal error
        try:
            return ask()
        except Exception as failure:  # noqa: BLE001 - a probe's failure is a missed reading
            error = f"{type(failure).__name__}: {failure}"
            return otherwise

    # Some probes know their channels and rate once they have read; so they are asked for afterwards.
    read: Mapping[str, Reading] | None = attempt(probe.read, None)
    declared = [spec.name for spec in probe.channels]
    # What was only missed the first time may come later: it stays open, as do all if all was missed.
    first = dict.fromkeys(declared, math.nan) if read is None else read
    missing = {
        name: value for name, value in first.items() if isinstance(value, Absent) and value.state != "missed"
    }
    private = {spec.name for spec in probe.channels if spec.private}
    names = tuple(name for name in declared if name in first and name not in {*missing, *private})

    def told() -> tuple[tuple[Fact, ...], dict[str, tuple[str, int]]]:
        facts: Sequence[Fact] = attempt(probe.facts, ())
        counters: Mapping[str, tuple[str, int]] = attempt(probe.counters, {})
        return tuple(facts), dict(counters)

    opening = Opening(tuple(probe.channels), probe.rate_hz, names, missing, *told())
    _write(folder / f"{probe.name}.json", msgspec.json.encode(opening))
    row = struct.Struct(f"<q{len(names)}d")
    # Who listens is paced by whoever speaks.
    period_ns = 0 if isinstance(probe, Listening) else round(1e9 / probe.rate_hz)
    reasons: dict[str, dict[str, int]] = {}
    with (folder / f"{probe.name}.rows").open("wb", buffering=0) as file:
        due = time.perf_counter_ns()
        while not stop.is_set():
            if not names:
                # A driver that opens and then tells nothing isn't asked again and again.
                stop.wait()
                break
            readings: Mapping[str, Reading] = attempt(probe.read, {})
            values = [readings.get(name, math.nan) for name in names]
            for name, value in zip(names, values, strict=True):
                if isinstance(value, Absent):
                    _count(reasons.setdefault(name, {}), value)
            # Stamped once it is there: a probe may have waited for its reading.
            now = time.perf_counter_ns()
            file.write(row.pack(now, *(math.nan if isinstance(v, Absent) else v for v in values)))
            # Late readings are not made up for: a burst would disturb more than the gap that it hides.
            due = max(due + period_ns, time.perf_counter_ns())
            stop.wait((due - time.perf_counter_ns()) / 1e9)
    closing = Closing(*told(), error, reasons)
    _write(folder / f"{probe.name}.end.json", msgspec.json.encode(closing))


def _count(reasons: dict[str, int], absent: Absent) -> None:
    # What could be read before and isn't supported now has gone away.
    reason = "it went away" if absent.state == "unsupported" else absent.reason
    if reason not in reasons and len(reasons) >= OTHER_REASONS:
        reason = "another reason"
    reasons[reason] = reasons.get(reason, 0) + 1


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def sample(folder: Path, watched: Sequence[Probe], pinned_to: tuple[int, ...] | None = None) -> None:
    """Record the probes `watched` into `folder` until the parent lets go."""
    stop = hold_lifeline()
    threads = [
        threading.Thread(target=record, args=(probe, folder, stop), name=probe.name, daemon=True)
        for probe in watched
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    for probe in watched:
        if isinstance(probe, Listening):
            probe.close()
    deadline = time.monotonic() + END_GRACE_S / 2
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    _write(folder / "sampler.json", msgspec.json.encode(SamplerCost(time.process_time(), pinned_to)))
    os._exit(0)  # A hung probe's thread must not hold the process.


def main(folder: str, pid: str, gpu: str, core: str, *names: str) -> None:
    """Sample the named probes, from the core `core` where one is named."""
    pinned_to = None
    if core:
        # A core may have gone meanwhile; then the sampler runs where it may.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {int(core)})
            pinned_to = (int(core),)
    sample(Path(folder), [PROBES[name](int(pid), gpu or None) for name in names], pinned_to)


if __name__ == "__main__":
    main(*sys.argv[1:])
