"""DEVICE=cpu, PLACE=docker: two releases as two images, the same records as the host's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import bundle, images, plan
from repro.backends import onnxruntime
from repro.containers import Engine
from repro.schema import Comparison, Record
from tests.docker.bases import ROOT
from tests.docker.conftest import CASES, QUICK, Call, run_arguments

RELEASES = ("ort-1.31.1", "ort-1.23.2")
Make = Callable[[str], str]


def record_of(folder: Path) -> Record:
    (path,) = (folder / "bundles").glob("*.zip")
    (record,) = bundle.read(path).records.values()
    return record


def shape(value: Any, path: str = "") -> Iterator[str]:
    """Give the paths of all fields, with the kinds of their values."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from shape(each, f"{path}.{name}")
    elif isinstance(value, list):
        for each in value:
            yield from shape(each, f"{path}[]")
    else:
        yield path


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_that_is_not_installed_is_measured_in_its_image(
    engine: Engine, cpu: Make, repro: Call, tmp_path: Path, release: str
) -> None:
    name = cpu(release)
    done = repro(*run_arguments("tiny", "--device", "cpu", "--release", release))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("STAND-IN"), "the base only stands in, and the bundle says so"
    record, image = record_of(tmp_path), images.inspect(engine, name)
    assert image is not None
    place = record.runtime.place
    assert (record.status, place.kind, place.remote, place.standin) == ("measured", "docker", False, True)
    assert (place.image_id, place.repo_digest, place.engine) == (image.id, None, engine.version)
    assert place.base_digest == image.labels[images.BASE_DIGEST]
    assert place.labels == {name: image.labels[name] for name in images.KEPT_LABELS}
    assert place.labels[images.RELEASE] == record.runtime.release.name == release
    assert record.runtime.release.version == release.removeprefix("ort-")
    assert record.kit == plan.kit(), "what ran is this source, not some of the image's"
    assert place.limits is not None
    assert place.limits.pids
    shown = repro("show", "--markdown").stdout
    for pin in (image.id[7:19], place.labels[images.LOCK][7:19], str(place.base_digest)[7:19]):
        assert pin in shown, "show names the pins of the image's labels"


def test_host_and_container_give_records_of_one_schema(cpu: Make, repro: Call, tmp_path: Path) -> None:
    release = onnxruntime.release(gpu=False).name
    cpu(release)
    arguments = ["--cases", str(CASES), "--yes", "--device", "cpu", "--release", release, *QUICK]
    assert repro("run", "tiny", "--place", "host", "--output", "host/bundles", *arguments).returncode == 0
    assert repro("run", "tiny", "--place", "docker", "--output", "box/bundles", *arguments).returncode == 0
    host, box = record_of(tmp_path / "host"), record_of(tmp_path / "box")
    assert host.runtime.place.image_id is None
    fields = [
        {
            path
            for path in shape(msgspec.to_builtins(record))
            if not path.startswith((".runtime.place", ".missing"))
        }
        for record in (host, box)
    ]
    # What the probes can't read in one place is named there, and only that may differ.
    telemetry = {path for path in fields[0] ^ fields[1] if not path.startswith((".telemetry", ".board"))}
    assert telemetry == set()
    assert host.model == box.model
    assert host.settings.planned == box.settings.planned
    assert host.runtime.libraries == box.runtime.libraries


def test_the_host_serves_the_installed_release_and_the_image_every_other(
    cpu: Make, repro: Call, tmp_path: Path
) -> None:
    installed = onnxruntime.release(gpu=False).name
    other = next(release for release in RELEASES if release != installed)
    cpu(other)
    arguments = ["run", "tiny", "--cases", str(CASES), "--yes", "--device", "cpu", *QUICK]
    assert repro(*arguments, "--output", "a/bundles").returncode == 0
    assert repro(*arguments, "--output", "b/bundles", "--release", other).returncode == 0
    assert record_of(tmp_path / "a").runtime.place.kind == "host"
    assert record_of(tmp_path / "b").runtime.place.kind == "docker"


def test_the_releases_of_two_images_are_compared(cpu: Make, repro: Call) -> None:
    asked = ["--device", "cpu", "--builds", "2"]
    for release in RELEASES:
        cpu(release)
        done = repro(*run_arguments("tiny", *asked, "--release", release, "--output", f"{release}.zip"))
        assert done.returncode == 0, done.stderr
    compared = repro("compare", *(f"{release}.zip" for release in RELEASES), "--fail-on", "none", "--json")
    assert compared.returncode == 0, compared.stderr
    (pair,) = msgspec.json.decode(compared.stdout, type=Comparison).compared
    weights = {each.field: each.weight for each in pair.noticed}
    assert weights["release"] == "intended"
    assert "blocking" not in weights.values(), "two releases in containers are comparable"


def test_what_is_in_the_image_and_what_is_not(engine: Engine, cpu: Make) -> None:
    name = cpu(RELEASES[0])
    look = (
        "import os, pwd, sys; print(pwd.getpwuid(os.getuid()).pw_name, os.getuid());"
        "print([p for p in ('/context', '/root/.cache', '/opt/repro/wheels') if os.path.exists(p)]);"
        "import importlib.util as u; print(u.find_spec('repro'), u.find_spec('pip'))"
    )
    said = engine.client.containers.run(
        name, ["/opt/repro/venv/bin/python", "-c", look], remove=True, network_disabled=True
    )
    assert said.decode().splitlines() == ["repro 65532", "[]", "None None"]


@pytest.mark.needs("compose")
def test_compose_runs_the_job_of_a_work_folder(
    engine: Engine, cpu: Make, repro: Call, tmp_path: Path
) -> None:
    name = cpu(RELEASES[0])
    assert repro(*run_arguments("tiny", "--device", "cpu", "--release", RELEASES[0])).returncode == 0
    (work,) = (tmp_path / "work").iterdir()
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    work.chmod(0o755)
    tmp_path.chmod(0o755)
    given = {"DOCKER_HOST": engine.url, "IMAGE": name, "JOB": str(work / "job"), "OUT": str(out)}
    with Path("/dev/zero").open("rb") as stays_open:
        done = subprocess.run(
            ["docker-compose", "-f", str(ROOT / "compose.yaml"), "run", "--rm", "-T", "cpu"],
            env={**os.environ, **given},
            stdin=stays_open,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (out / "records").iterdir()] == [f"base-{RELEASES[0]}"]
