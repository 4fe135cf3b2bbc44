"""Builds × runs × iterations: in which order, for how long, on which clock.

Nothing is averaged away here: a run gives every iteration's start and duration, and what looks odd
becomes a flag. `docs/method.md` says what the figures mean and what they don't.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol as Interface

import msgspec
import numpy as np
import numpy.typing as npt

from repro import stats
from repro.errors import UsageError, unknown
from repro.schema import (
    Arm,
    Clock,
    Column,
    Flag,
    Phase,
    Preheat,
    Protocol,
    Summary,
    TimerCheck,
    Turn,
)

KEPT_ROWS = 20_000
"""Rows of a samples file; longer runs are thinned evenly and say so."""
FLAT_SHARE = 0.01
FLAT_WINDOW_S = 2.0
HOST_TIMER = "host clock around each inference"
EVENT_TIMER = "CUDA events before and after each inference"
AHEAD = 8
"""Inferences that wait in a full queue, so that the device never waits for the host."""
CLOCKS_AGREE_SHARE = 0.01
ENQUEUE_BOUND_SHARE = 0.9

now_ns = time.perf_counter_ns
"""The clock of everything: on Linux CLOCK_MONOTONIC, one for all processes of the machine."""


def clock() -> Clock:
    """Describe `now_ns`."""
    info = time.get_clock_info("perf_counter")
    return Clock(info.implementation, max(1, round(info.resolution * 1e9)))


# --- protocols ----------------------------------------------------------------------------------

PROTOCOLS = {
    "brief": Protocol("brief", 3, 1, 3.0, 20, 5.0, 50.0),
    "standard": Protocol("standard", 5, 3, 3.0, 200, 30.0, None),
    # One build, one run, trtexec's own defaults: a look, never a claim on releases.
    "forum": Protocol("forum", 1, 1, 3.0, 10, 0.0, None),
}
STANDARD_BUILDS_IN_PROCESS = 8
"""`standard` where a build can't outlive its process: more builds stand in for runs."""


