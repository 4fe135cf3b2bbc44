"""Job in, records out: what runs in a place.

Reads `job.json` and the models beside it, starts the sampler, takes the turns in order, each in a
fresh process, and writes `records/<name>/record.json` with the samples and the telemetry. It prints
one JSON line of progress per event and loads no runtime itself, so nothing else prints there.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from repro import backends, measure, models
from repro.errors import signature
from repro.lowering import mismatches
from repro.proc import Child, hold_lifeline, signal_name
from repro.probes.host import limits, usable_cores, virtualisation
from repro.schema import (
    Board,
    CutShort,
    Effective,
    ErrorSeen,
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
from repro.telemetry import Recording, Sampler, fact_value
from repro.turn import Result, Task, read_stages

STAGES: tuple[StageName, ...] = ("prepare", "build", "check", "run")
POLL_S = 0.1
FOREIGN_SHARE = 0.05
"""Foreign CPU time above this share of one core, while a run was measured, is flagged."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One event for whoever watches."""

    phase: Literal["prepare", "build", "check", "run", "records"]
    record: str
    build: int
    builds: int
    run: int
    runs: int
    left_s: float | None


class Taken(NamedTuple):
    """A turn that was taken, and what it gave."""

    turn: Turn
    folder: Path
    result: Result


def work(job: Job, job_folder: Path, out: Path, tell: Callable[[Progress], None]) -> tuple[Record, ...]:
    """Carry out `job`; return its records, also written under `out`."""
    origin_ns = measure.now_ns()
    started = datetime.datetime.now(datetime.timezone.utc)
    threads = job.threads or max(1, usable_cores() - 1)
    order = measure.order(
        [subject.record_name for subject in job.subjects],
        job.protocol,
        job.seed,
        build_outlives_process=backends.load(job.backend).BUILD_OUTLIVES_PROCESS,
    )
    with Sampler(out / "sampler", os.getpid()) as sampler:
        taken, cut = take_turns(job, job_folder, out, order, threads, origin_ns, tell)
        tell(_progress(job, order[-1], "records", 0.0))
        recording = sampler.end(origin_ns)
    assembling_ns = measure.now_ns()
    records = tuple(
        assemble(job, subject, taken, cut, recording, threads, started) for subject in job.subjects
    )
    overhead = {"assemble": measure.now_ns() - assembling_ns}
    records = tuple(msgspec.structs.replace(record, overhead_ns=overhead) for record in records)
    write(records, taken, recording, out)
    return records


def take_turns(
    job: Job,
    job_folder: Path,
    out: Path,
    order: Sequence[Turn],
    threads: int,
    origin_ns: int,
    tell: Callable[[Progress], None],
) -> tuple[list[Taken], CutShort | None]:
    """Take the turns round by round; a subject that failed takes no more, a full budget ends it all."""
    subjects = {subject.record_name: subject for subject in job.subjects}
    failed: set[str] = set()
    taken: list[Taken] = []
    begin = time.monotonic()
    for index, turn in enumerate(order):
        elapsed = time.monotonic() - begin
        first_of_round = turn.position == 0
        if first_of_round and turn.round and job.protocol.budget_s is not None:
            if elapsed + elapsed / turn.round > job.protocol.budget_s:
                reason = (
                    f"another round would take the session beyond {job.protocol.budget_s:g} s "
                    f"({elapsed / turn.round:.0f} s a round)"
                )
                return taken, CutShort(reason, turn.round)
        if turn.subject in failed:
            continue
        left_s = elapsed / index * (len(order) - index) if index else None
        folder = out / "turns" / str(index)
        folder.mkdir(parents=True)
        subject = subjects[turn.subject]
        task = Task(
            turn=turn,
            subject=subject,
            model_path=str(job_folder / subject.model_file),
            backend=job.backend,
            threads=threads,
            seed=job.seed,
            protocol=job.protocol,
            process=index,
            origin_ns=origin_ns,
        )
        result = take_turn(task, job, folder, lambda stage: tell(_progress(job, task.turn, stage, left_s)))
        taken.append(Taken(turn, folder, result))
        if any(stage.status == "failed" for stage in result.stages):
            failed.add(turn.subject)
    return taken, None


