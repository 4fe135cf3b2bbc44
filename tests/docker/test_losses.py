"""What happens to a board, or on the way to it: noticed in time, kept as a result, nothing left running."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repro import containers
from repro.containers import Engine
from repro.launch import holder, options
from repro.schema import Record
from tests.docker import engine as engines
from tests.docker.conftest import RELEASE, Call, run_arguments
from tests.docker.lab import Board
from tests.docker.test_cpu import record_of
from tests.docker.test_failures import NOTICED_S, Running

pytestmark = pytest.mark.needs("sshd", "mount")
QUICK_RUN = ("--device", "cpu", "--release", RELEASE)
Start = Callable[..., Running]


@pytest.fixture
def there(board: Board) -> Iterator[Engine]:
    """Return the board's engine as the board itself sees it."""
    engine = containers.connect(board.local_url)
    yield engine
    engine.close()


@pytest.fixture
def start(there: Engine, board: Board, delivered: str, checkout: Path, tmp_path: Path) -> Iterator[Start]:
    """Give a function that starts a run on the board and returns once it measures."""
    begun: list[Running] = []

    def begin(*more: str) -> Running:
        begun.append(Running(there, checkout, tmp_path, "--host", board.url, *more, env=board.environment()))
        return begun[-1]

    yield begin
    for running in begun:
        running.process.kill()
        running.process.communicate()


def failed(folder: Path) -> Record:
    record = record_of(folder)
    assert record.status == "failed"
    return record


def sealed_later(far: Call, folder: Path) -> Record:
    """Seal what a run left that lost its board."""
    (work,) = (folder / "work").iterdir()
    done = far("seal", work, "--yes")
    assert done.returncode == 1, done.stderr
    return failed(folder)


def ends_by_itself(container: Any, within_s: float) -> None:
    """Wait for a container's end that nobody asks for."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        container.reload()
        if container.status == "exited":
            return
        time.sleep(0.2)
    raise AssertionError(f"it still runs after {within_s:g} s")


@pytest.mark.parametrize("how", ["kill_link", "freeze_link"])
def test_a_link_that_is_lost_or_freezes_and_can_be_had_again(
    start: Start, board: Board, tmp_path: Path, how: str
) -> None:
    running = start()
    frozen = getattr(board, how)()
    status, _, errors, seconds = running.end()
    for pid in frozen or ():
        os.kill(pid, signal.SIGKILL)
    assert status == 1, errors
    assert seconds < NOTICED_S
    assert "the link to the board was lost while the worker ran" in (failed(tmp_path).reason or "")
    assert board.sessions() == []


def test_a_link_that_is_gone_for_long_leaves_nothing_running(
    start: Start, board: Board, far: Call, tmp_path: Path
) -> None:
    running = start()
    frozen = [*board.freeze_link(), *board.freeze_listener()]
    begin = time.monotonic()
    # As when the cable is pulled: nothing is closed on the board, and its worker hears nothing any more.
    ends_by_itself(running.container, holder.SILENCE_S + 2 * holder.BEAT_S)
    status, _, errors, _ = running.end()
    assert status == 75, errors
    assert time.monotonic() - begin < 2 * NOTICED_S
    assert "did not come back" in errors
    assert "repro seal" in errors
    for pid in frozen:
        os.kill(pid, signal.SIGKILL)
    board.start_link()
    record = sealed_later(far, tmp_path)
    assert record.runtime.place.remote


def test_a_far_engine_that_is_killed(start: Start, board: Board, tmp_path: Path) -> None:
    running = start()
    board.kill_engine()
    again = threading.Timer(3.0, engines.start, [board.engine_folder])
    again.start()
    status, _, errors, seconds = running.end()
    again.join()
    assert status == 1, errors
    assert seconds < NOTICED_S
    assert "Docker went away" in (failed(tmp_path).reason or "")


def test_a_container_that_is_killed_there(start: Start, tmp_path: Path) -> None:
    running = start()
    running.container.kill()
    status, _, errors, seconds = running.end()
    assert status == 1, errors
    assert seconds < NOTICED_S
    assert "signal 9" in (failed(tmp_path).reason or "")


def test_a_board_that_reboots(start: Start, board: Board, far: Call, tmp_path: Path) -> None:
    running = start()
    board.reboot_begins()
    status, _, errors, seconds = running.end()
    board.start()
    assert status == 75, errors
    assert seconds < NOTICED_S
    assert "Connection refused" in errors, "what ssh says is passed on"
    cut = sealed_later(far, tmp_path).cut_short
    assert cut is not None
    assert "the board was rebooted" in cut.reason


def test_a_disk_that_is_full_before_the_run(delivered: str, board: Board, far: Call, tmp_path: Path) -> None:
    with board.full():
        done = far(*run_arguments("tiny", *QUICK_RUN, "--host", board.url))
    assert done.returncode == 4, done.stderr
    assert "full" in done.stderr or "no space left on device" in done.stderr
    assert "docker system prune" in done.stderr
    assert not (tmp_path / "bundles").exists() or not any((tmp_path / "bundles").iterdir())


def test_a_disk_that_fills_up_during_the_run(start: Start, board: Board, tmp_path: Path) -> None:
    running = start("--duration", "3s")
    with board.full():
        status, _, errors, _ = running.end()
    assert status == 1, errors
    failed(tmp_path)


def test_a_caller_that_is_killed_makes_room_and_its_result_waits(
    start: Start, board: Board, there: Engine, far: Call, tmp_path: Path
) -> None:
    running = start()
    elsewhere = far(
        *run_arguments("tiny", *QUICK_RUN, "--host", board.url),
        env={"XDG_CONFIG_HOME": str(tmp_path / "elsewhere")},
    )
    assert elsewhere.returncode == 4
    assert "another run is going on here (tiny, run 20" in elsewhere.stderr
    running.process.kill()
    running.end()
    (work,) = [each for each in (tmp_path / "work").iterdir() if any((each / "out").iterdir())]
    done = far(*run_arguments("tiny", *QUICK_RUN, "--host", board.url, "--output", "second"))
    assert done.returncode == 0, done.stderr
    assert f"note: the caller of run {work.name} is gone" in done.stderr
    assert f"`repro seal work/{work.name}` fetches it" in done.stderr
    assert [each.name for each in there.client.containers.list(all=True)] == [f"{options.NAME}-{work.name}"]
    again = far("seal", work, "--yes")
    assert again.returncode == 1, again.stderr
    failed(tmp_path)
