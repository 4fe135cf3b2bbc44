"""From what a user asks for to a job: everything that can be decided before measuring.

The job's folder is all that a place needs to run it, and, with what the bundle says beside its records
(`Said`), all that sealing needs later, even by another process after a crash.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from repro import __version__, bundle, cases, devices, environments, lowering, measure, models, places, work
from repro.backends import trtexec
from repro.bundle import privacy
from repro.environments import Environment, Say
from repro.errors import Unavailable, UsageError
from repro.places import Asked, Where
from repro.schema import (
    AnyClaim,
    Arm,
    Command,
    Job,
    Kit,
    OnnxFile,
    Protocol,
    Reference,
    ResolvedCase,
    Subject,
    Work,
)
from repro.spec import Spec

CALIBRATION = ("calib-copy", "calib-gemm")
TURN_OVERHEAD_S = 3.0
"""For estimates only: about what a turn takes beside pre-heating and measuring."""
Role = Literal["subject", "calibration"]


ARMS: tuple[Arm, Arm] = ("A", "B")
MULTI = "multi"
"""Stands for the release where the arms of a comparison have two."""


def _quiet(text: str) -> None:
    """Say nothing."""


class ArmRequest(msgspec.Struct, frozen=True):
    """An arm of a comparison as asked for."""

    spec: Spec
    python: Path | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for, as written; `None` leaves the choice to the kit."""

    case: str = ""
    variants: str | None = None
    """A set of the case's variants, `all`, or names; `None`: what `case` names."""
    arms: tuple[ArmRequest, ArmRequest] | None = None
    """Two experiments that alternate, in place of `case`."""
    rounds: int | None = None
    like: Path | None = None
    """Bundle whose experiment is repeated exactly."""
    against: Path | None = None
    """Bundle whose experiment is repeated, alternating with `case`."""
    python: Path | None = None
    """Interpreter that has the release; `None`: the kit's own, or one made for it."""
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


class Wanted(NamedTuple):
    """One experiment to plan, and where it runs."""

    role: Role
    experiment: cases.Experiment
    environment: Environment
    threads: int | None = None
    arm: Arm | None = None


Experiments = dict[str, cases.Experiment]
Count = Callable[[bytes, str, str], Work]
"""From a model, its precision and the layout of its ends to its work."""


class Planned(NamedTuple):
    """A job, the experiments in it, and the place that was chosen for it."""

    job: Job
    experiments: Experiments
    where: Where


def make(request: Request, say: Say = _quiet) -> Planned:
    """Decide everything that can be decided before measuring.

    `say` is told what takes a while or may not be what the user thinks.
    """
    if request.arms:
        return _alternating(request, request.arms, say)
    case, variants = chosen(request)
    if request.rounds is not None:
        raise UsageError("--rounds is for alternating comparisons", "use --builds")
    where = choose_place(request, {request.release}, say)
    environment = places.environment(where, request.release, request.python, say)
    wanted = [Wanted("subject", cases.resolve(case, variant), environment) for variant in variants]
    calibrate = where.device.gpu and not devices.build_only(where.device, where.backend)
    if calibrate if request.calibrate is None else request.calibrate:
        wanted += [
            Wanted("calibration", cases.resolve(cases.load(name), None), environment) for name in CALIBRATION
        ]
    return compose(request, where, wanted, protocol_of(request, where))


def _alternating(request: Request, arms: tuple[ArmRequest, ArmRequest], say: Say) -> Planned:
    a, b = (side.spec.case for side in arms)
    if a != b:
        raise UsageError(f"{a} and {b} are two cases", "the arms are forms of one case")
    case = cases.load(a, request.cases_folder)
    where = choose_place(request, {side.spec.release for side in arms}, say)
    wanted = [arm(name, side, case, where, say) for name, side in zip(ARMS, arms, strict=True)]
    outlives = where.runtime.BUILD_OUTLIVES_PROCESS
    protocol = measure.alternating_protocol(
        protocol_of(request, where), build_outlives_process=outlives, rounds=request.rounds
    )
    return compose(request, where, wanted, protocol, say=say)


def arm(name: Arm, side: ArmRequest, case: cases.Case, where: Where, say: Say) -> Wanted:
    """Return an arm of a comparison; raise `Unavailable` where a setting of it would mean nothing here."""
    spec = side.spec
    experiment = cases.resolve(case, spec.variant, spec.settings)
    has = where.runtime.settings(gpu=where.device.gpu)
    on_device = case.on.get(where.device.name, {})
    for setting in spec.settings:
        if setting not in has:
            raise Unavailable(
                f"{where.runtime.PRODUCT} on {where.device.name} has no setting '{setting}'",
                f"it has {', '.join(sorted(has - cases.NOT_TO_CHANGE))}",
            )
        if setting in on_device and on_device[setting] != getattr(experiment.settings, setting):
            raise Unavailable(
                f"{case.id} always runs with {setting}={on_device[setting]} on {where.device.name}"
            )
    environment = places.environment(where, spec.release, side.python, say)
    return Wanted("subject", experiment, environment, spec.threads, name)


