"""One run per machine at a time: two would measure each other.

The lock is flock on one file, so it is free the moment its holder ends, in whatever way. The holder is
named in the file by run, case and start, never by user.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repro.errors import Unavailable

if sys.platform != "win32":
    import fcntl


def path() -> Path:
    """Return the lock's file: TRT_REPRO_LOCK, or one in the system's folder for locks."""
    if chosen := os.environ.get("TRT_REPRO_LOCK"):
        return Path(chosen)
    folder = Path("/run/lock")
    return (folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())) / "trt-repro.lock"


@contextlib.contextmanager
def held(run_id: str, case: str) -> Iterator[None]:
    """Hold the machine's lock; raise `Unavailable`, naming the holder, when somebody else does."""
    if sys.platform == "win32":  # The base reads bundles there; nothing is measured.
        yield
        return
    file = path()
    try:
        descriptor = _opened(file)
    except OSError as error:
        raise Unavailable(
            f"can't open the lock {file} ({error.strerror})", "name another file in TRT_REPRO_LOCK"
        ) from None
    with open(descriptor, "r+b", buffering=0) as lock:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                f"another run is going on here ({_holder(lock.read(4096))})", "wait until it has ended"
            ) from None
        now = datetime.datetime.now(datetime.timezone.utc)
        lock.truncate(0)
        lock.write(
            json.dumps({"run": run_id, "case": case, "started_utc": f"{now:%Y-%m-%dT%H:%M:%SZ}"}).encode()
        )
        try:
            yield
        finally:
            lock.truncate(0)


def _opened(file: Path) -> int:
    """Open the lock's file, made for everybody where there is none: the next run may be another user's.

    In a folder that all may write to, Linux refuses to open somebody else's file with O_CREAT
    (fs.protected_regular), so making and opening are two calls.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        return os.open(file, flags)
    with contextlib.suppress(FileExistsError):  # Somebody else was faster.
        return os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o666)
    return os.open(file, flags)


def _holder(text: bytes) -> str:
    """Return who holds the lock, as the holder wrote it; anybody may write there."""
    try:
        told = json.loads(text)
        words = f"{told['case']}, run {told['run']}, since {told['started_utc']}"
    except (ValueError, KeyError, TypeError):
        return "it has not said which"
    return "".join(char if char.isprintable() else "?" for char in words)[:120]
