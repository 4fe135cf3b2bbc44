"""Keys and signatures: SSHSIG, made and checked by OpenSSH's ssh-keygen.

The key is a dedicated Ed25519 key of the kit, never the user's login key: that would tie a public
ticket to an account. ssh-keygen always works from standard input to standard output here; with a file
argument and a stale `.sig` beside it, it would return 0 and leave the old one. Who a signer is, is
decided by the reader's own `allowed_signers`, never by anything inside a bundle.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from repro import proc
from repro.errors import Refused, ReproError
from repro.schema import DISTRIBUTION, SSHSIG_NAMESPACE

TIMEOUT_S = 60.0
KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ssh-rsa",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
        "ssh-ed25519-cert-v01@openssh.com",
        "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    }
)
HASHES = frozenset({"sha256", "sha512"})

_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_INSTALL = "install OpenSSH's client (apt install openssh-client)"


class Signature(NamedTuple):
    """What an SSHSIG blob says of itself."""

    key_type: str
    key: str
    """The public key, base64, as in an allowed_signers file."""
    fingerprint: str
    namespace: str
    hash: str


class Signer(NamedTuple):
    """Who the reader's own files say the signer is."""

    state: Literal["own", "known", "unknown", "expired", "revoked"]
    principal: str | None
    source: str | None
    """Where that stands, as file:line."""


def config_folder() -> Path:
    """Return the folder of keys and signers: `trt-repro` in the XDG config folder."""
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or "~"
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    try:
        return Path(base).expanduser() / DISTRIBUTION
    except RuntimeError:
        raise ReproError(
            "there is no home folder for the signing key", "set XDG_CONFIG_HOME, or use --unsigned"
        ) from None


def ensure_folder(folder: Path) -> Path:
    """Make the config folder, for its owner only; return it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ReproError(
            f"can't make {folder} ({error.strerror})", "set XDG_CONFIG_HOME, or use --unsigned"
        ) from None
    return folder


def ensure_key(path: Path | None) -> Path:
    """Return a usable signing key: `path`, or the kit's own, made on first use."""
    if path is not None:
        if not path.is_file():
            raise ReproError(f"there is no key {path}", "name a private OpenSSH key, or leave --key out")
        key = path
    else:
        key = ensure_folder(config_folder()) / "signing_key"
        if not key.exists():
            _make_key(key)
    # A public key stands for an agent's private one; there is nothing to protect in it.
    if os.name == "posix" and key.suffix != ".pub":
        mode = key.stat().st_mode & 0o777
        if mode & 0o077:
            raise ReproError(f"others can read the key {key} (mode {mode:04o})", f"chmod 600 {key}")
    # A trial now, so that nobody measures for minutes and then can't sign.
    sign(b"trial", key)
    return key


def _make_key(path: Path) -> None:
    """Make an Ed25519 key with an empty comment; the default one would be user@host."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        _keygen("-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(fresh))
        for suffix in (".pub", ""):
            os.replace(f"{fresh}{suffix}", f"{path}{suffix}")


def sign(data: bytes, key: Path) -> bytes:
    """Return the SSHSIG of `data`; raise `ReproError` when ssh-keygen refuses."""
    made = _keygen("-q", "-Y", "sign", "-f", str(key), "-n", SSHSIG_NAMESPACE, stdin=data)
    check(data, made)
    return made


def _keygen(*arguments: str, stdin: bytes = b"") -> bytes:
    finished = _run(arguments, stdin)
    if finished.returncode:
        words = (finished.stderr or finished.stdout).decode(errors="replace").strip()
        if "No user exists for uid" in words:
            raise ReproError(
                "this user id has no entry in the password file, and ssh-keygen refuses to sign for it",
                "run as a user with an entry (docker run: --user with a known name), or use --unsigned",
            )
        last = words.splitlines()[-1] if words else f"status {finished.returncode}"
        raise ReproError(f"ssh-keygen can't sign ({last})", "check the key, or use --unsigned")
    return finished.stdout


def _run(arguments: tuple[str, ...], stdin: bytes = b"") -> proc.Finished:
    # Translated messages would not be found again.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return proc.run(("ssh-keygen", *arguments), stdin=stdin, timeout_s=TIMEOUT_S, env=environment)
    except ReproError as error:
        raise ReproError(error.what, _INSTALL if "start" in error.what else error.hint) from None


def parse(signature: bytes) -> Signature:
    """Read an armoured SSHSIG; raise `Refused` for any form or algorithm that isn't in the tables."""
    try:
        text = signature.decode("ascii").strip()
        if not (text.startswith(_BEGIN) and text.endswith(_END)):
            raise Refused("the signature is not an SSH signature")
        blob = base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
        if blob[:10] != b"SSHSIG" + struct.pack(">I", 1):
            raise Refused("the signature is not an SSHSIG of version 1")
        fields = list(_strings(blob[10:]))
        key, namespace, _reserved, digest, _made = fields
        key_type = next(_strings(key)).decode("ascii")
    except (UnicodeDecodeError, binascii.Error, struct.error, ValueError, StopIteration):
        raise Refused("the signature can't be read") from None
    if key_type not in KEY_TYPES:
        raise Refused(f"the signature's key is of the type {key_type[:40]!r}")
    if digest.decode("ascii", "replace") not in HASHES:
        raise Refused("the signature's hash is not allowed")
    if namespace != SSHSIG_NAMESPACE.encode():
        raise Refused(f"the signature is made for {namespace[:40]!r}, not for {SSHSIG_NAMESPACE}")
    return Signature(
        key_type,
        base64.b64encode(key).decode(),
        fingerprint(key),
        SSHSIG_NAMESPACE,
        digest.decode("ascii"),
    )


