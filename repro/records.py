"""From turns and telemetry to a record: every value with its source, every gap with its reason."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro import backends, clocks, devices, identity, measure, models, telemetry, work
from repro.backends import cuda
from repro.backends.cuda import Gpu
from repro.clocks import Clock as Readings
from repro.devices import DEVICES
from repro.errors import ReproError, Unavailable, signature
from repro.lowering import mismatches
from repro.probes.host import boot_id, limits, usable_cores, virtualisation
from repro.schema import (
    Build,
    Clock,
    CutShort,
    Effective,
    ErrorSeen,
    Flag,
    Job,
    Limits,
    Missing,
    ModelSeen,
    Place,
    ProtocolSeen,
    Record,
    ReleaseSeen,
    Run,
    Runtime,
    SettingsSeen,
    Stage,
    StageName,
    Status,
    Subject,
    Turn,
)
from repro.telemetry import Recording
from repro.turn import Measured, Result, Task, read_stages

STAGES: tuple[StageName, ...] = ("prepare", "build", "profile", "check", "run")
FOREIGN_SHARE = 0.05
"""Foreign CPU time above this share of one core, while a run was measured, is flagged."""
FOREIGN_LEAST_S = 0.05
"""And above this: five counters of 10 ms ticks (/proc/stat) differ by as much when nothing runs."""


class Sitting(msgspec.Struct, frozen=True, kw_only=True):
    """A session as the worker finds it before its first turn.

    It is written down at once, so that the records can be made by somebody else if the worker ends.
    """

    started_utc: str
    wall_ns: int
    """The wall clock at `origin_ns`, to notice when it is set during the session."""
    origin_ns: int
    boot: str | None
    clock: Clock
    release: ReleaseSeen | None
    """The worker's own; `None` where there is none, and every turn has an interpreter that has one."""
    driver: str | None
    threads: int
    cores: int
    limits: Limits
    virtualised: str | None
    gpu: Gpu | None
    """The device under test, where it is one."""
    no_gpu: str | None = None
    """Why there is none, where the backend builds without one and nothing can be run."""
    probes: tuple[str, ...] = ("host",)
    """What reads the machine's state."""

    @classmethod
    def begin(cls, job: Job) -> Sitting:
        """Look at the machine."""
        now = datetime.datetime.now(datetime.timezone.utc)
        cores = usable_cores()
        no_gpu = devices.build_only(DEVICES[job.device], job.backend)
        gpu = cuda.look() if DEVICES[job.device].gpu and not job.place.standin and not no_gpu else None
        release = _own_release(job, gpu=DEVICES[job.device].gpu)
        driver = cuda.driver_version() if gpu else None
        if release:
            # An image has the name of its row, which says more than the runtime knows of itself.
            name = job.release if job.place.kind == "docker" else release.name
            release = msgspec.structs.replace(release, name=name, driver=driver)
        return cls(
            started_utc=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            wall_ns=time.time_ns(),
            origin_ns=measure.now_ns(),
            boot=boot_id(),
            clock=measure.clock(),
            release=release,
            driver=driver,
            threads=job.threads or max(1, cores - 1),
            cores=cores,
            limits=limits(),
            virtualised=virtualisation(),
            gpu=gpu,
            no_gpu=no_gpu,
            probes=telemetry.probes(gpu.uuid if gpu else None),
        )

    def write(self, out: Path) -> None:
        """Write it down beside the turns."""
        (out / "session.json").write_bytes(msgspec.json.encode(self))

    @classmethod
    def read(cls, out: Path) -> Sitting | None:
        """Return what the worker wrote down, `None` where it didn't come so far."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((out / "session.json").read_bytes(), type=cls)
        return None


def _own_release(job: Job, *, gpu: bool) -> ReleaseSeen | None:
    try:
        found: ReleaseSeen = backends.load(job.backend).release(gpu=gpu)
    except Unavailable:
        if any(subject.interpreter is None for subject in job.subjects):
            raise
        return None
    return found


class Taken(NamedTuple):
    """A turn that was taken, and what it gave."""

    turn: Turn
    folder: Path
    result: Result
    wall_ns: int = 0
    """From starting the process to having its result."""

    @property
    def overhead_ns(self) -> int:
        """What the turn took beside its stages: starting, loading libraries, ending."""
        stages = self.result.stages
        return self.wall_ns - sum((s.end_ns or 0) - (s.start_ns or 0) for s in stages)

    @property
    def run_id(self) -> str:
        """Name of the build or run, unique in its record."""
        run = "" if self.turn.run is None else f"r{self.turn.run}"
        return f"b{self.turn.build}{run}"


def engine_home(out: Path, subject: str, build: int) -> Path:
    """Return the folder of a build that outlives its process; it never leaves the machine."""
    return out / "engines" / subject / f"b{build}"


def ended_early(folder: Path, code: str, signal: str | None, message: str, now_ns: int | None) -> Result:
    """Return what a turn had found out before something ended it, as `code` and `message` say."""
    stages = read_stages(folder)
    current: StageName = stages[-1].name if stages else "prepare"
    error = ErrorSeen(current, code, signal, message, signature(current, signal or code, message))
    start_ns = next((stage.start_ns for stage in stages if stage.name == current), None)
    ended = [stage for stage in stages if stage.end_ns is not None]
    found = Result.read(folder, "found.json") or Result(stages=())
    return msgspec.structs.replace(found, stages=(*ended, Stage(current, "failed", start_ns, now_ns, error)))


def assemble(
    job: Job,
    sitting: Sitting,
    all_taken: Sequence[Taken],
    cut: CutShort | None,
    recording: Recording,
    overhead_ns: dict[str, int],
) -> tuple[Record, ...]:
    """Make the records of a session from its turns and its telemetry; reads nothing of the machine."""
    return tuple(
        _record(job, subject, sitting, all_taken, cut, recording, overhead_ns) for subject in job.subjects
    )


def _record(
    job: Job,
    subject: Subject,
    sitting: Sitting,
    all_taken: Sequence[Taken],
    cut: CutShort | None,
    recording: Recording,
    overhead_ns: dict[str, int],
) -> Record:
    taken = [entry for entry in all_taken if entry.turn.subject == subject.record_name]
    results = [entry.result for entry in taken]
    backend = backends.load(job.backend)
    # Where builds outlive their process, they were made in a shuffled order.
    built = sorted((entry for entry in taken if entry.result.build), key=lambda entry: entry.turn.build)
    builds = tuple(entry.result.build for entry in built if entry.result.build)
    engines = {f"b{entry.turn.build}": entry.result for entry in built}
    runs = tuple(
        _run(job, entry, entry.result.run, engines[f"b{entry.turn.build}"], sitting, recording)
        for entry in taken
        if entry.result.run
    )
    profiles = backend.BUILD_OUTLIVES_PROCESS
    stages = _stages(results, [name for name in STAGES if profiles or name != "profile"])
    error = next((stage.error for stage in stages if stage.error), None)
    status: Status = "unavailable" if subject.refused else "failed" if error or not runs else "measured"
    reason = subject.refused or (None if runs else "it ended before anything was measured")
    if status == "failed" and not error and builds and sitting.no_gpu:
        status, reason = "built", f"not run, because {sitting.no_gpu}"
    if error:
        # Some libraries explain themselves over many lines; the stage's error keeps them all.
        reason = error.message.strip().partition("\n")[0]
    effective: dict[str, Effective] = {}
    for result in results:
        effective |= result.effective
    first = built[0].result if built else Result(stages=())
    precision = models.file_precision(str(subject.planned["precision"]))
    tensors = models.tensors(subject.model, precision)
    # With weak typing the file has wider types than what goes in and out.
    built_from = subject.model_file.split(".")[-2]
    reached = {stage.name for stage in stages if stage.status != "not_reached"}
    record = Record(
        kit=job.kit,
        run_id=job.run_id,
        session_id=job.session_id,
        boot=sitting.boot,
        record_name=subject.record_name,
        origin="measured",
        started_utc=sitting.started_utc,
        clock=sitting.clock,
        role=subject.role,
        status=status,
        reason=reason,
        stages=stages,
        cut_short=cut,
        case=subject.case,
        model=ModelSeen(subject.model_digests, built_from, (tensors[0],), (tensors[1],)),
        settings=SettingsSeen(subject.settings, subject.planned, effective, subject.inapplicable),
        substitutions=subject.substitutions,
        mismatches=mismatches(subject.planned, effective),
        commands=tuple(command for command in subject.commands if command.stage in reached),
        runtime=Runtime(
            device=job.device,
            backend=job.backend,
            product=backend.PRODUCT,
            release=identity.on_board(_release(job, subject, sitting, results), recording.telemetry.facts),
            provider=first.provider,
            libraries=first.libraries,
            options=first.options,
            place=msgspec.structs.replace(
                job.place, limits=_limits(job.place, sitting.limits), virtualised=sitting.virtualised
            ),
        ),
        board=identity.board(
            recording.telemetry.facts,
            sitting.gpu,
            gpu=DEVICES[job.device].gpu,
            cores=sitting.cores,
            threads=subject.threads or sitting.threads,
        ),
        protocol=ProtocolSeen(
            planned=job.protocol,
            seed=job.seed,
            order=tuple(entry.turn for entry in all_taken),
            builds_done=len(builds) if status == "built" else len({run.build for run in runs}),
            warm_up_ms=subject.settings.warm_up_ms,
            l2_state=subject.settings.l2 if sitting.gpu else "not_controlled",
            timer=backend.TIMER
            if backend.TIMES_ITSELF
            else measure.EVENT_TIMER
            if sitting.gpu
            else measure.HOST_TIMER,
        ),
        builds=tuple(
            msgspec.structs.replace(build, layers=_layers_file(build)) if _differs(build, builds) else build
            for build in builds
        ),
        runs=runs,
        layers=first.layers,
        work=subject.work
        and work.observed(subject.work, sitting.gpu.l2_bytes if sitting.gpu else None, first.layers),
        telemetry=recording.telemetry,
        privacy=None,
        logs=(),
        overhead_ns=overhead_ns,
        missing=(),
    )
    return msgspec.structs.replace(record, missing=missing(record))


def _limits(place: Place, seen: Limits) -> Limits:
    """Return the limits seen from inside, and, where the control groups can't be read there, those set."""
    if place.limits is None:
        return seen
    both = zip(msgspec.structs.astuple(seen), msgspec.structs.astuple(place.limits), strict=True)
    return Limits(*(inside if inside is not None else told for inside, told in both))