def protocol(
    name: str,
    *,
    build_outlives_process: bool,
    builds: int | None = None,
    runs: int | None = None,
    seconds: float | None = None,
    iterations: int | None = None,
) -> Protocol:
    """Return the protocol `name` with the given parts replaced; raise `UsageError` if it can't be."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    chosen = PROTOCOLS[name]
    if not build_outlives_process:
        if runs is not None and runs > 1:
            raise UsageError(
                "--runs above 1 has no meaning here: with this backend a build ends with its process",
                "use --builds",
            )
        if chosen.runs > 1:
            chosen = msgspec.structs.replace(chosen, builds=STANDARD_BUILDS_IN_PROCESS, runs=1)
    given = {"builds": builds, "runs": runs, "seconds": seconds, "iterations": iterations}
    changed = {key: value for key, value in given.items() if value is not None}
    for key, value in changed.items():
        if not 0 < value < math.inf:  # Written so that NaN is refused too.
            raise UsageError(f"--{'duration' if key == 'seconds' else key} must be above 0")
    return msgspec.structs.replace(chosen, **changed) if changed else chosen


def order(
    subjects: Sequence[str], plan: Protocol, seed: int, *, build_outlives_process: bool
) -> tuple[Turn, ...]:
    """Return the turns of a session.

    Where builds outlive the process, round 0 builds everything and each further round runs every
    (subject, build) once; otherwise each round is one build-and-run of every subject. Each round is
    shuffled by `seed`, so that drift of the machine is not aliased with subjects or builds.
    """
    shuffle = random.Random(seed).shuffle  # noqa: S311 - an order, not a secret
    builds = range(plan.builds)
    rounds: list[list[tuple[str, int, int | None]]] = []
    if build_outlives_process:
        rounds.append([(name, build, None) for build in builds for name in subjects])
        rounds += [[(name, build, run) for build in builds for name in subjects] for run in range(plan.runs)]
    else:
        rounds += [[(name, build, 0) for name in subjects] for build in builds]
    for entries in rounds:
        shuffle(entries)
    return tuple(
        Turn(number, position, name, build, run)
        for number, entries in enumerate(rounds)
        for position, (name, build, run) in enumerate(entries)
    )


ROUNDS = 6
"""Quads of an alternating comparison, unless `forum` or the user asks for another number."""


def alternating_protocol(
    plan: Protocol, *, build_outlives_process: bool, rounds: int | None = None
) -> Protocol:
    """Return `plan` for an alternating comparison of `rounds` quads, each with builds of its own.

    Time is no reason to cut quads off: half of them would say half as much.
    """
    if rounds is None:
        rounds = 1 if plan.name == "forum" else ROUNDS
    if rounds < 1:
        raise UsageError("--rounds must be above 0")
    builds, runs = (rounds, 2) if build_outlives_process else (2 * rounds, 1)
    return msgspec.structs.replace(plan, builds=builds, runs=runs, budget_s=None)


def alternating(
    a: str, b: str, plan: Protocol, seed: int, *, build_outlives_process: bool
) -> tuple[Turn, ...]:
    """Return the turns of a session that compares the records `a` and `b` in quads, A B B A or B A A B.

    A linear drift of the machine cancels within a quad; half of the quads begin with each arm, in an
    order by `seed`. Where builds outlive the process, round 0 builds everything and each quad runs one
    build of each arm twice; otherwise a quad has two fresh builds of each arm.
    """
    shuffle = random.Random(seed).shuffle  # noqa: S311 - an order, not a secret
    names: dict[Arm, str] = {"A": a, "B": b}
    rounds: list[list[tuple[Arm, int, int | None]]] = []
    if build_outlives_process:
        every: list[tuple[Arm, int, int | None]] = [
            (arm, k, None) for k in range(plan.builds) for arm in names
        ]
        shuffle(every)
        rounds.append(every)
        pairs = []
        for first in range(0, plan.runs - 1, 2):
            part = [((k, first), (k, first + 1)) for k in range(plan.builds)]
            shuffle(part)
            pairs += part
    else:
        pairs = [((k, 0), (k + 1, 0)) for k in range(0, plan.builds - 1, 2)]
    forms: list[tuple[Arm, Arm]] = [("A", "B") if i % 2 else ("B", "A") for i in range(len(pairs))]
    shuffle(forms)
    for (early, late), (outer, inner) in zip(pairs, forms, strict=True):
        rounds.append([(outer, *early), (inner, *early), (inner, *late), (outer, *late)])
    return tuple(
        Turn(number, position, names[arm], build, run, arm)
        for number, entries in enumerate(rounds)
        for position, (arm, build, run) in enumerate(entries)
    )


# --- iterations ---------------------------------------------------------------------------------

COLUMNS = (
    Column("start_ns", "ns"),
    Column("duration_ns", "ns"),
    Column("involuntary_switches", "1"),
    Column("enqueue_ns", "ns"),
    Column("h2d_ns", "ns"),
    Column("d2h_ns", "ns"),
)


class Series(msgspec.Struct, frozen=True):
    """The iterations of a run, by column (`COLUMNS`); starts are on `now_ns`, absolute."""

    start_ns: npt.NDArray[np.int64]
    duration_ns: npt.NDArray[np.int64]
    involuntary_switches: npt.NDArray[np.int64] | None
    enqueue_ns: npt.NDArray[np.int64] | None = None
    """Host time to enqueue, where the device executes on its own."""
    h2d_ns: npt.NDArray[np.int64] | None = None
    d2h_ns: npt.NDArray[np.int64] | None = None
    """Copies to and from the device, where they run along and are timed."""

    def summary(self) -> Summary:
        """Summarise all iterations."""
        times = self.duration_ns
        p90, p99 = np.percentile(times, [90, 99])
        return Summary(
            n=int(times.size),
            median_ns=float(np.median(times)),
            mean_ns=float(times.mean()),
            min_ns=int(times.min()),
            max_ns=int(times.max()),
            p90_ns=float(p90),
            p99_ns=float(p99),
            log_median=stats.log_median(times),
        )

    def packed(self) -> tuple[bytes, tuple[Column, ...], int]:
        """Return the samples file, its columns and the number of rows kept."""
        keep = stats.thin(self.start_ns.size, KEPT_ROWS)
        arrays = (
            self.start_ns - self.start_ns[0],
            self.duration_ns,
            self.involuntary_switches,
            self.enqueue_ns,
            self.h2d_ns,
            self.d2h_ns,
        )
        present = [(spec, array) for spec, array in zip(COLUMNS, arrays, strict=True) if array is not None]
        data = b"".join(array[keep].astype("<i8").tobytes() for _, array in present)
        return data, tuple(spec for spec, _ in present), int(keep.size)


class Timed(msgspec.Struct, frozen=True):
    """A run by a runtime that times itself; phases are on `now_ns`, absolute."""

    series: Series
    preheat: Preheat
    timer_check: TimerCheck
    phases: tuple[Phase, ...]
    flags: tuple[Flag, ...] = ()
    enqueue_median_ns: float | None = None


def unpack(data: bytes, columns: Sequence[Column], rows: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return the columns of a samples file; raise `ValueError` if its size is not theirs."""
    if len(data) != 8 * rows * len(columns):
        raise ValueError(f"{len(data)} bytes are not {len(columns)} columns of {rows} rows")
    table = np.frombuffer(data, "<i8").reshape(len(columns), rows)
    return {column.name: table[i] for i, column in enumerate(columns)}