def take_turn(task: Task, job: Job, folder: Path, tell: Callable[[StageName], None]) -> Result:
    """Run one turn in a process of its own, and account for every way in which it can end."""
    (folder / "turn.json").write_bytes(msgspec.json.encode(task))
    oom_kills = _oom_kills()
    with (folder / "log").open("wb") as log:
        with Child(
            [sys.executable, "-m", "repro.turn", str(folder)], stdout=log, stderr=subprocess.STDOUT
        ) as child:
            late = _watch(child, folder, job, tell)
            status = child.end(grace_s=0.0) if late else child.wait()
    try:
        return msgspec.json.decode((folder / "result.json").read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError):
        pass
    stages = read_stages(folder / "stages.jsonl")
    current: StageName = stages[-1].name if stages else "prepare"
    signal = None if late else signal_name(status or 0)
    if late:
        code, message = "timeout", late
    elif _oom_kills() > oom_kills:
        code, message = "out_of_memory", "the kernel ended the process: out of memory"
    elif signal:
        code, message = "crash", f"the process was ended by {signal}"
    else:
        code, message = "exit", f"the process ended with status {status} and without a result"
    error = ErrorSeen(current, code, signal, message, signature(current, signal or code, message))
    start = next((stage.start_ns for stage in stages if stage.name == current), None)
    now = measure.now_ns() - task.origin_ns
    ended = [stage for stage in stages if stage.end_ns is not None]
    return Result(stages=(*ended, Stage(current, "failed", start, now, error)))


def _watch(child: Child, folder: Path, job: Job, tell: Callable[[StageName], None]) -> str | None:
    """Wait for a turn, telling its stages; return why it must end when it takes too long."""
    current: StageName | None = None
    since = time.monotonic()
    building = since
    while child.wait(POLL_S) is None:
        stages = read_stages(folder / "stages.jsonl")
        if stages and stages[-1].name != current:
            current = stages[-1].name
            since = time.monotonic()
            tell(current)
        now = time.monotonic()
        if current == "run":
            if now - since > job.timeout_run_s:
                return f"the run took longer than {job.timeout_run_s:g} s"
        elif now - building > job.timeout_build_s:
            return f"the build took longer than {job.timeout_build_s:g} s"
    return None


def _oom_kills() -> int:
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _progress(job: Job, turn: Turn, phase: StageName | Literal["records"], left_s: float | None) -> Progress:
    return Progress(
        phase=phase,
        record=turn.subject,
        build=turn.build + 1,
        builds=job.protocol.builds,
        run=(turn.run or 0) + 1,
        runs=job.protocol.runs,
        left_s=left_s,
    )


# --- from turns to a record ---------------------------------------------------------------------


def assemble(
    job: Job,
    subject: Subject,
    all_taken: Sequence[Taken],
    cut: CutShort | None,
    recording: Recording,
    threads: int,
    started: datetime.datetime,
) -> Record:
    """Make the record of `subject` from its turns and the telemetry."""
    taken = [entry for entry in all_taken if entry.turn.subject == subject.record_name]
    results = [entry.result for entry in taken]
    backend = backends.load(job.backend)
    builds = tuple(result.build for result in results if result.build)
    runs = tuple(_run(entry, recording) for entry in taken if entry.result.run)
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
        overhead_ns={},
        missing=(),
    )
    return msgspec.structs.replace(record, missing=missing(record))


def _run(entry: Taken, recording: Recording) -> Run:
    measured = entry.result.run
    assert measured is not None
    name = f"b{entry.turn.build}r{entry.turn.run}"
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
        id=name,
        build=f"b{entry.turn.build}",
        round=entry.turn.round,
        samples=msgspec.structs.replace(measured.samples, file=f"samples/{name}.bin"),
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
        elif isinstance(value, list):
            for item in value:
                visit(item, path)

    visit(msgspec.to_builtins(record), "")
    return tuple(Missing(path, WHY_MISSING[path]) for path in absent if path in WHY_MISSING)


def write(records: Sequence[Record], taken: Sequence[Taken], recording: Recording, out: Path) -> None:
    """Write the records with their samples, and the telemetry that they share."""
    for record in records:
        folder = out / "records" / record.record_name
        (folder / "samples").mkdir(parents=True)
        for entry in taken:
            if entry.turn.subject == record.record_name and entry.result.run:
                name = f"b{entry.turn.build}r{entry.turn.run}.bin"
                (entry.folder / "samples.bin").replace(folder / "samples" / name)
        (folder / "record.json").write_bytes(msgspec.json.encode(record))
    (out / "telemetry").mkdir()
    for name, recorded in recording.probes.items():
        (out / "telemetry" / f"{name}.bin").write_bytes(recorded.packed())


def main(job_folder: Path, out: Path) -> None:
    """Run the job of a folder, ending with the launcher."""
    gone = hold_lifeline()
    threading.Thread(target=lambda: (gone.wait(), os._exit(1)), daemon=True).start()
    job = msgspec.json.decode((job_folder / "job.json").read_bytes(), type=Job)

    def tell(event: Progress) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
        sys.stdout.buffer.flush()

    work(job, job_folder, out, tell)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
