"""From somebody else's bundle to a job: its experiments, built from its own ONNX by our options.

Nothing of a bundle is executed. Its models are looked at as bytes before any library opens them, and the
first one that does is a process that is held to its memory. Typed fields become options of the kit;
whatever is not of the form that the kit writes is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro import (
    bundle,
    cases,
    devices,
    environments,
    measure,
    models,
    places,
    plan,
    proc,
    releases,
    repeat,
)
from repro.bundle.survey import Survey, survey
from repro.environments import Environment, Say
from repro.errors import Refused, ReproError, Unavailable, UsageError
from repro.launch import confine
from repro.places import Where
from repro.plan import Experiments, Request, Wanted
from repro.schema import Job, Protocol, Record, ResolvedCase, Scalar, Work

COUNT_TIMEOUT_S = 120.0
MEMORY_BYTES = 8 * 2**30
GPU_MEMORY_BYTES = 48 * 2**30
"""A GPU's libraries take some GiB by themselves."""
MEMORY_SHARE = 0.75
"""Of what the machine has, where that is less: the rest keeps it answering."""


class AnotherExperiment(Unavailable):
    """It could be run, and would not be what the bundle calls it."""


class Rebuilt(NamedTuple):
    """A job made from a bundle, and what there is to say about it before it runs."""

    job: Job
    experiments: Experiments
    where: Where
    limits: confine.Limits
    enforced: frozenset[str]
    surveys: dict[str, Survey]
    seconds: float
    """About how long it will take."""


def make(request: Request, original: bundle.Bundle, memory_bytes: int | None, say: Say) -> Rebuilt:
    """Plan the replay of a bundle.

    Raise `Unavailable` where it can't be replayed here, `Refused` where it is not what it says it is.
    """
    chief = repeat.leading(original, say)
    if private := [each for each in original.records.values() if each.case.share == "none"]:
        raise Unavailable(
            f"the model of {private[0].case.id} is private and not in the bundle",
            "its owner can share it: `repro case new --share model`",
        )
    # A name that the user wrote is the user's to mend.
    with contextlib.nullcontext() if _names_something(request) else repeat.known_here():
        names = {each.runtime.release.name for each in original.records.values()}
        where = _where(request, chief, names)
        gpu = where.device.gpu
        limits = confine.Limits(memory_bytes or _allowed(gpu=gpu), gpu)
        where = _capped(where, limits.memory_bytes)
        wanted, surveys = [], {}
        for name, record in original.records.items():
            experiment, surveys[name] = _experiment(original, name, record, limits)
            same = _same_device(where, record)
            threads = None if gpu else repeat.threads_of(record)
            wanted.append(
                Wanted(
                    record.role,
                    experiment,
                    _environment(request, where, record.runtime.release.name if same else None, say),
                    threads,
                    repeat.arm_of(record),
                )
            )
        protocol = _protocol(request, where, chief)
        job, experiments, where = plan.compose(
            request,
            where,
            wanted,
            protocol,
            seed=chief.protocol.seed,
            parent=original.id,
            say=say,
            count=_Counted(limits).count,
        )
    if len(experiments) < len(wanted):
        raise Refused(f"{original.path.name} holds an experiment twice")
    if _same_device(where, chief) and request.release is None and request.python is None:
        _hold_plan(job, original.records.values())
    if where.engine is None:
        enforced = confine.able(gpu=gpu)
        told = {"confined": ", ".join(sorted(enforced))}
    else:
        # What a container may do is its own matter, and in the record already.
        enforced, told = frozenset(confine.PARTS), {}
    place = msgspec.structs.replace(job.place, labels={**job.place.labels, **told})
    job = msgspec.structs.replace(job, place=place)
    seconds = plan.session_s(protocol, len(wanted))
    return Rebuilt(job, experiments, where, limits, enforced, surveys, seconds)


