"""The kit and ssh-keygen never disagree on who signed (differential test, real keys of every kind)."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from repro.bundle import sign
from repro.errors import Refused
from repro.schema import SSHSIG_NAMESPACE

pytestmark = pytest.mark.needs("ssh-keygen", "linux")

DATA = b'{"a": "statement"}'
SIGNED_UTC = "2026-01-15T12:00:00Z"


def keygen(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["ssh-keygen", *map(str, arguments)], input=stdin, capture_output=True, timeout=60, check=False
    )


def make_key(path: Path, *options: str) -> Path:
    done = keygen("-q", *(options or ("-t", "ed25519")), "-N", "", "-C", "", "-f", path)
    assert done.returncode == 0, done.stderr
    return path


def public(key: Path) -> str:
    return " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])


def made_with(key: Path, namespace: str = SSHSIG_NAMESPACE) -> bytes:
    done = keygen("-q", "-Y", "sign", "-f", key, "-n", namespace, stdin=DATA)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Trust(NamedTuple):
    """A reader's files, and ssh-keygen's own word on them."""

    folder: Path

    def write(self, *lines: str) -> None:
        (self.folder / "allowed_signers").write_text("".join(f"{line}\n" for line in lines))

    def principals_by_ssh_keygen(self, signature: bytes) -> set[str]:
        """Ask ssh-keygen for every name that stands in the file."""
        path = self.folder.parent / "signature"
        path.write_bytes(signature)
        allowed = self.folder / "allowed_signers"
        krl = self.folder / "revoked_keys"
        lines = [line for line in allowed.read_text().splitlines() if line and not line.startswith("#")]
        names = {"reporter@example.org", "other@example.org", *(line.split()[0] for line in lines)}
        good = set()
        for name in names - {"*@example.org"}:
            options: list[str | Path] = ["-r", krl] if krl.exists() else []
            done = keygen(
                "-Y",
                "verify",
                "-f",
                allowed,
                "-I",
                name,
                "-n",
                SSHSIG_NAMESPACE,
                "-s",
                path,
                *options,
                stdin=DATA,
            )
            if done.returncode == 0:
                good.add(name)
        return good


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    folder = tmp_path / "reader"
    folder.mkdir()
    return Trust(folder)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "key")


def agree(trust: Trust, signature: bytes, state: str) -> None:
    """The kit says `state`, and calls the signer known exactly where ssh-keygen verifies."""
    signer = sign.who(DATA, signature, SIGNED_UTC, trust.folder)
    assert signer.state == state
    assert set(signer.principals) == trust.principals_by_ssh_keygen(signature)


ME = "reporter@example.org"
NS = f'namespaces="{SSHSIG_NAMESPACE}"'


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (f"{ME} {{key}}", "known"),
        (f"{ME},other@example.org {{key}}", "known"),
        (f"# a comment\n\n{ME} {{key}} hiro at work", "known"),
        (f"{ME} {NS} {{key}}", "known"),
        (f'{ME} namespaces="git,{SSHSIG_NAMESPACE}" {{key}}', "known"),
        (f'{ME} namespaces="trt-repro-*" {{key}}', "known"),
        (f'{ME} namespaces="git" {{key}}', "unknown"),
        (f'{ME} namespaces="trt-repro-bundle@v2" {{key}}', "unknown"),
        (f'{ME} valid-after="20200101" {{key}}', "known"),
        (f'{ME} valid-before="20991231" {{key}}', "known"),
        (f'{ME} valid-before="20260201" {{key}}', "expired"),
        (f'{ME} valid-before="20200101" {{key}}', "expired"),
        (f'{ME} {NS},valid-before="20260201" {{key}}', "expired"),
        (f'{ME} valid-after="20990101" {{key}}', "unknown"),
        (f"{ME} {{other}}", "unknown"),
        (f"{ME} cert-authority {{key}}", "unknown"),
        ("", "unknown"),
    ],
)
def test_lines_of_allowed_signers(tmp_path: Path, trust: Trust, key: Path, line: str, state: str) -> None:
    other = make_key(tmp_path / "other")
    trust.write(line.format(key=public(key), other=public(other)))
    agree(trust, made_with(key), state)


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ed25519"),
        ("-t", "ecdsa", "-b", "256"),
        ("-t", "rsa", "-b", "3072"),
        ("-t", "rsa", "-b", "4096"),
    ],
    ids=" ".join,
)
def test_kinds_of_keys_that_are_accepted(tmp_path: Path, trust: Trust, options: tuple[str, ...]) -> None:
    key = make_key(tmp_path / "key", *options)
    trust.write(f"{ME} {public(key)}")
    signature = made_with(key)
    sign.check(DATA, signature)
    agree(trust, signature, "known")


@pytest.mark.parametrize("options", [("-t", "rsa", "-b", "2048"), ("-t", "ecdsa", "-b", "384")], ids=" ".join)
def test_kinds_of_keys_that_the_kit_refuses_by_table(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Here the kit is stricter than ssh-keygen, on purpose; it never is the other way round."""
    key = make_key(tmp_path / "key", *options)
    with pytest.raises(Refused):
        sign.check(DATA, made_with(key))


@pytest.mark.parametrize("namespace", ["git", "file", "trt-repro-bundle@v2", SSHSIG_NAMESPACE + "x"])
def test_a_signature_for_something_else_is_refused(key: Path, namespace: str) -> None:
    with pytest.raises(Refused, match="is made for"):
        sign.check(DATA, made_with(key, namespace))


def test_other_data_is_refused(key: Path) -> None:
    signature = made_with(key)
    sign.check(DATA, signature)
    with pytest.raises(Refused, match="does not fit"):
        sign.check(DATA + b" ", signature)