def _differs(build: Build, builds: Sequence[Build]) -> bool:
    """Tell whether a build is of another structure than the first, whose layers stand in the record."""
    return build.structure_hash != builds[0].structure_hash


def _layers_file(build: Build) -> str:
    return f"layers/{build.id}.json"


def _release(job: Job, subject: Subject, sitting: Sitting, results: Sequence[Result]) -> ReleaseSeen:
    """Return what the turns found; where none came so far, what they were to find."""
    found = next((result.release for result in results if result.release), None)
    if found is not None:
        return msgspec.structs.replace(found, driver=sitting.driver)
    if subject.interpreter is None and sitting.release is not None:
        return sitting.release
    name = subject.release or job.release
    return ReleaseSeen(name, name.partition("-")[2])


def write(records: Sequence[Record], taken: Sequence[Taken], recording: Recording, out: Path) -> None:
    """Write the records with their samples, and the telemetry that they share."""
    (out / "telemetry").mkdir(exist_ok=True)
    for name, recorded in recording.probes.items():
        (out / "telemetry" / f"{name}.bin").write_bytes(recorded.packed())
    for record in records:
        folder = out / "records" / record.record_name
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        (folder / "layers").mkdir(exist_ok=True)
        elsewhere = {build.id: build.layers for build in record.builds if build.layers}
        for entry in taken:
            if entry.turn.subject != record.record_name:
                continue
            if entry.result.run:
                shutil.copyfile(entry.folder / "samples.bin", folder / "samples" / f"{entry.run_id}.bin")
            build = entry.result.build
            if build and (file := elsewhere.get(build.id)):
                (folder / file).write_bytes(msgspec.json.encode(entry.result.layers))
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(entry.folder / "log", folder / "logs" / f"{entry.run_id}.txt")
        part = folder / "record.json.part"
        part.write_bytes(msgspec.json.encode(record))
        part.replace(folder / "record.json")


