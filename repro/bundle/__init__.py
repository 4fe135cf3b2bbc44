"""Bundles: one signed file that holds records and everything behind them.

    sealed = seal(files, predicate, key=key, folder=Path("bundles"), stem="conv16_cpu")
    inspection = inspect(sealed.path)      # six findings, whatever the file is
    bundle = read(sealed.path)             # or `Refused`

Reading goes from the outside in, and stops at the first thing that is wrong: container, signature over
the statement, the set of files, their digests, and only then their content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from repro.bundle import archive, model, sign, statement
from repro.errors import ExitCode, Refused, ReproError
from repro.schema import Predicate, Record, ResolvedCase, Statement

MAX_SIZE_BYTES = 20 * 2**20
"""Default limit of a bundle: trackers refuse attachments above 25 MB."""
SUFFIXES = (".json", ".bin", ".onnx", ".txt")
"""Nothing that runs: no engine, shared object, pickle or script is ever packed or accepted."""
_MAX_THREADS = 4

README = """\
A signed bundle of trt-repro: a TensorRT experiment, what it measured, and the state of the machine.

With the kit:       repro show FILE; repro verify FILE
With stock tools, in the folder where you unpacked it:

{signature}python3 -I -c "import json; [print(s['digest']['sha256'] + '  ' + s['name'])
  for s in json.load(open('META/statement.json'))['subject']]" | sha256sum -c --strict -

What these lines don't list is no part of the bundle. {means}
"""
_README_SIGNED = """\
ssh-keygen -Y check-novalidate -n trt-repro-bundle@v1 \\
  -s META/sig/{role}.sshsig < META/statement.json

or, when your file ALLOWED_SIGNERS has the key of PRINCIPAL,

ssh-keygen -Y verify -f ALLOWED_SIGNERS -I PRINCIPAL -n trt-repro-bundle@v1 \\
  -s META/sig/{role}.sshsig < META/statement.json

and then

"""
_README_MEANS = "The signature says which\nkey made this file, not that its numbers are right."
_README_UNSIGNED = "Nobody signed it:\nanybody could have changed it."


class Sealed(NamedTuple):
    """A bundle that was written."""

    path: Path
    id: str
    size: int


class Finding(msgspec.Struct, frozen=True):
    """One thing that `verify` says."""

    state: str
    text: str


class Inspection(msgspec.Struct, frozen=True):
    """The six findings; never one word for all of them."""

    bundle_id: str | None
    container: Finding
    files: Finding
    signature: Finding
    signer: Finding
    time: Finding
    contents: Finding
    principals: tuple[str, ...] = ()
    """Names that the reader's `allowed_signers` gives the signer; none unless the signer is own or known."""

    def code(self, require_signer: str | None = None) -> ExitCode:
        """Return the exit code; with `require_signer`, only that principal is good enough."""
        if self.container.state != "well_formed" or self.files.state != "match":
            return ExitCode.NEGATIVE
        if self.signature.state == "bad" or self.contents.state == "refused":
            return ExitCode.NEGATIVE
        if self.signer.state in ("revoked", "expired"):
            return ExitCode.NEGATIVE
        if require_signer is not None and require_signer not in self.principals:
            return ExitCode.NEGATIVE
        if self.signature.state == "none":
            return ExitCode.DOES_NOT_APPLY
        return ExitCode.DONE if self.signer.state in ("own", "known") else ExitCode.UNDECIDED


class Bundle(NamedTuple):
    """A bundle whose files are what its statement lists."""

    path: Path
    id: str
    statement: Statement
    records: dict[str, Record]
    cases: dict[str, ResolvedCase]
    inspection: Inspection
    wrong: str | None = None
    """Why it would have been refused, where it was read all the same."""


# --- sealing ------------------------------------------------------------------------------------


