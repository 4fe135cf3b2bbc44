"""From what a user asks for to a job: everything that can be decided before measuring.

The job's folder is all that a place needs to run it, and, with what the bundle says beside its records
(`Said`), all that sealing needs later, even by another process after a crash.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Literal

import msgspec

from repro import __version__, backends, bundle, cases, devices, lowering, measure, models, places
from repro.backends import trtexec
from repro.bundle import privacy
from repro.errors import Unavailable, UsageError
from repro.places import Asked, Where
from repro.schema import (
    AnyClaim,
    Command,
    Job,
    Kit,
    Protocol,
    Reference,
    ResolvedCase,
    Scalar,
    Subject,
)

CALIBRATION = ("calib-copy", "calib-gemm")
Role = Literal["subject", "calibration"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for, as written; `None` leaves the choice to the kit."""

    case: str
    cases_folder: Path | None = None
    device: str = "auto"
    release: str | None = None
    backend: str | None = None
    place: str = "auto"
    pull: bool = False
    """An image that is missing may be built."""
    host: str | None = None
    """A board's engine, such as `ssh://user@orin`."""
    gpu: str | None = None
    """For a container: the GPU, by index or UUID."""
    jtop: bool = False
    """For a container on a Jetson: jtop's socket is let in."""
    protocol: str | None = None
    builds: int | None = None
    runs: int | None = None
    duration_s: float | None = None
    iterations: int | None = None
    threads: int | None = None
    keep_log: bool = False
    calibrate: bool | None = None
    """Run the calibration cases along; `None`: on a GPU."""
    claims: tuple[AnyClaim, ...] = ()
    key: Path | None = None
    unsigned: bool = False
    allowed_findings: tuple[str, ...] = ()
    output: Path = Path("bundles")
    work: Path = Path("work")
    max_size_bytes: int = bundle.MAX_SIZE_BYTES
    timeout_build_s: float = 1800.0
    timeout_run_s: float = 600.0


class Said(msgspec.Struct, frozen=True):
    """What the bundle says beside its records; written down with the job."""

    claims: tuple[AnyClaim, ...]
    references: tuple[Reference, ...]
    machine: str
    """Id of the pseudonym key: another one at sealing means another machine or user."""
    private: tuple[tuple[str, str], ...]
    """What must be taken out of texts, known only where it was measured; never leaves the work folder."""


def where(request: Request, say: Callable[[str], None] = lambda _: None) -> Where:
    """Return the place for what a user asks, looked at and made ready; `say` is told what takes long."""
    asked = Asked(
        device=request.device,
        release=request.release,
        backend=request.backend,
        place=request.place,
        pull=request.pull,
        host=request.host,
        gpu=request.gpu,
        jtop=request.jtop,
    )
    return places.choose(asked, say)


def make(request: Request, at: Where | None = None) -> tuple[Job, dict[str, cases.Experiment]]:
    """Decide everything that can be decided before measuring; return the job and its experiments."""
    case_id, variants = cases.parse(request.case)
    case = cases.load(case_id, request.cases_folder)
    if case.share == "none":
        raise Unavailable(
            f"case {case.id} is private, and this version can't keep its model out of the bundle",
            'share = "full" in its case.toml publishes it',
        )
    at = at or where(request)
    device, release = at.device, at.release
    backend = backends.load(at.backend)
    protocol = measure.protocol(
        request.protocol or device.protocol,
        build_outlives_process=backend.BUILD_OUTLIVES_PROCESS,
        builds=request.builds,
        runs=request.runs,
        seconds=request.duration_s,
        iterations=request.iterations,
    )
    if request.keep_log and not backend.BUILD_OUTLIVES_PROCESS:
        raise UsageError(f"--keep-log keeps trtexec's log, and {backend.NAME} is measured", "leave it out")
    if request.threads is not None and request.threads < 1:
        raise UsageError("--threads must be above 0")
    wanted: list[tuple[Role, cases.Experiment]] = [
        ("subject", cases.resolve(case, variant)) for variant in variants
    ]
    if device.gpu if request.calibrate is None else request.calibrate:
        wanted += [("calibration", cases.resolve(cases.load(name), None)) for name in CALIBRATION]
    experiments: dict[str, cases.Experiment] = {}
    subjects = []
    for role, experiment in wanted:
        variant = experiment.case.id if role == "calibration" else experiment.variant or cases.BASE
        name = f"{variant}-{release}"
        experiments[name] = experiment
        subjects.append(_subject(name, role, experiment, device, backend, release, protocol))
    run_id = f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    job = Job(
        kit=kit(),
        run_id=run_id,
        session_id=run_id,
        seed=secrets.randbelow(2**31),
        device=device.name,
        backend=at.backend,
        release=release,
        protocol=protocol,
        threads=request.threads,
        timeout_build_s=request.timeout_build_s,
        timeout_run_s=request.timeout_run_s,
        keep_log=request.keep_log,
        place=at.place,
        subjects=tuple(subjects),
    )
    return job, experiments


