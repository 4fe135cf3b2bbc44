"""Job in, records out: what runs in a place.

Reads `job.json` and the models beside it, starts the sampler, takes the turns in order, each in a
fresh process, and writes `records/<name>/record.json` with the samples and the telemetry. It prints
one JSON line of progress per event and loads no runtime itself, so nothing else prints there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from repro import backends, environments, measure
from repro.devices import DEVICES
from repro.proc import Child, hold_lifeline, oom_kills, signal_name
from repro.records import Sitting, Taken, assemble, ended_early, engine_home, write
from repro.schema import CutShort, Job, Record, StageName, Turn
from repro.telemetry import Sampler
from repro.turn import Result, Task, read_stages

POLL_S = 0.1
SILENCE = "TRT_REPRO_SILENCE_S"
"""How long the worker goes on without hearing its caller; not set: for ever, until its lifeline closes."""
SOURCE = "source"
"""Folder beside the turns with the kit's own source, for interpreters that don't have it."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One event for whoever watches."""

    phase: Literal["prepare", "build", "profile", "check", "run", "records"]
    record: str
    build: int
    builds: int
    run: int
    runs: int
    left_s: float | None


Tell = Callable[[Progress], None]


class Session(NamedTuple):
    """A job being carried out: its folders, the sitting it belongs to, and who is told of progress."""

    job: Job
    job_folder: Path
    out: Path
    sitting: Sitting
    tell: Tell

    def progress(self, turn: Turn, phase: StageName | Literal["records"], left_s: float | None) -> None:
        """Tell how far the session is."""
        plan = self.job.protocol
        self.tell(
            Progress(
                phase=phase,
                record=turn.subject,
                build=turn.build + 1,
                builds=plan.builds,
                run=(turn.run or 0) + 1,
                runs=plan.runs,
                left_s=left_s,
            )
        )


def work(job: Job, job_folder: Path, out: Path, tell: Tell) -> tuple[Record, ...]:
    """Carry out `job`; return its records, also written under `out`."""
    sitting = Sitting.begin(job)
    sitting.write(out)
    session = Session(job, job_folder, out, sitting, tell)
    environments.expose(out / SOURCE)
    order = order_of(job)
    if sitting.no_gpu:
        order = tuple(turn for turn in order if turn.run is None)
    gpu = sitting.gpu.uuid if sitting.gpu else None
    with Sampler(
        out / "sampler", os.getpid(), gpu, watched=sitting.probes, threads=sitting.threads
    ) as sampler:
        taken, cut = take_turns(session, order)
        session.progress(taken[-1].turn, "records", 0.0)
        ending_ns = measure.now_ns()
        recording = sampler.end(sitting.origin_ns, sitting.wall_ns)
    overhead = {
        "processes": sum(entry.overhead_ns for entry in taken),
        "end_sampler": measure.now_ns() - ending_ns,
    }
    records = assemble(job, sitting, taken, cut, recording, overhead)
    write(records, taken, recording, out)
    return records


def order_of(job: Job) -> tuple[Turn, ...]:
    """Return the job's turns: in quads where its subjects are the arms of a comparison."""
    outlives = backends.load(job.backend).BUILD_OUTLIVES_PROCESS
    arms = {subject.arm: subject.record_name for subject in job.subjects}
    if "A" in arms and "B" in arms:
        return measure.alternating(
            arms["A"], arms["B"], job.protocol, job.seed, build_outlives_process=outlives
        )
    names = [subject.record_name for subject in job.subjects if subject.refused is None]
    return measure.order(names, job.protocol, job.seed, build_outlives_process=outlives)


def take_turns(session: Session, order: Sequence[Turn]) -> tuple[list[Taken], CutShort | None]:
    """Take the turns round by round; a subject that failed takes no more, a full budget ends it all."""
    failed: set[str] = set()
    taken: list[Taken] = []
    begin = time.monotonic()
    for index, turn in enumerate(order):
        elapsed = time.monotonic() - begin
        if turn.position == 0 and (cut := _cut(session, turn.round, elapsed)):
            return taken, cut
        if turn.arm and turn.position == 0 and failed:
            # A quad without its other arm compares nothing.
            return taken, CutShort(f"{min(failed)} failed", turn.round)
        if turn.subject in failed:
            continue
        left_s = elapsed / index * (len(order) - index) if index else None
        entry = take_turn(session, turn, index, left_s)
        taken.append(entry)
        if any(stage.status == "failed" for stage in entry.result.stages):
            failed.add(turn.subject)
    return taken, None