def read(job: Job, out: Path) -> tuple[Record, ...] | None:
    """Read the records that a worker wrote; `None` when it did not finish."""
    try:
        return tuple(
            msgspec.json.decode(
                (out / "records" / subject.record_name / "record.json").read_bytes(), type=Record
            )
            for subject in job.subjects
        )
    except (OSError, msgspec.DecodeError):
        return None


def recover(job: Job, out: Path, reason: str, *, failed: bool) -> tuple[Record, ...]:
    """Make the records of a session whose worker ended before it could, from what it left in `out`.

    `failed` tells whether the end itself is a failure of the experiment (the worker crashed), or only
    an interruption: then a subject with a finished run counts as measured, and is cut short.
    """
    sitting = Sitting.read(out)
    if sitting is None:
        raise ReproError(f"nothing was measured ({reason})", f"{out} holds no session")
    recording = telemetry.collect(out / "sampler", sitting.probes, None, sitting.origin_ns, clean=False)
    taken: list[Taken] = []
    for folder in sorted((out / "turns").glob("*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            task = msgspec.json.decode((folder / "turn.json").read_bytes(), type=Task)
            result = Result.read(folder)
            if result is not None:
                taken.append(Taken(task.turn, folder, result))
            elif failed:
                lost = ended_early(folder, "lost", None, reason, None)
                taken.append(Taken(task.turn, folder, lost))
    rounds = {entry.turn.round for entry in taken if entry.result.run}
    records = assemble(job, sitting, taken, CutShort(reason, len(rounds)), recording, {})
    write(records, taken, recording, out)
    return records


def _foreign_load(foreign_s: float | None, measured_s: float) -> tuple[Flag, ...]:
    if foreign_s is None or foreign_s <= max(FOREIGN_LEAST_S, FOREIGN_SHARE * measured_s):
        return ()
    return (Flag("foreign_load", f"other processes used {foreign_s / measured_s:.0%} of a core"),)


def _run(
    job: Job, entry: Taken, measured: Measured, engine: Result, sitting: Sitting, recording: Recording
) -> Run:
    flags = [*measured.flags, *_of_engine(engine, entry.result, sitting.gpu)]
    window = measured.phases[-1]
    host = recording.probes.get("host")
    foreign_s = host.change("foreign_cpu", window) if host else None
    flags += _foreign_load(foreign_s, (window.end_ns - window.start_ns) / 1e9)
    held = clocks.held_down(recording.probes, [window])
    for reason, (n, of) in held.reasons.items() if held else ():
        flags.append(Flag("slowed", f"clocks were held down by {reason} in {n} of {of} readings"))
    sm = memory = None
    if DEVICES[job.device].gpu:
        sm = clocks.read(recording.probes, clocks.SM_CLOCKS, window)
        memory = clocks.read(recording.probes, clocks.MEMORY_CLOCKS, window)
    flags += _moved("SM", sm)
    nvml = recording.probes.get("nvml")
    if nvml:
        others = max((int(count) for _, count in nvml.during("other_processes", window)), default=0)
        if others:
            flags.append(Flag("gpu_shared", f"{others} other process{'es' * (others > 1)} used the GPU"))
    return Run(
        id=entry.run_id,
        build=f"b{entry.turn.build}",
        round=entry.turn.round,
        samples=msgspec.structs.replace(measured.samples, file=f"samples/{entry.run_id}.bin"),
        summary=measured.summary,
        preheat=measured.preheat,
        timer_check=measured.timer_check,
        involuntary_switches_per_iteration=measured.involuntary_switches_per_iteration,
        phases=measured.phases,
        flags=tuple(flags),
        enqueue_median_ns=measured.enqueue_median_ns,
        mean_power_w=nvml.rate("energy", window) if nvml else None,
        sm_clock_mhz=sm.median_mhz if sm else None,
        memory_clock_mhz=memory.median_mhz if memory else None,
        sm_clock_spread=sm.spread() if sm else None,
        memory_clock_spread=memory.spread() if memory else None,
        throttled_share=held.share if held else None,
    )


def _of_engine(engine: Result, run: Result, gpu: Gpu | None) -> list[Flag]:
    """Flag what an engine does beside the network, where its layers were timed one by one."""
    found = []
    layers = [layer for layer in engine.layers or () if layer.time_ns is not None]
    total_ns = sum(layer.time_ns or 0 for layer in layers)
    moved = [layer.time_ns or 0 for layer in layers if layer.is_reformat]
    if moved and total_ns:
        found.append(
            Flag(
                "reformat",
                f"{len(moved)} of {len(layers)} layers only change the layout, "
                f"{sum(moved) / total_ns:.0%} of the profiled time",
            )
        )
    transfers = run.effective.get("transfers")
    if gpu and gpu.integrated and transfers and transfers.value is False:
        # sampleInference.cpp, all tags from 8.5 to 11.1.
        found.append(
            Flag(
                "managed_memory",
                "without transfers, an integrated GPU keeps input and output in managed memory",
            )
        )
    return found


def _moved(name: str, clock: Readings | None) -> list[Flag]:
    """Flag a clock that did not stand while a run was measured."""
    if clock is None or not clocks.moved(spread := clock.spread()):
        return []
    apart = max(
        (spread.below_share, f"below {1 - clocks.STEADY_SHARE:.0%}"),
        (spread.above_share, f"above {1 + clocks.STEADY_SHARE:.0%}"),
    )
    detail = (
        f"the {name} clock moved from {spread.low_mhz:.0f} to {spread.high_mhz:.0f} MHz: "
        f"{apart[0]:.0%} of {spread.n} readings were {apart[1]} of their median, {clock.median_mhz:.0f} MHz"
    )
    return [Flag("clock_moved", detail)]


def _stages(results: Sequence[Result], names: Sequence[StageName]) -> tuple[Stage, ...]:
    """Return each stage once: failed where any turn failed in it, from first start to last end."""
    merged = []
    for name in names:
        seen = [stage for result in results for stage in result.stages if stage.name == name]
        if not seen:
            merged.append(Stage(name, "not_reached", None, None, None))
            continue
        failed = next((stage for stage in seen if stage.status == "failed"), None)
        merged.append(
            Stage(
                name,
                "failed" if failed else "ok",
                seen[0].start_ns,
                seen[-1].end_ns,
                failed.error if failed else None,
            )
        )
    return tuple(merged)


NO_GPU = "no GPU takes part, or its driver doesn't tell"
WHY_MISSING = {
    "boot": "this system names no boot",
    "runtime.release.build": "the package names no build number",
    "runtime.release.cuda": "no GPU takes part, or it stands among the libraries",
    "runtime.release.cudnn": "no GPU takes part, or it stands among the libraries",
    "runtime.release.driver": NO_GPU,
    "runtime.release.l4t": "not a Jetson",
    "runtime.provider": "no session was made",
    "runtime.place.image_id": "no container",
    "runtime.place.repo_digest": "no container, or an image that was built and never in a registry",
    "runtime.place.base_digest": "no container",
    "runtime.place.engine": "no container",
    "runtime.place.limits": "the place tells none",
    "runtime.place.limits.cpus": "the control group sets none",
    "runtime.place.limits.memory_bytes": "the control group sets none",
    "runtime.place.limits.pids": "the control group sets none",
    "runtime.place.virtualised": "this system doesn't tell",
    "board.matched_id": "the table of boards holds GPUs only, and not all of them",
    "board.name": "this system doesn't tell the processor's name",
    "board.compute_capability": NO_GPU,
    "board.sm_count": NO_GPU,
    "board.integrated": NO_GPU,
    "board.emulated": "no Jetson, or nothing says that it emulates another module",
    "board.power_mode": "this machine has no power modes, or doesn't tell which it is in",
    "board.cores": "this system doesn't tell",
    "board.threads": "the backend has no threads of its own",
    "board.mig": NO_GPU,
    "board.gpu": NO_GPU,
    "builds.structure_hash": "this backend tells no structure",
    "builds.plan_sha256": "this backend keeps no plan",
    "builds.recipe_hash": "this backend builds by no command",
    "builds.timing_cache": "this backend has no timing cache",
    "builds.layers": "the layers stand in the record",
    "builds.check": "the turn ended before the check",
    "builds.jit_seconds": "the builder compiled the kernels, or the engine was not loaded",
    "builds.check.error": "the sampled output is not finite",
    "runs.mean_power_w": NO_GPU,
    "runs.sm_clock_mhz": NO_GPU,
    "runs.memory_clock_mhz": NO_GPU,
    "runs.sm_clock_spread": NO_GPU,
    "runs.memory_clock_spread": NO_GPU,
    "runs.throttled_share": "no probe here tells what holds clocks down",
    "runs.involuntary_switches_per_iteration": "this system doesn't count them",
    "layers": "the graph was not built",
    "layers.type": "the runtime was asked for names only",
    "layers.tactic": "this backend names no tactics",
    "layers.time_ns": "layers are not timed one by one",
    "work": "the model is not described",
    "work.bytes_l2": "the size of the L2 cache is not known",
    "work.bytes_reformats": "this backend doesn't tell which layers change layouts, or of what size",
    "work.bytes_ends": "an earlier version of the kit didn't count it",
    "work.other_ops": "an earlier version of the kit didn't count it",
    "telemetry.sampler": "nothing was sampled",
    "telemetry.sampler.pinned_to": "too few cores, a system that can't, or it ended early",
    "telemetry.sampler.cpu_seconds": "the sampler ended early",
    "telemetry.sampler.cpu_share": "the sampler ended early",
}
"""Why a field may be `None`; fields whose `None` is itself an answer (docs/bundle-format.md) are not here."""


def missing(record: Record) -> tuple[Missing, ...]:
    """Return an entry for every field of `WHY_MISSING` that is `None` in `record`."""
    absent: dict[str, None] = {}

    def visit(value: object, path: str) -> None:
        if value is None:
            absent[path] = None
        elif isinstance(value, dict):
            for key, item in value.items():
                visit(item, f"{path}.{key}" if path else key)
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item, path)

    visit(msgspec.to_builtins(record), "")
    return tuple(Missing(path, WHY_MISSING[path]) for path in absent if path in WHY_MISSING)
