"""The launcher by itself, where a worker hangs or has no room left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repro import gather, images, places, plan
from repro.containers import Engine
from repro.launch import docker, options
from repro.places import Where
from repro.plan import Request
from repro.schema import Job
from repro.worker import Progress
from tests.docker.conftest import CASES, container

RELEASE = "ort-1.31.1"
Made = tuple[Where, Job, Path]


@pytest.fixture
def made(
    engine: Engine, cpu: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Made]:
    """Give a place, a job and its work folder."""
    cpu(RELEASE)
    monkeypatch.setenv(images.STANDIN_SWITCH, "1")
    request = Request(
        case="tiny",
        cases_folder=CASES,
        device="cpu",
        release=RELEASE,
        place="docker",
        duration_s=20.0,
        timeout_build_s=2,
        timeout_run_s=2,
    )
    job, experiments, where = plan.make(request)
    plan.write_job(job, experiments, (), tmp_path / "job")
    yield where, job, tmp_path
    assert where.engine is not None
    where.engine.client.close()


def launch(made: Made, tell: docker.Tell = lambda _: None) -> str | None:
    where, job, folder = made
    assert where.engine is not None
    wanted = places.wanted(where, job, folder / "job")
    return docker.launch(where.engine, wanted, folder / "job", folder / "out", tell)


def test_a_worker_that_hangs_is_ended_and_what_it_wrote_is_kept(
    engine: Engine, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "SPARE_S", 1.0)

    def stop(_: Progress) -> None:
        for process in container(engine).top()["Processes"]:
            os.kill(int(process[1]), signal.SIGSTOP)

    ended = launch(made, stop)
    assert ended == "the worker did not answer for 3 s"
    (record,) = gather.prepare(made[2], ended, ()).records
    assert record.status == "failed"


@pytest.mark.needs("mount")
def test_a_full_disk_inside_is_a_failed_record(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    usual = options.request

    def on_a_small_disk(wanted: options.Wanted) -> dict[str, Any]:
        body = usual(wanted)
        body["HostConfig"]["Mounts"][0] = {"Type": "bind", "Source": str(small), "Target": options.HOME}
        return body

    usual_create = docker.create

    def create(api: Any, body: dict[str, Any], say: docker.Say) -> str:
        made = usual_create(api, body, say)
        usual_put = api.put_archive

        def put_archive(*arguments: Any) -> None:
            usual_put(*arguments)
            free = os.statvfs(small)
            (small / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - 16_384))

        monkeypatch.setattr(api, "put_archive", put_archive)
        return made

    monkeypatch.setattr(options, "request", on_a_small_disk)
    monkeypatch.setattr(docker, "create", create)
    try:
        ended = launch(made)
    finally:
        subprocess.run(["umount", small], check=True)
    records = gather.prepare(made[2], ended, ()).records
    assert [record.status for record in records] == ["failed"]
