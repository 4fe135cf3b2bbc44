"""What a container may do and see, by device: the one source of the launcher's request and of compose.yaml.

The same for all: no network, a read-only root, no capabilities, no new privileges, a user that is not
root, limits on memory and processes, a tmpfs as the runtime's scratch, and one volume with the kit's
source, the job and what comes of it. A device adds how its GPU is reached, and nothing else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from repro.errors import UsageError
from repro.probes import jetson

NAME = "trt-repro"
"""The container's name: the engine gives it once, so it is the second guard against two runs at a time."""
UID = 65532
HOME = "/repro"
KIT, JOB, OUT = f"{HOME}/kit", f"{HOME}/job", f"{HOME}/out"
BOARD = str(jetson.BOARD)
SCRATCH = "/tmp"  # noqa: S108 - a tmpfs of the container's own
COMMAND = ("/opt/repro/venv/bin/python", "-m", "repro.worker", JOB, OUT)
ENVIRONMENT = {
    "HOME": SCRATCH,
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": KIT,
    "PYTHONPYCACHEPREFIX": f"{SCRATCH}/pycache",
    "TMPDIR": SCRATCH,
}
PIDS = 4096
MEMORY_SHARE = 0.9
"""Share of the machine's memory that the container may use: the rest keeps the machine answering."""
SCRATCH_BYTES = 512 * 2**20
SCRATCH_PER_MODEL_BYTE = 8
SHM_BYTES = 2**30
STACK_BYTES = 64 * 2**20
"""Of a thread; with unlimited locked memory what NVIDIA's TensorRT containers ask for."""

LOCK = "/run/lock/trt-repro.lock"
JTOP_SOCKET = Path("/run/jtop.sock")
BOARD_PATHS = ("/sys", "/etc/nv_tegra_release")
"""What the Jetson probes read and every L4T has."""
MORE_BOARD_PATHS = ("/etc/nvpmodel.conf", "/etc/nvpmodel", "/var/lib/nvpmodel")
"""What some have; mounted where this machine is the board."""
VIDEO_GROUP = 44
"""Owner of a Jetson's device nodes in Ubuntu."""
GPU_NODES = ("nvidia*", "nvhost*", "nvmap", "nvgpu/**/*", "dri/render*")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a run asks of its container."""

    device: str
    image: str
    memory_bytes: int | None
    pids: int | None
    scratch_bytes: int = SCRATCH_BYTES
    gpu: str = "0"
    """By index or UUID."""
    cdi: bool = False
    groups: tuple[int, ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()
    """Paths of the engine's machine, read-only: (there, in the container)."""
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}


