"""What the kernel lets a confined process do, tried with real processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from repro.launch import confine

pytestmark = pytest.mark.needs("linux")

ABLE = confine.able(gpu=False)
ABLE_GPU = confine.able(gpu=True)


def needs(part: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(part not in ABLE, reason=f"this system can't enforce: {part}")


def run(
    work: Path, script: str, memory_bytes: int = 2**30, *, gpu: bool = False, first: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Run Python confined, by the command `first` where there is one; return its status and what it says."""
    argv = [*first, *confine.command(work, confine.Limits(memory_bytes, gpu=gpu))]
    done = subprocess.run(
        [*argv, sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_it_runs_and_writes_below_its_work_folder(tmp_path: Path) -> None:
    status, said = run(tmp_path, f"open({str(tmp_path / 'mine')!r}, 'w').write('x'); print('done')")
    assert (status, said) == (0, "done\n")
    assert (tmp_path / "mine").read_text() == "x"


def test_caches_and_temporary_files_have_their_place_there(tmp_path: Path) -> None:
    script = "import os, tempfile; print(os.path.expanduser('~'), tempfile.gettempdir())"
    assert run(tmp_path, script) == (0, f"{tmp_path}/home {tmp_path}/home\n")


@needs("writes")
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    "act",
    [
        "open(there, 'w')",
        "open(there.parent / 'new', 'w')",
        "os.mkdir(there.parent / 'folder')",
        "os.symlink('/etc/passwd', there.parent / 'link')",
        "os.unlink(there)",
        "os.truncate(there, 0)",
        "os.rename(there, there.parent / 'other')",
        "subprocess.run(['touch', there.parent / 'new'], check=True)",
    ],
)
def test_it_writes_nowhere_else(tmp_path: Path, act: str, gpu: bool) -> None:
    work, there = tmp_path / "work", tmp_path / "elsewhere" / "file"
    work.mkdir()
    there.parent.mkdir()
    there.write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    head = f"import os, subprocess; from pathlib import Path; there = Path({str(there)!r})\n"
    status, said = run(work, head + act, gpu=gpu)
    assert status != 0
    assert "Permission denied" in said or "CalledProcessError" in said
    assert sorted(each for each in tmp_path.rglob("*") if each != work / "home") == before
    assert there.read_text() == "kept"


NAME = "open('/proc/self/comm', 'w').write('named')"
"""As the CUDA driver does it in a process; it does not start where it can't."""


@needs("writes")
@pytest.mark.skipif("writes" not in ABLE_GPU, reason="this system can't enforce: writes, with a GPU")
def test_with_a_gpu_each_process_names_its_threads_but_changes_no_machine(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {NAME!r}], check=True)"
    assert run(tmp_path, child, gpu=True) == (0, "")
    assert run(tmp_path, child)[0] != 0
    # Opened, and nothing written to it.
    status, said = run(tmp_path, "open('/proc/sys/vm/swappiness', 'w')", gpu=True)
    assert status != 0
    assert "Read-only file system" in said or "Permission denied" in said


@needs("writes")
def test_without_a_gpu_shared_memory_is_elsewhere_too(tmp_path: Path) -> None:
    status, said = run(tmp_path, "open('/dev/shm/trt-repro-test', 'w')")
    assert status != 0
    assert "Permission denied" in said
    assert run(tmp_path, "open('/dev/null', 'w').write('x')") == (0, "")


@needs("network")
def test_it_reaches_no_network_not_even_this_machine(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        status, said = run(tmp_path, script)
    assert status != 0
    assert "OSError" in said or "unreachable" in said or "Error" in said


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="not here: setpriv")
@pytest.mark.needs("root", "user-namespaces")
def test_a_user_without_rights_leaves_the_network_too(tmp_path: Path) -> None:
    first = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all")
    script = "import os, socket; print(os.getuid(), [name for _, name in socket.if_nameindex()])"
    assert run(tmp_path, script, first=first) == (0, f"{os.getuid()} ['lo']\n")


@needs("memory")
@pytest.mark.parametrize("gpu", [False, True])
def test_it_gets_no_more_memory_than_it_may_have(tmp_path: Path, gpu: bool) -> None:
    status, said = run(tmp_path, "x = bytearray(2**30)", memory_bytes=2**29, gpu=gpu)
    assert status != 0
    assert "MemoryError" in said
    assert run(tmp_path, "x = bytearray(2**28)", memory_bytes=2**29, gpu=gpu) == (0, "")


@needs("memory")
def test_what_it_starts_is_held_too(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(2**30)'], check=True)"
    )
    status, said = run(tmp_path, script, memory_bytes=2**29)
    assert status != 0
    assert "MemoryError" in said


@needs("memory")
def test_no_file_grows_without_end(tmp_path: Path) -> None:
    name = str(tmp_path / "sparse")
    script = f"f = open({name!r}, 'wb'); f.seek({confine.MAX_FILE_BYTES}); f.write(b'x'); f.flush()"
    status, said = run(tmp_path, script)
    assert status != 0
    assert "File too large" in said


def test_able_names_parts_only() -> None:
    assert set(confine.PARTS) >= ABLE | ABLE_GPU
