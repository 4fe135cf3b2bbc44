"""What goes into a container and comes out of it, and what is said when the engine refuses; no engine."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import requests
from docker import errors

from repro.errors import Unavailable
from repro.launch import docker, options


def refusal(status: int, words: str) -> errors.APIError:
    response = requests.Response()
    response.status_code = status
    return errors.APIError(words, response=response, explanation=words)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("unknown or invalid runtime name: nvidia", "nvidia-container-toolkit"),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "nvidia-container-toolkit"),
        ("invalid mount config: bind source path does not exist: /etc/nv_tegra_release", "no such board"),
        ("write /var/lib/docker/tmp: no space left on device", "make room"),
        ("No such image: sha256:1", "`repro images build`"),
        ("something else", "the engine's log"),
    ],
)
def test_a_refusal_is_told_with_what_mends_it(said: str, hint: str) -> None:
    class Refusing:
        def create_container_from_config(self, body: Any, name: str) -> dict[str, str]:
            raise refusal(500, said)

    with pytest.raises(Unavailable) as caught:
        docker.create(Refusing(), {})
    assert said in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"ExitCode": 0}, None),
        ({"ExitCode": 137, "OOMKilled": True}, "the kernel ended the worker: out of memory"),
        ({"ExitCode": 137, "OOMKilled": False}, "the worker was ended by signal 9"),
        ({"ExitCode": 1}, "the worker was ended by status 1"),
    ],
)
def test_how_a_worker_ended(state: dict[str, Any], told: str | None) -> None:
    assert docker._ended(state) == told


def test_kit_and_job_go_in_and_what_is_private_stays(tmp_path: Path) -> None:
    for name in ("job.json", "said.json", "records/base/case/model.fp32.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with io.BytesIO() as file:
        docker.pack(tmp_path, file)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            members = {member.name: member for member in tar}
    assert {"job/job.json", "job/records/base/case/model.fp32.onnx", "kit/repro/worker.py"} <= set(members)
    assert not [name for name in members if "said.json" in name or "__pycache__" in name]
    assert {member.uid for name, member in members.items() if name != "out"} == {0}
    assert (members["out"].uid, members["out"].gid) == (options.UID, options.UID)


def test_only_plain_files_below_the_folder_come_out() -> None:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, kind in (
                ("out", tarfile.DIRTYPE),
                ("out/session.json", tarfile.REGTYPE),
                ("out/records/a/record.json", tarfile.REGTYPE),
                ("out/../evil", tarfile.REGTYPE),
                ("out//evil", tarfile.REGTYPE),
                ("/out/evil", tarfile.REGTYPE),
                ("evil", tarfile.REGTYPE),
                ("out/link", tarfile.SYMTYPE),
                ("out/hard", tarfile.LNKTYPE),
                ("out/device", tarfile.CHRTYPE),
            ):
                member = tarfile.TarInfo(name)
                member.type = kind
                if kind == tarfile.REGTYPE:
                    member.size = 2
                if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                    member.linkname = "/etc/passwd"
                tar.addfile(member, io.BytesIO(b"ok"))
        file.seek(0)
        found = dict(docker.unpacked(file))
    names = {"session.json", "records/a/record.json"}
    assert names <= set(found)
    for name in set(found) - names:
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts
    assert set(found.values()) == {b"ok"}
