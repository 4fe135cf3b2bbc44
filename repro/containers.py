"""The one door to Docker: connecting to its engine, and what the engine says of itself.

Every error of the SDK that a user can mend becomes one line with the command that mends it. The engine
may be a remote board's (`DOCKER_HOST=ssh://user@orin`): nothing here looks at this machine for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec

from repro.errors import Lost, Unavailable

TIMEOUT_S = 20.0
"""Longest wait for an answer of the engine, building and pulling apart."""
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
INSTALL = "sudo apt install docker.io, or sudo systemctl start docker"


class Engine(msgspec.Struct, frozen=True):
    """An engine that answers: its client, and what matters of what it says."""

    client: Any
    """A `docker.DockerClient`, or a double of one."""
    url: str
    version: str
    architecture: str
    """`amd64` or `arm64`."""
    runtimes: frozenset[str]
    cdi: bool
    """It injects devices by the Container Device Interface."""
    limits: frozenset[str]
    """Which of `memory` and `pids` its kernel can limit."""
    memory_bytes: int
    root: str
    """Where it keeps images, on its own machine."""

    @property
    def remote(self) -> bool:
        """Tell whether the engine is on another machine."""
        return not self.url.startswith(("unix://", "http+unix://", "npipe://"))


def connect() -> Engine:
    """Return the engine of `DOCKER_HOST`, or this machine's; raise `Unavailable` where none answers."""
    try:
        import docker
        from docker import errors
    except ImportError:
        raise Unavailable(
            "the Docker SDK is not installed", "pip install 'trt-repro[run]', or `make repro`"
        ) from None
    url = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    _knock(url)
    try:
        client = docker.from_env(timeout=TIMEOUT_S)
        info, version = client.info(), client.version()
    except (errors.DockerException, OSError) as error:
        raise Unavailable(f"no Docker engine answers at {url} ({first_line(error)})", INSTALL) from None
    except Exception as error:
        # paramiko raises kinds of its own when a host or its key is unknown.
        if type(error).__module__.partition(".")[0] != "paramiko":
            raise
        raise Unavailable(f"can't reach {url} ({error})", "`ssh` to it once, by the same name") from None
    return describe(client, url, info, version)


def describe(client: Any, url: str, info: dict[str, Any], version: dict[str, Any]) -> Engine:
    """Return an engine from its answers to `info` and `version`."""
    return Engine(
        client=client,
        url=url,
        version=str(version.get("Version", "unknown")),
        architecture=ARCHITECTURES.get(str(info.get("Architecture")), str(info.get("Architecture"))),
        runtimes=frozenset(info.get("Runtimes") or ()),
        cdi=any(
            str(device.get("ID", "")).startswith("nvidia.com/gpu")
            for device in info.get("DiscoveredDevices") or ()
        ),
        limits=frozenset(
            name for name, key in (("memory", "MemoryLimit"), ("pids", "PidsLimit")) if info.get(key)
        ),
        memory_bytes=int(info.get("MemTotal") or 0),
        root=str(info.get("DockerRootDir") or ""),
    )


def _knock(url: str) -> None:
    """Raise `Unavailable` where nobody answers at a local socket: the SDK wraps the reason beyond telling."""
    if not url.startswith("unix://"):
        return
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(TIMEOUT_S)
            door.connect(url.removeprefix("unix://"))
    except PermissionError:
        raise Unavailable(
            f"no permission on Docker's socket ({url})", "sudo usermod -aG docker $USER, then log in again"
        ) from None
    except OSError as error:
        raise Unavailable(f"no Docker engine answers at {url} ({error.strerror or error})", INSTALL) from None


@contextlib.contextmanager
def answering(doing: str, *, hint: str = "start Docker again") -> Iterator[None]:
    """Turn what the SDK raises when the engine goes away into `Lost`, saying what was being done."""
    import requests
    import urllib3
    from docker import errors

    try:
        yield
    except errors.APIError as error:
        if error.response is not None and error.response.status_code < 500:
            raise
        raise Lost(f"Docker failed while {doing} ({first_line(error)})", hint) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise Lost(f"Docker went away while {doing} ({type(error).__name__})", hint) from None


def first_line(error: BaseException) -> str:
    """Return the engine's own words, as one line."""
    text = str(getattr(error, "explanation", None) or error)
    return " ".join(text.split())[:200]