def _strings(blob: bytes) -> Iterator[bytes]:
    while blob:
        (length,) = struct.unpack(">I", blob[:4])
        if length > len(blob) - 4:
            raise ValueError("cut short")
        yield blob[4 : 4 + length]
        blob = blob[4 + length :]


def fingerprint(key: bytes) -> str:
    """Return the SHA256 fingerprint of a public key, as ssh-keygen prints it."""
    import hashlib

    digest = hashlib.sha256(key).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def check(data: bytes, signature: bytes) -> Signature:
    """Return the signature when it is good for `data`; raise `Refused` otherwise."""
    seen = parse(signature)
    with _as_file(signature) as path:
        finished = _run(("-Y", "check-novalidate", "-n", SSHSIG_NAMESPACE, "-s", path), data)
    if finished.returncode:
        raise Refused("the signature does not fit the statement")
    return seen


def who(data: bytes, signature: bytes, signed_utc: str, folder: Path | None = None) -> Signer:
    """Return who made `signature`, by one's own key and `allowed_signers`; both in `folder`."""
    seen = parse(signature)
    folder = folder or config_folder()
    krl = folder / "revoked_keys"
    allowed = folder / "allowed_signers"
    own = folder / "signing_key.pub"
    revocation = ("-r", str(krl)) if krl.is_file() else ()
    with _as_file(signature) as path:
        if revocation:
            listed = _run(("-Q", "-f", str(krl), _written_key(seen, Path(path).parent)))
            if listed.returncode:
                return Signer("revoked", None, "revoked_keys")
        if own.is_file() and seen.key in own.read_text(errors="replace").split():
            return Signer("own", None, "signing_key.pub")
        if not allowed.is_file():
            return Signer("unknown", None, None)
        principal = _principal(allowed, path)
        if principal is not None:
            arguments = ("-Y", "verify", "-f", str(allowed), "-I", principal, "-n", SSHSIG_NAMESPACE)
            finished = _run((*arguments, "-s", path, *revocation), data)
            if finished.returncode == 0:
                return Signer("known", principal, _line(allowed, seen))
        then = re.sub(r"\D", "", signed_utc)[:14]
        if then and _principal(allowed, path, f"-Overify-time={then}Z") is not None:
            return Signer("expired", None, _line(allowed, seen))
    return Signer("unknown", None, None)


def _principal(allowed: Path, signature: str, *options: str) -> str | None:
    finished = _run(("-Y", "find-principals", "-f", str(allowed), "-s", signature, *options))
    if finished.returncode:
        return None
    lines = finished.stdout.decode(errors="replace").splitlines()
    return lines[0].strip() if lines else None


def _line(allowed: Path, seen: Signature) -> str:
    for number, line in enumerate(allowed.read_text(errors="replace").splitlines(), 1):
        if seen.key in line.split():
            return f"{allowed.name}:{number}"
    return allowed.name


def _written_key(seen: Signature, folder: Path) -> str:
    path = folder / "key.pub"
    path.write_text(f"{seen.key_type} {seen.key}\n")
    return str(path)


@contextmanager
def _as_file(signature: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "statement.sshsig"
        path.write_bytes(signature)
        yield str(path)
