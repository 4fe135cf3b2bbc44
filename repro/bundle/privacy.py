"""What leaves the machine: records with everything private named by pseudonym or taken out.

Capture is an allow-list: a record has typed fields only, and every one of them is known to be fit to
publish, except those that this module replaces. Logs stay on the machine. Pseudonyms are keyed: the
same machine has the same name in two bundles, and nobody without the key can confirm a guess.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import getpass
import hashlib
import hmac
import os
import re
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro.bundle import sign
from repro.errors import ReproError
from repro.schema import Fact, Privacy, Record, Scalar, Stage, StateChange

POLICY = "allow-list-1"
KEY_BYTES = 32

_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_HEX = r"[0-9A-Fa-f]"
_SEGMENTS = r"(?:[\\/][\w.+@~-]+)"

# What has names in it goes before the names: what is around them tells as much.
_AROUND_NAMES = (
    (re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}\b"), "<mail>"),
    (re.compile(rf"(?:[A-Za-z]:)?{_SEGMENTS}{{2,}}[\\/]?"), "<path>"),
)
_PATTERNS = (
    (re.compile(rf"\b{_HEX}{{2}}(?:([:-]){_HEX}{{2}})(?:\1{_HEX}{{2}}){{4}}\b"), "<mac>"),
    # Not a version: a product or an operator before it, or a package's revision behind.
    (
        re.compile(
            r"(?P<kept>(?:\b(?:tensorrt|trt|cuda|cudnn|onnxruntime|driver|release|version|v)[ :=_-]*"
            r"|[=<>~!]=\s*))?"
            rf"(?<![\d.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\w|\.\d|[+~]\w|-\d{{1,2}}(?![\d.]))",
            re.IGNORECASE,
        ),
        "<ip>",
    ),
    (
        re.compile(
            rf"(?<![\w:])(?:(?:{_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}"
            rf"|(?:fe80|f[cd]{_HEX}{{2}}|[23]{_HEX}{{3}})(?::{_HEX}{{1,4}}){{0,6}}::(?:{_HEX}{{1,4}}:){{0,6}}{_HEX}{{0,4}})"
            r"(?![\w:])",
            re.IGNORECASE,
        ),
        "<ip>",
    ),
    (re.compile(rf"\b{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}\b"), "<uuid>"),
)
_FOLDERS = frozenset({"path", "home"})
_SAYS_NOTHING = frozenset({"root", "localhost"})
"""Names that many machines share."""


class Pseudonyms(NamedTuple):
    """Names for private values, by a key that never leaves the machine."""

    key: bytes

    @property
    def key_id(self) -> str:
        """Tells whether two bundles' pseudonyms are comparable, and nothing else."""
        return hashlib.sha256(b"trt-repro pseudonym key\0" + self.key).hexdigest()[:12]

    def of(self, kind: str, value: str) -> str:
        """Return the pseudonym of a value."""
        mac = hmac.new(self.key, f"{kind}\0{value}".encode(), hashlib.sha256).digest()
        return f"{kind}-{base64.b32encode(mac).decode()[:12].lower()}"


def pseudonyms(folder: Path) -> Pseudonyms:
    """Return the machine's pseudonyms; their key is made on first use, readable by its owner only."""
    path = folder / "pseudonym.key"
    try:
        if not path.exists():
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(secrets.token_bytes(KEY_BYTES))
                sign.place(part, path)
            finally:
                part.unlink(missing_ok=True)
        key = path.read_bytes()
    except OSError as error:
        raise ReproError(
            f"can't use {path} ({error.strerror})", "check its folder, or set XDG_CONFIG_HOME"
        ) from None
    if len(key) != KEY_BYTES:
        raise ReproError(f"{path} is not a key of {KEY_BYTES} bytes", "remove it; a new one will be made")
    return Pseudonyms(key)


def of_machine() -> Pseudonyms:
    """Return the pseudonyms of this machine and user, with the key in the kit's config folder."""
    return pseudonyms(sign.ensure_folder(sign.config_folder()))


class Redactor:
    """Takes private values out of text, and counts them."""

    def __init__(self, values: Iterable[tuple[str, str]]) -> None:
        self.count = 0
        folders: list[tuple[re.Pattern[str], str]] = []
        names: list[tuple[re.Pattern[str], str]] = []
        for kind, value in sorted(set(values), key=lambda item: -len(item[1])):
            if len(value) > 2 and value not in _SAYS_NOTHING:
                (folders if kind in _FOLDERS else names).append((_whole(kind, value), f"<{kind}>"))
        self._rules = (*folders, *_AROUND_NAMES, *names, *_PATTERNS)

    def text(self, text: str) -> str:
        """Return `text` without them."""
        for pattern, mask in self._rules:
            text = pattern.sub(functools.partial(self._masked, mask), text)
        return text

    def _masked(self, mask: str, match: re.Match[str]) -> str:
        if match.groupdict().get("kept"):
            return match[0]
        self.count += 1
        return mask


