"""What an experiment of somebody else's may do on the host: little.

    python -m repro.launch.confine WORK cpu|gpu MEMORY_BYTES PROGRAM …

starts a program that has a bounded memory and file size, no network, and can write below the folder WORK
and to devices only, and so has all that it starts. The kernel holds it to that: resource limits, a
network of its own without a way out, and Landlock. What the system doesn't offer is left out, and
`able` tells beforehand which. Imports nothing that starts a thread: only a process with one can leave its
network without being root.
"""

from __future__ import annotations

import ctypes
import json
import os
import site
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from repro import proc
from repro.errors import ReproError

MAX_FILE_BYTES = 2 * 2**30
"""Largest file that it may write."""
PARTS = ("memory", "network", "writes")
_CLONE_NEWNET, _CLONE_NEWUSER, _CLONE_NEWNS = 0x40000000, 0x10000000, 0x00020000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
# Of linux/landlock.h: every access that changes a file system, by the version of the interface that brought
# it: writing, removing and making of every kind; renaming across folders; truncating.
_WRITES = {1: 0b1111111110010, 2: 1 << 13, 3: 1 << 14}
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_SYSTEM = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
"""Where root can change the machine through /proc (the paths that Docker makes read-only)."""
_PATH_BENEATH, _NO_NEW_PRIVILEGES = 1, 38


class Limits(NamedTuple):
    """What a worker may use."""

    memory_bytes: int
    gpu: bool
    """Its driver reserves more addresses than any machine has memory, shares through /dev, and in every
    process writes below /proc, where it names its threads: without that, cuInit fails."""


def command(work: Path, limits: Limits) -> list[str]:
    """Return what to put in front of a command so that it runs confined, writing below `work` only."""
    kind = "gpu" if limits.gpu else "cpu"
    return [sys.executable, "-m", __name__, str(work.absolute()), kind, str(limits.memory_bytes)]


def able(*, gpu: bool) -> frozenset[str]:
    """Return which of `PARTS` this system can enforce, by trying it in a process of its own."""
    argv = [*command(Path(os.devnull), Limits(2**40, gpu)), "--tell"]
    try:
        return frozenset(json.loads(proc.run(argv, timeout_s=60.0).stdout)) & set(PARTS)
    except (ReproError, ValueError, TypeError):
        return frozenset()


def _limit_memory(memory_bytes: int, *, gpu: bool) -> bool:
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return False
    limits = [(resource.RLIMIT_DATA, memory_bytes), (resource.RLIMIT_FSIZE, MAX_FILE_BYTES)]
    limits += [(resource.RLIMIT_CORE, 0)]
    if not gpu:
        # Shared and reserved memory, too.
        limits.append((resource.RLIMIT_AS, memory_bytes))
    for which, most in limits:
        _, hard = resource.getrlimit(which)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (least, least))
    return True


def _leave_network(libc: ctypes.CDLL) -> bool:
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    # Half way there is no way back, so another process tries first.
    if (child := os.fork()) == 0:
        os._exit(0 if _own_network(libc) else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        return False
    return _own_network(libc)


def _own_network(libc: ctypes.CDLL) -> bool:
    """Take a network of one's own as a user without rights; one's names go on meaning the same."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError:
        return False
    return True


def _hold_system(libc: ctypes.CDLL) -> bool:
    """Make those parts of /proc read-only through which the machine can be changed; only root could."""
    if os.geteuid() != 0:
        return True
    if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(None, b"/", None, _REC | _PRIVATE, None) != 0:
        return False
    again = _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV | _NOEXEC
    return all(
        libc.mount(path, path, None, _BIND, None) == 0 and libc.mount(None, path, None, again, None) == 0
        for path in map(os.fsencode, filter(os.path.exists, _SYSTEM))
    )


def _limit_writes(libc: ctypes.CDLL, folders: list[str]) -> bool:
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    writes = sum(bits for since, bits in _WRITES.items() if since <= version)
    rules = libc.syscall(_CREATE, struct.pack("Q", writes), ctypes.c_size_t(8), 0)
    if rules < 0:
        return False
    for folder in folders:
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        # To a file, only writing and truncating apply.
        allowed = writes if os.path.isdir(folder) else writes & (1 << 1 | 1 << 14)
        if libc.syscall(_ADD, rules, _PATH_BENEATH, struct.pack("=Qi", allowed, place), 0) != 0:
            return False
        os.close(place)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0 or libc.syscall(_RESTRICT, rules, 0) != 0:
        return False
    os.close(rules)
    return True


def _surroundings(work: Path) -> dict[str, str]:
    """Return environment variables that keep caches and temporary files below `work`."""
    home = str(work / "home")
    places = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "CUDA_CACHE_PATH")
    # Packages of the user's own are found by the home folder otherwise.
    return {**os.environ, "PYTHONUSERBASE": site.getuserbase(), **dict.fromkeys(places, home)}


def main(work: Path, kind: str, memory_bytes: int, argv: list[str]) -> None:
    """Confine this process, then become the program `argv`; with `--tell`, say what was possible."""
    enforced = []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if _leave_network(libc):
            enforced.append("network")
        held, places = True, ["/proc/self", *filter(os.path.exists, _DEVICES)]
        if kind == "gpu":
            held, places = _hold_system(libc), ["/proc", "/dev"]
        if _limit_writes(libc, [str(work), *places]) and held:
            enforced.append("writes")
    if _limit_memory(memory_bytes, gpu=kind == "gpu"):
        enforced.append("memory")
    if argv == ["--tell"]:
        sys.stdout.write(json.dumps(enforced))
        return
    environment = _surroundings(work)
    os.makedirs(environment["HOME"], mode=0o700, exist_ok=True)
    os.execve(argv[0], argv, environment)  # noqa: S606 - there is no shell in it


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
