"""What the build of an image gets from outside: a Python archive and wheels, fetched before and checked.

Both are pinned by sha256, fetched once, and kept in the user's cache folder, which may be emptied at any
time. So a build needs no network, and a board that builds needs none at all.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from repro import proc, releases
from repro.errors import Refused, Unavailable, UsageError
from repro.releases import Row

Say = Callable[[str], None]

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
FETCH_TIMEOUT_S = 3600
PYTHON = "3.11"
GLIBC_MINORS = range(17, 32)
"""Wheels for glibc 2.17 to 2.31, the oldest of all bases (Ubuntu 20.04)."""


def sha256(data: bytes) -> str:
    """Return a digest as engines write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def cache() -> Path:
    """Return where fetched archives and wheels are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "trt-repro"


def archive(row: Row, architecture: str, given: Path | None, say: Say) -> bytes:
    """Return the Python archive of a row: the one given, the cached one, or fetched now."""
    wanted = releases.archive(str(row.python), architecture)
    if given is not None:
        try:
            data = given.read_bytes()
        except OSError as error:
            raise UsageError(
                f"can't read {given} ({error.strerror})", "name another --python-archive"
            ) from None
        if sha256(data) != f"sha256:{wanted.sha256}":
            raise Refused(f"{given} is {sha256(data)}, pinned is {wanted.sha256}", f"fetch {wanted.url}")
        return data
    path = cache() / "python" / f"{wanted.sha256}.tar.gz"
    if path.is_file() and sha256(path.read_bytes()) == f"sha256:{wanted.sha256}":
        return path.read_bytes()
    say(f"fetching Python {row.python} for {architecture}")
    hint = f"fetch it yourself and pass it as --python-archive FILE: {wanted.url}"
    try:
        with urllib.request.urlopen(wanted.url, timeout=60) as answer:  # noqa: S310 - https, from the table
            data = bytes(answer.read())
    except (urllib.error.URLError, OSError) as error:
        raise Unavailable(
            f"can't fetch Python {row.python} ({getattr(error, 'reason', error)})", hint
        ) from None
    if sha256(data) != f"sha256:{wanted.sha256}":
        raise Refused(f"Python {row.python} as fetched is {sha256(data)}, pinned is {wanted.sha256}", hint)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
    return data


def wheels(lock: bytes, architecture: str, say: Say, *, python: str = PYTHON) -> list[Path]:
    """Return the wheels of a lock for an architecture and a Python, fetched once and checked by hash."""
    other = "" if python == PYTHON else f"-py{python}"
    folder = cache() / "wheels" / f"{sha256(lock).removeprefix('sha256:')[:16]}-{architecture}{other}"
    if not folder.is_dir():
        say(f"fetching the wheels for {architecture}")
        machine = MACHINES[architecture]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            requirements = Path(name) / "requirements.lock"
            requirements.write_bytes(lock)
            platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS]
            argv = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
            argv += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
            argv += ["--python-version", python, "--dest", f"{name}/wheels", "-r", str(requirements)]
            for platform in (*platforms, f"manylinux2014_{machine}", f"linux_{machine}"):
                argv += ["--platform", platform]
            done = proc.run(argv, timeout_s=FETCH_TIMEOUT_S)
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().splitlines() or ["pip said nothing"]
                raise Unavailable(
                    f"can't fetch the wheels ({said[-1][:200]})", "is the package index reachable?"
                )
            try:
                os.rename(f"{name}/wheels", folder)
            except OSError:
                if not folder.is_dir():  # Somebody else was faster, and brought the same.
                    raise
    return sorted(folder.glob("*.whl"))
