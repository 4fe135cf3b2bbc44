"""Nothing lost: what is killed, filled or taken away, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro import bundle
from repro.schema import Record
from tests.e2e.conftest import Call, bundle_of, run_arguments
from tests.e2e.test_failures import gone, only_record, processes_of, start, turn_of, wait_for

pytestmark = pytest.mark.needs("ssh-keygen", "linux")


def process_of(folder: Path, module: str) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for pid in processes_of(folder):
            # A short-lived child may be gone by now.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        time.sleep(0.02)
    raise AssertionError(f"no {module} among {processes_of(folder)}")


def work_of(folder: Path) -> Path:
    (work,) = (folder / "work").iterdir()
    return work


def wait_for_turn(folder: Path, number: int) -> None:
    """Wait until the turn before `number` has ended and this one runs."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if list((folder / "work").glob(f"*/out/turns/{number}/found.json")):
            return
        time.sleep(0.02)
    raise AssertionError("the turn did not come")


LONG = ("--builds", "3", "--duration", "1.5s")


def test_a_killed_worker_is_a_failed_bundle_with_what_was_measured(tmp_path: Path) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, *LONG)) as process:
        wait_for_turn(tmp_path, 1)
        os.kill(process_of(tmp_path, "repro.worker"), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    record = only_record(tmp_path)
    assert record.status == "failed"
    assert "the worker was ended by SIGKILL" in (record.reason or "")
    assert [run.id for run in record.runs] == ["b0r0"]
    assert record.cut_short is not None
    assert record.cut_short.rounds_done == 1
    assert record.telemetry.sampler is not None
    assert record.telemetry.sampler.ended == "early"
    assert gone(tmp_path)


def test_a_killed_sampler_leaves_a_measured_record_that_says_so(tmp_path: Path, call: Call) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, "--duration", "1s")) as process:
        wait_for(process, ", measuring")
        os.kill(process_of(tmp_path, "repro.sampling"), signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == 0
    record = only_record(tmp_path)
    assert record.status == "measured"
    channel = next(c for c in record.telemetry.channels if c.name == "own_cpu")
    assert channel.reason == "the sampler ended early"
    assert channel.coverage is not None
    assert channel.coverage.share < 0.9
    assert "the sampler ended early" in call("show", bundle_of(tmp_path), "--card").stdout


def test_a_sampler_killed_at_once_leaves_its_channels_missed(tmp_path: Path) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, "--duration", "1s")) as process:
        os.kill(process_of(tmp_path, "repro.sampling"), signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert {c.state for c in only_record(tmp_path).telemetry.channels} == {"missed"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_kit_leaves_its_work_and_nothing_else(
    tmp_path: Path, call: Call, how: signal.Signals
) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, *LONG)) as process:
        wait_for_turn(tmp_path, 1)
        process.send_signal(how)
        process.communicate(timeout=30)
    assert gone(tmp_path)
    assert not list((tmp_path / "bundles").iterdir())
    sealed = call("seal", work_of(tmp_path))
    assert sealed.returncode == 0, sealed.stderr
    opened = bundle.read(bundle_of(tmp_path))
    (record,) = opened.records.values()
    assert opened.statement.predicate.sealed == "later"
    assert record.status == "measured", "an interruption is no failure of the experiment"
    assert [run.id for run in record.runs] == ["b0r0"]
    assert record.cut_short is not None
    assert "only 1 of 3 rounds" in call("show", bundle_of(tmp_path)).stdout
    assert call("run", "conv16", "--device", "nowhere").returncode == 2, "the lock is free again"


def test_an_interrupted_run_can_be_sealed(tmp_path: Path, call: Call) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, *LONG)) as process:
        wait_for_turn(tmp_path, 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"repro seal {work_of(tmp_path)}" in errors
    assert call("seal", work_of(tmp_path)).returncode == 0


def test_work_that_measured_nothing_is_refused_or_says_so(tmp_path: Path, call: Call) -> None:
    with start(tmp_path, *run_arguments("conv16", tmp_path)) as process:
        wait_for(process, ", preparing")
        process.kill()
        process.communicate(timeout=30)
    assert gone(tmp_path)
    done = call("seal", work_of(tmp_path))
    assert done.returncode == 1
    assert only_record(tmp_path).reason == "it ended before anything was measured"


@pytest.mark.parametrize("name", ["nothing", "file", "folder"])
def test_what_is_no_work_folder_is_refused(tmp_path: Path, call: Call, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    done = call("seal", tmp_path / name)
    assert done.returncode == 2
    assert "is no work folder" in done.stderr


def changed_work(tmp_path: Path, run_case: Call) -> Path:
    """Return the work folder of a finished run, its bundle thrown away."""
    run_case("tiny")
    bundle_of(tmp_path).unlink()
    return work_of(tmp_path)


def sealing_of(folder: Path) -> tuple[str, Record]:
    opened = bundle.read(bundle_of(folder))
    (record,) = opened.records.values()
    return opened.statement.predicate.sealed, record


def test_work_of_another_boot_says_so(tmp_path: Path, run_case: Call, call: Call) -> None:
    work = changed_work(tmp_path, run_case)
    path = work / "out" / "records" / next((work / "out" / "records").iterdir()).name / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "boot": "00000000-0000-4000-8000-000000000000"}))
    assert call("seal", work).returncode == 0
    assert sealing_of(tmp_path)[0] == "after_reboot"


