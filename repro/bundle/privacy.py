"""What leaves the machine: records with everything private named by pseudonym or taken out.

Capture is an allow-list: a record has typed fields only, and every one of them is known to be fit to
publish, except those that this module replaces. Logs stay on the machine. Pseudonyms are keyed: the
same machine has the same name in two bundles, and nobody without the key can confirm a guess.
"""

from __future__ import annotations

import base64
import contextlib
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

from repro.schema import Fact, Privacy, Record, Stage

POLICY = "allow-list-1"
KEY_BYTES = 32

_PATTERNS = (
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "<mail>"),
    (re.compile(r"\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b"), "<mac>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"), "<ip>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<uuid>"),
    (re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+@~-]+){2,}[\\/]?"), "<path>"),
)


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
    with contextlib.suppress(FileExistsError):
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            # A link, not a rename: whoever comes second keeps the first one's key.
            os.link(part, path)
        finally:
            part.unlink()
    return Pseudonyms(path.read_bytes())


class Redactor:
    """Takes private values out of text, and counts them."""

    def __init__(self, values: Iterable[tuple[str, str]]) -> None:
        self.count = 0
        known = [
            (re.compile(rf"(?<!\w){re.escape(v)}(?!\w)"), f"<{kind}>") for kind, v in values if len(v) > 2
        ]
        self._rules = (*known, *_PATTERNS)

    def text(self, text: str) -> str:
        """Return `text` without them."""
        for pattern, replacement in self._rules:
            text, n = pattern.subn(replacement, text)
            self.count += n
        return text


def of_this_machine() -> Redactor:
    """Return a redactor that knows this machine's user, home and host."""
    values = [("path", str(Path.cwd())), ("host", socket.gethostname())]
    with contextlib.suppress(Exception):
        values.append(("user", getpass.getuser()))
    with contextlib.suppress(RuntimeError):
        values.append(("home", str(Path.home())))
    return Redactor(sorted(values, key=lambda item: -len(item[1])))


def publish(record: Record, names: Pseudonyms, redactor: Redactor) -> Record:
    """Return `record` as it may leave the machine."""
    before = redactor.count
    stages = tuple(_stage(stage, redactor) for stage in record.stages)
    facts = tuple(_fact(fact, names) for fact in record.telemetry.facts)
    hidden = sum(fact.private for fact in facts) + (record.boot is not None)
    replace = msgspec.structs.replace
    return replace(
        record,
        boot=names.of("boot", record.boot) if record.boot is not None else None,
        reason=redactor.text(record.reason) if record.reason is not None else None,
        stages=stages,
        telemetry=replace(record.telemetry, facts=facts),
        privacy=Privacy(POLICY, hidden + redactor.count - before, names.key_id, ()),
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
    if not fact.private or fact.value is None:
        return fact
    kind = fact.name.removesuffix("_id").replace("_", "-")
    return msgspec.structs.replace(fact, value=names.of(kind, str(fact.value)))
