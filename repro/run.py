"""The main path, as a list of steps. Read this first.

A case and what to run it on become a *job*; a launcher has it carried out in a place and leaves
*records*; they are made fit to publish and sealed into a signed *bundle*.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro import __version__, backends, bundle, cases, devices, lowering, measure, releases
from repro.bundle import privacy, sign
from repro.claims import derived
from repro.errors import ReproError, Unavailable, UsageError
from repro.launch import host
from repro.schema import (
    AnyClaim,
    Job,
    Kit,
    Place,
    Predicate,
    Record,
    RecordEntry,
    ResolvedCase,
    Subject,
)
from repro.worker import Progress


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for, as written; `None` leaves the choice to the kit."""

    case: str
    cases_folder: Path | None = None
    device: str = "auto"
    release: str | None = None
    backend: str | None = None
    place: str = "auto"
    protocol: str | None = None
    builds: int | None = None
    runs: int | None = None
    duration_s: float | None = None
    iterations: int | None = None
    threads: int | None = None
    claims: tuple[AnyClaim, ...] = ()
    key: Path | None = None
    unsigned: bool = False
    output: Path = Path("bundles")
    work: Path = Path("work")
    max_size_bytes: int = bundle.MAX_SIZE_BYTES
    timeout_build_s: float = 1800.0
    timeout_run_s: float = 600.0


class Done(NamedTuple):
    """A finished run: its bundle, and the work folder that holds the rest."""

    sealed: bundle.Sealed
    records: tuple[Record, ...]
    work: Path


Watch = Callable[[Progress], None]


def run_case(request: Request, watch: Watch) -> Done:
    """Run a case and seal what came of it."""
    job, experiments = plan(request)
    key = signing_key(request)
    target = output_place(request)
    folder = work_folder(request.work, job.run_id)
    write_job(job, experiments, folder / "job")
    host.launch(folder / "job", folder / "out", watch)
    records = published(read_records(job, folder / "out"))
    sealed = seal(job, experiments, records, folder, request, key, target)
    return Done(sealed, records, folder)


# --- the steps ----------------------------------------------------------------------------------


def plan(request: Request) -> tuple[Job, dict[str, cases.Experiment]]:
    """Decide everything that can be decided before measuring; return the job and its experiments."""
    case_id, variants = cases.parse(request.case)
    case = cases.load(case_id, request.cases_folder)
    device = devices.choose(request.device)
    backend_name = request.backend or device.backend
    if backend_name is None:
        raise Unavailable(f"nothing measures on {device.name} in this version")
    backend = backends.load(backend_name)
    if request.place not in ("auto", "host"):
        raise UsageError(f"unknown place '{request.place}'", "this version runs on the host only")
    release = releases.choose(request.release, device.name, backend.release())
    protocol = measure.protocol(
        request.protocol or device.protocol,
        build_outlives_process=backend.BUILD_OUTLIVES_PROCESS,
        builds=request.builds,
        runs=request.runs,
        seconds=request.duration_s,
        iterations=request.iterations,
    )
    if request.threads is not None and request.threads < 1:
        raise UsageError("--threads must be above 0")
    experiments: dict[str, cases.Experiment] = {}
    subjects = []
    for variant in variants:
        experiment = cases.resolve(case, variant)
        planned = lowering.plan(
            experiment.settings, case.on.get(device.name, {}), device.name, backend.SETTINGS
        )
        if refusal := backend.refuse(planned.planned):
            raise Unavailable(f"{backend.PRODUCT} can't run {experiment.label} ({refusal})")
        name = f"{variant or 'base'}-{release}"
        precision = planned.planned["precision"]
        experiments[name] = experiment
        subjects.append(
            Subject(
                record_name=name,
                role="subject",
                case=experiment.ref,
                model=experiment.model,
                settings=experiment.settings,
                planned=planned.planned,
                inapplicable=planned.inapplicable,
                substitutions=planned.substitutions,
                model_file=f"models/{name}.{precision}.onnx",
                model_digests=experiment.model_digests,
                tolerances=case.tolerance,
            )
        )
    run_id = f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    job = Job(
        kit=kit(),
        run_id=run_id,
        session_id=run_id,
        seed=secrets.randbelow(2**31),
        device=device.name,
        backend=backend_name,
        release=release,
        protocol=protocol,
        threads=request.threads,
        timeout_build_s=request.timeout_build_s,
        timeout_run_s=request.timeout_run_s,
        place=Place("host"),
        subjects=tuple(subjects),
    )
    return job, experiments


