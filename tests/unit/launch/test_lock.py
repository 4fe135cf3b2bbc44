"""One run per machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.errors import ExitCode, Unavailable
from repro.launch import lock

pytestmark = pytest.mark.needs("linux")


def test_the_second_is_refused_and_told_who_holds_it() -> None:
    with (
        lock.held("run-1", "conv16"),
        pytest.raises(Unavailable, match="conv16, run run-1, since 20") as told,
        lock.held("run-2", "other"),
    ):
        pass
    assert told.value.code is ExitCode.DOES_NOT_APPLY


def test_it_is_free_again_after_the_block_and_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), lock.held("run-1", "a"):
        raise ZeroDivisionError
    with lock.held("run-2", "b"):
        told = json.loads(lock.path().read_text())
        assert (told["run"], told["case"]) == ("run-2", "b")
    assert lock.path().read_text() == ""


def test_it_names_no_user() -> None:
    with lock.held("run-1", "conv16"):
        assert set(json.loads(lock.path().read_text())) == {"run", "case", "started_utc"}
        assert lock.path().stat().st_mode & 0o666 == 0o666


def test_it_is_free_the_moment_its_holder_is_killed() -> None:
    program = (
        "import sys\nfrom repro.launch import lock\n"
        "with lock.held('run-1', 'a'):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable), lock.held("run-2", "b"):
            pass
        holder.kill()
        holder.wait()
        with lock.held("run-3", "c"):
            pass


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"run": "r"}', b"\xff\xfe"])
def test_a_holder_that_said_nothing_useful_is_no_error(text: bytes) -> None:
    assert lock._holder(text) == "it has not said which"


def test_what_a_holder_wrote_is_shown_without_control_characters() -> None:
    text = json.dumps({"run": "\x1b[2J", "case": "a\nb", "started_utc": "x" * 500})
    shown = lock._holder(text.encode())
    assert shown.isprintable()
    assert len(shown) <= 120


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    (tmp_path / "link").symlink_to(victim)
    monkeypatch.setenv("TRT_REPRO_LOCK", str(tmp_path / "link"))
    with pytest.raises(Unavailable, match="TRT_REPRO_LOCK"), lock.held("run-1", "a"):
        pass
    assert victim.read_text() == "keep me"


def test_a_file_that_another_user_made_is_opened_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fs.protected_regular is set, O_CREAT on somebody else's file in /run/lock is refused."""
    with lock.held("run-1", "a"):
        pass
    real = os.open

    def protected(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT and Path(path).exists():
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", protected)
    with lock.held("run-2", "b"):
        pass


def test_without_a_wish_it_lies_where_the_system_keeps_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRT_REPRO_LOCK")
    assert lock.path().name == "trt-repro.lock"
    assert os.access(lock.path().parent, os.W_OK)
