"""Somebody else's bundle run again, and the answer sealed: a list of steps, as in `run`.

The bundle is verified; what would run is shown and asked for; its experiments are built from its own ONNX
by the kit's options and run, confined, by the same protocol; every claim is answered; and the answer is a
bundle of its own, whose statement names the one it answers.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from repro import answer, bundle, compare, gather, observed, plan, rebuild, run, sides
from repro.bundle import leaks, privacy
from repro.environments import Say
from repro.errors import ExitCode, Interrupted, Refused, ReproError, Unavailable, Unknown, UsageError
from repro.gather import Prepared
from repro.launch import confine, docker
from repro.observed import Observed, Source
from repro.plan import Request, kit, to_json
from repro.rebuild import Rebuilt
from repro.run import Approve, Done, Watch
from repro.schema import Outcome, Predicate, Reply

ORIGINAL = "original.zip"
"""The replayed bundle in the work folder: all that answering and sealing need lies there."""
COMPARISON = "replay/comparison.json"
EXIT_CODES: dict[Outcome, ExitCode] = {
    "reproduced": ExitCode.DONE,
    "not_reproduced": ExitCode.NEGATIVE,
    "undecided": ExitCode.UNDECIDED,
    "different_experiment": ExitCode.DOES_NOT_APPLY,
    "could_not_run": ExitCode.DOES_NOT_APPLY,
}

Agree = Callable[[bundle.Bundle, Rebuilt], bool]
"""Shows what would run, and asks."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for; `request` says where and with what, as for a run."""

    path: Path
    request: Request
    unknown_signer: bool = False
    memory_bytes: int | None = None


def replay(asked: Asked, agree: Agree, watch: Watch, approve: Approve, say: Say) -> Done:
    """Replay a bundle and seal the reply; one that can't be replayed here gets a reply that says so."""
    original = bundle.read(asked.path)
    admit(original, unknown_signer=asked.unknown_signer)
    request = asked.request
    try:
        rebuilt = rebuild.make(request, original, asked.memory_bytes, say)
    except rebuild.AnotherExperiment as error:
        return _decline(original, request, "different_experiment", error, approve, say)
    except Unavailable as error:
        return _decline(original, request, "could_not_run", error, approve, say)
    if not agree(original, rebuilt):
        raise Interrupted("nothing was run", "")
    key = run.signing_key(request)
    target = run.output_place(request)
    job = rebuilt.job
    with run.alone(rebuilt.where, job):
        folder = run.work_folder(request.work, job.run_id)
        with run.kept(folder):
            _keep(original, folder)
            plan.write_job(job, rebuilt.experiments, (), folder / "job")
            prefix = confine.command(folder / "out", rebuilt.limits)
            lost = run.launch(rebuilt.where, job, folder, watch, say, prefix)
    with run.kept(folder):
        prepared = replied(gather.prepare(folder, lost, request.allowed_findings))
        run.look_over(prepared, approve)
        return run.seal(prepared, key, target, request.max_size_bytes)


def is_replay(folder: Path) -> bool:
    """Tell whether a work folder is one of a replay."""
    return (folder / ORIGINAL).is_file()


def seal_work(folder: Path, request: Request, approve: Approve) -> Done:
    """Seal the reply of a replay that could not do it by itself."""
    job, _ = plan.read_job(folder / "job")
    key = run.signing_key(request)
    target = run.output_place(request)
    with run.kept(folder):
        lost = docker.recover(job, folder / "out") if job.place.kind == "docker" else None
        prepared = replied(gather.left(folder, request.allowed_findings, lost))
        run.look_over(prepared, approve)
        return run.seal(prepared, key, target, request.max_size_bytes)


# --- the steps that are not modules of their own -------------------------------------------------


def admit(original: bundle.Bundle, *, unknown_signer: bool) -> None:
    """Raise unless the bundle may be replayed: a good signature is no permission, an unknown one less so."""
    inspection = original.inspection
    code = inspection.code()
    if code is ExitCode.DONE or (unknown_signer and code is not ExitCode.NEGATIVE):
        return
    hint = "--replay-unknown-signer replays it all the same"
    if code is ExitCode.UNDECIDED:
        raise Unknown(f"the signer of {original.path.name} is unknown", hint)
    if code is ExitCode.DOES_NOT_APPLY:
        raise Unavailable(f"nobody signed {original.path.name}", hint)
    raise Refused(f"{original.path.name} is not replayed: its signer is {inspection.signer.text}")


def _keep(original: bundle.Bundle, folder: Path) -> None:
    """Keep the bundle beside the job; it must be the one that was read."""
    copy = folder / ORIGINAL
    copy.write_bytes(original.path.read_bytes())
    if bundle.read(copy).id != original.id:
        raise Refused(f"{original.path.name} changed while it was read")


