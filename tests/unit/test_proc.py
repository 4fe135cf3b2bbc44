"""Real short processes: how they end, and that none is left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro import proc
from repro.errors import ExitCode, ReproError
from repro.proc import Child

pytestmark = pytest.mark.needs("linux")

PYTHON = (sys.executable, "-I", "-S", "-c")
FOREVER = "import signal; signal.pause()"
# A child of the kit: it says that it is up, and ends with status 7 once its parent has let go.
HOLDS_LIFELINE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from repro.proc import hold_lifeline
gone = hold_lifeline()
os.write(1, b"up\\n")
gone.wait()
os._exit(7)
"""
ROOT = str(Path(proc.__file__).parent.parent)
# Starts a child of its own that never ends and ignores its parent's end, and says which one.
HAS_CHILD = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
os.write(1, b"%d\\n" % child.pid)
"""


def lifeline() -> list[str]:
    return [sys.executable, "-S", "-c", HOLDS_LIFELINE, ROOT]


def gone(pid: int) -> bool:
    """Wait until the process is no more (or dead and not yet buried)."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.005)
    return False


# --- run ----------------------------------------------------------------------------------------


def test_a_run_gives_both_outputs_and_the_status() -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read()[::-1]); sys.stderr.write('e'); sys.exit(3)"
    assert proc.run([*PYTHON, code], stdin=b"abc") == proc.Finished(3, b"cba", b"e")


def test_a_run_with_more_output_than_a_pipe_holds_does_not_block() -> None:
    code = "import sys; sys.stdout.write('x' * 10**6); sys.stderr.write('y' * 10**6)"
    done = proc.run([*PYTHON, code])
    assert (done.returncode, len(done.stdout), len(done.stderr)) == (0, 10**6, 10**6)


def test_the_environment_is_the_given_one() -> None:
    code = "import os; print(os.environ.get('GIVEN'), 'HOME' in os.environ)"
    assert proc.run([*PYTHON, code], env={"GIVEN": "yes"}).stdout == b"yes False\n"


def test_a_program_that_is_missing_is_told_in_one_line() -> None:
    with pytest.raises(ReproError) as caught:
        proc.run(["/nowhere/program"])
    assert str(caught.value) == "can't start /nowhere/program (No such file or directory): install it"
    assert caught.value.code is ExitCode.NEGATIVE


def test_a_run_that_takes_too_long_is_ended_and_told() -> None:
    begin = time.monotonic()
    with pytest.raises(ReproError, match=r"did not answer within 0\.3 s"):
        proc.run([*PYTHON, FOREVER], timeout_s=0.3)
    assert time.monotonic() - begin < 15


def test_a_run_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    # The grandchild holds the output pipe: without its end, reading would never come to an end.
    code = (
        "import subprocess, sys, signal\n"
        f"child = subprocess.Popen([sys.executable, '-I', '-S', '-c', {FOREVER!r}])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "signal.pause()\n"
    )
    with pytest.raises(ReproError, match="did not answer"):
        proc.run([*PYTHON, code], timeout_s=2.0)
    assert gone(int(note.read_text()))