def _cut(session: Session, rounds_done: int, elapsed_s: float) -> CutShort | None:
    """Return why no further round is begun, or `None`; there is always a first one."""
    budget_s = session.job.protocol.budget_s
    if budget_s is None or not rounds_done or elapsed_s * (1 + 1 / rounds_done) <= budget_s:
        return None
    reason = f"another round of {elapsed_s / rounds_done:.0f} s would take the session beyond {budget_s:g} s"
    return CutShort(reason, rounds_done)


def take_turn(session: Session, turn: Turn, index: int, left_s: float | None) -> Taken:
    """Run one turn in a process of its own, and account for every way in which it can end."""
    job = session.job
    folder = session.out / "turns" / str(index)
    folder.mkdir(parents=True)
    subject = next(each for each in job.subjects if each.record_name == turn.subject)
    home = folder
    if backends.load(job.backend).BUILD_OUTLIVES_PROCESS:
        home = engine_home(session.out, turn.subject, turn.build)
        home.mkdir(parents=True, exist_ok=True)
    task = Task(
        turn=turn,
        subject=subject,
        model_path=str(session.job_folder / subject.model_file),
        backend=job.backend,
        gpu=DEVICES[job.device].gpu,
        build_only=session.sitting.no_gpu is not None,
        threads=subject.threads or session.sitting.threads,
        seed=job.seed,
        protocol=job.protocol,
        process=index,
        origin_ns=session.sitting.origin_ns,
        home=str(home),
    )
    (folder / "turn.json").write_bytes(msgspec.json.encode(task))
    killed = oom_kills()
    begin_ns = measure.now_ns()
    argv = [subject.interpreter or sys.executable, "-m", "repro.turn", str(folder)]
    env = environments.surroundings(session.out / SOURCE) if subject.interpreter else None
    with (
        (folder / "log").open("wb") as log,
        Child(argv, stdout=log, stderr=subprocess.STDOUT, env=env) as child,
    ):
        late = _watch(session, child, turn, folder, left_s)
        status = child.end(grace_s=0.0) if late else child.wait()
    result = Result.read(folder)
    if result is None:
        code, signal, message = _why(late, status or 0, oom=oom_kills() > killed)
        now_ns = measure.now_ns() - session.sitting.origin_ns
        result = ended_early(folder, code, signal, message, now_ns)
    return Taken(turn, folder, result, measure.now_ns() - begin_ns)


def _watch(session: Session, child: Child, turn: Turn, folder: Path, left_s: float | None) -> str | None:
    """Wait for a turn, telling its stages; return why it must end when it takes too long."""
    current: StageName | None = None
    begin = since = time.monotonic()
    while child.wait(POLL_S) is None:
        stages = read_stages(folder)
        if stages and stages[-1].name != current:
            current = stages[-1].name
            since = time.monotonic()
            session.progress(turn, current, left_s)
        now = time.monotonic()
        if current == "run" and now - since > session.job.timeout_run_s:
            return f"the run took longer than {session.job.timeout_run_s:g} s"
        if current != "run" and now - begin > session.job.timeout_build_s:
            return f"the build took longer than {session.job.timeout_build_s:g} s"
    return None


def _why(late: str | None, status: int, *, oom: bool) -> tuple[str, str | None, str]:
    """Return code, signal and message for a turn that ended without a result."""
    signal = None if late else signal_name(status)
    if late:
        return "timeout", None, late
    if oom:
        return "out_of_memory", signal, "the kernel ended the process: out of memory"
    if signal:
        return "crash", signal, f"the process was ended by {signal}"
    return "exit", None, f"the process ended with status {status} and without a result"


def main(job_folder: Path, out: Path) -> None:
    """Run the job of a folder, ending with the launcher."""
    silence = os.environ.get(SILENCE)
    gone = hold_lifeline(float(silence), out / "heard") if silence else hold_lifeline()
    threading.Thread(target=lambda: (gone.wait(), os._exit(1)), daemon=True).start()
    job = msgspec.json.decode((job_folder / "job.json").read_bytes(), type=Job)

    def tell(event: Progress) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
        sys.stdout.buffer.flush()

    work(job, job_folder, out, tell)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
