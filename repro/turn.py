"""One turn: a fresh process that builds an engine and checks its output, or measures one, or both.

Where a build ends with its process, a turn does all of it. Where it outlives the process, a turn
without a run builds, profiles and checks, and leaves the engine in `home` for the turns that run it.

Reads `turn.json`, writes `stages.jsonl` while it goes (so that a crash still tells how far it came),
`found.json`, `samples.bin`, and last `result.json`. A failure is a result too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from repro import backends, check, measure, models
from repro.errors import signature
from repro.lowering import mismatches
from repro.proc import end_own_group, hold_lifeline
from repro.schema import (
    Build,
    Effective,
    ErrorSeen,
    Flag,
    Layer,
    Library,
    OutputCheck,
    Phase,
    Preheat,
    Protocol,
    ReleaseSeen,
    Samples,
    Scalar,
    Stage,
    StageName,
    Subject,
    Summary,
    TensorSpec,
    TimerCheck,
    Turn,
)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn is asked for; times in its answer are relative to `origin_ns`."""

    turn: Turn
    subject: Subject
    model_path: str
    backend: str
    gpu: bool
    build_only: bool = False
    """Whether there is no GPU to execute on: it ends when the engine is built."""
    threads: int
    seed: int
    protocol: Protocol
    process: int
    origin_ns: int
    home: str
    """Folder of the build, shared by its turns where it outlives them."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the run of a turn gave; the worker makes it a `Run`."""

    samples: Samples
    summary: Summary
    preheat: Preheat
    timer_check: TimerCheck
    involuntary_switches_per_iteration: float | None
    enqueue_median_ns: float | None
    phases: tuple[Phase, ...]
    flags: tuple[Flag, ...]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a turn found out, up to its failure if it failed."""

    stages: tuple[Stage, ...]
    build: Build | None = None
    run: Measured | None = None
    effective: dict[str, Effective] = {}
    layers: tuple[Layer, ...] | None = None
    libraries: tuple[Library, ...] = ()
    options: dict[str, Scalar] = {}
    provider: str | None = None
    release: ReleaseSeen | None = None
    """What this very process found, where the subject asks for a release."""

    def write(self, folder: Path, name: str = "result.json") -> None:
        """Write it down, complete or not at all."""
        part = folder / f"{name}.part"
        part.write_bytes(msgspec.json.encode(self))
        part.replace(folder / name)

    @classmethod
    def read(cls, folder: Path, name: str = "result.json") -> Result | None:
        """Return the result that a turn wrote, `None` where it didn't come so far."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((folder / name).read_bytes(), type=cls)
        return None