def iterate(
    step: Callable[[], None],
    *,
    seconds: float,
    iterations: int,
    clock_ns: Callable[[], int] = now_ns,
    switches: Callable[[], int] | None = None,
    enough: Callable[[list[int], list[int]], bool] | None = None,
) -> Series:
    """Call `step` until at least `seconds` and `iterations` are done, or `enough(starts, durations)`.

    `switches` is a counter of involuntary context switches of this process, read between iterations.
    """
    starts: list[int] = []
    durations: list[int] = []
    counts: list[int] = [switches()] if switches else []
    begin = clock_ns()
    end = begin + int(seconds * 1e9)
    while True:
        start = clock_ns()
        step()
        stop = clock_ns()
        starts.append(start)
        durations.append(stop - start)
        if switches:
            counts.append(switches())
        if (stop >= end and len(starts) >= iterations) or (enough and enough(starts, durations)):
            break
    return Series(
        np.array(starts, dtype=np.int64),
        np.array(durations, dtype=np.int64),
        np.array([b - a for a, b in pairwise(counts)], dtype=np.int64) if switches else None,
    )


class Queue(Interface):
    """A device that executes in the order of enqueueing and stamps events with its own clock."""

    resolution_ns: int

    def event(self) -> int:
        """Make an event."""

    def mark(self, event: int) -> None:
        """Enqueue an event."""

    def wait(self, event: int | None = None) -> None:
        """Wait for an event, or for everything."""

    def between_ns(self, first: int, second: int) -> float:
        """Return the time between two events that have happened."""


def iterate_enqueued(
    queue: Queue,
    enqueue: Callable[[], None],
    *,
    seconds: float,
    iterations: int,
    ahead: int = AHEAD,
    before: Callable[[], None] | None = None,
    clock_ns: Callable[[], int] = now_ns,
    switches: Callable[[], int] | None = None,
) -> tuple[Series, float]:
    """Enqueue until at least `seconds` and `iterations` are done, with up to `ahead` waiting.

    Each duration is between an event before and one after the inference; `before` enqueues what must
    not be timed. Returns the iterations, and the device's time over the host's for the whole run.
    """
    base = queue.event()
    events = [(queue.event(), queue.event()) for _ in range(ahead + 1)]
    starts: list[int] = []
    durations: list[int] = []
    enqueued: list[int] = []
    counts: list[int] = [switches()] if switches else []
    queue.wait()
    queue.mark(base)
    queue.wait(base)
    zero = clock_ns()
    end = zero + int(seconds * 1e9)
    last = base

    def collect() -> None:
        first, after = events[len(durations) % len(events)]
        queue.wait(after)
        starts.append(zero + round(queue.between_ns(base, first)))
        durations.append(max(1, round(queue.between_ns(first, after))))

    while clock_ns() < end or len(enqueued) < iterations:
        if before:
            before()
        first, last = events[len(enqueued) % len(events)]
        queue.mark(first)
        begin = clock_ns()
        enqueue()
        enqueued.append(clock_ns() - begin)
        queue.mark(last)
        if switches:
            counts.append(switches())
        while len(enqueued) - len(durations) > ahead:
            collect()
    queue.wait(last)
    host_ns = clock_ns() - zero
    device_ns = queue.between_ns(base, last)
    while len(durations) < len(enqueued):
        collect()
    series = Series(
        np.array(starts, dtype=np.int64),
        np.array(durations, dtype=np.int64),
        np.array([b - a for a, b in pairwise(counts)], dtype=np.int64) if switches else None,
        np.array(enqueued, dtype=np.int64),
    )
    return series, device_ns / host_ns


