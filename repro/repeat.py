"""From a bundle back to a job: the same experiment again, alone or alternating with another one.

The case is always the one that is known here, and its digest must be the bundle's: nothing of a bundle
is executed. What it says of protocol, threads and settings is data, and bounded before use.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import msgspec

from repro import bundle, cases, measure, places, plan
from repro.bundle import privacy
from repro.environments import Say
from repro.errors import Refused, Unavailable, UsageError
from repro.places import Where
from repro.plan import ArmRequest, Planned, Request, Wanted
from repro.probes.host import usable_cores
from repro.schema import RECORD_NAME_PATTERN, Arm, Protocol, Record, Scalar
from repro.spec import parse

BOUNDS = {
    "builds": (1, 1000),
    "runs": (1, 1000),
    "seconds": (1e-3, 3600.0),
    "iterations": (1, 10_000_000),
    "preheat_max_s": (0.0, 3600.0),
}
"""What a protocol from somebody else may ask of this machine."""
_NAME = re.compile(RECORD_NAME_PATTERN, re.IGNORECASE)
FIXED = (
    "release",
    "backend",
    "protocol",
    "builds",
    "runs",
    "duration_s",
    "iterations",
    "threads",
    "calibrate",
)
FIXED_AGAINST = ("backend", "builds", "runs", "calibrate")


def make(request: Request, say: Say) -> Planned:
    """Plan the repetition that `request` asks for (`like` or `against`)."""
    if request.like and request.against:
        raise UsageError("--like and --against exclude each other", "name one bundle")
    if request.like:
        return like(request, bundle.read(request.like), say)
    if request.against:
        return against(request, bundle.read(request.against), say)
    return plan.make(request, say)


def like(request: Request, opened: bundle.Bundle, say: Say) -> Planned:
    """Plan the experiments of a bundle once more, with everything that its records fix."""
    _refuse_options(request, "--like repeats everything", FIXED, "or take --against to change something")
    if request.case:
        raise UsageError("--like takes the case from the bundle", f"leave {request.case} out")
    first = leading(opened, say)
    with known_here():
        releases = {record.runtime.release.name for record in opened.records.values()}
        where = _where(request, first, {*releases}, say)
        wanted = [_wanted(request, record, where, say) for record in opened.records.values()]
    protocol = bounded_protocol(first)
    planned = plan.compose(
        request, where, wanted, protocol, seed=first.protocol.seed, parent=opened.id, say=say
    )
    for subject, record in zip(planned.job.subjects, opened.records.values(), strict=True):
        if subject.planned != record.settings.planned:
            raise Unavailable(
                f"this kit plans {subject.record_name} otherwise than the bundle "
                f"({_difference(record.settings.planned, subject.planned)})",
                f"use kit {record.kit.version}",
            )
    return planned


def against(request: Request, opened: bundle.Bundle, say: Say) -> Planned:
    """Plan a bundle's experiment as arm A, and as arm B the same with what the request says instead."""
    _refuse_options(
        request, "--against repeats the bundle beside it", FIXED_AGAINST, "--rounds says how often"
    )
    first = leading(opened, say)
    spec = parse(request.case) if request.case else None
    record = _chosen(opened, spec.variant if spec else None, named=spec is not None)
    if spec is not None and spec.case != record.case.id:
        raise UsageError(f"the bundle is of {record.case.id}", f"not of {spec.case}")
    with known_here():
        of_a = record.runtime.release.name
        of_b = (spec.release if spec else None) or request.release
        if of_b is None and request.place == "docker":
            of_b = of_a  # Elsewhere it is the one that is installed.
        where = _where(request, first, {of_a, of_b}, say)
        a = _wanted(request, record, where, say)._replace(arm="A")
    if spec is None:
        environment = places.environment(where, request.release, request.python, say)
        b = a._replace(environment=environment, arm="B")
    else:
        if spec.release and request.release:
            raise UsageError(f"both --release and {request.case} name a release", "name it once")
        spec = msgspec.structs.replace(spec, release=spec.release or request.release)
        b = plan.arm("B", ArmRequest(spec, request.python), a.experiment.case, where, say)
        b = b._replace(threads=b.threads or a.threads)
    if request.threads is not None:
        b = b._replace(threads=request.threads)
    base = plan.protocol_of(request, where) if request.protocol else bounded_protocol(first)
    given = {"seconds": request.duration_s, "iterations": request.iterations}
    base = msgspec.structs.replace(base, **{k: v for k, v in given.items() if v is not None})
    protocol = measure.alternating_protocol(
        base, build_outlives_process=where.runtime.BUILD_OUTLIVES_PROCESS, rounds=request.rounds
    )
    return plan.compose(request, where, [a, b], protocol, parent=opened.id, say=say)


def _refuse_options(request: Request, why: str, names: tuple[str, ...], hint: str) -> None:
    given = [name for name in names if getattr(request, name) is not None]
    if request.like and request.rounds is not None:
        given.append("rounds")
    if given:
        options = ", ".join("--" + name.removesuffix("_s").replace("_", "-") for name in given)
        raise UsageError(f"{why}, so {options} can't be given", f"leave that out, {hint}")


