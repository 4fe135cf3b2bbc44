"""The test engine, a checkout of the kit, and images made from stand-ins by the kit's own verbs."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from repro import containers, images
from repro.containers import Engine
from repro.launch import options
from tests.docker.engine import BASE, VARIABLE

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "e2e" / "cases"
QUICK = ("--protocol", "forum", "--duration", "0.05s", "--iterations", "5")
DEBS = ("libnvinfer8", "libnvinfer-plugin8")

Finished = subprocess.CompletedProcess[str]
Call = Callable[..., Finished]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep them in one process: the engine has one container of the kit's name at a time."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.needs("docker"))
            item.add_marker(pytest.mark.xdist_group("docker"))


@pytest.fixture(scope="session")
def address() -> str:
    return os.environ[VARIABLE]


@pytest.fixture
def engine(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Return the engine, with a check that a test leaves no container and no volume."""
    monkeypatch.setenv("DOCKER_HOST", address)
    found = containers.connect()
    yield found
    left = [each.name for each in found.client.containers.list(all=True)]
    for container in found.client.containers.list(all=True):
        container.remove(force=True, v=True)
    volumes = [each.name for each in found.client.volumes.list()]
    found.client.close()
    assert left == []
    assert volumes == []


@pytest.fixture(scope="session")
def python_archive(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the base's own Python as an archive that can lie anywhere."""
    import docker

    client = docker.DockerClient(base_url=address)
    container = client.api.create_container(BASE, "true")["Id"]
    path = tmp_path_factory.mktemp("archive") / "python.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for source, target in (("/usr/bin/python3.11", "bin"), ("/usr/lib/python3.11", "lib")):
            chunks, _ = client.api.get_archive(container, source)
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as found:
                for member in found:
                    content = found.extractfile(member) if member.isreg() else None
                    member.name = f"python/{target}/{member.name}"
                    tar.addfile(member, content)
        link = tarfile.TarInfo("python/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, "python3.11"
        tar.addfile(link)
    client.api.remove_container(container)
    client.close()
    return path


@pytest.fixture(scope="session")
def checkout(python_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout whose table pins the tests' Python archive."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("repro", "images", "cases"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    table = folder / "images" / "releases.toml"
    digest = hashlib.sha256(python_archive.read_bytes()).hexdigest()
    table.write_text(re.sub(r'(?m)^sha256 = "\w+"$', f'sha256 = "{digest}"', table.read_text()))
    return folder


@pytest.fixture
def repro(engine: Engine, checkout: Path, tmp_path: Path) -> Call:
    """Return a function that runs `repro` from the checkout, with stand-ins allowed unless told otherwise."""

    def run(*arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> Finished:
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "DOCKER_HOST": engine.url,
            images.STANDIN_SWITCH: "1",
            **(env or {}),
        }
        done = subprocess.run(
            [sys.executable, "-m", "repro", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def run_arguments(case: str, *more: str) -> list[str]:
    return ["run", case, "--cases", str(CASES), "--place", "docker", "--yes", *QUICK, *more]


@pytest.fixture
def cpu(engine: Engine, repro: Call) -> Callable[[str], str]:
    """Return a function that has the image of a release for `cpu` made, once."""

    def make(release: str) -> str:
        name = f"trt-repro/cpu:{release}"
        if images.inspect(engine, name) is None:
            done = repro("images", "build", release, "--device", "cpu", "--base", BASE)
            assert done.returncode == 0, done.stderr
            assert "step 1 of" in done.stderr, "progress is told"
        return name

    return make


@pytest.fixture
def tensorrt(engine: Engine, repro: Call, python_archive: Path) -> Callable[..., Finished]:
    """Return a function that has the image of a TensorRT release made on a base with the stand-in."""

    def make(release: str, device: str, *, plays: str, trtexec: str, package: str) -> Finished:
        of = hashlib.sha256(f"{plays} {trtexec} {package}".encode()).hexdigest()[:12]
        base = f"trt-repro-test/{device}:{of}"
        if images.inspect(engine, base) is None:
            _standin(engine, base, plays, trtexec, package)
        return repro(
            *("images", "build", release, "--device", device, "--base", base),
            *("--python-archive", python_archive),
        )

    return make


def _standin(engine: Engine, name: str, plays: str, trtexec: str, package: str) -> None:
    """Make a base that has the tests' trtexec at the real one's path, and packages of its version."""
    launcher = (
        f'#!/bin/sh\nexport TRT_STANDIN_RELEASE={plays} TRT_STANDIN_NAME="$0"\n'
        'exec /opt/repro/venv/bin/python /opt/standin/tests/standin/trtexec.py "$@"\n'
    )
    debs = " && ".join(
        f"mkdir -p /{deb}/DEBIAN && printf 'Package: {deb}\\nVersion: {package}\\nArchitecture: all\\n"
        f"Maintainer: tests\\nDescription: stands in\\n' > /{deb}/DEBIAN/control "
        f"&& dpkg-deb -b /{deb} /{deb}.deb && dpkg -i /{deb}.deb && rm -r /{deb} /{deb}.deb"
        for deb in DEBS
    )
    files: dict[str, bytes] = {
        "Dockerfile": (
            f"FROM {BASE}\nCOPY standin /opt/standin/tests/standin\nCOPY trtexec {trtexec}\n"
            f"RUN chmod 755 {trtexec} && {debs}\n"
        ).encode(),
        "trtexec": launcher.encode(),
    }
    for path in (ROOT / "tests" / "standin").glob("*.*"):
        files[f"standin/{path.name}"] = path.read_bytes()
    with io.BytesIO() as context:
        images.pack(files, context)
        context.seek(0)
        events: list[Any] = list(
            engine.client.api.build(
                fileobj=context, custom_context=True, tag=name, rm=True, decode=True, network_mode="none"
            )
        )
    assert not [event for event in events if "error" in event], events[-3:]


def container(engine: Engine) -> Any:
    """Return the run's container once it runs."""
    from docker import errors

    for _ in range(200):
        try:
            found = engine.client.containers.get(options.NAME)
        except errors.NotFound:
            found = None
        if found is not None and found.status == "running":
            return found
        import time

        time.sleep(0.1)
    raise AssertionError("the container never ran")