def kit() -> Kit:
    """Return which kit this is: its version, and sha256 over its source files."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return Kit(__version__, digest.hexdigest())


def signing_key(request: Request) -> Path | None:
    """Return the key to sign with, tried before anything is measured."""
    return None if request.unsigned else sign.ensure_key(request.key)


def output_place(request: Request) -> Path:
    """Return the folder or file to write to, tried before anything is measured."""
    target = request.output
    is_file = target.suffix == ".zip" and not target.is_dir()
    folder = target.parent if is_file else target
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


def write_job(job: Job, experiments: dict[str, cases.Experiment], folder: Path) -> None:
    """Write the job and its models: all that a place needs."""
    (folder / "models").mkdir(parents=True)
    for subject in job.subjects:
        precision = str(subject.planned["precision"])
        (folder / subject.model_file).write_bytes(experiments[subject.record_name].onnx[precision])
    (folder / "job.json").write_bytes(msgspec.json.encode(job))


def read_records(job: Job, out: Path) -> tuple[Record, ...]:
    """Read the records that the worker left."""
    return tuple(
        msgspec.json.decode((out / "records" / subject.record_name / "record.json").read_bytes(), type=Record)
        for subject in job.subjects
    )


def published(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """Return the records as they may leave the machine."""
    names = privacy.pseudonyms(sign.ensure_folder(sign.config_folder()))
    redactor = privacy.of_this_machine()
    return tuple(privacy.publish(record, names, redactor) for record in records)


def seal(
    job: Job,
    experiments: dict[str, cases.Experiment],
    records: tuple[Record, ...],
    folder: Path,
    request: Request,
    key: Path | None,
    target: Path,
) -> bundle.Sealed:
    """Gather the files of a bundle and seal them."""
    begin = time.perf_counter_ns()
    out = folder / "out"
    files = {f"telemetry/{path.name}": path.read_bytes() for path in sorted((out / "telemetry").iterdir())}
    for record in records:
        home = f"records/{record.record_name}"
        experiment = experiments[record.record_name]
        files[f"{home}/case/case.json"] = _json(_resolved(experiment))
        for precision, data in experiment.onnx.items():
            files[f"{home}/case/model.{precision}.onnx"] = data
        for path in sorted((out / home / "samples").iterdir()):
            files[f"{home}/samples/{path.name}"] = path.read_bytes()
        spent = {**record.overhead_ns, "gather": time.perf_counter_ns() - begin}
        files[f"{home}/record.json"] = _json(msgspec.structs.replace(record, overhead_ns=spent))
    case = next(iter(experiments.values())).case
    created = datetime.datetime.now(datetime.timezone.utc)
    predicate = Predicate(
        kit=job.kit,
        created_utc=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        signer_role="reporter",
        records=tuple(RecordEntry(r.record_name, r.role, r.status) for r in records),
        claims=(*request.claims, *derived(records), *case.claims),
        references=case.references,
        parent_bundle_id=None,
        ticket=None,
    )
    name = "-".join([case.id, *(e.variant for e in experiments.values() if e.variant)])
    return bundle.seal(
        files,
        predicate,
        key=key,
        target=target,
        stem=f"{name}_{job.device}_{job.release}_{created:%Y%m%dT%H%M%SZ}",
        max_size_bytes=request.max_size_bytes,
    )


def _resolved(experiment: cases.Experiment) -> ResolvedCase:
    case = experiment.case
    variant = case.variants.get(experiment.variant) if experiment.variant else None
    return ResolvedCase(
        experiment.ref,
        case.title,
        variant.question if variant else case.question,
        case.source,
        experiment.model,
        experiment.settings,
        case.tolerance,
    )


def _json(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)
