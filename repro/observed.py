"""What was observed in a bundle, as numbers: values of builds and runs, clocks while they were measured.

The value of a run is the median of the logarithm of its times, that of a build the mean of its runs.
"""

from __future__ import annotations

import math
import statistics
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from repro import bundle, clocks, stats
from repro.errors import Refused
from repro.schema import SCHEMA_VERSION, Phase, Record, Run
from repro.telemetry import Recorded

CLOCKS = {"gpu": clocks.SM_CLOCKS, "cpu": clocks.CPU_CLOCKS}
"""By kind of device: the channels that tell the clock, the best first. A processor tells the mean of all
its cores, busy or not: good for a doubt, not for counting cycles."""
MOST_RUNS = 2000
"""More than any experiment has; what takes the square of it stays fast."""
LOG_TIMES = (0.0, 45.0)
"""From a nanosecond to a thousand years."""


class KeyFigure(NamedTuple):
    """The time of one inference: exp of the mean of the builds' values."""

    value_ns: float
    low_ns: float | None
    high_ns: float | None
    """95 % interval over builds; `None` for a single build, which has none."""
    builds: int


class BuildSeen(NamedTuple):
    """A build with its runs, as logarithms of nanoseconds."""

    session: str
    id: str
    structure: str | None
    runs: tuple[float, ...]
    rounds: tuple[int, ...]
    """The round of each run."""
    cycles: tuple[float, ...] | None
    """Logarithms of clock cycles of the runs, where the clock was read during each of them."""

    @property
    def value(self) -> float:
        """The build's value."""
        return sum(self.runs) / len(self.runs)


class Observed(NamedTuple):
    """A record as numbers."""

    record: Record
    bundle_id: str
    file: str
    arm: str | None
    """`A` or `B`, in a session that alternates."""
    builds: tuple[BuildSeen, ...]
    clock_mhz: float | None
    memory_clock_mhz: float | None
    throttled_share: float | None
    """Readings at which something held the clocks down, of all while it was measured."""
    least_sd: float
    """What one step of the clock alone makes of the spread of a value."""


class Source(NamedTuple):
    """A bundle as a comparison sees it."""

    file: str
    id: str
    observed: tuple[Observed, ...]
    signer: str
    newer: int | None
    """The schema version, where it is newer than this kit's."""
    wrong: str | None
    """What is wrong with the file, where it was read all the same."""


def load(path: Path, *, verified: bool = True) -> Source:
    """Read a bundle; raise `Refused` for one that is not intact, unless `verified` is False."""
    opened = bundle.read(path, verified=verified)
    records = tuple(opened.records.values())
    files = {channel.file for record in records for channel in record.telemetry.channels}
    contents = bundle.contents(opened, sorted(filter(None, files)))
    try:
        seen = tuple(observe(record, opened.id, path.name, contents) for record in records)
    except Refused as error:
        raise Refused(f"{path.name} is refused: {error.what}") from None
    newest = max((record.schema_version for record in records), default=0)
    return Source(
        path.name,
        opened.id,
        seen,
        opened.inspection.signer.text,
        newest if newest > SCHEMA_VERSION else None,
        opened.wrong,
    )


def observe(record: Record, bundle_id: str, file: str, contents: dict[str, bytes]) -> Observed:
    """Return the numbers of a record; `contents` are the bundle's telemetry files.

    Raise `Refused` for numbers that no run can have had.
    """
    if len(record.runs) > MOST_RUNS:
        raise Refused(f"{record.record_name} has {len(record.runs)} runs; {MOST_RUNS} can be compared")
    for run in record.runs:
        if not LOG_TIMES[0] <= run.summary.log_median <= LOG_TIMES[1]:
            raise Refused(f"run {run.id} of {record.record_name} has a time that can't be")
    recorded = recordings(record, contents)

    def during(candidates: Iterable[clocks.Source], run: Run) -> tuple[float, ...]:
        window = measured(run)
        told = window and clocks.read(recorded, candidates, window)
        return told.values if told else ()

    gpu = record.board.compute_capability is not None
    by_run = {run.id: during(CLOCKS["gpu" if gpu else "cpu"], run) for run in record.runs}
    memory = [value for run in record.runs for value in during(clocks.MEMORY_CLOCKS, run)] if gpu else []
    held = clocks.held_down(recorded, list(filter(None, map(measured, record.runs))))
    structures = {build.id: build.structure_hash for build in record.builds}
    runs_of: dict[str, list[Run]] = {}
    for run in record.runs:
        runs_of.setdefault(run.build, []).append(run)
    arms = {turn.arm for turn in record.protocol.order if turn.subject == record.record_name}
    clock = [value for values in by_run.values() for value in values]
    return Observed(
        record,
        bundle_id,
        file,
        next(iter(arms)) if len(arms) == 1 else None,
        tuple(
            BuildSeen(
                record.session_id,
                build,
                structures.get(build),
                tuple(run.summary.log_median for run in runs),
                tuple(run.round for run in runs),
                tuple(run.summary.log_median + math.log(statistics.fmean(by_run[run.id])) for run in runs)
                if gpu and all(by_run[run.id] for run in runs)
                else None,
            )
            for build, runs in runs_of.items()
        ),
        statistics.median(clock) if clock and all(by_run.values()) else None,
        statistics.median(memory) if memory else None,
        held.share if held else None,
        max((min(1.0, run.timer_check.step_share_of_median) for run in record.runs), default=0.0)
        / math.sqrt(12),
    )


def measured(run: Run) -> Phase | None:
    """Return the phase in which a run was measured."""
    return next((phase for phase in reversed(run.phases) if phase.name == "measure"), None)


def recordings(record: Record, contents: dict[str, bytes]) -> dict[str, Recorded]:
    """Return what each probe recorded, by name; raise `Refused` for a file of a wrong size."""
    # In the order of the record, which is the same for every reader.
    probes = dict.fromkeys(channel.probe for channel in record.telemetry.channels)
    return {name: read for name in probes if (read := recording(record, name, contents)) is not None}


def recording(record: Record, probe: str, contents: dict[str, bytes]) -> Recorded | None:
    """Return what a probe recorded, `None` where there is no file of it; raise `Refused` for a wrong size."""
    channels = [each for each in record.telemetry.channels if each.probe == probe and each.coverage]
    file = next((each.file for each in channels if each.file), None)
    if file is None or file not in contents:
        return None
    data, columns = contents[file], 1 + len(channels)
    if len(data) % (8 * columns):
        raise Refused(f"{file} has {len(data)} bytes, which are not {columns} columns")
    rows = len(data) // (8 * columns)
    times = struct.unpack_from(f"<{rows}q", data)
    values = (struct.unpack_from(f"<{rows}d", data, 8 * rows * (1 + i)) for i in range(len(channels)))
    return Recorded(tuple(each.name for each in channels), (times, *values))


def build_values(record: Record) -> list[float]:
    """Return the value of each build that was measured."""
    values: dict[str, list[float]] = {}
    for run in record.runs:
        values.setdefault(run.build, []).append(run.summary.log_median)
    return [sum(runs) / len(runs) for runs in values.values()]


def key_figure(record: Record) -> KeyFigure | None:
    """Return the figure of a record, `None` where nothing was measured."""
    builds = build_values(record)
    if not builds:
        return None
    interval = stats.mean_interval(builds)
    low, high = (exp(interval[0]), exp(interval[1])) if interval else (None, None)
    return KeyFigure(exp(sum(builds) / len(builds)), low, high, len(builds))


def exp(value: float) -> float:
    """Return e^`value`, for whatever number somebody else's record holds."""
    return math.exp(max(-700.0, min(value, 700.0)))
