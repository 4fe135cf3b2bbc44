"""A failure is a result too, and a user's mistake is one line."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from repro import bundle
from repro.schema import Fails, Record
from tests.e2e.conftest import CASES, Call, bundle_of, command, run_arguments

pytestmark = pytest.mark.needs("ssh-keygen", "linux")


def processes_of(folder: Path) -> list[int]:
    """Return the processes that have the test's folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _heed_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests run by nohup, or in the background, would pass on that these are ignored.
        preexec_fn=_heed_signals,
    )


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read progress until `words` come by."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"ended without {words!r}: {process.communicate()}")


def turn_of(folder: Path) -> int:
    (pid,) = (
        pid for pid in processes_of(folder) if b"repro.turn" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


def gone(folder: Path) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not processes_of(folder):
            return True
        time.sleep(0.05)
    return False


def only_record(folder: Path) -> Record:
    (record,) = bundle.read(bundle_of(folder)).records.values()
    return record


def test_a_wrong_output_is_a_failed_record(run_case: Call, call: Call, tmp_path: Path) -> None:
    done = run_case("strict", "--builds", "2")
    assert done.returncode == 1
    record = only_record(tmp_path)
    assert record.status == "failed"
    assert len(record.builds) == 1, "a failed subject takes no more turns"
    assert [stage.status for stage in record.stages] == ["ok", "ok", "failed", "not_reached"]
    assert "above the tolerance" in (record.reason or "")
    (claim,) = bundle.read(bundle_of(tmp_path)).statement.predicate.claims
    assert isinstance(claim, Fails)
    assert claim.stage == "check"
    assert call("verify", bundle_of(tmp_path)).returncode == 0
    assert "WRONG in 1 of 1 builds" in call("show", bundle_of(tmp_path)).stdout


def test_a_crash_is_a_failed_record(tmp_path: Path) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, "--duration", "60s")) as process:
        wait_for(process, ", measuring")
        os.kill(turn_of(tmp_path), signal.SIGSEGV)
        process.communicate(timeout=60)
    assert process.returncode == 1
    record = only_record(tmp_path)
    error = record.stages[-1].error
    assert error is not None
    assert (error.stage, error.code, error.signal) == ("run", "crash", "SIGSEGV")
    assert len(record.builds) == 1, "what the crashed process had found out is kept"
    assert record.builds[0].check is not None
    assert gone(tmp_path)


def test_a_run_that_takes_too_long_is_a_failed_record(run_case: Call, tmp_path: Path) -> None:
    done = run_case("tiny", "--duration", "60s", "--timeout-run", "0.5s")
    assert done.returncode == 1
    error = only_record(tmp_path).stages[-1].error
    assert error is not None
    assert (error.stage, error.code) == ("run", "timeout")
    assert gone(tmp_path)


def test_a_build_that_takes_too_long_is_a_failed_record(run_case: Call, tmp_path: Path) -> None:
    assert run_case("tiny", "--timeout-build", "0.01s").returncode == 1
    record = only_record(tmp_path)
    assert "the build took longer than 0.01 s" in (record.reason or "")


def test_too_little_memory_is_a_failed_record(run_case: Call, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))

    assert run_case("huge", preexec_fn=limit).returncode == 1
    error = only_record(tmp_path).stages[0].error
    assert error is not None
    assert error.stage == "prepare"
    assert error.code in ("MemoryError", "_ArrayMemoryError")


def test_other_subjects_go_on_after_one_failed(run_case: Call, tmp_path: Path) -> None:
    assert run_case("tiny:base,half", "--builds", "2").returncode == 1
    statuses = {name: r.status for name, r in bundle.read(bundle_of(tmp_path)).records.items()}
    assert sorted(statuses.values()) == ["failed", "measured"]
    base = bundle.read(bundle_of(tmp_path)).records[min(statuses)]
    assert len(base.runs) == 2


def interrupted(process: subprocess.Popen[str], folder: Path) -> Path:
    """Send Ctrl-C, see that all ends and is told as it must be, and return the work folder."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("repro: interrupted: ")
    assert "Traceback" not in errors
    assert gone(folder)
    assert list((folder / "bundles").iterdir()) == []
    (work,) = (folder / "work").iterdir()
    assert str(work) in errors
    return work


# conv16's inputs take most of a second, long enough to be interrupted there.
@pytest.mark.parametrize(("case", "phase"), [("conv16", ", preparing"), ("tiny", ", measuring")])
def test_ctrl_c_ends_all_children_and_says_where_the_work_is(tmp_path: Path, case: str, phase: str) -> None:
    with start(tmp_path, *run_arguments(case, tmp_path, "--duration", "60s")) as process:
        wait_for(process, phase)
        interrupted(process, tmp_path)


@pytest.mark.parametrize("after_ms", range(0, 1500, 150))
def test_ctrl_c_at_any_moment_leaves_nothing_behind(tmp_path: Path, after_ms: int) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, "--duration", "60s")) as process:
        time.sleep(after_ms / 1000)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    # Python itself may not have come as far as catching it.
    if process.returncode != -signal.SIGINT and "repro: " in errors:
        assert process.returncode == 130, errors
        assert errors.splitlines()[-1].startswith("repro: interrupted")
        assert "Traceback" not in errors
    assert gone(tmp_path)
    assert not list(tmp_path.glob("bundles/*"))


def test_ctrl_c_while_sealing_keeps_the_work_and_it_can_be_sealed(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signing tool hangs at the second signature; the first is the trial before measuring."""
    tool = shutil.which("ssh-keygen")
    shim = tmp_path / "bin" / "ssh-keygen"
    shim.parent.mkdir()
    shim.write_text(
        f'''#!/bin/sh
case "$*" in *"-Y sign"*)
  [ -e "{tmp_path}/trial" ] && touch "{tmp_path}/sealing" && exec sleep 100
  touch "{tmp_path}/trial" ;;
esac
exec {tool} "$@"
'''
    )
    shim.chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{shim.parent}:{path}")
    with start(tmp_path, *run_arguments("tiny", tmp_path)) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "sealing").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        work = interrupted(process, tmp_path)
    monkeypatch.setenv("PATH", path)
    assert call("seal", work).returncode == 0
    (record,) = bundle.read(bundle_of(tmp_path)).records.values()
    assert record.status == "measured"


