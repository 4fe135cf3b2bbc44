"""Reaching the engine: each way that it can't be is one line with what mends it."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import requests
from docker import errors

from repro import containers
from repro.errors import ExitCode, Lost, Unavailable


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
