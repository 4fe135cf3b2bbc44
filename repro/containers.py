"""The one door to Docker: connecting to its engine, and what the engine says of itself.

Every error of the SDK that a user can mend becomes one line with the command that mends it. The engine
may be a board's (`ssh://user@orin`): then `Engine.board` has the board's files that matter, and nothing
looks at this machine for them. An engine's own id is never used: boards of one SD card image share it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from repro import ssh
from repro.errors import Lost, Unavailable, UsageError

TIMEOUT_S = 20.0
"""Longest wait for an answer of the engine, building and pulling apart."""
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
ROOM = "make room there, for example by docker system prune"
INSTALL = "sudo apt install docker.io, or sudo systemctl start docker"
LOCAL = "unix:///var/run/docker.sock"
LOCAL_SCHEMES = ("unix://", "http+unix://", "npipe://")
BOOT_ID = "proc/sys/kernel/random/boot_id"
BOARD_FILES = (
    BOOT_ID,
    "proc/driver/nvidia/version",
    "etc/nv_tegra_release",
    "etc/nvpmodel.conf",
    "etc/nvpmodel",
    "var/lib/nvpmodel",
)
"""What is copied of a board: what decides on a release, and which paths there are to mount."""


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
    link: ssh.Link | None = None
    """The ssh connection that leads to it."""
    board: Path | None = Path("/")
    """Where its machine's files can be read: here, or a copy of some; `None` where they can't."""

    @property
    def remote(self) -> bool:
        """Tell whether the engine is on another machine."""
        return not self.url.startswith(LOCAL_SCHEMES)

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return f"Docker on {self.link.target.host}" if self.link else "Docker"

    def boot_id(self) -> str | None:
        """Return what names the present boot of its machine, `None` where it can't be asked."""
        if self.link:
            return self.link.ask(f"cat /{BOOT_ID}").strip() or None
        with contextlib.suppress(OSError):
            return None if self.remote else Path("/", BOOT_ID).read_text().strip()
        return None

    def free_bytes(self) -> int | None:
        """Return how much room it has for images, `None` where it can't be asked."""
        if self.link:
            words = self.link.ask(f"df -Pk '{self.root}' | tail -n 1").split()
            return int(words[3]) * 1024 if len(words) > 3 and words[3].isdigit() else None
        if self.remote or not os.path.isdir(self.root):
            return None
        return shutil.disk_usage(self.root).free

    def close(self) -> None:
        """Let go of it, and of the link to it."""
        self.client.close()
        if self.link:
            self.link.close()


def connect(host: str | None = None) -> Engine:
    """Return the engine at `host`, else that of `DOCKER_HOST`, of Docker's context, or this machine's.

    Raises `Unavailable` where none answers.
    """
    try:
        import docker
        from docker import errors
    except ImportError:
        raise Unavailable(
            "the Docker SDK is not installed", "pip install 'trt-repro[run]', or `make repro`"
        ) from None
    url, more = address(host)
    if url.startswith("ssh://"):
        return _over_ssh(url)
    _knock(url)
    try:
        client = docker.DockerClient(base_url=url, timeout=TIMEOUT_S, **more)
        info, version = client.info(), client.version()
    except (errors.DockerException, OSError) as error:
        raise Unavailable(f"no Docker engine answers at {url} ({first_line(error)})", INSTALL) from None
    return describe(client, url, info, version)


def address(host: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return the URL of the engine that is meant, by Docker's own order, and the SDK's options for it."""
    from docker import ContextAPI, utils
    from docker import errors as docker_errors

    if host is not None:
        if "://" not in host:
            raise UsageError(f"{host} is no address of an engine", "write ssh://user@board")
        return host, {}
    if url := os.environ.get("DOCKER_HOST"):
        more = utils.kwargs_from_env()
        more.pop("base_url", None)
        return url, more
    try:
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    except docker_errors.DockerException as error:
        raise UsageError(
            f"Docker's context can't be read ({first_line(error)})", "docker context ls"
        ) from None
    if context is None:
        name = os.environ.get("DOCKER_CONTEXT") or "that is current"
        raise UsageError(f"there is no Docker context {name}", "`docker context ls` lists them")
    if context.name == "default" or not context.Host:
        return LOCAL, {}
    return str(context.Host), {"tls": context.TLSConfig} if context.TLSConfig else {}


def _over_ssh(url: str) -> Engine:
    """Return the engine of a board, with the files that tell what the board is."""
    import docker
    from docker import errors

    if not hasattr(socket, "AF_UNIX"):
        raise Unavailable("boards are reached from Linux and macOS only", "run it there")
    link = ssh.Link(ssh.parse(url)).start()
    try:
        client = docker.DockerClient(base_url=link.url, timeout=TIMEOUT_S)
        info, version = client.info(), client.version()
        copy_files(link, link.folder / "board")
    except (errors.DockerException, OSError) as error:
        said = link.said() or first_line(error)
        link.close()
        raise _no_engine(link.target, said) from None
    except BaseException:
        link.close()
        raise
    found = describe(client, url, info, version)
    return msgspec.structs.replace(found, link=link, board=link.folder / "board")


def _no_engine(target: ssh.Target, said: str) -> Unavailable:
    """Say why a board that can be reached has no engine for us."""
    hint = f"{target.command} sudo systemctl start docker"
    if "not found" in said:
        hint = f"{target.command} sudo apt install docker.io"
    elif "permission denied" in said.lower():
        hint = f"{target.command} 'sudo usermod -aG docker $USER'"
    return Unavailable(f"no Docker engine answers on {target.host} ({said})", hint)


def copy_files(link: ssh.Link, folder: Path) -> None:
    """Copy the few files of a board that matter into `folder`, by their own paths; folders stay empty."""
    folder.mkdir(exist_ok=True)
    script = "; ".join(
        f"if [ -d /{path} ]; then echo '@@ {path} folder'; elif [ -r /{path} ]; then echo '@@ {path} file'; "
        f"head -c 4096 /{path}; echo; fi"
        for path in BOARD_FILES
    )
    for part in ("\n" + link.ask(f'sh -c "{script}"')).split("\n@@ ")[1:]:
        head, _, text = part.partition("\n")
        path, _, kind = head.partition(" ")
        if path in BOARD_FILES:
            target = folder / path
            (target if kind == "folder" else target.parent).mkdir(parents=True, exist_ok=True)
            if kind == "file":
                target.write_text(text)


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
        board=Path("/") if url.startswith(LOCAL_SCHEMES) else None,
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
        if "no space left on device" in str(error):
            raise Unavailable(f"the engine's disk is full ({doing})", ROOM) from None
        raise Lost(f"Docker failed while {doing} ({first_line(error)})", hint) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise Lost(f"Docker went away while {doing} ({type(error).__name__})", hint) from None


def first_line(error: BaseException) -> str:
    """Return the engine's own words, as one line."""
    text = str(getattr(error, "explanation", None) or error)
    return " ".join(text.split())[:200]