def test_a_killed_command_line_leaves_no_child(tmp_path: Path) -> None:
    with start(tmp_path, *run_arguments("tiny", tmp_path, "--duration", "60s")) as process:
        wait_for(process, ", measuring")
        process.kill()
        process.communicate(timeout=30)
    assert gone(tmp_path)
    (work,) = (tmp_path / "work").iterdir()
    assert (work / "job" / "job.json").is_file()


MISTAKES = [
    (["run", "conv61"], 2, "unknown case 'conv61': did you mean conv16?"),
    (["run", "conv16:hcw8"], 2, "unknown variant of conv16 'hcw8'"),
    (["run", "conv16", "--device", "orn"], 2, "unknown device 'orn': did you mean orin?"),
    (["run", "conv16", "--device", "orin"], 4, "there is no "),
    (["run", "conv16", "--device", "cpu", "--release", "ort-0"], 2, "unknown release 'ort-0'"),
    (["run", "conv16", "--device", "cpu", "--release", "ort-1"], 2, "could be"),
    (["run", "conv16", "--device", "cpu", "--release", "trt-8.6"], 4, "does not exist for cpu"),
    (["run", "conv16", "--backend", "onnxruntim"], 2, "did you mean onnxruntime?"),
    (["run", "conv16", "--place", "moon"], 2, "unknown place 'moon'"),
    (["run", "conv16", "--protocol", "bref"], 2, "did you mean brief?"),
    (["run", "conv16", "--builds", "0"], 2, "--builds must be above 0"),
    (["run", "conv16", "--runs", "2"], 2, "use --builds"),
    (["run", "conv16", "--threads", "0"], 2, "--threads must be above 0"),
    (["run", "conv16", "--duration", "long"], 2, "is not a duration"),
    (["run", "conv16", "--timeout-run", "0"], 2, "is not a duration"),
    (["run", "conv16", "--claim", "slow"], 2, "unknown kind of claim 'slow'"),
    (["run", "conv16", "--claim", "absolute ms=9"], 2, "write: absolute record=… ms=…"),
    (["run", "conv16", "--key", "no-key"], 1, "there is no key no-key"),
    (["run", "conv16", "--output", "a-file/bundles"], 1, "can't write to a-file/bundles"),
    (["run", "conv16", "--work", "a-file/work"], 1, "name another --work"),
    (["run", "conv16", "--max-size", "0"], 2, "--max-size"),
    (["run"], 2, "Missing argument"),
    (["verify", "nowhere.zip"], 1, "nowhere.zip does not exist"),
    (["verify", "."], 1, "is a folder"),
    (["show", "a-file"], 1, "a-file is refused"),
    (["show"], 2, "there is no bundle in bundles/"),
    (["frobnicate"], 2, "No such command"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_one_line_with_what_to_do(
    call: Call, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "a-file").write_text("not a bundle")
    done = call(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.splitlines()[-1].startswith("repro: ")
    assert not list(tmp_path.rglob("*.zip"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_foreign_zip_is_refused_with_its_reason(call: Call, tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "foreign"), "zip", CASES))
    done = call("verify", path)
    assert done.returncode == 1
    assert "REFUSED" in done.stdout


def test_missing_ssh_keygen_is_noticed_before_measuring(run_case: Call, tmp_path: Path) -> None:
    done = run_case("tiny", env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "apt install openssh-client" in done.stderr
    assert not (tmp_path / "work").exists()


def test_a_loose_key_is_refused_before_measuring(run_case: Call, config_home: Path, tmp_path: Path) -> None:
    run_case("tiny")
    (config_home / "signing_key").chmod(0o644)
    done = run_case("tiny")
    assert done.returncode == 1
    assert "chmod 600" in done.stderr


@pytest.mark.needs("user-namespaces")
def test_a_user_without_passwd_entry_is_told_so(tmp_path: Path) -> None:
    argv = ["unshare", "--user", "--map-user=54321", *command(*run_arguments("tiny", tmp_path))]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no entry in the password file" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.zip"))


def test_a_full_disk_while_sealing_is_one_line(run_case: Call, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = run_case("tiny", preexec_fn=limit)
    assert done.returncode != 0
    assert not list(tmp_path.rglob("*.zip"))
