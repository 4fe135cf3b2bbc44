"""A Docker engine for tests, with a base that stands in for every base image; needs root and Debian.

`python -m tests.docker.engine start FOLDER` starts one that keeps everything in FOLDER, gives it the base,
and prints its URL, which the tests find in TRT_REPRO_TEST_ENGINE. `… stop FOLDER` ends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIABLE = "TRT_REPRO_TEST_ENGINE"
BASE = "trt-repro-test/base:1"
SUITE = "bookworm"
READY_S = 60


def url(folder: Path) -> str:
    return f"unix://{folder.absolute()}/docker.sock"


def answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as door, contextlib.suppress(OSError):
        door.connect(address.removeprefix("unix://"))
        return True
    return False


def start(folder: Path) -> str:
    """Start an engine that keeps everything in `folder`, and return its URL once it answers."""
    address = url(folder)
    if answers(address):
        return address
    folder.mkdir(parents=True, exist_ok=True)
    # An engine that was killed leaves its file, and the next would refuse to start.
    (folder / "pid").unlink(missing_ok=True)
    argv: list[str | Path] = ["dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec"]
    argv += ["--pidfile", folder / "pid", "-H", address, "--bridge=none", "--iptables=false"]
    argv += ["--ip-forward=false", "--ip-masq=false"]
    with (folder / "log").open("ab") as log:
        # A grandchild: it outlives whoever starts it, and is nobody's to wait for.
        detached: list[str | Path] = ["sh", "-c", '"$@" &', "sh", "setsid", *argv]
        subprocess.run(detached, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)
    deadline = time.monotonic() + READY_S
    while not answers(address):
        if time.monotonic() > deadline:
            raise SystemExit(f"dockerd does not answer; see {folder / 'log'}")
        time.sleep(0.2)
    return address


def pid(address: str) -> int:
    return int((Path(address.removeprefix("unix://")).parent / "pid").read_text())


def stop(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(pid(url(folder)), signal.SIGTERM)
    deadline = time.monotonic() + READY_S
    while (folder / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.2)


def docker(address: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "DOCKER_HOST": address, "DOCKER_BUILDKIT": "0"}
    return subprocess.run(["docker", *arguments], check=True, env=environment, **options)  # type: ignore[call-overload, no-any-return]


def make_base(address: str, name: str = BASE, *, architecture: str | None = None) -> None:
    """Give the engine a Debian with Python that stands in for base images, and says so in a label."""
    with tempfile.TemporaryDirectory() as folder:
        root = f"{folder}/root"
        argv = ["debootstrap", "--variant=minbase", "--include=python3", SUITE, root]
        if architecture:
            argv[1:1] = [f"--arch={architecture}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout[-2000:])
        platform = ["--platform", f"linux/{architecture}"] if architecture else []
        label = ["--change", "LABEL base.standin=true"]
        with subprocess.Popen(
            ["tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "-c", "."], stdout=subprocess.PIPE
        ) as tar:
            docker(
                address, "import", *platform, *label, "-", name, stdin=tar.stdout, stdout=subprocess.DEVNULL
            )


def has(address: str, name: str) -> bool:
    try:
        docker(address, "image", "inspect", name, capture_output=True)
    except subprocess.CalledProcessError:
        return False
    return True


if __name__ == "__main__":
    verb, place = sys.argv[1], Path(sys.argv[2])
    if verb == "stop":
        stop(place)
    else:
        address = start(place)
        if not has(address, BASE):
            make_base(address)
        print(address)
