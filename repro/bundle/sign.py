"""Keys and signatures: SSHSIG, made and checked by OpenSSH's ssh-keygen.

The key is a dedicated Ed25519 key of the kit, never the user's login key: that would tie a public
ticket to an account. ssh-keygen always works from standard input to standard output here; with a file
argument and a stale `.sig` beside it, it would return 0 and leave the old one. Who a signer is, is
decided by the reader's own `allowed_signers`, never by anything inside a bundle.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
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
MIN_RSA_BITS = 3072
MAX_SIGNATURE_BYTES = 32 * 2**10

_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_LINE = 70
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
    principals: tuple[str, ...]
    """The names that `allowed_signers` gives the key, now and for bundles."""
    source: str | None
    """Where that stands, as file:line."""

    @property
    def principal(self) -> str | None:
        """The first of the names."""
        return self.principals[0] if self.principals else None


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
    key = ensure_folder(config_folder()) / "signing_key" if path is None else path
    try:
        if path is None and not key.exists():
            _make_key(key)
        if not key.is_file():
            raise ReproError(f"there is no key {key}", "name a private OpenSSH key, or leave --key out")
        # A public key stands for an agent's private one; there is nothing to protect in it.
        if os.name == "posix" and key.suffix != ".pub":
            mode = key.stat().st_mode & 0o777
            if mode & 0o077:
                raise ReproError(f"others can read the key {key} (mode {mode:04o})", f"chmod 600 {key}")
        # A trial now, so that nobody measures for minutes and then can't sign.
        made = parse(sign(b"trial", key))
        if path is None:
            _keep_public(key, made)
    except OSError as error:
        raise ReproError(
            f"can't use the key {key} ({error.strerror})", "check its folder, or use --unsigned"
        ) from None
    return key


def _make_key(path: Path) -> None:
    """Make an Ed25519 key with an empty comment; the default one would be user@host."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / path.name
        _keygen("-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(fresh))
        # One of an earlier key would stand in the way; `_keep_public` writes the right one.
        path.with_name(f"{path.name}.pub").unlink(missing_ok=True)
        place(fresh, path)


def place(fresh: Path, path: Path) -> None:
    """Put a finished file at `path`, whole, unless one is there; of several processes the first wins."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    except OSError:
        # No hard links on this file system: nearly as good.
        if not path.exists():
            fresh.rename(path)


def _keep_public(key: Path, made: Signature) -> None:
    """Write the public key beside the private one, by which one's own signatures are known."""
    path = key.with_name(f"{key.name}.pub")
    if path.is_file() and made.key in path.read_text(errors="replace").split():
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / path.name
        fresh.write_text(f"{made.key_type} {made.key}\n")
        fresh.replace(path)


def sign(data: bytes, key: Path) -> bytes:
    """Return the SSHSIG of `data`; raise `ReproError` when ssh-keygen refuses."""
    made = _keygen("-q", "-Y", "sign", "-f", str(key), "-n", SSHSIG_NAMESPACE, stdin=data)
    # In the one form that `parse` takes, whatever the platform's line ends are.
    with contextlib.suppress(ValueError):
        made = _armoured(_blob(made))
    check(data, made)
    return made


def _keygen(*arguments: str, stdin: bytes = b"") -> bytes:
    finished = _run(arguments, stdin)
    if finished.returncode:
        words = (finished.stderr or finished.stdout).decode(errors="replace").strip()
        if "passphrase" in words:
            # It can't be typed here: a child has no terminal, and its standard input is what it signs.
            raise ReproError(
                "the key has a passphrase", "let an agent hold it (ssh-add KEY), then call this again"
            )
        last = words.splitlines()[-1] if words else f"status {finished.returncode}"
        hint = "remove the .pub file beside the key" if "match private" in words else "check the key"
        raise ReproError(f"ssh-keygen can't sign ({last})", f"{hint}, or use --unsigned")
    return finished.stdout


def _run(arguments: tuple[str, ...], stdin: bytes = b"") -> proc.Finished:
    """Run ssh-keygen; raise `ReproError` where its status would be no answer to what was asked."""
    # Translated messages would not be found again; a window that asks for a passphrase would hang us.
    environment = {**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
    environment.pop("SSH_ASKPASS", None)
    try:
        finished = proc.run(("ssh-keygen", *arguments), stdin=stdin, timeout_s=TIMEOUT_S, env=environment)
    except ReproError as error:
        raise ReproError(error.what, _INSTALL if "start" in error.what else error.hint) from None
    if finished.returncode:
        if b"No user exists for uid" in finished.stderr:
            raise ReproError(
                "this user id has no entry in the password file, and ssh-keygen refuses to work for it",
                "run as a user with an entry (docker run: --user with a known name); "
                "a bundle can be sealed with --unsigned",
            )
        if re.search(rb"(unknown|illegal|unrecognized|invalid) option", finished.stderr):
            raise ReproError("this ssh-keygen is too old for signatures", "install OpenSSH 8.2 or newer")
        if finished.returncode < 0:
            raise ReproError(f"ssh-keygen was ended by {proc.signal_name(finished.returncode)}", "try again")
    return finished


def _blob(signature: bytes) -> bytes:
    """Return what an armoured signature holds; raise `ValueError` where there is none."""
    text = signature.decode("ascii").strip()
    if not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise ValueError("not an SSH signature")
    return base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)


def _armoured(blob: bytes) -> bytes:
    text = base64.b64encode(blob).decode()
    lines = (text[i : i + _LINE] for i in range(0, len(text), _LINE))
    return "\n".join((_BEGIN, *lines, _END, "")).encode()


def parse(signature: bytes) -> Signature:
    """Read an armoured SSHSIG; raise `Refused` for any form or algorithm that isn't in the tables."""
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise Refused("the signature is too long")
    try:
        blob = _blob(signature)
        # Nobody but the signer can write the same signature in another way.
        if _armoured(blob) != signature:
            raise Refused("the signature is not written as ssh-keygen writes it")
        if blob[:10] != b"SSHSIG" + struct.pack(">I", 1):
            raise Refused("the signature is not an SSHSIG of version 1")
        fields = list(_strings(blob[10:]))
        key, namespace, _reserved, digest, _made = fields
        # Only the first field: a certificate holds numbers among its strings.
        key_type = next(_strings(key))
        modulus = list(_strings(key))[2] if key_type == b"ssh-rsa" else b""
    except (binascii.Error, struct.error, ValueError, IndexError, StopIteration):
        raise Refused("the signature can't be read") from None
    if (kind := key_type.decode("ascii", "replace")) not in KEY_TYPES:
        raise Refused(f"the signature's key is of the type {kind[:40]!a}")
    if kind == "ssh-rsa" and int.from_bytes(modulus, "big").bit_length() < MIN_RSA_BITS:
        raise Refused(f"the signature's RSA key is shorter than {MIN_RSA_BITS} bits")
    if digest.decode("ascii", "replace") not in HASHES:
        raise Refused("the signature's hash is not allowed")
    if namespace != SSHSIG_NAMESPACE.encode():
        raise Refused(f"the signature is made for {namespace[:40]!r}, not for {SSHSIG_NAMESPACE}")
    return Signature(
        kind,
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
    with _as_file(signature) as path:
        revocation: tuple[str, ...] = ()
        if krl.is_file():
            if _is_revoked(krl, _written_key(seen, Path(path).parent)):
                return Signer("revoked", (), "revoked_keys")
            revocation = ("-r", str(krl))
        found, expired = _principals(allowed, path) if allowed.is_file() else ((), False)
        arguments = ("-Y", "verify", "-f", str(allowed), "-n", SSHSIG_NAMESPACE, "-s", path, *revocation)
        # Only ssh-keygen judges the namespaces that a line allows.
        principals = tuple(p for p in found if _run((*arguments, "-I", p), data).returncode == 0)
        if own.is_file() and seen.key in own.read_text(errors="replace").split():
            return Signer("own", principals, own.name)
        if principals:
            return Signer("known", principals, _line(allowed, seen, principals[0]))
        if not expired and not found and allowed.is_file():
            # A certificate that was good when the bundle was made, by its own word; an attacker with
            # an expired key gains nothing from lying about it.
            then = re.sub(r"[^0-9]", "", signed_utc)[:14]
            expired = bool(_principals(allowed, path, f"-Overify-time={then}Z")[0])
        if expired:
            return Signer("expired", (), _line(allowed, seen))
    return Signer("unknown", (), None)


def _is_revoked(krl: Path, key: str) -> bool:
    finished = _run(("-Q", "-f", str(krl), key))
    if finished.returncode not in (0, 1):
        raise ReproError(f"{krl} is no list of revoked keys", f"make it with ssh-keygen -k -f {krl} KEY.pub")
    return finished.returncode == 1


def _principals(allowed: Path, signature: str, *options: str) -> tuple[tuple[str, ...], bool]:
    """Return whom `allowed` gives the key to, and whether that time is over."""
    finished = _run(("-Y", "find-principals", "-f", str(allowed), "-s", signature, *options))
    if finished.returncode:
        return (), b"key has expired" in finished.stderr
    return tuple(finished.stdout.decode(errors="replace").split()), False


def _line(allowed: Path, seen: Signature, principal: str = "") -> str:
    """Return file:line of the key; without a line for certificates, which the file doesn't hold."""
    for number, line in enumerate(allowed.read_text(errors="replace").splitlines(), 1):
        words = line.split()
        if seen.key in words and principal in words[0]:
            return f"{allowed.name}:{number}"
    return allowed.name


def _written_key(seen: Signature, folder: Path) -> str:
    path = folder / "key.pub"
    path.write_text(f"{seen.key_type} {seen.key}\n")
    return str(path)


@contextlib.contextmanager
def _as_file(signature: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "statement.sshsig"
        path.write_bytes(signature)
        yield str(path)