def _whole(kind: str, value: str) -> re.Pattern[str]:
    """Return the pattern of a value and of what would tell more behind it: a domain, the rest of a path."""
    more = f"{_SEGMENTS}*" if kind in _FOLDERS else r"(?:\.[A-Za-z][\w-]*)*" if kind == "host" else ""
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w){more}", re.IGNORECASE)


def private_values() -> tuple[tuple[str, str], ...]:
    """Return what this machine's user, home, host and folder are called, as (kind, value)."""
    host = socket.gethostname()
    values = [("path", str(Path.cwd())), ("host", host), ("host", host.partition(".")[0])]
    with contextlib.suppress(Exception):
        values.append(("user", getpass.getuser()))
    with contextlib.suppress(RuntimeError):
        values.append(("home", str(Path.home())))
    return tuple(values)


def of_records(records: Iterable[Record]) -> tuple[tuple[str, str], ...]:
    """Return what the probes found and only pseudonyms may name, as (kind, value): messages repeat it."""
    return tuple(
        (fact.name, str(fact.value))
        for record in records
        for fact in record.telemetry.facts
        if fact.private and fact.value is not None
    )


def publish(record: Record, names: Pseudonyms, redactor: Redactor) -> Record:
    """Return `record` as it may leave the machine."""
    before = redactor.count
    stages = tuple(_stage(stage, redactor) for stage in record.stages)
    facts = tuple(_fact(fact, names) for fact in record.telemetry.facts)
    private = {(fact.probe, fact.name) for fact in facts if fact.private}
    changes = tuple(
        _change(change, names) if (change.probe, change.name) in private else change
        for change in record.telemetry.state_changed
    )
    hidden = sum(fact.private and fact.value is not None for fact in facts)
    hidden += (record.boot is not None) + (record.board.gpu is not None)
    replace = msgspec.structs.replace
    gpu = record.board.gpu
    if record.case.share == "none":
        record = _without_model(record, names)
    return replace(
        record,
        boot=names.of("boot", record.boot) if record.boot is not None else None,
        reason=redactor.text(record.reason) if record.reason is not None else None,
        board=replace(record.board, gpu=names.of("gpu-uuid", gpu) if gpu is not None else None),
        stages=stages,
        telemetry=replace(record.telemetry, facts=facts, state_changed=changes),
        privacy=Privacy(POLICY, hidden + redactor.count - before, names.key_id),
    )


def _without_model(record: Record, names: Pseudonyms) -> Record:
    """Return a private case's record with pseudonyms for all that somebody with the model could recompute."""
    replace = msgspec.structs.replace

    def hidden(kind: str, digest: str | None) -> str | None:
        return None if digest is None else names.of(kind, digest)

    return replace(
        record,
        case=replace(record.case, digest=names.of("case", record.case.digest)),
        model=replace(
            record.model,
            digests={name: names.of("model", digest) for name, digest in record.model.digests.items()},
        ),
        builds=tuple(
            replace(
                build,
                structure_hash=hidden("structure", build.structure_hash),
                plan_sha256=hidden("plan", build.plan_sha256),
                recipe_hash=hidden("recipe", build.recipe_hash),
            )
            for build in record.builds
        ),
    )


def _stage(stage: Stage, redactor: Redactor) -> Stage:
    if stage.error is None:
        return stage
    replace = msgspec.structs.replace
    error = replace(
        stage.error,
        message=redactor.text(stage.error.message),
        signature=redactor.text(stage.error.signature),
    )
    return replace(stage, error=error)


def _fact(fact: Fact, names: Pseudonyms) -> Fact:
    return msgspec.structs.replace(fact, value=_named(fact.name, fact.value, names)) if fact.private else fact


def _change(change: StateChange, names: Pseudonyms) -> StateChange:
    before, after = (_named(change.name, value, names) for value in (change.before, change.after))
    return msgspec.structs.replace(change, before=before, after=after)


def _named(name: str, value: Scalar | None, names: Pseudonyms) -> str | None:
    kind = name.removesuffix("_id").replace("_", "-")
    return None if value is None else names.of(kind, str(value))