def leading(opened: bundle.Bundle, say: Say) -> Record:
    """Return the record that tells of the session; raise where the bundle holds none to repeat."""
    records = list(opened.records.values())
    first = next((record for record in records if record.role == "subject"), None)
    if first is None or any(record.session_id != first.session_id for record in records):
        raise Unavailable(f"{opened.path.name} is not of one session", "name a bundle made by `repro run`")
    for record in records:
        runtime = record.runtime
        named = (record.case.id, record.case.variant, runtime.device, runtime.backend, runtime.release.name)
        if not all(name is None or _NAME.fullmatch(name) for name in named):
            raise Refused(f"{opened.path.name} names things as the kit never does")
    if any(record.origin == "imported" for record in records):
        raise Unavailable(f"{opened.path.name} was imported", "only what the kit has run can be repeated")
    say(f"repeats {opened.path.name}; signer {opened.inspection.signer.text}")
    if first.kit.tree_sha256 != plan.kit().tree_sha256:
        say(f"it was made by another state of the kit ({first.kit.version}); this is {plan.kit().version}")
    return first


def _chosen(opened: bundle.Bundle, variant: str | None, *, named: bool) -> Record:
    """Return the one experiment to repeat: the only one, or the one of the variant that is named."""
    found = [record for record in opened.records.values() if record.role == "subject"]
    if len(found) > 1 and named:
        found = [record for record in found if record.case.variant == variant] or found
    if len(found) > 1:
        names = sorted({f"{each.case.id}:{each.case.variant or cases.BASE}" for each in found})
        raise UsageError(
            f"{opened.path.name} holds {len(found)} experiments ({', '.join(names)})",
            "name the one to repeat, or a bundle of one",
        )
    return found[0]


def _where(request: Request, record: Record, releases: set[str | None], say: Say) -> Where:
    device = record.runtime.device
    if request.device not in ("auto", device):
        raise UsageError(f"the bundle is of {device}, not of {request.device}", "leave --device out")
    return plan.choose_place(request, releases, say, device=device, backend=record.runtime.backend)


def _wanted(request: Request, record: Record, where: Where, say: Say) -> Wanted:
    """Return a record's experiment from the case that is known here; raise where that is another one."""
    if record.case.id not in cases.available(request.cases_folder):
        raise Unavailable(
            f"the bundle's case {record.case.id} is not known here",
            "name the folder that holds it with --cases",
        )
    case = cases.load(record.case.id, request.cases_folder)
    experiment = cases.resolve(case, record.case.variant, record.settings.requested)
    digest = experiment.ref.digest
    if record.case.share == "none":
        # A private case has a pseudonym there, which only this machine can make.
        digest = privacy.of_machine().of("case", digest)
    if digest != record.case.digest:
        theirs, ours = record.model.digests, experiment.model_digests
        raise Unavailable(
            f"case {experiment.label} is another experiment here than in the bundle "
            f"(digest {digest[:12]} here, {record.case.digest[:12]} there; "
            f"{'its model differs' if theirs != ours else 'its model is the same'})",
            f"the bundle has version {record.case.version}, this kit {case.version}",
        )
    threads = threads_of(record)
    arm = arm_of(record)
    # `--python` gives the release of what is repeated, or, beside `--against`, that of the other arm.
    python = request.python if request.like else None
    environment = places.environment(where, record.runtime.release.name, python, say)
    return Wanted(record.role, experiment, environment, threads, arm)


def arm_of(record: Record) -> Arm | None:
    """Return the arm of an alternating comparison that a record is."""
    arm = next((turn.arm for turn in record.protocol.order if turn.subject == record.record_name), None)
    if arm is not None and arm not in plan.ARMS:
        raise Refused(f"{record.record_name} is of an arm that is neither A nor B")
    return "A" if arm == "A" else "B" if arm else None


def threads_of(record: Record) -> int | None:
    """Return the threads that a record ran on; raise `Unavailable` where there are fewer cores here."""
    threads = record.board.threads
    if threads is not None and not 1 <= threads <= usable_cores():
        raise Unavailable(
            f"it ran on {threads} threads, and {usable_cores()} cores may be used here",
            "repeat it on a larger machine",
        )
    return threads


def bounded_protocol(record: Record) -> Protocol:
    """Return a record's protocol; raise `Refused` for one that asks too much."""
    planned = record.protocol.planned
    for name, (low, high) in BOUNDS.items():
        if not low <= getattr(planned, name) <= high:
            raise Refused(
                f"its protocol has {name}={getattr(planned, name)}", f"{low:g} to {high:g} can be repeated"
            )
    return planned


def _difference(theirs: dict[str, Scalar | None], ours: dict[str, Scalar | None]) -> str:
    name = next(name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name))
    return f"{name} is {ours.get(name)} here and {theirs.get(name)} there"


@contextlib.contextmanager
def known_here() -> Iterator[None]:
    """Say of a name in the bundle that it is unknown here: the call was right, the place is not."""
    try:
        yield
    except UsageError as error:
        raise Unavailable(error.what, error.hint) from None