def flat(starts: list[int], durations: list[int]) -> bool:
    """Tell whether the time per iteration changed by less than 1 % over the last two seconds."""
    end = starts[-1] + durations[-1]
    if end - starts[0] < FLAT_WINDOW_S * 1e9:
        return False
    first = np.searchsorted(starts, end - int(FLAT_WINDOW_S * 1e9))
    window = durations[int(first) :]
    half = len(window) // 2
    if half < 2:
        return False
    before, after = np.median(window[:half]), np.median(window[half:])
    return abs(float(after / before) - 1) < FLAT_SHARE


def preheat(
    step: Callable[[], None],
    *,
    warm_up_ms: int,
    max_seconds: float,
    clock_ns: Callable[[], int] = now_ns,
) -> Preheat:
    """Iterate through the case's warm-up, then until `flat`, at most `max_seconds` in all."""
    begin = clock_ns()
    iterate(step, seconds=warm_up_ms / 1e3, iterations=1, clock_ns=clock_ns)
    reached: bool | None = False if max_seconds > 0 else None
    left_s = max_seconds - (clock_ns() - begin) / 1e9
    if left_s > 0:
        # `flat` looks at two seconds of history, so a thousand looks a second would only cost.
        looks = {"next": clock_ns() + int(FLAT_WINDOW_S * 1e9)}

        def enough(starts: list[int], durations: list[int]) -> bool:
            nonlocal reached
            if clock_ns() < looks["next"]:
                return False
            looks["next"] = clock_ns() + 100_000_000
            reached = flat(starts, durations)
            return reached

        iterate(step, seconds=left_s, iterations=1, clock_ns=clock_ns, enough=enough)
    return Preheat(reached, (clock_ns() - begin) / 1e9)


def timer_check(median_ns: float, clock_ns: Callable[[], int] = now_ns) -> TimerCheck:
    """Measure the smallest step of the clock and set it against the median duration."""
    step = min(_step(clock_ns) for _ in range(50))
    return TimerCheck(step, step / median_ns)


def event_check(series: Series, resolution_ns: int, ratio: float | None) -> TimerCheck:
    """Return the smallest difference between durations, or the stated resolution where all are equal."""
    distinct = np.unique(series.duration_ns)
    step = int(np.diff(distinct).min()) if distinct.size > 1 else resolution_ns
    return TimerCheck(step, step / float(np.median(series.duration_ns)), ratio)


def _step(clock_ns: Callable[[], int]) -> int:
    first = clock_ns()
    while (second := clock_ns()) == first:
        pass
    return second - first


def flags(series: Series, warm: Preheat, check: TimerCheck) -> tuple[Flag, ...]:
    """Say what a reader of this run must know."""
    found = []
    n = series.duration_ns.size
    change, p = stats.trend(np.log(series.duration_ns))
    if p < 0.01 and abs(change) > FLAT_SHARE:
        found.append(Flag("trend", f"times moved by {change:+.1%} within the run (p = {p:.2g})"))
    if warm.reached is False:
        found.append(Flag("not_flat", f"times were not flat after {warm.seconds:.1f} s of pre-heat"))
    odd = int(stats.odd(series.duration_ns, check.step_ns).sum())
    if odd:
        found.append(Flag("odd_samples", f"{odd} of {n} iterations are far from the rest; kept"))
    if check.step_share_of_median > FLAT_SHARE:
        found.append(Flag("coarse_clock", f"one step is {check.step_share_of_median:.1%} of a median"))
    ratio = check.second_clock_ratio
    if ratio is not None and abs(ratio - 1) > CLOCKS_AGREE_SHARE:
        found.append(Flag("clocks_disagree", f"the device's clock ran at {ratio:.4f} of the host's"))
    if series.enqueue_ns is not None:
        share = float(np.median(series.enqueue_ns) / np.median(series.duration_ns))
        if share > ENQUEUE_BOUND_SHARE:
            found.append(
                Flag(
                    "enqueue_bound",
                    f"enqueueing took {share:.0%} of an inference: the device may have waited",
                )
            )
    return tuple(found)