def test_a_run_ended_by_a_signal_has_a_negative_status() -> None:
    done = proc.run([*PYTHON, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
    assert done.returncode == -signal.SIGTERM
    assert proc.signal_name(done.returncode) == "SIGTERM"


def test_a_run_is_out_of_reach_of_the_terminal() -> None:
    done = proc.run([*PYTHON, "import os; print(os.getsid(0) == os.getpid())"])
    assert done.stdout == b"True\n"


# --- Child --------------------------------------------------------------------------------------


def test_a_child_that_runs_has_no_status_and_one_that_ended_has() -> None:
    with Child([*PYTHON, "import sys; sys.stdin.read(); sys.exit(5)"]) as child:
        assert child.poll() is None
        assert child.wait(0.05) is None
        child.let_go()
        assert child.wait(20) == 5
        assert child.poll() == 5


def test_lines_come_while_the_child_runs() -> None:
    code = "import sys; print('one', flush=True); sys.stdin.read(); print('two', flush=True)"
    with Child([*PYTHON, code], stdout=Child.PIPE) as child:
        lines = child.lines()
        assert next(lines) == b"one\n"
        child.let_go()
        assert list(lines) == [b"two\n"]


def test_a_child_without_a_pipe_has_no_lines() -> None:
    with Child([*PYTHON, "print('unheard')"]) as child:
        assert list(child.lines()) == []
        assert child.wait(20) == 0


def test_standard_error_folder_and_environment_are_the_given_ones(tmp_path: Path) -> None:
    code = "import os, sys; sys.stderr.write(os.getcwd() + os.environ['GIVEN'])"
    log = tmp_path / "log"
    with (
        log.open("wb") as file,
        Child([*PYTHON, code], stderr=file, cwd=tmp_path, env={"GIVEN": "!"}) as child,
    ):
        assert child.wait(20) == 0
    assert log.read_text() == f"{tmp_path}!"


def test_letting_go_ends_a_child_that_holds_its_lifeline() -> None:
    with Child(lifeline(), stdout=Child.PIPE) as child:
        assert next(child.lines()) == b"up\n"
        child.let_go()
        assert child.wait(20) == 7


def test_ending_a_child_gives_it_time_to_finish() -> None:
    child = Child(lifeline(), stdout=Child.PIPE)
    assert next(child.lines()) == b"up\n"
    assert child.end(grace_s=20) == 7


def test_ending_a_child_that_does_not_listen_kills_it() -> None:
    child = Child([*PYTHON, FOREVER])
    assert child.end(grace_s=0.05) == -signal.SIGKILL
    assert gone(child.pid)


def test_ending_twice_gives_the_same_status() -> None:
    child = Child(lifeline(), stdout=Child.PIPE)
    next(child.lines())
    assert (child.end(20), child.end(20)) == (7, 7)


def test_leaving_the_context_ends_the_child() -> None:
    with Child([*PYTHON, FOREVER]) as child:
        assert child.poll() is None
    assert gone(child.pid)


def test_an_error_leaves_no_child_behind() -> None:
    pids = []

    def fail() -> None:
        with Child(lifeline(), stdout=Child.PIPE) as child:
            pids.append(child.pid)
            next(child.lines())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gone(pids[0])


def test_children_of_a_child_end_with_it() -> None:
    with Child([*PYTHON, HAS_CHILD + FOREVER], stdout=Child.PIPE) as child:
        grandchild = int(next(child.lines()))
        assert child.end(grace_s=0.05) == -signal.SIGKILL
    assert gone(grandchild)


def test_children_that_a_finished_child_left_behind_end_too() -> None:
    with Child([*PYTHON, HAS_CHILD], stdout=Child.PIPE) as child:
        grandchild = int(next(child.lines()))
        assert child.wait(20) == 0
        assert Path(f"/proc/{grandchild}").exists()
    assert gone(grandchild)


def test_a_child_ends_when_its_parent_is_killed() -> None:
    # The parent is killed outright, so nothing but the closing of the pipe can tell the child.
    script = f"""
import os, signal, sys
sys.path.insert(0, {ROOT!r})
from repro.proc import Child
child = Child({lifeline()!r}, stdout=Child.PIPE)
next(child.lines())
os.write(1, b"%d\\n" % child.pid)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = proc.run([sys.executable, "-S", "-c", script])
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout))


def test_the_lifeline_stays_open_while_the_parent_writes() -> None:
    script = HOLDS_LIFELINE.replace("gone.wait()", "os.write(1, str(gone.wait(0.2)).encode()); gone.wait()")
    done = subprocess.Popen(
        [sys.executable, "-S", "-c", script, ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with done:
        assert done.stdin is not None
        assert done.stdout is not None
        assert done.stdout.readline() == b"up\n"
        done.stdin.write(b"noise\n")
        done.stdin.flush()
        assert done.stdout.read(5) == b"False"
        done.stdin.close()
        assert done.wait(20) == 7


@pytest.mark.parametrize(
    ("status", "name"), [(0, None), (1, None), (-9, "SIGKILL"), (-11, "SIGSEGV"), (-250, "signal 250")]
)
def test_signals_by_name(status: int, name: str | None) -> None:
    assert proc.signal_name(status) == name


def test_a_foreign_program_is_followed_line_by_line(tmp_path: Path) -> None:
    lines: list[bytes] = []
    code = (
        "import os; os.write(1, b'a\\n' + os.getcwd().encode() + b'\\n'); os.write(2, b'c\\n'); os._exit(3)"
    )
    assert proc.follow([*PYTHON, code], cwd=tmp_path, note=lines.append) == 3
    assert lines == [b"a\n", f"{tmp_path.resolve()}\n".encode(), b"c\n"]


def test_a_line_without_an_end_comes_in_pieces(tmp_path: Path) -> None:
    lines: list[bytes] = []
    proc.follow([*PYTHON, "print('x' * 200_000)"], cwd=tmp_path, note=lines.append)
    assert max(map(len, lines)) <= 2**16
    assert b"".join(lines) == b"x" * 200_000 + b"\n"


def test_what_goes_wrong_in_noting_a_line_is_no_failure_to_start(tmp_path: Path) -> None:
    def full(line: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        proc.follow([*PYTHON, "while True: print('x', flush=True)"], cwd=tmp_path, note=full)


def test_a_followed_program_s_signal_is_a_negative_status(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"
    status = proc.follow([*PYTHON, code], cwd=tmp_path, note=lambda line: None)
    assert proc.signal_name(status) == "SIGABRT"


def test_what_can_t_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="can't start"):
        proc.follow([str(tmp_path / "none")], cwd=tmp_path, note=lambda line: None)


ENDS_ITS_GROUP = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from repro import proc
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
proc.end_own_group()
"""


def test_a_process_that_ends_its_group_takes_what_it_started_along() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDS_ITS_GROUP, ROOT], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.wait(30) == -signal.SIGKILL
    assert gone(child)


def test_a_lifeline_that_is_silent_for_too_long_is_one_that_closed(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    path = f"__import__('pathlib').Path({str(heard)!r})"
    script = HOLDS_LIFELINE.replace("hold_lifeline()", f"hold_lifeline(1.0, {path})")
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", script, ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    assert not heard.exists()
    child.stdin.write(b"\n")
    child.stdin.flush()
    assert child.wait(timeout=30) == 7, "its parent is there, and says nothing"
    assert heard.exists()
    child.stdin.close()
    child.stdout.close()


def test_a_program_joined_to_a_connection_ends_with_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, Path("/dev/null").open("wb") as log:
        ours.sendall(b"hello")
        ours.shutdown(socket.SHUT_WR)
        assert proc.join([sys.executable, "-c", "import os; os.write(1, os.read(0, 9))"], theirs, log) == 0
        assert ours.recv(9) == b"hello"
        assert ours.recv(9) == b"", "nobody holds the other end any more"
