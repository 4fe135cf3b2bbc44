"""compose.yaml, for running a job's container by hand: written from the launcher's own options.

`python -m repro.launch.compose` writes it. The kit's source, a job's folder and an empty folder for the
records are mounted from this machine; all else is what the launcher asks of the engine's API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repro import releases
from repro.launch import options

HEAD = """\
# Runs a job of a work folder by hand, in the container that `repro run --place docker` would use.
# Written by `make compose` from repro/launch/options.py; do not edit.
#
#   mkdir -m 777 out
#   JOB=work/RUN/job IMAGE=trt-repro/cpu:RELEASE docker compose run --rm cpu
#
# IMAGE names an image of `repro images list`; MEMORY and PIDS set other limits than these.
"""
FAMILIES = ("orin", "x86", "cpu")
LIMITS = {"mem_limit": "${MEMORY:-4g}", "memswap_limit": "${MEMORY:-4g}", "pids_limit": options.PIDS}
"""The launcher derives the limit on memory from the engine's machine, which is not known here."""


def render() -> str:
    """Return the file's text."""
    services = {family: service(family) for family in FAMILIES}
    return HEAD + "\n".join(_yaml({"services": services})) + "\n"


def service(family: str) -> dict[str, Any]:
    """Return a service, from the launcher's request for the family's container."""
    mounts = options.board_mounts(local=False) if family == "orin" else ()
    groups = (options.VIDEO_GROUP,) if family == "orin" else ()
    body = options.request(
        options.Wanted(device=family, image="", memory_bytes=None, pids=None, groups=groups, mounts=mounts)
    )
    host = body["HostConfig"]
    # A Jetson runs the images of its own L4T only: there the default is but an example, the thread's stack.
    row = releases.with_image(family)[0] if family == "orin" else releases.default(family)
    found: dict[str, Any] = {
        "image": f"${{IMAGE:-{row.image}}}",
        "command": body["Cmd"],
        "user": body["User"],
        "working_dir": body["WorkingDir"],
        "environment": dict(entry.split("=", 1) for entry in body["Env"]),
        "stdin_open": body["OpenStdin"],
        "network_mode": host["NetworkMode"],
        "read_only": host["ReadonlyRootfs"],
        "cap_drop": host["CapDrop"],
        "security_opt": host["SecurityOpt"],
        "ipc": host["IpcMode"],
        "tmpfs": [f"{target}:{how}" for target, how in host["Tmpfs"].items()],
        "volumes": [
            f"./repro:{options.KIT}/repro:ro",
            f"${{JOB:?names the job folder of a run}}:{options.JOB}:ro",
            f"${{OUT:-./out}}:{options.OUT}",
            *(f"{mount['Source']}:{mount['Target']}:ro" for mount in host["Mounts"] if "Source" in mount),
        ],
        **LIMITS,
    }
    if "GroupAdd" in host:
        found["group_add"] = host["GroupAdd"]
    if "ShmSize" in host:
        found["shm_size"] = host["ShmSize"]
        found["ulimits"] = {
            each["Name"]: {"soft": each["Soft"], "hard": each["Hard"]} for each in host["Ulimits"]
        }
    if "Runtime" in host:
        found["runtime"] = host["Runtime"]
    if "DeviceRequests" in host:
        devices = [
            {
                "driver": each["Driver"],
                "device_ids": each["DeviceIDs"],
                "capabilities": each["Capabilities"][0],
            }
            for each in host["DeviceRequests"]
        ]
        found["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return found


def _yaml(value: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """Give the lines of a mapping; scalars and lists of them are JSON, which YAML contains."""
    for name, each in value.items():
        head = f"{'  ' * indent}{name}:"
        if isinstance(each, Mapping):
            yield head
            yield from _yaml(each, indent + 1)
        elif isinstance(each, list) and len(json.dumps(each)) > 60:
            yield head
            for item in each:
                yield f"{'  ' * (indent + 1)}- {json.dumps(item)}"
        else:
            yield f"{head} {json.dumps(each)}"


if __name__ == "__main__":
    Path("compose.yaml").write_text(render(), encoding="utf-8")