def _allowed(*, gpu: bool) -> int:
    """Return the memory that a process of a replay may have unless the user says otherwise."""
    most = GPU_MEMORY_BYTES if gpu else MEMORY_BYTES
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows tells neither.
        most = min(most, int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    return most


def _names_something(request: Request) -> bool:
    named = (request.release, request.backend, request.python)
    return request.device != "auto" or request.place not in places.KINDS or any(named)


def _where(request: Request, chief: Record, names: set[str]) -> Where:
    """Choose where to run: on the bundle's own device with its backend, unless the user names others.

    A container that is there is the stronger fence, and goes before the host; none is made for a bundle.
    """
    theirs = chief.runtime
    device = theirs.device if request.device == "auto" else request.device
    backend = request.backend
    if backend is None and (device == theirs.device or theirs.backend in devices.choose(device).backends):
        backend = theirs.backend
    releases_of: set[str | None] = {request.release} if request.release else {*names}
    if device != theirs.device and request.release is None:
        releases_of = {None}
    request = msgspec.structs.replace(request, pull=False, jtop=False)
    if request.host is not None and request.place == "auto":
        request = msgspec.structs.replace(request, place="docker")
    if request.place == "auto" and request.python is None and len(releases_of) == 1:
        with contextlib.suppress(Unavailable, UsageError):
            inside = msgspec.structs.replace(request, place="docker")
            return plan.choose_place(inside, releases_of, _quiet, device=device, backend=backend)
    if request.place == "auto":
        request = msgspec.structs.replace(request, place="host")
    return plan.choose_place(request, releases_of, _quiet, device=device, backend=backend)


def _capped(where: Where, memory_bytes: int) -> Where:
    """Return the place with no more memory than a replay may have, where it is a container."""
    seen = where.place.limits
    if where.engine is None or seen is None or seen.memory_bytes is None:
        return where
    held = msgspec.structs.replace(seen, memory_bytes=min(seen.memory_bytes, memory_bytes))
    return msgspec.structs.replace(where, place=msgspec.structs.replace(where.place, limits=held))


def _quiet(text: str) -> None:
    """Say nothing: looking is not choosing."""


def _same_device(where: Where, record: Record) -> bool:
    return (where.device.name, where.backend) == (record.runtime.device, record.runtime.backend)


def _protocol(request: Request, where: Where, chief: Record) -> Protocol:
    """Return the bundle's protocol; another backend repeats at other levels, and so has its own."""
    theirs = repeat.bounded_protocol(chief)
    if where.backend == chief.runtime.backend:
        return theirs
    own = plan.protocol_of(request, where)
    if repeat.arm_of(chief) is None:
        return own
    outlives = where.runtime.BUILD_OUTLIVES_PROCESS
    return measure.alternating_protocol(own, build_outlives_process=outlives, rounds=None)


def _environment(request: Request, where: Where, theirs: str | None, say: Say) -> Environment:
    """Return where the release is here; nothing is ever installed for a bundle."""
    if request.python is not None or where.release is not None:
        return places.environment(where, request.release, request.python, say)
    gpu = where.device.gpu
    own = environments.own(where.backend, gpu=gpu, needed=(request.release or theirs) is None)
    chosen = releases.choose(request.release or theirs, where.device.name, own)
    if own is not None and chosen == own.name:
        return Environment(own, None)
    row = releases.row_of(chosen, where.device.name)
    if row is None or not environments.is_made(row):
        other = f"; --release {own.name} replays with what is here" if own else ""
        raise Unavailable(f"{chosen} is not here", f"`repro releases install {chosen}` brings it{other}")
    return environments.look(environments.place(row), where.backend, gpu=gpu)


# --- one experiment -----------------------------------------------------------------------------


def _experiment(
    original: bundle.Bundle, name: str, record: Record, limits: confine.Limits
) -> tuple[cases.Experiment, Survey]:
    """Return an experiment as the bundle's own files describe it, and what its model is made of."""
    resolved = original.cases[name]
    if (resolved.case, resolved.settings) != (record.case, record.settings.requested):
        raise Refused(f"{name} is not of the case that lies beside it")
    onnx = _models(original, name, record)
    try:
        cases.check_values(resolved.model, resolved.settings)
        expected = set(models.file_precisions(resolved.model))
    except ValueError as error:
        raise Refused(f"the case of {name} describes nothing ({error})") from None
    if set(onnx) != expected:
        raise Refused(f"{name} has not the models that its case has")
    found = None
    for precision, data in onnx.items():
        ends = models.tensors(resolved.model, precision)
        for end in ends:
            if (size := models.size_bytes(end)) > limits.memory_bytes // 2:
                raise Unavailable(
                    f"the {end.name} of {name} has {size / 2**30:.1f} GiB, and the replay may use "
                    f"{limits.memory_bytes / 2**30:g} GiB",
                    "--memory allows more",
                )
        found = survey(f"{name}/model.{precision}.onnx", data, ends)
    assert found is not None  # noqa: S101 - every network has files
    experiment = cases.Experiment(
        _case(record, resolved), record.case.variant, resolved.model, resolved.settings, onnx
    )
    if experiment.ref != record.case:
        raise Refused(f"the digest of {name}'s case is not that of its model and settings")
    return _named_rightly(experiment), found


def _models(original: bundle.Bundle, name: str, record: Record) -> dict[str, bytes]:
    """Return the model files of a record by precision, each with the digest that the record tells."""
    digests = record.model.digests
    if not set(digests) <= set(models.PRECISIONS):
        raise Refused(f"{name} names precisions that the kit has no models in")
    files = {f"records/{name}/case/model.{precision}.onnx": precision for precision in digests}
    found = bundle.contents(original, files)
    if absent := sorted(set(files) - set(found)):
        raise Refused(f"{absent[0]} is not in the bundle")
    onnx = {files[path]: data for path, data in found.items()}
    for precision, data in onnx.items():
        if hashlib.sha256(data).hexdigest() != digests[precision]:
            raise Refused(f"the {precision} model of {name} is not the one that its record is of")
    return onnx


def _case(record: Record, resolved: ResolvedCase) -> cases.Case:
    """Return a case that holds this one experiment, with what the record says its device replaced."""
    device = record.runtime.device
    replaced: dict[str, Scalar] = {
        each.setting: each.planned
        for each in record.substitutions
        if each.declared_by == f"on.{device}" and each.planned is not None
    }
    return cases.Case(
        id=record.case.id,
        version=record.case.version,
        title=resolved.title,
        question=resolved.question,
        source=resolved.source,
        share=record.case.share,
        model=msgspec.to_builtins(resolved.model),
        settings=msgspec.to_builtins(resolved.settings),
        on={device: replaced} if replaced else {},
        tolerance=resolved.tolerances,
        variants={record.case.variant: cases.Variant(resolved.question)} if record.case.variant else {},
        folder=Path(),
    )


def _named_rightly(experiment: cases.Experiment) -> cases.Experiment:
    """Return the experiment with what the kit's own case says beside it, where it is one of the kit's.

    Raise `AnotherExperiment` for one that has the name and version of a case of the kit, and is another.
    """
    ref = experiment.ref
    if ref.id not in cases.available():
        return experiment
    known = cases.load(ref.id)
    if known.version != ref.version or (ref.variant is not None and ref.variant not in known.variants):
        return experiment
    ours = cases.resolve(known, ref.variant, experiment.settings)
    if ours.ref != ref:
        raise AnotherExperiment(
            f"it calls itself {ref.id}@{ref.version}, and is another experiment than the kit's "
            f"(digest {ref.digest[:12]} there, {ours.ref.digest[:12]} here)",
        )
    case = experiment.case
    return msgspec.structs.replace(experiment, case=msgspec.structs.replace(case, on=known.on))


def _hold_plan(job: Job, records: Iterable[Record]) -> None:
    for subject, record in zip(job.subjects, records, strict=True):
        theirs, ours = record.settings.planned, subject.planned
        if ours != theirs:
            setting = next(name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name))
            raise AnotherExperiment(
                f"this kit plans {subject.record_name} with {setting}={ours.get(setting)}, and the bundle "
                f"had {theirs.get(setting)}",
                f"use kit {record.kit.version}",
            )


class _Counted:
    """Counts the work of models in confined processes, each model once."""

    def __init__(self, limits: confine.Limits) -> None:
        self._limits = limits

    def count(self, data: bytes, precision: str, layout: str) -> Work:
        """Return the work of a model; raise `Unavailable` for one that can't be counted or is too large."""
        most = self._limits.memory_bytes
        with tempfile.TemporaryDirectory() as name:
            argv = confine.command(Path(name), confine.Limits(most, gpu=False))
            try:
                done = proc.run(
                    [*argv, sys.executable, "-m", "repro.work", precision, layout],
                    stdin=data,
                    timeout_s=COUNT_TIMEOUT_S,
                )
                counted = msgspec.json.decode(done.stdout, type=Work)
            except (ReproError, msgspec.DecodeError):
                raise Unavailable(
                    f"the model can't be read within {most / 2**30:g} GiB and {COUNT_TIMEOUT_S:g} s",
                    "--memory allows more",
                ) from None
        if counted.bytes_high > most:
            raise Unavailable(
                f"the model's tensors have {counted.bytes_high / 2**30:.1f} GiB, and the replay may use "
                f"{most / 2**30:g} GiB",
                "--memory allows more",
            )
        return counted
