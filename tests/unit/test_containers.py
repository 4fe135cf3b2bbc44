"""Reaching the engine: each way that it can't be is one line with what mends it."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from docker import errors

from repro import containers, ssh
from repro.errors import ExitCode, Lost, Unavailable, UsageError


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (FileNotFoundError(2, "No such file or directory"), "no Docker engine answers at unix:///x (No such"),
        (ConnectionRefusedError(111, "Connection refused"), "sudo systemctl start docker"),
        (PermissionError(13, "Permission denied"), "sudo usermod -aG docker $USER"),
    ],
)
def test_a_socket_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, raised: OSError, told: str) -> None:
    def refuse(*_: object) -> None:
        raise raised

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    with pytest.raises(Unavailable) as caught:
        containers.connect()
    assert told in str(caught.value)
    assert caught.value.code is ExitCode.DOES_NOT_APPLY


INFO: dict[str, Any] = {
    "Architecture": "aarch64",
    "Runtimes": {"runc": {}, "nvidia": {}},
    "MemoryLimit": True,
    "PidsLimit": False,
    "MemTotal": 7,
    "DockerRootDir": "/var/lib/docker",
}


def test_what_an_engine_says_of_itself() -> None:
    engine = containers.describe(None, "ssh://root@orin", INFO, {"Version": "27.1"})
    assert (engine.architecture, engine.version, engine.memory_bytes) == ("arm64", "27.1", 7)
    assert engine.runtimes == {"runc", "nvidia"}
    assert engine.limits == {"memory"}
    assert engine.remote
    assert not engine.cdi
    seen = {**INFO, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}
    local = containers.describe(None, "unix:///var/run/docker.sock", seen, {})
    assert (local.cdi, local.remote) == (True, False)


def answer(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    return response


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError(),
        requests.ReadTimeout(),
        ConnectionResetError(),
        errors.APIError("it broke", response=answer(500)),
    ],
)
def test_an_engine_that_goes_away_is_a_loss(error: Exception) -> None:
    with pytest.raises(Lost) as caught, containers.answering("copying the job in"):
        raise error
    assert "while copying the job in" in caught.value.what
    assert caught.value.code is ExitCode.LOST


def test_a_refusal_by_the_engine_is_no_loss() -> None:
    with pytest.raises(errors.APIError), containers.answering("making the container"):
        raise errors.APIError("no such image", response=answer(404))


# --- which engine, and what its machine is ------------------------------------------------------------


def context(folder: Path, name: str, host: str) -> None:
    """Write a context as Docker's command line does."""
    home = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    home.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    (home / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))


@pytest.mark.parametrize(
    ("host", "environment", "wanted"),
    [
        (None, {}, "ssh://board"),
        (None, {"DOCKER_CONTEXT": "default"}, containers.LOCAL),
        (None, {"DOCKER_CONTEXT": "default", "DOCKER_HOST": "tcp://a:1"}, "tcp://a:1"),
        ("ssh://b", {"DOCKER_HOST": "tcp://a:1"}, "ssh://b"),
    ],
)
def test_the_engine_is_named_by_dockers_own_order(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    host: str | None,
    environment: dict[str, str],
    wanted: str,
) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"DOCKER_CONFIG": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config.json").write_text('{"currentContext": "lab"}')
    context(tmp_path, "lab", "ssh://board")
    assert containers.address(host)[0] == wanted


def test_an_engine_that_can_t_be_meant_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="write ssh://user@board"):
        containers.address("board")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    with pytest.raises(UsageError, match="there is no Docker context nowhere"):
        containers.address()


class Shell:
    """A link to a board whose shell is this machine's, over some folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ask(self, command: str) -> str:
        moved = re.sub(r" /(?=[a-z])", f" {self.root}/", command)
        return subprocess.run(["sh", "-c", moved], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="boards are reached from elsewhere")
def test_a_boards_files_are_copied_by_their_own_paths(tmp_path: Path) -> None:
    board, copy = tmp_path / "board", tmp_path / "copy"
    for path, text in (
        (containers.BOOT_ID, "b007\n"),
        ("etc/nv_tegra_release", "# R36 (release)\n@@ etc/passwd file\nroot"),
        ("etc/shadow", "secret"),
    ):
        (board / path).parent.mkdir(parents=True, exist_ok=True)
        (board / path).write_text(text)
    (board / "var/lib/nvpmodel").mkdir(parents=True)
    copy.mkdir()
    containers.copy_files(Shell(board), copy)  # type: ignore[arg-type]
    found = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if not any(path.glob("*")))
    assert found == ["etc/nv_tegra_release", containers.BOOT_ID, "var/lib/nvpmodel"]
    assert (copy / containers.BOOT_ID).read_text().strip() == "b007"
    assert (copy / "etc/nv_tegra_release").read_text().strip() == "# R36 (release)"


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("sh: 1: docker: not found", "sudo apt install docker.io"),
        ("permission denied while trying to connect to the Docker daemon", "usermod -aG docker"),
        ("dial unix /var/run/docker.sock: connect: no such file", "systemctl start docker"),
    ],
)
def test_a_board_without_an_engine_for_us_is_told_with_what_mends_it(said: str, hint: str) -> None:
    error = containers._no_engine(ssh.Target("orin", "me", 2222), said)
    assert said in error.what
    assert error.hint.startswith("ssh -p 2222 me@orin ")
    assert hint in error.hint


def test_a_full_disk_is_no_loss() -> None:
    with pytest.raises(Unavailable, match="the engine's disk is full") as caught, containers.answering("x"):
        raise errors.APIError("x", response=answer(500), explanation="write: no space left on device")
    assert "docker system prune" in caught.value.hint
