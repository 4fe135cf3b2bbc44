"""The main path, as a list of steps. Read this first.

A case and what to run it on become a *job*; a launcher has it carried out in a place and leaves
*records*; they are made fit to publish, looked over, and sealed into a signed *bundle*.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from repro import bundle, gather, places, plan, repeat
from repro.bundle import sign
from repro.environments import Say
from repro.errors import Interrupted, Lost, ReproError, UsageError
from repro.gather import Prepared
from repro.launch import docker, host, lock
from repro.places import Where
from repro.plan import Request
from repro.schema import Job, Record
from repro.worker import Progress


class Done(NamedTuple):
    """A finished run: its bundle, and the work folder that holds the rest."""

    sealed: bundle.Sealed
    records: tuple[Record, ...]
    work: Path


Watch = Callable[[Progress], None]
Approve = Callable[[Prepared], bool]


def run_case(request: Request, watch: Watch, approve: Approve, say: Say) -> Done:
    """Run a case, or two arms of one alternating, and seal what came of it."""
    job, experiments, where = repeat.make(request, say)
    key = signing_key(request)
    target = output_place(request)
    with alone(where, job):
        folder = work_folder(request.work, job.run_id)
        with kept(folder):
            plan.write_job(job, experiments, request.claims, folder / "job")
            lost = launch(where, job, folder, watch, say)
    with kept(folder):
        prepared = gather.prepare(folder, lost, request.allowed_findings)
        look_over(prepared, approve)
        return seal(prepared, key, target, request.max_size_bytes)


def seal_work(folder: Path, request: Request, approve: Approve) -> Done:
    """Seal what a run left that could not seal it by itself."""
    job, _ = plan.read_job(folder / "job")
    key = signing_key(request)
    target = output_place(request)
    with kept(folder):
        lost = docker.recover(job, folder / "out") if job.place.kind == "docker" else None
        prepared = gather.left(folder, request.allowed_findings, lost)
        look_over(prepared, approve)
        return seal(prepared, key, target, request.max_size_bytes)


# --- the steps that are not modules of their own -------------------------------------------------


def alone(where: Where, job: Job) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of the machine that is measured; a board's is its container's name."""
    if where.engine is not None and where.engine.remote:
        return contextlib.nullcontext()
    return lock.held(job.run_id, job.subjects[0].case.id)


def launch(
    where: Where, job: Job, folder: Path, watch: Watch, say: Say, confined: Sequence[str] = ()
) -> str | None:
    """Run the worker in its place; return `None`, or how it ended too early.

    `confined` goes in front of its command on the host; a container is held as it is.
    """
    if where.engine is None:
        return host.launch(folder / "job", folder / "out", watch, confined)
    wanted = places.wanted(where, job, folder / "job")
    return docker.launch(where.engine, wanted, folder / "job", folder / "out", watch, say)


def signing_key(request: Request) -> Path | None:
    """Return the key to sign with, tried before anything is measured."""
    return None if request.unsigned else sign.ensure_key(request.key)


def output_place(request: Request) -> Path:
    """Return the folder or file to write to, tried before anything is measured."""
    target = request.output
    if target.suffix == ".zip" and target.is_dir():
        raise UsageError(f"{target} is a folder", "name a file ….zip, or a folder of another name")
    folder = target.parent if target.suffix == ".zip" else target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(4)}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ReproError(f"can't write to {folder} ({error.strerror})", "name another --output") from None
    return target


def work_folder(parent: Path, run_id: str) -> Path:
    """Make the run's own folder, readable by its owner only."""
    folder = parent.absolute() / run_id
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ReproError(f"can't make {folder} ({error.strerror})", "name another --work") from None
    return folder


def look_over(prepared: Prepared, approve: Approve) -> None:
    """Let the user see what would leave the machine; raise when something must not, or the user says no."""
    if prepared.hits:
        first = prepared.hits[0]
        more = f" and {len(prepared.hits) - 1} more" if len(prepared.hits) > 1 else ""
        raise ReproError(
            f"not sealed: {first.file}, line {first.line}, looks like a secret ({first.rule}){more}",
            f"`repro preview {prepared.folder}` shows where; if it is none: "
            f"`repro seal {prepared.folder} --allow-finding {first.id}`",
        )
    if not approve(prepared):
        raise Interrupted("not sealed", f"`repro seal {prepared.folder}` does it later")


def seal(prepared: Prepared, key: Path | None, target: Path, max_size_bytes: int) -> Done:
    """Sign and write the bundle."""
    sealed = bundle.seal(
        prepared.files,
        prepared.predicate,
        key=key,
        target=target,
        stem=prepared.stem,
        max_size_bytes=max_size_bytes,
    )
    return Done(sealed, prepared.records, prepared.folder)


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Say where the work is when the user stops it, sealing fails or the ground under it goes away."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted", f"`repro seal {folder}` keeps what was measured") from None
    except OSError as error:
        raise Lost(
            f"{error.strerror or error} ({error.filename or folder})",
            f"mend that, then `repro seal {folder}`",
        ) from None
    except ReproError as error:
        if "repro seal" not in error.hint:
            error.hint = f"{error.hint}; then `repro seal {folder}`".removeprefix("; then ")
        raise