class Failure(Exception):
    """A stage ended, but its outcome is a failure: `code` in the kit's own words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Trace:
    """The stages of this turn, written down as they begin and end."""

    def __init__(self, path: Path, origin_ns: int) -> None:
        self._path = path
        self._origin_ns = origin_ns
        self.done: list[Stage] = []

    def now(self) -> int:
        """Return the time since the session's start."""
        return self.relative(measure.now_ns())

    def relative(self, time_ns: int) -> int:
        """Return a time of the kit's clock since the session's start."""
        return time_ns - self._origin_ns

    def stage(self, name: StageName) -> _Stage:
        """Return the context of a stage: an exception in it becomes its error, and goes on."""
        return _Stage(self, name)

    def note(self, stage: Stage) -> None:
        """Append a stage's beginning (no end) or end."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(stage) + b"\n")
        if stage.end_ns is not None:
            self.done.append(stage)


class _Stage:
    def __init__(self, trace: Trace, name: StageName) -> None:
        self._trace, self._name, self._start_ns = trace, name, trace.now()

    def __enter__(self) -> None:
        self._trace.note(Stage(self._name, "ok", self._start_ns, None, None))

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        seen = None if error is None else _seen(self._name, error)
        self._trace.note(
            Stage(self._name, "failed" if seen else "ok", self._start_ns, self._trace.now(), seen)
        )


def _seen(stage: StageName, error: BaseException) -> ErrorSeen:
    # A backend's error may bring a code of its own.
    code, signal = getattr(error, "code", None), getattr(error, "signal", None)
    if not isinstance(code, str):
        code = type(error).__name__
    message = str(error) or type(error).__name__
    return ErrorSeen(stage, code, signal, message, signature(stage, code, message))


def read_stages(folder: Path) -> tuple[Stage, ...]:
    """Return the stages that a turn wrote down; one without an end was going on when it stopped."""
    stages: dict[str, Stage] = {}
    with contextlib.suppress(OSError):
        for line in (folder / "stages.jsonl").read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                stage = msgspec.json.decode(line, type=Stage)
                stages[stage.name] = stage
    return tuple(stages.values())


def run(task: Task, folder: Path) -> Result:
    """Carry out `task`: prepare; build, profile, check; run."""
    trace = Trace(folder / "stages.jsonl", task.origin_ns)
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # The stage has noted it; what was found before it stays.
        steps = _steps(task, folder, trace)
        for part in steps:
            try:
                # What is known by now must outlive a crash.
                Result(stages=tuple(trace.done), **{**found, **part}).write(folder, "found.json")
            except Exception as error:  # noqa: BLE001 - it belongs to the stage that gave this part
                steps.throw(error)
            found.update(part)
    return Result(stages=tuple(trace.done), **found)


Parts = Generator[dict[str, object], None, None]
"""Parts of the result, as they are found out."""


def _steps(task: Task, folder: Path, trace: Trace) -> Parts:
    backend = backends.load(task.backend)
    if task.turn.run is None or not backend.BUILD_OUTLIVES_PROCESS:
        engine = yield from _build(task, trace, backend)
    else:
        with trace.stage("prepare"):
            engine = backend.reload(Path(task.home), task.subject, lambda: _source(task))
    if task.turn.run is not None:
        yield from _run(task, folder, trace, backend, engine)


def _source(task: Task) -> Any:
    """Return the input of the turn's build, which follows from the job's seed."""
    return models.inputs(f"{task.seed}/{task.turn.build}", _ends(task.subject)[0])


def _ends(subject: Subject) -> tuple[TensorSpec, TensorSpec]:
    """Return the network's input and output as they are bound."""
    return models.tensors(subject.model, models.file_precision(str(subject.planned["precision"])))


def _build(task: Task, trace: Trace, backend: ModuleType) -> Generator[dict[str, object], None, Any]:
    """Build an engine, profile it where it will outlive this turn, and check its output."""
    subject = task.subject
    with trace.stage("prepare"):
        source, result = _source(task), check.poison(_ends(subject)[1])
        if subject.release is not None:
            seen = backend.release(gpu=task.gpu)
            yield {"release": seen}
            if seen.name != subject.release:
                raise Failure("wrong_release", f"{seen.name} is here, planned was {subject.release}")
    with trace.stage("build"):
        begin = measure.now_ns()
        engine = backend.build(
            Path(task.model_path),
            Path(task.home),
            subject,
            gpu=task.gpu and not task.build_only,
            threads=task.threads,
            source=source,
            result=result,
        )
        jit_seconds = getattr(engine, "jit_seconds", None)
        seconds = (measure.now_ns() - begin) / 1e9 - (jit_seconds or 0.0)
        effective = engine.effective()
        build = Build(
            id=f"b{task.turn.build}",
            process=task.process,
            seconds=seconds,
            structure_hash=engine.structure_hash(),
            input_hash=hashlib.sha256(source.data).hexdigest(),
            plan_sha256=engine.plan_sha256,
            recipe_hash=engine.recipe_hash,
            timing_cache=engine.timing_cache,
            jit_seconds=jit_seconds,
        )
        yield {
            "build": build,
            "effective": effective,
            "layers": engine.layers(),
            "libraries": backend.libraries(),
            "options": engine.options,
            "provider": ",".join(engine.providers),
        }
        _hold(subject, effective)
    if task.build_only:
        return engine
    if backend.BUILD_OUTLIVES_PROCESS:
        with trace.stage("profile"):
            yield {"layers": engine.profile()}
    with trace.stage("check"):
        engine.poison(result)
        engine.step()
        verdict = _check(
            task, engine.output(), source, backend.unoptimised, str(effective["precision"].value)
        )
        yield {"build": msgspec.structs.replace(build, check=verdict)}
        if not verdict.ok:
            raise Failure("wrong_output", "; ".join(verdict.problems))
    return engine