def replied(prepared: Prepared) -> Prepared:
    """Return a bundle to be as the reply that it is: claims answered, and the comparison beside them."""
    original = bundle.read(prepared.folder / ORIGINAL)
    there = observed.load(prepared.folder / ORIGINAL)
    here = tuple(observed.observe(each, "", "the replay", prepared.files) for each in prepared.records)
    told = original.statement.predicate
    reply = answer.answer(told.claims, told.references, there.observed, here)
    files = {**prepared.files, **_comparison(there, here)}
    return _sealable(prepared._replace(files=files), original, reply)


def _sealable(prepared: Prepared, original: bundle.Bundle, reply: Reply) -> Prepared:
    """Return a reply as a bundle to be, looked through for secrets once more."""
    told = original.statement.predicate
    predicate = msgspec.structs.replace(
        prepared.predicate,
        signer_role="vendor",
        claims=told.claims,
        references=told.references,
        parent_bundle_id=original.id,
        ticket=told.ticket,
        reply=reply,
    )
    allowed = predicate.allowed_findings
    texts = {**prepared.files, "META/statement.json": to_json(predicate)}
    hits = tuple(leaks.not_allowed(leaks.scan(texts), allowed))
    stem = f"reply-{original.id[:8]}_{prepared.stem}"
    return prepared._replace(predicate=predicate, hits=hits, stem=stem)


def _comparison(there: Source, here: tuple[Observed, ...]) -> dict[str, bytes]:
    """Return the comparison as a file: original against replay, or the replay's arms; none where none is."""
    replay = Source("the replay", "", here, "", None, None)
    # Who the signer is to this reader is nobody else's business.
    there = there._replace(signer="")
    alternating = all(each.arm for each in sides.subjects(replay))
    try:
        found = compare.compare([replay] if alternating else [there, replay])
    except (Unavailable, UsageError):
        return {}
    return {COMPARISON: to_json(found)}


def _decline(
    original: bundle.Bundle,
    request: Request,
    outcome: Outcome,
    error: Unavailable,
    approve: Approve,
    say: Say,
) -> Done:
    """Seal the reply that nothing ran, and why."""
    say(f"nothing runs: {error}")
    key = run.signing_key(request)
    target = run.output_place(request)
    now = datetime.datetime.now(datetime.timezone.utc)
    folder = run.work_folder(request.work, f"{now:%Y%m%dT%H%M%SZ}-{original.id[:6]}-declined")
    told = original.statement.predicate
    predicate = Predicate(
        kit=kit(),
        created_utc=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        sealed="at_once",
        signer_role="vendor",
        records=(),
        claims=(),
        references=(),
        parent_bundle_id=original.id,
        ticket=None,
        allowed_findings=request.allowed_findings,
    )
    # It can quote what this machine is called and where things lie here.
    reason = privacy.Redactor(privacy.private_values()).text(re.sub(r"\s+", " ", error.what))
    reply = answer.without_running(told.claims, told.references, outcome, reason)
    stem = f"{outcome}_{now:%Y%m%dT%H%M%SZ}"
    prepared = _sealable(Prepared(folder, stem, {}, predicate, (), 0, ()), original, reply)
    try:
        run.look_over(prepared, approve)
        return run.seal(prepared, key, target, request.max_size_bytes)
    except ReproError as failed:
        failed.hint = "call it again"
        raise


# --- a reply and what it answers ----------------------------------------------------------------


class Link(msgspec.Struct, frozen=True):
    """One thing that is said of a reply and its original together."""

    about: str
    state: Literal["good", "bad", "differs"]
    text: str


LINK_CODES = {"good": ExitCode.DONE, "bad": ExitCode.NEGATIVE, "differs": ExitCode.UNDECIDED}


def chain(reply_path: Path, original_path: Path, signers: Path | None = None) -> tuple[Link, ...]:
    """Return what there is to say of a reply and the bundle that it should answer.

    Both must be intact. `differs`: this kit would answer otherwise than the one that sealed the reply.
    """
    reply, original = (bundle.read(path, signers=signers) for path in (reply_path, original_path))
    told = reply.statement.predicate
    if told.reply is None:
        raise UsageError(
            f"{reply_path.name} is no reply", "name the reply first, then the bundle that it answers"
        )
    names = told.parent_bundle_id or ""
    if names != original.id:
        return (Link("Chain", "bad", f"it answers {names}, and {original_path.name} is {original.id}"),)
    found = [Link("Chain", "good", f"it answers {original_path.name}, by its id")]
    claimed = original.statement.predicate
    same = (told.claims, told.references) == (claimed.claims, claimed.references)
    what = (
        f"all {len(claimed.claims)} are answered"
        if same
        else "it answers other claims than the original makes"
    )
    found.append(Link("Claims", "good" if same else "bad", what))
    if told.records and same:
        there, here = (observed.load(path).observed for path in (original_path, reply_path))
        ours = answer.answer(claimed.claims, claimed.references, there, here)
        agrees = [(each.outcome, each.code) for each in ours.answers] == [
            (each.outcome, each.code) for each in told.reply.answers
        ]
        text = "follow from the records of both" if agrees else "this kit would answer otherwise"
        found.append(Link("Answers", "good" if agrees else "differs", text))
    return tuple(found)
