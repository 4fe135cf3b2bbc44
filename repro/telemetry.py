"""In which state the machine was: the sampler, and what it recorded.

The sampler is a process of its own (`sampling`, which has the form of its files); the contract of all
probes stands in `probes`. It keeps to a core of its own, and the worker off it, where there are enough.

In the bundle: `telemetry/<probe>.bin`, int64 times and float64 columns one after another, little-endian.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec

from repro.probes import jetson
from repro.probes.tegrastats import Tegrastats
from repro.proc import Child
from repro.sampling import END_GRACE_S, PROBES, Closing, Opening, SamplerCost
from repro.schema import (
    Channel,
    ChannelState,
    Counter,
    Coverage,
    Fact,
    Phase,
    SamplerSeen,
    Scalar,
    StateChange,
    Telemetry,
)

T = TypeVar("T")

KEPT_ROWS = 20_000
CLOCK_STEP_NS = 1_000_000_000
"""A wall clock that moved this far against the steady one was set; slewing stays far below it."""
BACKWARDS = "the clock went backwards"


def probes(gpu: str | None, board: Path | None = None) -> tuple[str, ...]:
    """Return the probes of a session on the machine whose paths are below `board`.

    Without a GPU under test nobody asks its driver, and a Jetson's only on a Jetson. Which of several
    tells a clock is decided by what was read, never by a driver that could be opened.
    """
    on_jetson = jetson.present(board or jetson.root())
    asked = {
        "host": True,
        "nvml": gpu is not None,
        "tegrastats": on_jetson and Tegrastats.present(),
    }
    return tuple(name for name in PROBES if asked.get(name, on_jetson))


class Sampler:
    """The sampler's process, watching `pid` and its children; leaving the context ends it.

    With `threads`, which the calling thread and what it starts keep busy, it gets a core of its own if
    that many are left without it; they are kept off that core until the context is left.
    """

    def __init__(
        self,
        folder: Path,
        pid: int,
        gpu: str | None = None,
        watched: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._names = probes(gpu) if watched is None else tuple(watched)
        self._begin_ns = time.perf_counter_ns()
        self._cores: set[int] = set()
        core = None
        if threads is not None and hasattr(os, "sched_setaffinity"):
            cores = os.sched_getaffinity(0)
            if len(cores) > threads:
                self._cores, core = cores, max(cores)
        with (folder / "sampler.log").open("wb") as log:
            self._child = Child(
                [
                    *(sys.executable, "-m", "repro.sampling", str(folder), str(pid), gpu or ""),
                    *("" if core is None else str(core), *self._names),
                ],
                stderr=log,
            )
        if core is not None:
            os.sched_setaffinity(0, self._cores - {core})

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.end(END_GRACE_S)
        if self._cores:
            os.sched_setaffinity(0, self._cores)

    def end(self, origin_ns: int, wall_ns: int | None = None) -> Recording:
        """End the sampler and return what it recorded, with times relative to `origin_ns`.

        `wall_ns` is the wall clock at the origin; a step of it since then becomes a change of state.
        """
        running = self._child.poll() is None
        status = self._child.end(END_GRACE_S)
        span = (self._begin_ns, time.perf_counter_ns())
        recording = collect(self._folder, self._names, span, origin_ns, clean=running and status == 0)
        if wall_ns is None:
            return recording
        return _with_clock_step(recording, (time.time_ns() - wall_ns) - (time.perf_counter_ns() - origin_ns))


class Recorded(msgspec.Struct, frozen=True):
    """A probe's rows as columns; the first is the time in ns since the session's start."""

    names: tuple[str, ...]
    columns: tuple[tuple[float, ...], ...]

    def packed(self) -> bytes:
        """Return the file of the bundle: int64 times, then float64 columns, evenly thinned."""
        from repro.stats import thin  # numpy would be a burden on the sampler, which imports this module

        keep = thin(len(self.columns[0]), KEPT_ROWS).tolist()
        data = struct.pack(f"<{len(keep)}q", *(int(self.columns[0][i]) for i in keep))
        for column in self.columns[1:]:
            data += struct.pack(f"<{len(keep)}d", *(column[i] for i in keep))
        return data

    def during(self, name: str, phase: Phase) -> list[tuple[float, float]]:
        """Return the readings of a channel during a phase, as (time in ns, value)."""
        if name not in self.names:
            return []
        return [
            (t, value)
            for t, value in zip(self.columns[0], self.columns[self.names.index(name) + 1], strict=True)
            if phase.start_ns <= t <= phase.end_ns and not math.isnan(value)
        ]

    def change(self, name: str, phase: Phase) -> float | None:
        """Return by how much a counting channel grew during a phase.

        `None` where it wasn't read, or ran backwards: it was reset, and nobody knows from where.
        """
        read = [value for _, value in self.during(name, phase)]
        grew = len(read) > 1 and all(a <= b for a, b in pairwise(read))
        return read[-1] - read[0] if grew else None

    def rate(self, name: str, phase: Phase) -> float | None:
        """Return how fast a counting channel grew during a phase, per second; `None` as for `change`."""
        read = self.during(name, phase)
        grown = self.change(name, phase)
        seconds = (read[-1][0] - read[0][0]) / 1e9 if read else 0.0
        return grown / seconds if grown is not None and seconds > 0 else None


class Recording(msgspec.Struct, frozen=True):
    """Everything that the sampler left."""

    telemetry: Telemetry
    probes: dict[str, Recorded]


def collect(
    folder: Path, names: Sequence[str], span: tuple[int, int] | None, origin_ns: int, *, clean: bool
) -> Recording:
    """Turn the sampler's files into telemetry; whatever is missing is said, never guessed.

    `span` is when the sampler was to read; `None`: as long as it did.
    """
    channels: list[Channel] = []
    facts: list[Fact] = []
    counters: list[Counter] = []
    changes: list[StateChange] = []
    recorded: dict[str, Recorded] = {}
    for name in names:
        opening = _decode(folder / f"{name}.json", Opening)
        closing = _decode(folder / f"{name}.end.json", Closing)
        if opening:
            read, specs, rate_hz = opening.open, opening.channels, opening.rate_hz
        else:
            silent = PROBES[name](os.getpid(), None)
            read, specs, rate_hz = (), tuple(silent.channels), silent.rate_hz
        rows, backwards = _in_order(_rows(folder / f"{name}.rows", len(read)))
        columns = tuple(zip(*rows, strict=True)) if rows else ((),) * (1 + len(read))
        due = span or (int(columns[0][0]), int(columns[0][-1])) if rows else span or (0, 0)
        times = tuple(t - origin_ns for t in columns[0])
        if rows:
            recorded[name] = Recorded(read, (times, *columns[1:]))
        for spec in specs:
            state: ChannelState = "value"
            reason, coverage, column = None, None, None
            if opening is None:
                state, reason = "missed", "the probe gave no reading"
            elif spec.private:
                state, reason = "denied", "private: it is not recorded"
            elif spec.name in opening.absent:
                state, reason = opening.absent[spec.name].state, opening.absent[spec.name].reason
            elif spec.name not in read:
                state, reason = "unsupported", "the probe does not read it here"
            else:
                column = 1 + read.index(spec.name)
                coverage = _coverage(
                    times, columns[column], rate_hz, (due[0] - origin_ns, due[1] - origin_ns), backwards
                )
                reasons = closing.missed.get(spec.name, {}) if closing else {}
                why = _told(reasons | ({BACKWARDS: backwards} if backwards else {}))
                if not coverage.n:
                    state, reason = "missed", "no reading succeeded" + (f": {why}" if why else "")
                elif not clean:
                    reason = "the sampler ended early"
                else:
                    reason = why if closing else "the probe stopped answering"
            channels.append(
                Channel(
                    probe=name,
                    name=spec.name,
                    unit=spec.unit,
                    state=state,
                    reason=reason,
                    private=spec.private,
                    rate_hz=rate_hz,
                    coverage=coverage,
                    file=f"telemetry/{name}.bin" if coverage and name in recorded else None,
                    column=column if coverage and name in recorded else None,
                )
            )
        before = {fact.name: fact for fact in opening.facts} if opening else {}
        facts += before.values()
        if opening and closing:
            changes += [
                StateChange(name, fact.name, before[fact.name].value, fact.value)
                for fact in closing.facts
                if fact.name in before and fact.value != before[fact.name].value
            ]
            counters += [
                Counter(name, key, unit, value, closing.counters[key][1])
                for key, (unit, value) in opening.counters.items()
                if key in closing.counters
            ]
    cost = _decode(folder / "sampler.json", SamplerCost)
    sampler = SamplerSeen(
        cpu_seconds=cost.cpu_seconds if cost else None,
        cpu_share=cost.cpu_seconds / ((span[1] - span[0]) / 1e9) if cost and span else None,
        pinned_to=cost.pinned_to if cost else None,
        ended="ok" if clean else "early",
    )
    telemetry = Telemetry(tuple(channels), tuple(facts), tuple(counters), tuple(changes), sampler)
    return Recording(telemetry, recorded)


def _told(reasons: Mapping[str, int]) -> str | None:
    """Say why readings were missed, the most frequent reason first."""
    told = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} ({n}×)" for reason, n in told) or None


def _with_clock_step(recording: Recording, step_ns: int) -> Recording:
    """Add a step of the wall clock, where there was one: stamps of files and logs can't be trusted then."""
    if abs(step_ns) < CLOCK_STEP_NS:
        return recording
    change = StateChange("host", "wall_clock", "steady", f"set by {step_ns / 1e9:+.1f} s")
    told = recording.telemetry
    told = msgspec.structs.replace(told, state_changed=(*told.state_changed, change))
    return msgspec.structs.replace(recording, telemetry=told)


