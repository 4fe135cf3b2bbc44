"""From turns and telemetry to a record: every value with its source, every gap with its reason."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro import backends, measure, models, telemetry
from repro.backends import cuda
from repro.backends.cuda import Gpu
from repro.devices import DEVICES
from repro.errors import ReproError, signature
from repro.lowering import mismatches
from repro.probes.host import boot_id, limits, usable_cores, virtualisation
from repro.probes.nvml import reasons
from repro.schema import (
    Board,
    Clock,
    CutShort,
    Effective,
    ErrorSeen,
    Flag,
    Job,
    Limits,
    Missing,
    ModelSeen,
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
from repro.telemetry import Recording, fact_value
from repro.turn import Measured, Result, Task, read_stages

STAGES: tuple[StageName, ...] = ("prepare", "build", "check", "run")
SLOWDOWNS = frozenset(
    {"sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake", "sync_boost"}
)
FOREIGN_SHARE = 0.05
"""Foreign CPU time above this share of one core, while a run was measured, is flagged."""


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
    release: ReleaseSeen
    threads: int
    cores: int
    limits: Limits
    virtualised: str | None
    gpu: Gpu | None
    """The device under test, where it is one."""
    probes: tuple[str, ...] = ("host",)
    """What reads the machine's state."""

    @classmethod
    def begin(cls, job: Job) -> Sitting:
        """Look at the machine."""
        now = datetime.datetime.now(datetime.timezone.utc)
        cores = usable_cores()
        gpu = cuda.look() if DEVICES[job.device].gpu else None
        release = backends.load(job.backend).release(gpu=gpu is not None)
        if gpu:
            release = msgspec.structs.replace(release, driver=cuda.driver_version())
        return cls(
            started_utc=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            wall_ns=time.time_ns(),
            origin_ns=measure.now_ns(),
            boot=boot_id(),
            clock=measure.clock(),
            release=release,
            threads=job.threads or max(1, cores - 1),
            cores=cores,
            limits=limits(),
            virtualised=virtualisation(),
            gpu=gpu,
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
        """Name of the run, unique in its record."""
        return f"b{self.turn.build}r{self.turn.run}"


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
    runs = tuple(_run(entry, entry.result.run, recording) for entry in taken if entry.result.run)
    stages = _stages(results)
    error = next((stage.error for stage in stages if stage.error), None)
    status: Status = "failed" if error or not runs else "measured"
    reason = error.message if error else None if runs else "it ended before anything was measured"
    effective: dict[str, Effective] = {}
    for result in results:
        effective |= result.effective
    built = next((result for result in results if result.build), Result(stages=()))
    precision = models.file_precision(str(subject.planned["precision"]))
    tensors = models.tensors(subject.model, precision)
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
        model=ModelSeen(subject.model_digests, precision, (tensors[0],), (tensors[1],)),
        settings=SettingsSeen(subject.settings, subject.planned, effective, subject.inapplicable),
        substitutions=subject.substitutions,
        mismatches=mismatches(subject.planned, effective),
        commands=(),
        runtime=Runtime(
            device=job.device,
            backend=job.backend,
            product=backend.PRODUCT,
            release=sitting.release,
            provider=built.provider,
            libraries=built.libraries,
            options=built.options,
            place=msgspec.structs.replace(job.place, limits=sitting.limits, virtualised=sitting.virtualised),
        ),
        board=_board(sitting, recording),
        protocol=ProtocolSeen(
            planned=job.protocol,
            seed=job.seed,
            order=tuple(entry.turn for entry in all_taken),
            builds_done=len({run.build for run in runs}),
            warm_up_ms=subject.settings.warm_up_ms,
            l2_state=subject.settings.l2 if sitting.gpu else "not_controlled",
            timer=measure.EVENT_TIMER if sitting.gpu else measure.HOST_TIMER,
        ),
        builds=tuple(result.build for result in results if result.build),
        runs=runs,
        layers=built.layers,
        work=models.work(subject.model, precision),
        telemetry=recording.telemetry,
        privacy=None,
        logs=(),
        overhead_ns=overhead_ns,
        missing=(),
    )
    return msgspec.structs.replace(record, missing=missing(record))


