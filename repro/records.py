"""From turns and telemetry to a record: every value with its source, every gap with its reason."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro import backends, measure, models
from repro.lowering import mismatches
from repro.probes.host import limits, usable_cores, virtualisation
from repro.schema import (
    Board,
    CutShort,
    Effective,
    Flag,
    Job,
    Log,
    Missing,
    ModelSeen,
    ProtocolSeen,
    Record,
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
from repro.turn import Measured, Result

STAGES: tuple[StageName, ...] = ("prepare", "build", "check", "run")
FOREIGN_SHARE = 0.05
"""Foreign CPU time above this share of one core, while a run was measured, is flagged."""


class Taken(NamedTuple):
    """A turn that was taken, and what it gave."""

    turn: Turn
    folder: Path
    result: Result
    wall_ns: int
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


def assemble(
    job: Job,
    subject: Subject,
    all_taken: Sequence[Taken],
    cut: CutShort | None,
    recording: Recording,
    threads: int,
    started: datetime.datetime,
    overhead_ns: dict[str, int],
) -> Record:
    """Make the record of `subject` from its turns and the telemetry."""
    taken = [entry for entry in all_taken if entry.turn.subject == subject.record_name]
    results = [entry.result for entry in taken]
    backend = backends.load(job.backend)
    builds = tuple(result.build for result in results if result.build)
    runs = tuple(_run(entry, entry.result.run, recording) for entry in taken if entry.result.run)
    stages = _stages(results)
    error = next((stage.error for stage in stages if stage.error), None)
    status: Status = "failed" if error else "measured"
    effective: dict[str, Effective] = {}
    for result in results:
        effective |= result.effective
    built = next((result for result in results if result.build), None)
    precision = Path(subject.model_file).stem.rpartition(".")[2]
    tensors = models.tensors(subject.model, precision)
    facts = recording.telemetry.facts
    boot = fact_value(facts, "boot_id")
    model_name = fact_value(facts, "cpu_model")
    seen_limits = limits()
    record = Record(
        kit=job.kit,
        run_id=job.run_id,
        session_id=job.session_id,
        boot=str(boot) if boot is not None else None,
        record_name=subject.record_name,
        origin="measured",
        started_utc=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        clock=measure.clock(),
        role=subject.role,
        status=status,
        reason=error.message if error else None,
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
            release=backend.release(),
            provider=built.provider if built else None,
            libraries=built.libraries if built else (),
            options=built.options if built else {},
            place=msgspec.structs.replace(job.place, limits=seen_limits, virtualised=virtualisation()),
        ),
        board=Board(
            name=str(model_name) if model_name is not None else None,
            cores=usable_cores(),
            threads=threads,
        ),
        protocol=ProtocolSeen(
            planned=job.protocol,
            seed=job.seed,
            order=tuple(entry.turn for entry in all_taken),
            builds_done=len({run.build for run in runs}),
            warm_up_ms=subject.settings.warm_up_ms,
            l2_state=backend.L2_STATE,
            timer=backend.TIMER,
        ),
        builds=builds,
        runs=runs,
        layers=built.layers if built else None,
        work=None,
        telemetry=recording.telemetry,
        privacy=None,
        logs=tuple(Log("run", _lines(entry.folder / "log"), 0, None) for entry in taken),
        overhead_ns=overhead_ns,
        missing=(),
    )
    return msgspec.structs.replace(record, missing=missing(record))


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
    )


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


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


NO_GPU = "no GPU takes part"
WHY_MISSING = {
    "boot": "this system names no boot",
    "model": "the model was not built",
    "runtime.release.build": "the package names no build number",
    "runtime.release.cuda": NO_GPU,
    "runtime.release.cudnn": NO_GPU,
    "runtime.release.driver": NO_GPU,
    "runtime.release.l4t": "not a Jetson",
    "runtime.provider": "no session was made",
    "runtime.place.image_id": "no container",
    "runtime.place.repo_digest": "no container",
    "runtime.place.base_digest": "no container",
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
    "board.mig": NO_GPU,
    "board.gpu": NO_GPU,
    "builds.plan_sha256": "this backend keeps no plan",
    "builds.timing_cache": "this backend has no timing cache",
    "builds.layers": "the layers stand in the record",
    "builds.check": "the turn ended before the check",
    "builds.check.error": "the sampled output is not finite",
    "layers": "the graph was not built",
    "layers.tactic": "this backend names no tactics",
    "layers.time_ns": "layers are not timed one by one",
    "work": "this version counts no work",
    "telemetry.sampler.pinned_to": "the sampler is not pinned",
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