def _decode(path: Path, kind: type[T]) -> T | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def _rows(path: Path, channels: int) -> list[tuple[float, ...]]:
    row = struct.Struct(f"<q{channels}d")
    try:
        data = path.read_bytes()
    except OSError:
        return []
    # A killed sampler may leave a part of a row.
    return list(row.iter_unpack(data[: len(data) // row.size * row.size]))


def _in_order(rows: Sequence[tuple[float, ...]]) -> tuple[list[tuple[float, ...]], int]:
    """Return the rows without those that the clock took back in time, and how many these were."""
    kept: list[tuple[float, ...]] = []
    for row in rows:
        if not kept or row[0] >= kept[-1][0]:
            kept.append(row)
    return kept, len(rows) - len(kept)


def _coverage(
    times: Sequence[float], values: Sequence[float], rate_hz: float, span: tuple[int, int], lost: int
) -> Coverage:
    read = [int(t) for t, value in zip(times, values, strict=True) if not math.isnan(value)]
    edges = [span[0], *read, span[1]]
    due = max(1.0, (span[1] - span[0]) / 1e9 * rate_hz)
    return Coverage(
        n=len(read),
        missed=len(values) - len(read) + lost,
        first_ns=read[0] if read else None,
        last_ns=read[-1] if read else None,
        longest_gap_ns=max(b - a for a, b in pairwise(edges)),
        share=min(1.0, len(read) / due),
    )


def fact_value(facts: Iterable[Fact], name: str) -> Scalar | None:
    """Return a fact's value, `None` where it is not known."""
    return next((fact.value for fact in facts if fact.name == name), None)