def _run(task: Task, folder: Path, trace: Trace, backend: ModuleType, engine: Any) -> Parts:
    """Measure an engine, or have it measure itself and hold what it did against the plan."""
    subject = task.subject
    with trace.stage("run"):
        if backend.TIMES_ITSELF:
            measured = _measured(folder, trace, engine.time())
            effective = engine.effective()
            yield {"effective": effective}
            _hold(subject, effective)
        else:
            measured = _measured(folder, trace, _measure(task, engine))
            # What the kit itself does.
            own = {"warm_up_ms", "duration_s", "percentiles", "l2", "queue"} & subject.planned.keys()
            effective = engine.effective() | {
                name: Effective(subject.planned[name], "echo") for name in sorted(own)
            }
        yield {"run": measured, "effective": effective}


def _hold(subject: Subject, effective: dict[str, Effective]) -> None:
    """Fail by the name of each setting that was read back as something else than planned."""
    if wrong := mismatches(subject.planned, effective):
        raise Failure(
            "not_as_planned",
            "; ".join(f"{m.setting} is {m.effective}, planned was {m.planned}" for m in wrong),
        )


def _check(
    task: Task, output: Any, source: Any, library: Callable[[bytes, Any], Any], precision: str
) -> OutputCheck:
    subject = task.subject
    if precision not in subject.tolerances:
        raise Failure("no_tolerance", f"the case allows no error for {precision}: add it to [tolerance]")
    model = Path(task.model_path)
    limit = check.tolerance(subject.tolerances[precision], models.weighted_layers(subject.model))
    seed = f"{task.seed}/{task.turn.build}/positions"
    ends = _ends(subject)
    return check.output(model.read_bytes(), source, output, ends[1], limit, seed=seed, library=library)


def _measure(task: Task, engine: Any) -> measure.Timed:
    """Iterate an engine: pre-heat, then measure."""
    plan, planned = task.protocol, task.subject.planned
    switches = _involuntary_switches()
    start = measure.now_ns()
    warm = measure.preheat(
        engine.step, warm_up_ms=int(planned["warm_up_ms"] or 0), max_seconds=plan.preheat_max_s
    )
    middle = measure.now_ns()
    ratio = None
    if engine.queue is None:
        series = measure.iterate(
            engine.step, seconds=plan.seconds, iterations=plan.iterations, switches=switches
        )
    else:
        series, ratio = measure.iterate_enqueued(
            engine.queue,
            engine.enqueue,
            seconds=plan.seconds,
            iterations=plan.iterations,
            ahead=measure.AHEAD if planned["queue"] == "full" else 0,
            before=engine.queue.flush_l2 if planned["l2"] == "flush" else None,
            switches=switches,
        )
    phases = (Phase("preheat", start, middle), Phase("measure", middle, measure.now_ns()))
    timer = (
        measure.timer_check(series.summary().median_ns)
        if ratio is None
        else measure.event_check(series, engine.queue.resolution_ns, ratio)
    )
    enqueued = series.enqueue_ns
    median = None if enqueued is None else float(statistics.median(enqueued.tolist()))
    return measure.Timed(series, warm, timer, phases, enqueue_median_ns=median)


def _measured(folder: Path, trace: Trace, timed: measure.Timed) -> Measured:
    """Write the samples down, and say what there is to say about them."""
    series = timed.series
    data, columns, rows = series.packed()
    (folder / "samples.bin").write_bytes(data)
    summary = series.summary()
    counted = series.involuntary_switches
    return Measured(
        samples=Samples("samples.bin", columns, rows, summary.n if summary.n > rows else None),
        summary=summary,
        preheat=timed.preheat,
        timer_check=timed.timer_check,
        involuntary_switches_per_iteration=None if counted is None else float(counted.mean()),
        enqueue_median_ns=timed.enqueue_median_ns,
        phases=tuple(
            Phase(phase.name, trace.relative(phase.start_ns), trace.relative(phase.end_ns))
            for phase in timed.phases
        ),
        flags=(*measure.flags(series, timed.preheat, timed.timer_check), *timed.flags),
    )


def _involuntary_switches() -> Callable[[], int] | None:
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return None
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def main(folder: Path) -> None:
    """Run the turn of `folder`, ending at once if the worker goes away."""
    gone = hold_lifeline()
    # A program that this turn runs must not outlive the worker either.
    threading.Thread(target=lambda: (gone.wait(), end_own_group()), daemon=True).start()
    task = msgspec.json.decode((folder / "turn.json").read_bytes(), type=Task)
    run(task, folder).write(folder)
    # Not sys.exit: a runtime's static destructors must not turn a good result into a crash.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
