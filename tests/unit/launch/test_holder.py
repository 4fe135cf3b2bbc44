"""Who holds the container's name: living callers are named, dead ones make room and lose nothing."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from typing import Any

import pytest
import requests
from docker import errors

from repro.errors import ExitCode, Unavailable
from repro.launch import docker, holder, options

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone.utc)
ELSEWHERE = "0123456789abcdef.1"


def ago(seconds: float) -> str:
    """Return a time as Docker writes it, nanoseconds included."""
    return f"{NOW - datetime.timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.123456789Z"


def refusal(status: int, words: str) -> errors.APIError:
    response = requests.Response()
    response.status_code = status
    return errors.APIError(words, response=response, explanation=words)


class Api:
    """An engine that has a container of the kit's name, in some state."""

    def __init__(self, status: str, caller: str, age_s: float = 0.0, **files: float) -> None:
        self.status, self.age_s, self.files = status, age_s, files
        self.labels = {holder.RUN: "r1", holder.CASE: "conv16", holder.STARTED: ago(age_s)}
        self.labels[holder.CALLER] = caller
        self.holds = True
        self.done: list[str] = []

    def create_container_from_config(self, body: Any, name: str) -> dict[str, str]:
        assert name == options.NAME
        if self.holds:
            raise refusal(409, "the name is in use")
        return {"Id": body["Image"]}

    def inspect_container(self, _: str) -> dict[str, Any]:
        if not self.holds:
            raise errors.NotFound("gone")
        state = {"Status": self.status, "Running": self.status == "running", "FinishedAt": ago(self.age_s)}
        return {"Id": "old", "Created": ago(self.age_s), "Config": {"Labels": self.labels}, "State": state}

    def info(self) -> dict[str, str]:
        return {"SystemTime": ago(0)}

    def get_archive(self, _: str, path: str) -> tuple[list[bytes], dict[str, str]]:
        name = path.rpartition("/")[2].partition(".")[0]
        if name not in self.files:
            raise errors.NotFound("no such file")
        # The engine gives a file's time with an offset.
        return [b""], {"mtime": ago(self.files[name]).replace("Z", "+00:00")}

    def rename(self, container: str, name: str) -> None:
        self.done.append(f"renamed to {name}")
        self.holds = False

    def remove_container(self, container: str, *, v: bool) -> None:
        assert v
        self.done.append("removed")
        self.holds = False

    def stop(self, *_: object) -> None:
        self.done.append("stopped")


@pytest.fixture(scope="module")
def ended() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def callers(ended: int) -> dict[str, str]:
    machine = holder.caller().partition(".")[0]
    return {
        "elsewhere": ELSEWHERE,
        "here, alive": f"{machine}.{os.getppid()}",
        "here, dead": f"{machine}.{ended}",
        "this process": holder.caller(),
    }


def create(api: Api, monkeypatch: pytest.MonkeyPatch, told: list[str]) -> str:
    monkeypatch.setattr(docker, "_stop", api.stop)
    return docker.create(api, {"Image": "new"}, told.append)


@pytest.mark.parametrize(
    ("caller", "status", "age_s", "files", "words"),
    [
        ("elsewhere", "running", 5, {}, "another run is going on here (conv16, run r1, since 2026-"),
        ("elsewhere", "running", 900, {"heard": 4}, "another run is going on here"),
        ("here, alive", "running", 900, {"heard": 4}, "another run is going on here"),
        ("elsewhere", "created", 30, {}, "another run is being prepared here"),
        ("here, alive", "created", 9000, {}, "another run is being prepared here"),
        ("elsewhere", "exited", 30, {"session": 60}, "another run has just ended here"),
        ("here, alive", "exited", 9000, {"session": 60}, "another run has just ended here"),
    ],
)
def test_a_living_caller_keeps_the_name(
    monkeypatch: pytest.MonkeyPatch,
    callers: dict[str, str],
    caller: str,
    status: str,
    age_s: float,
    files: dict[str, float],
    words: str,
) -> None:
    api, told = Api(status, callers[caller], age_s, **files), list[str]()
    with pytest.raises(Unavailable) as caught:
        create(api, monkeypatch, told)
    assert words in caught.value.what
    assert "run r1" in caught.value.what
    assert caught.value.code is ExitCode.DOES_NOT_APPLY
    assert (api.done, told) == ([], [])


@pytest.mark.parametrize(
    ("caller", "status", "age_s", "files", "done"),
    [
        ("here, dead", "running", 5, {"session": 1}, ["stopped", "renamed to trt-repro-r1"]),
        ("elsewhere", "running", 900, {"heard": 61, "session": 1}, ["stopped", "renamed to trt-repro-r1"]),
        ("here, dead", "created", 5, {}, ["removed"]),
        ("elsewhere", "created", 601, {}, ["removed"]),
        ("here, dead", "exited", 5, {"session": 1}, ["renamed to trt-repro-r1"]),
        ("this process", "exited", 5, {"session": 1}, ["renamed to trt-repro-r1"]),
        ("elsewhere", "exited", 121, {"session": 1}, ["renamed to trt-repro-r1"]),
        ("elsewhere", "exited", 121, {}, ["removed"]),
    ],
)
def test_a_dead_one_makes_room_and_what_it_measured_is_put_aside(
    monkeypatch: pytest.MonkeyPatch,
    callers: dict[str, str],
    caller: str,
    status: str,
    age_s: float,
    files: dict[str, float],
    done: list[str],
) -> None:
    api, told = Api(status, callers[caller], age_s, **files), list[str]()
    assert create(api, monkeypatch, told) == "new"
    assert api.done == done
    (line,) = told
    assert "run r1" in line
    assert ("`repro seal work/r1` fetches it" in line) is ("renamed" in done[-1])


def test_a_container_of_the_name_that_is_not_the_kits_is_not_fresh_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = Api("created", ELSEWHERE, 601)
    api.labels = {}
    assert create(api, monkeypatch, []) == "new"


def test_a_caller_is_named_without_saying_who_it_is() -> None:
    machine, _, pid = holder.caller().partition(".")
    assert (len(machine), pid) == (16, str(os.getpid()))