def unsigned(files: Mapping[str, bytes], predicate: Predicate, *, signed: bool = True) -> dict[str, bytes]:
    """Return all members of a bundle but its signature; `signed` says whether there will be one."""
    members = {"README.txt": _readme(predicate.signer_role if signed else None), **files}
    try:
        _layout(members)
        if misplaced := [name for name in members if name.startswith("META/")]:
            raise Refused(f"{misplaced[0]!r} has no place under META")
    except Refused as error:
        raise ReproError(error.what, "this is a fault of the kit; please report it") from None
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    members[statement.NAME] = statement.make(digests, predicate)
    return members


def seal(
    files: Mapping[str, bytes],
    predicate: Predicate,
    *,
    key: Path | None,
    target: Path,
    stem: str,
    max_size_bytes: int = MAX_SIZE_BYTES,
) -> Sealed:
    """Write `files` and the signed statement about them; `key` `None` leaves it unsigned.

    `target` is the bundle's file `….zip`, or a folder in which it is named `<stem>_<short id>.zip`. The file
    appears complete or not at all.
    """
    members = unsigned(files, predicate, signed=key is not None)
    text = members[statement.NAME]
    if key is not None:
        members[f"{statement.SIGNATURES}{predicate.signer_role}.sshsig"] = sign.sign(text, key)
    identity = statement.bundle_id(text)
    # By name, not by what is there: a folder that vanished must not become a file.
    path = target if target.suffix == ".zip" else target / f"{stem}_{identity[:8]}.zip"
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            size = archive.write(file, members)
            if size > max_size_bytes:
                raise ReproError(
                    f"the bundle would have {size / 2**20:.1f} MiB, and the limit is "
                    f"{max_size_bytes / 2**20:g} MiB",
                    "raise --max-size, or measure less",
                )
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ReproError(
            f"can't write {path} ({error.strerror})", "name another place with --output"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return Sealed(path, identity, size)


def _readme(role: str | None) -> bytes:
    """Return the bundle's README; `role` is the signer's, `None` for an unsigned bundle."""
    if role is None:
        return README.format(signature="", means=_README_UNSIGNED).encode()
    return README.format(signature=_README_SIGNED.format(role=role), means=_README_MEANS).encode()


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` outlast a crash, where the file system can do that."""
    if os.name == "posix":
        # The file stands there whole by now; some network file systems can't sync a folder.
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


# --- reading ------------------------------------------------------------------------------------


_NOT_JUDGED = Finding("not_judged", "not judged: the numbers are what this signer reports")


class _Progress:
    """What is known of a file so far; findings not reached yet say so."""

    def __init__(self) -> None:
        pending = Finding("not_reached", "not examined")
        self.bundle_id: str | None = None
        self.container = self.files = self.signature = self.signer = self.time = pending
        self.contents = _NOT_JUDGED
        self.principals: tuple[str, ...] = ()

    def done(self) -> Inspection:
        return Inspection(
            self.bundle_id,
            self.container,
            self.files,
            self.signature,
            self.signer,
            self.time,
            self.contents,
            self.principals,
        )


def inspect(path: Path, *, signers: Path | None = None) -> Inspection:
    """Return the six findings about a file; raise only where there is no file to judge."""
    seen = _Progress()
    with contextlib.suppress(Refused):
        _examine(path, signers, seen)
    return seen.done()


def read(path: Path, *, signers: Path | None = None, verified: bool = True) -> Bundle:
    """Return the bundle at `path`; raise `Refused` when anything about it is wrong.

    Without `verified`, a bad signature and changed files are only noted in `Bundle.wrong`; what isn't a
    bundle in canonical form, or whose records can't be read, is refused all the same.
    """
    try:
        return _examine(path, signers, _Progress(), verified=verified)
    except Refused as error:
        raise Refused(f"{path.name} is refused: {error.what}", error.hint) from None


def contents(opened: Bundle, names: Iterable[str]) -> dict[str, bytes]:
    """Return members of a bundle that was read; raise `Refused` for one that changed since then.

    Members that aren't there are left out.
    """
    listed = {item.name: item.digest.sha256 for item in opened.statement.subject}
    with archive.opened(opened.path) as zipped:
        found = {name: zipped.read(name) for name in names if name in zipped.names and name in listed}
    for name, data in found.items():
        if opened.wrong is None and hashlib.sha256(data).hexdigest() != listed[name]:
            raise Refused(f"{name} of {opened.path.name} changed while it was read")
    return found


def _examine(path: Path, signers: Path | None, seen: _Progress, *, verified: bool = True) -> Bundle:
    """Examine a bundle from the outside in, noting each finding in `seen` before going on."""
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:
        # (1) The container, every byte of it.
        try:
            zipped = stack.enter_context(archive.opened(path))
            if statement.NAME not in zipped.names:
                raise Refused(f"it holds no {statement.NAME}; it is no bundle of this kit")
            text = zipped.read(statement.NAME)
            signatures = _layout(zipped.names)
        except Refused as error:
            seen.container = Finding("refused", f"REFUSED: {error.what}")
            raise
        seen.container = Finding("well_formed", "well-formed")
        # (2) The statement, and every signature over it.
        try:
            told = statement.parse(text)
        except Refused as error:
            seen.container = Finding("refused", f"REFUSED: {error.what}")
            raise
        seen.bundle_id = statement.bundle_id(text)
        seen.time = Finding(
            "claimed", f"{_shown_time(told.predicate.created_utc)}, the {_role(told)}'s claim"
        )
        try:
            _check_signatures(zipped, text, signatures, told, signers, seen)
        except Refused as error:
            if verified:
                raise
            wrong.append(error.what)
        # (3) The set of files, (4) their digests.
        try:
            _check_files(zipped, told, seen)
        except Refused as error:
            if verified:
                raise
            wrong.append(error.what)
        # (5) Only now what is in them.
        try:
            records, cases = _records(zipped, told, verified=not wrong)
            for name in zipped.names:
                if name.endswith(".onnx"):
                    model.check(name, zipped.read(name))
        except Refused as error:
            seen.contents = Finding("refused", f"REFUSED: {error.what}")
            raise
    return Bundle(path, seen.bundle_id, told, records, cases, seen.done(), "; ".join(wrong) or None)


def _layout(names: Iterable[str]) -> dict[str, str]:
    """Return the signature files by role; raise `Refused` for a name that has no place in a bundle."""
    signatures = {}
    for name in names:
        match = re.fullmatch(rf"{statement.SIGNATURES}(reporter|vendor)\.sshsig", name)
        if match:
            signatures[match[1]] = name
        elif name.startswith("META/") and name != statement.NAME:
            raise Refused(f"{name!r} has no place under META")
        elif not name.endswith(SUFFIXES):
            raise Refused(f"{name!r} is of a kind that a bundle never holds")
    return signatures


def _check_signatures(
    zipped: archive.Archive,
    text: bytes,
    signatures: dict[str, str],
    told: Statement,
    signers: Path | None,
    seen: _Progress,
) -> None:
    """Check every signature; the one of the statement's signer, where there is one, names the signer."""
    if not signatures:
        seen.signature = Finding("none", "NONE")
        seen.signer = Finding("none", "nobody signed this")
        return
    found: dict[str, tuple[bytes, sign.Signature]] = {}
    try:
        for role, name in signatures.items():
            if zipped.size(name) > sign.MAX_SIGNATURE_BYTES:
                raise Refused(f"{name} has {zipped.size(name)} bytes; {sign.MAX_SIGNATURE_BYTES} are allowed")
            blob = zipped.read(name)
            found[role] = blob, sign.check(text, blob)
    except Refused as error:
        seen.signature = Finding("bad", f"BAD: {error.what}")
        raise
    blob, made = found.get(_role(told)) or next(iter(found.values()))
    seen.signature = Finding("good", f"made with key {made.fingerprint} ({made.key_type})")
    signer = sign.who(text, blob, told.predicate.created_utc, signers)
    seen.signer = _signer(signer)
    seen.principals = signer.principals


def _signer(signer: sign.Signer) -> Finding:
    where = f" ({signer.source})" if signer.source else ""
    texts: dict[Literal["own", "known", "unknown", "expired", "revoked"], str] = {
        "own": f"known: your own key{where}",
        "known": f"known: {signer.principal}{where}",
        "unknown": "UNKNOWN – anybody could have made this key",
        "expired": f"EXPIRED{where}",
        "revoked": f"REVOKED{where}",
    }
    return Finding(signer.state, texts[signer.state])


def _check_files(zipped: archive.Archive, told: Statement, seen: _Progress) -> None:
    listed = {item.name: item.digest.sha256 for item in told.subject}
    present = {name for name in zipped.names if not name.startswith("META/")}
    problems = []
    if len(listed) != len(told.subject):
        problems.append("LISTED TWICE")
    if missing := sorted(set(listed) - present):
        problems.append("MISSING: " + _some(missing))
    if extra := sorted(present - set(listed)):
        problems.append("EXTRA: " + _some(extra))
    digests = _digests(zipped, present & set(listed))
    if changed := sorted(name for name, digest in digests.items() if digest != listed[name]):
        problems.append("CHANGED: " + _some(changed))
    if problems:
        seen.files = Finding("differ", "; ".join(problems))
        raise Refused(f"its files are not what its statement lists ({'; '.join(problems)})")
    seen.files = Finding("match", f"{len(listed)} of {len(listed)} match the statement")


def _digests(zipped: archive.Archive, names: Iterable[str]) -> dict[str, str | None]:
    """Return the members' digests; `None` for one that isn't what its header says."""

    def digest(name: str) -> str | None:
        try:
            return zipped.sha256(name)
        except Refused:
            return None

    # Unpacking and hashing let other threads run; the longest first, so that all end together.
    longest_first = sorted(names, key=zipped.size, reverse=True)
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(longest_first, pool.map(digest, longest_first), strict=True))


def _some(names: list[str]) -> str:
    """Return the first few names as text; a statement can list any, even such that move a cursor."""
    shown = [name if archive.name_problem(name) is None else ascii(name[:80]) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _records(
    zipped: archive.Archive, told: Statement, *, verified: bool
) -> tuple[dict[str, Record], dict[str, ResolvedCase]]:
    listed = {item.name: item.digest.sha256 for item in told.subject}
    records: dict[str, Record] = {}
    cases: dict[str, ResolvedCase] = {}

    def content(name: str, of: str) -> bytes:
        if name not in listed or name not in zipped.names:
            raise Refused(f"it lists the record {of} without its {name.rpartition('/')[2]}")
        if zipped.size(name) > statement.MAX_JSON_BYTES:
            raise Refused(f"{name} has {zipped.size(name)} bytes; {statement.MAX_JSON_BYTES} are allowed")
        data = zipped.read(name)
        # Read a second time rather than held since the first; so it is checked a second time, too.
        if verified and hashlib.sha256(data).hexdigest() != listed[name]:
            raise Refused(f"{name} changed while it was read")
        return data

    for entry in told.predicate.records:
        shown = ascii(entry.name[:80])
        if entry.name in records:
            raise Refused(f"it lists the record {shown} twice")
        home = f"records/{entry.name}"
        data = content(f"{home}/record.json", shown)
        record = statement.decode(f"{home}/record.json", data, Record)
        if (record.record_name, record.status, record.role) != (entry.name, entry.status, entry.role):
            raise Refused(f"the record {shown} is not as the statement says")
        records[entry.name] = record
        data = content(f"{home}/case/case.json", shown)
        cases[entry.name] = statement.decode(f"{home}/case/case.json", data, ResolvedCase)
    return records, cases


def _role(told: Statement) -> str:
    return told.predicate.signer_role


def _shown_time(utc: str) -> str:
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\dZ", utc, re.ASCII)
    return f"{match[1]} {match[2]} UTC" if match else "not a time"
