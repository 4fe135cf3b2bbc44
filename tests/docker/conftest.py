"""The test engine, a checkout of the kit, and images made from stand-ins by the kit's own verbs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from repro import containers, images
from repro.containers import Engine
from repro.launch import options
from tests.docker import bases
from tests.docker.engine import BASE, VARIABLE
from tests.docker.lab import Board

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "e2e" / "cases"
RELEASE = "ort-1.31.1"
QUICK = ("--protocol", "forum", "--duration", "0.05s", "--iterations", "5")

Finished = subprocess.CompletedProcess[str]
Call = Callable[..., Finished]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep them in one process: the engine has one container of the kit's name at a time.

    First, as xdist reads the groups in the same hook.
    """
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
    return bases.python_archive(address, BASE, tmp_path_factory.mktemp("archive") / "python.tar.gz")


@pytest.fixture(scope="session")
def checkout(python_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout whose table pins the tests' Python archive."""
    return bases.checkout(python_archive, tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that all of these tests share: the wheels of a lock are fetched once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def repro(engine: Engine, checkout: Path, cache: Path, tmp_path: Path) -> Call:
    """Return a function that runs `repro` from the checkout, with stand-ins allowed unless told otherwise."""

    def run(*arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> Finished:
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "DOCKER_HOST": engine.url,
            "XDG_CACHE_HOME": str(cache),
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
            bases.with_trtexec(engine, BASE, base, plays, trtexec, package)
        return repro(
            *("images", "build", release, "--device", device, "--base", base),
            *("--python-archive", python_archive),
        )

    return make


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


# --- a board behind sshd -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """Return a board that is up."""
    board = Board(tmp_path_factory.mktemp("lab") / "board")
    try:
        board.make()
        yield board
    finally:
        board.destroy()


@pytest.fixture
def board(lab: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """Return the board, reachable by this process's ssh, with a check that a test leaves nothing on it."""
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    yield lab
    client = containers.connect(lab.local_url)
    left = [each.name for each in client.client.containers.list(all=True)]
    for container in client.client.containers.list(all=True):
        container.remove(force=True, v=True)
    volumes = [each.name for each in client.client.volumes.list()]
    client.close()
    assert left == []
    assert volumes == []


@pytest.fixture
def far(repro: Call, board: Board) -> Call:
    """Return a function that runs `repro` where the board can be reached."""

    def run(*arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> Finished:
        return repro(*arguments, env={**board.environment(), **(env or {})}, timeout=timeout)

    return run


@pytest.fixture
def delivered(cpu: Callable[[str], str], far: Call, board: Board) -> str:
    """Have the image of a release for `cpu` delivered to the board, once; return its id there."""
    name = cpu(RELEASE)
    there = containers.connect(board.local_url)
    try:
        found = images.inspect(there, name)
        if found is None:
            done = far("images", "push", board.url, RELEASE, "--device", "cpu")
            assert done.returncode == 0, done.stderr
            found = images.inspect(there, name)
        assert found is not None
        return found.id
    finally:
        there.close()