def test_a_revoked_key_is_revoked_whatever_else_is_said(tmp_path: Path, trust: Trust, key: Path) -> None:
    signature = made_with(key)
    trust.write(f"{ME} {public(key)}")
    agree(trust, signature, "known")
    assert keygen("-k", "-f", trust.folder / "revoked_keys", key.with_name("key.pub")).returncode == 0
    agree(trust, signature, "revoked")


def test_a_list_that_revokes_another_key_changes_nothing(tmp_path: Path, trust: Trust, key: Path) -> None:
    trust.write(f"{ME} {public(key)}")
    other = make_key(tmp_path / "other")
    assert keygen("-k", "-f", trust.folder / "revoked_keys", f"{other}.pub").returncode == 0
    agree(trust, made_with(key), "known")


Certify = Callable[..., Path]


@pytest.fixture
def certified(tmp_path: Path, key: Path) -> Certify:
    """Return a function that has a team's authority certify the key."""
    authority = make_key(tmp_path / "authority")

    def certify(principal: str = ME, validity: str = "+52w", *options: str) -> Path:
        done = keygen(
            "-q", "-s", authority, "-I", "ci", "-n", principal, "-V", validity, *options, f"{key}.pub"
        )
        assert done.returncode == 0, done.stderr
        return authority

    return certify


@pytest.mark.parametrize(
    ("principal", "validity", "pattern", "state"),
    [
        (ME, "+52w", "*@example.org", "known"),
        (ME, "+52w", ME, "known"),
        (ME, "+52w", "*@elsewhere.org", "unknown"),
        (ME, "20260101:20260201", "*@example.org", "expired"),
        (ME, "20200101:20200201", "*@example.org", "unknown"),
        (ME, "20990101:20990201", "*@example.org", "unknown"),
    ],
)
def test_certificates(
    trust: Trust,
    key: Path,
    certified: Certify,
    agent: dict[str, str],
    principal: str,
    validity: str,
    pattern: str,
    state: str,
) -> None:
    authority = certified(principal, validity)
    subprocess.run(["ssh-add", "-q", str(key)], env=agent, check=True, capture_output=True)
    done = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", f"{key}-cert.pub", "-n", SSHSIG_NAMESPACE],
        input=DATA,
        env=agent,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"this ssh-keygen signs with no certificate: {done.stderr.decode()}")
    trust.write(f"{pattern} cert-authority,{NS} {public(authority)}")
    agree(trust, done.stdout, state)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Run an agent of the test's own."""
    done = subprocess.run(
        ["ssh-agent", "-s", "-a", str(tmp_path / "agent")], capture_output=True, text=True, check=True
    )
    pid = int(re.findall(r"SSH_AGENT_PID=(\d+)", done.stdout)[0])
    yield {**os.environ, "SSH_AUTH_SOCK": str(tmp_path / "agent")}
    os.kill(pid, signal.SIGTERM)


def test_a_key_that_only_an_agent_holds_signs(
    tmp_path: Path, trust: Trust, key: Path, agent: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["ssh-add", "-q", str(key)], env=agent, check=True, capture_output=True)
    from_file = made_with(key)
    key.unlink()
    monkeypatch.setenv("SSH_AUTH_SOCK", agent["SSH_AUTH_SOCK"])
    path = sign.ensure_key(key.with_name("key.pub"))
    signature = sign.sign(DATA, path)
    assert signature == from_file, "Ed25519 is deterministic"
    trust.write(f"{ME} {public(key)}")
    agree(trust, signature, "known")


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def hardware_signature(flags: int = 1) -> tuple[bytes, str]:
    """Return what a FIDO key would sign (PROTOCOL.u2f, PROTOCOL.sshsig), and its public key."""
    private = Ed25519PrivateKey.generate()
    application = b"ssh:"
    kind = b"sk-ssh-ed25519@openssh.com"
    public_key = string(kind) + string(private.public_key().public_bytes_raw()) + string(application)
    inner = b"SSHSIG" + b"".join(
        map(string, (SSHSIG_NAMESPACE.encode(), b"", b"sha512", hashlib.sha512(DATA).digest()))
    )
    counter = bytes([flags]) + struct.pack(">I", 7)
    signed = hashlib.sha256(application).digest() + counter + hashlib.sha256(inner).digest()
    made = string(kind) + string(private.sign(signed)) + counter
    blob = (
        b"SSHSIG"
        + struct.pack(">I", 1)
        + b"".join(map(string, (public_key, SSHSIG_NAMESPACE.encode(), b"", b"sha512", made)))
    )
    text = base64.b64encode(blob).decode()
    lines = [text[i : i + 70] for i in range(0, len(text), 70)]
    armoured = "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""])
    return armoured.encode(), f"{kind.decode()} {base64.b64encode(public_key).decode()}"


def test_a_hardware_key_is_verified(trust: Trust) -> None:
    signature, line = hardware_signature()
    assert sign.check(DATA, signature).key_type == "sk-ssh-ed25519@openssh.com"
    trust.write(f"{ME} {line}")
    agree(trust, signature, "known")
    trust.write(f"other@example.org {line}")
    agree(trust, signature, "known")
    trust.write("")
    agree(trust, signature, "unknown")


def test_a_damaged_hardware_signature_is_refused(trust: Trust) -> None:
    signature, _ = hardware_signature()
    other, _ = hardware_signature()
    body, foreign = signature.splitlines(), other.splitlines()
    mixed = b"\n".join([*body[:-3], *foreign[-3:]]) + b"\n"
    with pytest.raises(Refused):
        sign.check(DATA, mixed)