def chosen(request: Request) -> tuple[cases.Case, tuple[str | None, ...]]:
    """Return the case that a user asks for, and its variants."""
    case_id, variants = cases.parse(request.case)
    case = cases.load(case_id, request.cases_folder)
    if request.variants is None:
        return case, variants
    if variants != (None,):
        raise UsageError(
            f"variants are named twice, in '{request.case}' and by --variants", "name them in one place"
        )
    return case, cases.select(case, request.variants)


def estimate_s(request: Request) -> float:
    """Return about how long a request will measure, by its protocol alone: nothing has run yet."""
    _, variants = chosen(request)
    try:
        where = choose_place(msgspec.structs.replace(request, pull=False), {request.release}, _quiet)
    except Unavailable:
        if not request.pull:
            raise
        # Its image will be built once the user has agreed.
        device = devices.choose(request.device)
        where = Where(device=device, backend=device.image_backend)
    protocol = protocol_of(request, where)
    calibration = len(CALIBRATION) if where.device.gpu and request.calibrate is not False else 0
    return session_s(protocol, len(variants) + calibration)


def session_s(protocol: Protocol, subjects: int) -> float:
    """Return about how long a session of so many subjects takes, by its protocol alone."""
    run_s = protocol.seconds + protocol.preheat_max_s / 2 + TURN_OVERHEAD_S
    round_s = run_s * protocol.runs * subjects
    rounds = protocol.builds
    if protocol.budget_s is not None:
        rounds = max(1, min(rounds, int(protocol.budget_s // round_s)))
    return rounds * round_s


def choose_place(
    request: Request,
    releases: set[str | None],
    say: Say,
    *,
    device: str | None = None,
    backend: str | None = None,
) -> Where:
    """Choose where a request runs whose turns are of `releases`; `device` and `backend` may be settled."""
    device, backend = device or request.device, backend or request.backend
    on_host = None
    if request.python or any(side.python for side in request.arms or ()):
        on_host = "an interpreter that is named is the host's"
        # The kit's own environment need not have the runtime that the other one has.
        names = devices.choose(device, backend).backends
        backend = backend or next((name for name in names if name in environments.IN_PYTHON), None)
    elif len(releases) > 1:
        on_host = "a container holds one release, and these are two"
    asked = Asked(
        device=device,
        release=next(iter(releases)) if len(releases) == 1 else None,
        backend=backend,
        place=request.place,
        on_host=on_host,
        pull=request.pull,
        host=request.host,
        gpu=request.gpu,
        jtop=request.jtop,
        own=request.like is None and request.against is None,
    )
    return places.choose(asked, say)


def protocol_of(request: Request, where: Where) -> Protocol:
    """Return the protocol that is asked for, or the device's own."""
    return measure.protocol(
        request.protocol or where.device.protocol,
        build_outlives_process=where.runtime.BUILD_OUTLIVES_PROCESS,
        builds=request.builds,
        runs=request.runs,
        seconds=request.duration_s,
        iterations=request.iterations,
    )


def compose(
    request: Request,
    where: Where,
    wanted: Sequence[Wanted],
    protocol: Protocol,
    *,
    seed: int | None = None,
    parent: str | None = None,
    say: Say = _quiet,
    count: Count = work.count,
) -> Planned:
    """Put together a job of experiments that were chosen; `count` tells the work of a model."""
    if request.keep_log and where.backend != trtexec.NAME:
        raise UsageError(f"--keep-log keeps trtexec's log, and {where.backend} is measured", "leave it out")
    if request.threads is not None and request.threads < 1:
        raise UsageError("--threads must be above 0")
    experiments: Experiments = {}
    subjects = []
    for each in wanted:
        experiment = each.experiment
        variant = experiment.case.id if each.role == "calibration" else experiment.variant or cases.BASE
        prefix = f"{each.arm.lower()}-" if each.arm else ""
        name = f"{prefix}{variant}-{each.environment.release.name}"
        experiments[name] = experiment
        subjects.append(_subject(name, each, where, protocol, count))
    asked = [subject for subject in subjects if subject.role == "subject"]
    refused = [subject for subject in asked if subject.refused]
    # An arm alone compares nothing.
    if refused and (asked[0].arm or len(refused) == len(asked)):
        first = refused[0]
        more = f", nor the other {len(asked) - 1}" if len(asked) > 1 and not first.arm else ""
        label = experiments[first.record_name].label
        raise Unavailable(f"{where.runtime.PRODUCT} can't run {label}{more} ({first.refused})")
    if asked[0].arm:
        _say_of_arms(*asked, say=say)
    released = {each.environment.release.name for each in wanted}
    run_id = f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    job = Job(
        kit=kit(),
        run_id=run_id,
        session_id=run_id,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        device=where.device.name,
        backend=where.backend,
        release=released.pop() if len(released) == 1 else MULTI,
        protocol=protocol,
        threads=request.threads,
        timeout_build_s=request.timeout_build_s,
        timeout_run_s=request.timeout_run_s,
        keep_log=request.keep_log,
        place=where.place,
        subjects=tuple(subjects),
        parent=parent,
    )
    return Planned(job, experiments, where)


def _say_of_arms(a: Subject, b: Subject, *, say: Say) -> None:
    """Tell before anything is measured what the comparison can't say."""
    if a.model_digests != b.model_digests:
        say("the arms are two models: times can be set side by side, but there is no verdict")
    elif (a.release, a.interpreter, a.planned, a.threads) == (b.release, b.interpreter, b.planned, b.threads):
        say("both arms are the same experiment: this shows the noise of the machine and nothing else")


def _subject(
    name: str, wanted: Wanted, where: Where, protocol: Protocol, count: Count = work.count
) -> Subject:
    """Plan one experiment for a device and backend, or say why it can't run there."""
    device, backend, experiment = where.device, where.runtime, wanted.experiment
    case = experiment.case
    planned = lowering.plan(
        experiment.settings, case.on.get(device.name, {}), device.name, backend.settings(gpu=device.gpu)
    )
    precision = str(planned.planned["precision"])
    file_precision = models.file_precision(precision)
    data = experiment.onnx.get(file_precision)
    refused = _without_point(experiment, planned) or backend.refuse(planned.planned, gpu=device.gpu)
    if refused is None and isinstance(experiment.model, OnnxFile):
        if getattr(backend, "NEEDS_MODULE", False):
            refused = "it runs the modules of the kit's own cases only"
        elif planned.planned.get("io_layout", "chw") != "chw" and len(experiment.model.input) != 4:
            refused = "only tensors [n, c, h, w] have layouts"
    if refused is None and data is None:
        refused = f"the case has no model in {file_precision}"
    release, interpreter = wanted.environment.release.name, wanted.environment.interpreter
    commands: tuple[Command, ...] = ()
    if refused is None and planned.planned["precision"] == "int8" and "typing" in planned.planned:
        refused = _without_quantisation(experiment)
    if hasattr(backend, "typings"):
        seen = wanted.environment.release
        planned, file_precision = lowering.typed(
            planned, backend.typings(seen.version), seen.name, tuple(experiment.onnx)
        )
    if refused is None and backend.NAME == trtexec.NAME:
        lowered = for_trtexec(experiment, device, release, protocol)
        if isinstance(lowered, lowering.Unsupported):
            refused = lowered.reason
        else:
            planned = lowering.Plan(
                lowered.planned, planned.inapplicable, (*planned.substitutions, *lowered.substitutions)
            )
            file_precision, commands = lowered.model_precision, lowered.commands
    return Subject(
        record_name=name,
        role=wanted.role,
        case=experiment.ref,
        model=experiment.model,
        settings=experiment.settings,
        planned=planned.planned,
        inapplicable=planned.inapplicable,
        substitutions=planned.substitutions,
        model_file=f"records/{name}/case/model.{file_precision}.onnx",
        model_digests=experiment.model_digests,
        tolerances=case.tolerance,
        commands=commands,
        work=count(data, precision, experiment.settings.io_layout) if data else None,
        refused=refused,
        arm=wanted.arm,
        # An image has proved its release when it was built, under a name that the runtime doesn't know.
        release=release if where.image is None else None,
        interpreter=str(interpreter) if interpreter else None,
        threads=wanted.threads,
    )


def for_trtexec(
    experiment: cases.Experiment, device: devices.Device, release: str, protocol: Protocol
) -> lowering.Commands | lowering.Unsupported:
    """Return the commands of an experiment on a release of trtexec, or why it can't run it."""
    on_device = experiment.case.on.get(device.name, {})
    planned = lowering.plan(experiment.settings, on_device, device.name, trtexec.settings(gpu=True)).planned
    if planned["precision"] == "int8" and (reason := _without_quantisation(experiment)):
        return lowering.Unsupported(release, reason)
    return lowering.lower(
        planned,
        release,
        device.name,
        files=tuple(experiment.onnx),
        seconds=protocol.seconds,
        iterations=protocol.iterations,
    )


def _without_quantisation(experiment: cases.Experiment) -> str | None:
    """Return why TensorRT makes no INT8 of a model, `None` where it does."""
    if models.may_be_quantised(experiment.model):
        return None
    return "int8 comes from Q/DQ nodes, and this model has none"


def _without_point(experiment: cases.Experiment, planned: lowering.Plan) -> str | None:
    """Return which change of a variant would not take place: it would measure something else."""
    variant = experiment.case.variants.get(experiment.variant or "")
    for name in variant.settings if variant else ():
        if name in planned.inapplicable and experiment.changes(name):
            return f"it has no setting {name}, which is what this variant is about"
        if any(name == each.setting for each in planned.substitutions):
            return f"{name} is what this variant is about, and the case replaces it on this device"
    return None


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