def _subject(
    name: str,
    role: Role,
    experiment: cases.Experiment,
    device: devices.Device,
    backend: ModuleType,
    release: str,
    protocol: Protocol,
) -> Subject:
    """Plan one experiment for a device and backend; raise `Unavailable` where it can't run there."""
    case = experiment.case
    planned = lowering.plan(
        experiment.settings, case.on.get(device.name, {}), device.name, backend.settings(gpu=device.gpu)
    )
    if refusal := backend.refuse(planned.planned, gpu=device.gpu):
        raise Unavailable(f"{backend.PRODUCT} can't run {experiment.label} ({refusal})")
    precision = models.file_precision(str(planned.planned["precision"]))
    commands: tuple[Command, ...] = ()
    if backend.NAME == trtexec.NAME:
        lowered = lowering.lower(
            planned.planned,
            release,
            device.name,
            seconds=protocol.seconds,
            iterations=protocol.iterations,
        )
        if isinstance(lowered, lowering.Unsupported):
            raise Unavailable(f"{release} can't run {experiment.label} on {device.name} ({lowered.reason})")
        planned = lowering.Plan(
            lowered.planned, planned.inapplicable, (*planned.substitutions, *lowered.substitutions)
        )
        precision, commands = lowered.model_precision, lowered.commands
    return Subject(
        record_name=name,
        role=role,
        case=experiment.ref,
        model=experiment.model,
        settings=experiment.settings,
        planned=planned.planned,
        inapplicable=planned.inapplicable,
        substitutions=planned.substitutions,
        model_file=f"records/{name}/case/model.{precision}.onnx",
        model_digests=experiment.model_digests,
        tolerances=case.tolerance,
        commands=commands,
    )


def for_trtexec(experiment: cases.Experiment, device: devices.Device) -> dict[str, Scalar | None]:
    """Return what is planned of an experiment for trtexec, before a release is chosen."""
    on_device = experiment.case.on.get(device.name, {})
    return lowering.plan(experiment.settings, on_device, device.name, trtexec.settings(gpu=True)).planned


def kit() -> Kit:
    """Return which kit this is: its version, and sha256 over its source files."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return Kit(__version__, digest.hexdigest())


def write_job(
    job: Job, experiments: dict[str, cases.Experiment], claims: tuple[AnyClaim, ...], folder: Path
) -> None:
    """Write the job with its models, and what sealing needs to know: the folder is all there is."""
    for name, experiment in experiments.items():
        home = folder / "records" / name / "case"
        home.mkdir(parents=True)
        (home / "case.json").write_bytes(to_json(_resolved(experiment)))
        for precision, data in experiment.onnx.items():
            (home / f"model.{precision}.onnx").write_bytes(data)
    case = next(iter(experiments.values())).case
    said = Said(
        (*claims, *case.claims), case.references, privacy.of_machine().key_id, privacy.private_values()
    )
    (folder / "said.json").write_bytes(to_json(said))
    (folder / "job.json").write_bytes(to_json(job))


def read_job(folder: Path) -> tuple[Job, Said]:
    """Read a job folder; raise `ReproError` when it is none."""
    try:
        job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
        return job, msgspec.json.decode((folder / "said.json").read_bytes(), type=Said)
    except (OSError, msgspec.DecodeError):
        raise UsageError(f"{folder.parent} is no work folder of this kit", "name one of work/") from None


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


def to_json(value: msgspec.Struct) -> bytes:
    """Return a value as JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1)