def _board(sitting: Sitting, recording: Recording) -> Board:
    facts, gpu = recording.telemetry.facts, sitting.gpu
    if gpu is None:
        name = fact_value(facts, "cpu_model")
        return Board(
            name=str(name) if name is not None else None, cores=sitting.cores, threads=sitting.threads
        )
    mig = fact_value(facts, "mig_mode")
    return Board(
        name=gpu.name,
        compute_capability=gpu.compute_capability,
        sm_count=gpu.sm_count,
        integrated=gpu.integrated,
        mig=None if mig is None else mig == "on",
        gpu=gpu.uuid,
        cores=sitting.cores,
    )


def write(records: Sequence[Record], taken: Sequence[Taken], recording: Recording, out: Path) -> None:
    """Write the records with their samples, and the telemetry that they share."""
    (out / "telemetry").mkdir(exist_ok=True)
    for name, recorded in recording.probes.items():
        (out / "telemetry" / f"{name}.bin").write_bytes(recorded.packed())
    for record in records:
        folder = out / "records" / record.record_name
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        for entry in taken:
            if entry.turn.subject != record.record_name:
                continue
            if entry.result.run:
                shutil.copyfile(entry.folder / "samples.bin", folder / "samples" / f"{entry.run_id}.bin")
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


def _run(entry: Taken, measured: Measured, recording: Recording) -> Run:
    flags = list(measured.flags)
    window = measured.phases[-1]
    host = recording.probes.get("host")
    foreign = host.change("foreign_cpu", window) if host else None
    seconds = (window.end_ns - window.start_ns) / 1e9
    if foreign is not None and foreign / seconds > FOREIGN_SHARE:
        flags.append(
            Flag("foreign_load", f"other processes used {foreign / seconds:.0%} of a core during the run")
        )
    nvml = recording.probes.get("nvml")
    if nvml:
        flags += _slowed([bits for _, bits in nvml.during("event_reasons", window)])
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
    )


def _slowed(readings: Sequence[float]) -> list[Flag]:
    """Flag what held the clocks down while a run was measured."""
    seen = Counter(name for bits in readings for name in reasons(int(bits)) if name in SLOWDOWNS)
    return [
        Flag("slowed", f"clocks were held down by {name} in {n} of {len(readings)} readings")
        for name, n in sorted(seen.items())
    ]


def _stages(results: Sequence[Result]) -> tuple[Stage, ...]:
    """Return each stage once: failed where any turn failed in it, from first start to last end."""
    merged = []
    for name in STAGES:
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
    "runtime.place.repo_digest": "no container",
    "runtime.place.base_digest": "no container",
    "runtime.place.limits": "the place tells none",
    "runtime.place.limits.cpus": "the control group sets none",
    "runtime.place.limits.memory_bytes": "the control group sets none",
    "runtime.place.virtualised": "this system doesn't tell",
    "board.matched_id": "the table of boards holds GPUs only",
    "board.name": "this system doesn't tell the processor's name",
    "board.compute_capability": NO_GPU,
    "board.sm_count": NO_GPU,
    "board.integrated": NO_GPU,
    "board.emulated": "only Jetson modules are emulated",
    "board.power_mode": "this machine has no power modes",
    "board.cores": "this system doesn't tell",
    "board.threads": "the backend has no threads of its own",
    "board.mig": NO_GPU,
    "board.gpu": NO_GPU,
    "builds.structure_hash": "this backend tells no structure",
    "builds.plan_sha256": "this backend keeps no plan",
    "builds.timing_cache": "this backend has no timing cache",
    "builds.layers": "the layers stand in the record",
    "builds.check": "the turn ended before the check",
    "builds.check.error": "the sampled output is not finite",
    "runs.mean_power_w": NO_GPU,
    "runs.involuntary_switches_per_iteration": "this system doesn't count them",
    "layers": "the graph was not built",
    "layers.tactic": "this backend names no tactics",
    "layers.time_ns": "layers are not timed one by one",
    "work": "the model is not described",
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