def request(wanted: Wanted) -> dict[str, Any]:
    """Return the body of the engine's request to create the container (`POST /containers/create`)."""
    environment = {**ENVIRONMENT, **wanted.environment}
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private",
        "Tmpfs": {
            SCRATCH: f"rw,nosuid,nodev,noexec,mode=0700,uid={UID},gid={UID},size={wanted.scratch_bytes}"
        },
        "Mounts": [
            {"Type": "volume", "Target": HOME},
            *({"Type": "bind", "Source": a, "Target": b, "ReadOnly": True} for a, b in wanted.mounts),
        ],
        "LogConfig": {"Type": "none"},
    }
    if wanted.pids is not None:
        host["PidsLimit"] = wanted.pids
    if wanted.memory_bytes is not None:
        host |= {"Memory": wanted.memory_bytes, "MemorySwap": wanted.memory_bytes}
    if wanted.groups:
        host["GroupAdd"] = [str(group) for group in wanted.groups]
    if wanted.device != "cpu":
        host["ShmSize"] = SHM_BYTES
        host["Ulimits"] = [
            {"Name": "memlock", "Soft": -1, "Hard": -1},
            {"Name": "stack", "Soft": STACK_BYTES, "Hard": STACK_BYTES},
        ]
    if wanted.device == "orin":
        # `--gpus` fails on Tegra: the runtime brings devices and driver libraries by its lists.
        host["Runtime"] = "nvidia"
        environment |= {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    elif wanted.device == "x86":
        host["DeviceRequests"] = [_gpu(wanted.gpu, cdi=wanted.cdi)]
    if any(target.startswith(f"{BOARD}/") for _, target in wanted.mounts):
        environment[jetson.BOARD_VARIABLE] = BOARD
    return {
        "Image": wanted.image,
        "User": f"{UID}:{UID}",
        "Cmd": list(COMMAND),
        "Env": [f"{name}={value}" for name, value in sorted(environment.items())],
        "WorkingDir": SCRATCH,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "NetworkDisabled": True,
        "Labels": dict(wanted.labels),
        "HostConfig": host,
    }


def _gpu(gpu: str, *, cdi: bool) -> dict[str, Any]:
    if cdi:
        return {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={gpu}"]}
    return {"Driver": "nvidia", "DeviceIDs": [gpu], "Capabilities": [["gpu", "compute", "utility"]]}


def scratch_bytes(models: Iterable[Path]) -> int:
    """Return the size of the runtime's scratch for the largest of some models."""
    largest = max((path.stat().st_size for path in models), default=0)
    return SCRATCH_BYTES + SCRATCH_PER_MODEL_BYTE * largest


def board_mounts(
    root: Path = Path("/"), *, local: bool, copy: Path | None = None
) -> tuple[tuple[str, str], ...]:
    """Return what a Jetson's probes read below `root`, to be mounted under `/board`.

    Of a board elsewhere, `copy` tells which of the paths there are that not every board has.
    """
    seen = root if local else copy
    found = {path: _below(root, path) for path in (*BOARD_PATHS, *MORE_BOARD_PATHS)}
    more = (path for path in MORE_BOARD_PATHS if seen is not None and _below(seen, path).exists())
    return tuple((str(found[path]), f"{BOARD}{path}") for path in (*BOARD_PATHS, *more))


def _below(root: Path, path: str) -> Path:
    """Return a path below `root`; a link that leads to an absolute one stays below it, too."""
    place = root / path.lstrip("/")
    if place.is_symlink() and (target := place.readlink()).is_absolute():
        return root / str(target).lstrip("/")
    return place


def jtop_mount(socket: Path, *, own: bool) -> tuple[str, str]:
    """Return the mount of jtop's socket; only for one's own case, and only where it is a socket.

    Whoever can write to it is root on the board, and Docker would make a folder of a path that isn't there.
    """
    if not own:
        raise UsageError("jtop's socket is never given to somebody else's experiment", "leave --jtop out")
    try:
        mode = socket.stat().st_mode
    except OSError as error:
        raise UsageError(
            f"there is no jtop socket at {socket} ({error.strerror})", "sudo systemctl start jtop.service"
        ) from None
    if not stat.S_ISSOCK(mode):
        raise UsageError(
            f"{socket} is no socket", f"sudo rm -r {socket}; sudo systemctl restart jtop.service"
        )
    return str(socket), str(JTOP_SOCKET)


def device_groups(device: str, dev: Path = Path("/dev"), *, local: bool) -> tuple[int, ...]:
    """Return the groups that own the device nodes which not everybody may use."""
    if device == "cpu":
        return ()
    if not local:
        return (VIDEO_GROUP,) if device == "orin" else ()
    return groups_of(path for pattern in GPU_NODES for path in dev.glob(pattern))


def groups_of(nodes: Iterable[Path]) -> tuple[int, ...]:
    """Return the groups through which nodes can be used that are closed to others."""
    found = set()
    for node in nodes:
        seen = os.stat(node)
        if stat.S_ISDIR(seen.st_mode) or seen.st_mode & 0o006 == 0o006 or seen.st_gid == 0:
            continue
        found.add(seen.st_gid)
    return tuple(sorted(found))


def limits(memory_bytes: int, supported: Sequence[str] | frozenset[str]) -> tuple[int | None, int | None]:
    """Return the limits on memory (in bytes) and processes, `None` where the kernel can't set one."""
    memory = int(memory_bytes * MEMORY_SHARE) // 2**20 * 2**20 if memory_bytes else None
    return memory if "memory" in supported else None, PIDS if "pids" in supported else None
