"""Keys and signatures: made once, for their owner only, and every failure is one line with its remedy."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from pathlib import Path

import pytest

from repro.bundle import sign
from repro.errors import Refused, ReproError

pytestmark = pytest.mark.needs("ssh-keygen", "linux")

DATA = b"data"


def shim(folder: Path, script: str) -> str:
    """Put a made-up ssh-keygen into `folder`; return a PATH that finds it first."""
    folder.mkdir()
    tool = folder / "ssh-keygen"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def make_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "me@here", "-f", path], check=True
    )
    return path


def ensure(_: int) -> str:
    return sign.ensure_key(None).read_text()


# --- keys ---------------------------------------------------------------------------------------


def test_the_kits_key_is_made_once_for_its_owner_and_names_nobody(config_home: Path) -> None:
    key = sign.ensure_key(None)
    assert key == config_home / "signing_key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert config_home.stat().st_mode & 0o777 == 0o700
    before = key.read_bytes()
    assert sign.ensure_key(None).read_bytes() == before
    assert len(key.with_name("signing_key.pub").read_text().split()) == 2
    # Without the public key beside it, ssh-keygen shows the comment in the private one.
    key.with_name("signing_key.pub").unlink()
    shown = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True)
    assert shown.stdout.split()[2:] in (["(ED25519)"], ["no", "comment", "(ED25519)"])
    assert [p.name for p in config_home.iterdir()] == ["signing_key"]


def test_of_eight_processes_at_once_one_makes_the_key(config_home: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        keys = set(pool.map(ensure, range(16), chunksize=1))
    assert len(keys) == 1
    assert sorted(p.name for p in config_home.iterdir()) == ["signing_key", "signing_key.pub"]
    made = sign.parse(sign.sign(DATA, config_home / "signing_key"))
    assert made.key in (config_home / "signing_key.pub").read_text()


@pytest.mark.parametrize("stale", ["missing", "of another key", "garbage"])
def test_a_public_key_that_does_not_fit_is_written_anew(
    config_home: Path, tmp_path: Path, stale: str
) -> None:
    key = sign.ensure_key(None)
    public = key.with_name("signing_key.pub")
    good = public.read_text()
    if stale == "missing":
        public.unlink()
        sign.ensure_key(None)
        assert public.read_text() == good
        return
    other = make_key(tmp_path / "other").with_name("other.pub").read_text()
    public.write_text(other if stale == "of another key" else "garbage")
    if stale == "garbage":
        sign.ensure_key(None)
        assert public.read_text() == good
    else:
        with pytest.raises(ReproError) as caught:
            sign.ensure_key(None)
        assert "remove the .pub file" in caught.value.hint


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    key = make_key(tmp_path / "key")
    key.chmod(mode)
    with pytest.raises(ReproError, match=f"mode {mode:04o}") as caught:
        sign.ensure_key(key)
    assert caught.value.hint == f"chmod 600 {key}"


def test_a_key_with_a_passphrase_is_told_to_use_an_agent(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="the key has a passphrase") as caught:
        sign.ensure_key(make_key(tmp_path / "key", "secret"))
    assert "ssh-add" in caught.value.hint


@pytest.mark.parametrize("kind", ["missing", "folder", "garbage", "empty", "public only"])
def test_what_is_no_key_is_one_line(tmp_path: Path, kind: str) -> None:
    key = tmp_path / "key"
    if kind == "folder":
        key.mkdir()
    elif kind == "public only":
        key = make_key(key).with_name("key.pub")
        (tmp_path / "key").unlink()
    elif kind != "missing":
        key.write_text("garbage\n" if kind == "garbage" else "")
        key.chmod(0o600)
    with pytest.raises(ReproError) as caught:
        sign.ensure_key(key)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.needs("root")
def test_a_config_folder_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/nowhere")
    with pytest.raises(ReproError, match="can't make /proc/nowhere/trt-repro") as caught:
        sign.ensure_key(None)
    assert caught.value.hint == "set XDG_CONFIG_HOME, or use --unsigned"


# --- the tool -----------------------------------------------------------------------------------


def test_a_missing_tool_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReproError, match="ssh-keygen") as caught:
        sign.ensure_key(None)
    assert "apt install openssh-client" in caught.value.hint


def test_a_tool_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key(tmp_path / "key")
    monkeypatch.setenv("PATH", shim(tmp_path / "bin", "sleep 100"))
    monkeypatch.setattr(sign, "TIMEOUT_S", 0.3)
    with pytest.raises(ReproError, match=r"ssh-keygen did not answer within 0\.3 s") as caught:
        sign.sign(DATA, key)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("script", "what", "hint"),
    [
        ("echo 'No user exists for uid 54321' >&2; exit 255", "no entry in the password file", "--unsigned"),
        ("echo 'unknown option -- Y' >&2; exit 1", "too old for signatures", "OpenSSH 8.2"),
        ("kill -SEGV $$", "was ended by SIGSEGV", "try again"),
        ("echo 'some fault' >&2; exit 1", "can't sign (some fault)", "--unsigned"),
        ("exit 3", "can't sign (status 3)", "--unsigned"),
    ],
)
def test_a_tool_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, what: str, hint: str
) -> None:
    key = make_key(tmp_path / "key")
    monkeypatch.setenv("PATH", shim(tmp_path / "bin", script))
    with pytest.raises(ReproError) as caught:
        sign.sign(DATA, key)
    assert what in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize("output", ["", "nonsense", "-----BEGIN SSH SIGNATURE-----"])
def test_a_tool_that_signs_nothing_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    key = make_key(tmp_path / "key")
    monkeypatch.setenv("PATH", shim(tmp_path / "bin", f"cat > /dev/null; echo '{output}'"))
    with pytest.raises(Refused):
        sign.sign(DATA, key)


def test_a_stale_signature_beside_anything_is_not_taken(tmp_path: Path) -> None:
    """With a file argument ssh-keygen would return 0 and leave an old `.sig`; here it never gets one."""
    key = make_key(tmp_path / "key")
    (tmp_path / "key.sig").write_text("old")
    assert sign.check(DATA, sign.sign(DATA, key)).key_type == "ssh-ed25519"


def test_no_window_asks_for_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    ask = tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\ntouch {asked}\n")
    ask.chmod(0o755)
    for name, value in {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ReproError):
        sign.sign(DATA, make_key(tmp_path / "key", "secret"))
    assert not asked.exists()


# --- the form of a signature --------------------------------------------------------------------


def test_a_signature_is_read_as_it_was_made(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    made = sign.check(DATA, sign.sign(DATA, key))
    shown = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True)
    assert made.fingerprint == shown.stdout.split()[1]
    assert made.key in key.with_name("key.pub").read_text()
    assert (made.namespace, made.hash) == ("trt-repro-bundle@v1", "sha512")


@pytest.mark.parametrize("change", ["line ends", "blank behind", "one line", "lower case", "cut", "twice"])
def test_another_way_to_write_a_signature_is_refused(tmp_path: Path, change: str) -> None:
    """Else a stranger could make a second file of the same signed content."""
    made = sign.sign(DATA, make_key(tmp_path / "key"))
    head, *lines, tail = made.decode().splitlines()
    changed = {
        "line ends": made.replace(b"\n", b"\r\n"),
        "blank behind": made + b" ",
        "one line": "\n".join([head, "".join(lines), tail, ""]).encode(),
        "lower case": made.lower(),
        "cut": made[:-40],
        "twice": made + made,
    }[change]
    with pytest.raises(Refused):
        sign.check(DATA, changed)


def test_who_says_what_the_readers_own_files_say(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    made = sign.sign(DATA, key)
    public = " ".join(key.with_name("key.pub").read_text().split()[:2])
    folder = tmp_path / "trust"
    folder.mkdir()
    now = "2026-01-01T00:00:00Z"
    assert sign.who(DATA, made, now, folder) == sign.Signer("unknown", (), None)
    allowed = folder / "allowed_signers"
    allowed.write_text(f'# friends\njane@example.org namespaces="trt-repro-bundle@v1" {public}\n')
    known = sign.Signer("known", ("jane@example.org",), "allowed_signers:2")
    assert sign.who(DATA, made, now, folder) == known
    (folder / "signing_key.pub").write_text(public)
    assert sign.who(DATA, made, now, folder).state == "own"
    (folder / "revoked_keys").write_text("nonsense")
    with pytest.raises(ReproError, match="is no list of revoked keys"):
        sign.who(DATA, made, now, folder)