def test_work_of_another_machine_says_so(tmp_path: Path, run_case: Call, call: Call) -> None:
    work = changed_work(tmp_path, run_case)
    shutil.move(work, tmp_path / "carried")
    elsewhere = {"XDG_CONFIG_HOME": str(tmp_path / "another-config")}
    assert call("seal", tmp_path / "carried", env=elsewhere).returncode == 0
    assert sealing_of(tmp_path)[0] == "elsewhere"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, *, leave: int) -> Path:
    filler = folder / "filler"
    room = shutil.disk_usage(folder).free
    filler.write_bytes(bytes(room - leave))
    return filler


@pytest.mark.needs("root", "mount")
def test_a_disk_that_fills_while_sealing_loses_nothing(
    run_case: Call, call: Call, tmp_path: Path, small_disk: Path
) -> None:
    filler = fill(small_disk, leave=8192)
    done = run_case("tiny", "--output", str(small_disk))
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert f"repro seal {work_of(tmp_path)}" in done.stderr
    assert sorted(small_disk.iterdir()) == [filler], "nothing half-written"
    filler.unlink()
    assert call("seal", work_of(tmp_path), "--output", small_disk).returncode == 0


@pytest.mark.needs("root", "mount")
def test_a_disk_that_fills_while_measuring_is_told(run_case: Call, tmp_path: Path, small_disk: Path) -> None:
    fill(small_disk, leave=120 * 1024)
    done = run_case("tiny", "--builds", "3", "--duration", "1s", "--work", str(small_disk / "work"))
    assert done.returncode in (1, 75)
    assert "o space left" in done.stderr + done.stdout
    assert not list((tmp_path / "bundles").glob("*.part"))


def test_an_output_folder_that_vanishes_loses_nothing(tmp_path: Path, call: Call) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, "--duration", "1s")) as process:
        wait_for(process, ", measuring")
        shutil.rmtree(tmp_path / "bundles")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("repro: can't write")
    assert call("seal", work_of(tmp_path)).returncode == 0


def test_a_key_that_vanishes_loses_nothing(tmp_path: Path, call: Call, config_home: Path) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, "--duration", "1s")) as process:
        wait_for(process, ", measuring")
        (config_home / "signing_key").unlink()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "repro seal" in errors.splitlines()[-1]
    assert call("seal", work_of(tmp_path)).returncode == 0


def test_two_runs_at_once_are_refused(tmp_path: Path, run_case: Call) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, "--duration", "60s")) as process:
        wait_for(process, ", measuring")
        second = run_case("tiny")
        os.kill(turn_of(tmp_path), signal.SIGKILL)
        process.communicate(timeout=60)
    assert second.returncode == 4
    assert "another run is going on here (tiny, run " in second.stderr
    assert run_case("tiny").returncode == 0, "free after the first one's end"


SET_CLOCK = """
import pathlib, time
real = time.time_ns
offset = pathlib.Path(__file__).with_name("offset_ns")
time.time_ns = lambda: real() + int(offset.read_text())
"""


def test_a_wall_clock_that_is_set_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are taken on the monotonic clock; only the stamps can't be trusted then."""
    (tmp_path / "sitecustomize.py").write_text(SET_CLOCK)
    offset_ns = tmp_path / "offset_ns"
    offset_ns.write_text("0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with start(tmp_path, *run_arguments("tiny", tmp_path, *LONG)) as process:
        wait_for_turn(tmp_path, 1)
        (tmp_path / "new").write_text(f"{3600 * 10**9}")
        (tmp_path / "new").rename(offset_ns)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    record = only_record(tmp_path)
    assert record.status == "measured"
    (change,) = (c for c in record.telemetry.state_changed if c.name == "wall_clock")
    assert str(change.after).startswith(("set by +3600.", "set by +3599.9"))
    assert max(run.summary.max_ns for run in record.runs) < 3600e9
