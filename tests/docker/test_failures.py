"""What goes wrong around a container: told in one line, kept as a result, nothing left running."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from repro import images
from repro.containers import Engine
from repro.launch import lock, options
from tests.docker import engine as engines
from tests.docker.conftest import Call, container, run_arguments
from tests.docker.test_cpu import record_of

RELEASE = "ort-1.31.1"
LONG = ("--device", "cpu", "--release", RELEASE, "--duration", "60s")
NOTICED_S = 30.0
Make = Callable[[str], str]


class Running:
    """A run in the background, once its container runs."""

    def __init__(
        self, engine: Engine, checkout: Path, folder: Path, *more: str, env: Mapping[str, str] | None = None
    ) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "DOCKER_HOST": engine.url,
            images.STANDIN_SWITCH: "1",
            **(env or {}),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "repro", *run_arguments("tiny", *LONG, *more)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.container = container(engine)
        self._measuring()

    def _measuring(self) -> None:
        """Wait until the worker measures: the run's progress says so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "measuring" in line:
                return
        raise AssertionError("it ended before it measured")

    def end(self) -> tuple[int, str, str, float]:
        """Return status, output, errors, and how long it took to end."""
        begin = time.monotonic()
        out, errors = self.process.communicate(timeout=90)
        return self.process.returncode, out, errors, time.monotonic() - begin


@pytest.fixture
def start(engine: Engine, cpu: Make, checkout: Path, tmp_path: Path) -> Callable[..., Running]:
    cpu(RELEASE)
    return lambda *more: Running(engine, checkout, tmp_path, *more)


def test_a_container_that_is_killed_gives_a_failed_record(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    running = start()
    running.container.kill()
    status, _, errors, seconds = running.end()
    assert status == 1, errors
    assert seconds < NOTICED_S
    record = record_of(tmp_path)
    assert record.status == "failed"
    assert "signal 9" in (record.reason or "")


def test_ctrl_c_leaves_no_container(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start()
    running.process.send_signal(signal.SIGINT)
    status, _, errors, seconds = running.end()
    assert status == 130
    assert "repro seal" in errors
    assert seconds < NOTICED_S


def test_a_caller_that_is_killed_is_no_loss(
    start: Callable[..., Running], repro: Call, engine: Engine, tmp_path: Path
) -> None:
    running = start()
    running.process.kill()
    running.end()
    running.container.wait(timeout=30)  # The worker's lifeline closed, so it ended.
    (work,) = (tmp_path / "work").iterdir()
    more = ("--work", "second", "--output", "second")
    after = repro(*run_arguments("tiny", "--device", "cpu", "--release", RELEASE, *more))
    assert after.returncode == 0, after.stderr
    assert f"put aside as container {options.NAME}-{work.name}" in after.stderr
    done = repro("seal", work, "--yes")
    assert done.returncode == 1, done.stderr
    assert record_of(tmp_path).status == "failed"


def test_a_second_run_is_refused_with_the_name_of_the_first(
    start: Callable[..., Running], repro: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running = start()
    for place in ("host", "docker"):
        second = repro(*run_arguments("tiny", "--place", place, "--device", "cpu"))
        assert second.returncode == 4
        assert "another run is going on here (tiny, run 20" in second.stderr
    # Another machine's caller has another lock; the container's name is the second guard.
    second = repro(*run_arguments("tiny", *LONG), env={"TRT_REPRO_LOCK": str(tmp_path / "other")})
    assert second.returncode == 4
    assert "another run is going on here (tiny, run 20" in second.stderr
    running.container.kill()
    running.end()


def test_a_run_of_the_host_keeps_a_container_from_starting(repro: Call, cpu: Make) -> None:
    cpu(RELEASE)
    with lock.held("run-1", "conv16"):
        second = repro(*run_arguments("tiny", "--device", "cpu", "--release", RELEASE))
    assert second.returncode == 4
    assert "another run is going on here (conv16, run run-1" in second.stderr


def test_labels_that_name_other_pins_are_refused(engine: Engine, cpu: Make, repro: Call) -> None:
    name = cpu(RELEASE)
    image = images.inspect(engine, name)
    assert image is not None
    with io.BytesIO() as context:
        images.pack({"Dockerfile": f"FROM {name}\nLABEL {images.LOCK}=sha256:0".encode()}, context)
        context.seek(0)
        list(engine.client.api.build(fileobj=context, custom_context=True, tag=name, rm=True, decode=True))
    try:
        done = repro(*run_arguments("tiny", "--device", "cpu", "--release", RELEASE))
        assert done.returncode == 1
        assert f"its label {images.LOCK} is sha256:0, not sha256:" in done.stderr
        assert f"repro images build {RELEASE} --device cpu" in done.stderr
    finally:
        engine.client.api.tag(image.id, *name.split(":"))


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "told"),
    [
        (("--device", "cpu", "--release", "ort-1.20.1"), {}, 4, "repro images build ort-1.20.1 --device cpu"),
        (("--device", "orin", "--release", "trt-10.3"), {}, 4, "images for orin are arm64"),
        (("--device", "orin"), {}, 4, "this is no Jetson"),
        (("--device", "orin", "--release", "trt-11.0"), {}, 4, "do not support JetPack"),
        (("--device", "x86", "--release", "trt-11.2"), {}, 4, "nvidia-ctk runtime configure"),
        (("--device", "cpu", "--release", "trt-10.3"), {}, 4, "does not exist for cpu"),
        (("--device", "cpu"), {"DOCKER_HOST": "unix:///nowhere.sock"}, 4, "sudo apt install docker.io"),
        (("--device", "cpu", "--place", "podman"), {}, 2, "unknown place 'podman'"),
    ],
)
def test_what_can_t_be_had_is_one_line_with_what_mends_it(
    repro: Call,
    tmp_path: Path,
    arguments: tuple[str, ...],
    environment: Mapping[str, str],
    code: int,
    told: str,
) -> None:
    done = repro(*run_arguments("tiny", *arguments), env=environment)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert told in line
    assert not (tmp_path / "work").exists()


def test_an_engine_that_is_killed_is_noticed_and_its_run_kept(
    start: Callable[..., Running], repro: Call, address: str, engine: Engine, tmp_path: Path
) -> None:
    running = start()
    os.kill(engines.pid(address), signal.SIGKILL)
    status, _, errors, seconds = running.end()
    engines.start(Path(address.removeprefix("unix://")).parent)
    assert status == 75, errors
    assert seconds < NOTICED_S
    assert "repro seal" in errors
    (work,) = (tmp_path / "work").iterdir()
    done = repro("seal", work, "--yes")
    assert done.returncode == 1, done.stderr
    assert record_of(tmp_path).status == "failed"


def test_an_engine_that_comes_back_in_time_keeps_the_run(
    start: Callable[..., Running], address: str, tmp_path: Path
) -> None:
    running = start()
    os.kill(engines.pid(address), signal.SIGKILL)
    folder = Path(address.removeprefix("unix://")).parent
    again = threading.Timer(2.0, engines.start, [folder])
    again.start()
    status, _, errors, _ = running.end()
    again.join()
    assert status == 1, errors
    record = record_of(tmp_path)
    assert record.status == "failed"
    assert "Docker went away" in (record.reason or "")
