"""The base reads and verifies bundles anywhere: without the extras, and where no POSIX module is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import make_session, seal
from tests.unit.test_layers import ORDER

EXTRAS = ("onnx", "onnxruntime", "docker", "psutil", "pynvml", "torch", "tensorrt", "jtop")
POSIX = ("fcntl", "grp", "posix", "pwd", "pty", "resource", "syslog", "termios", "tty")
POSIX_OF_OS = (
    "O_CLOEXEC",
    "O_NOFOLLOW",
    "fchmod",
    "fork",
    "geteuid",
    "getuid",
    "killpg",
    "pidfd_open",
    "sched_getaffinity",
    "setsid",
    "sysconf",
    "uname",
)


def without(modules: tuple[str, ...], of_os: tuple[str, ...], program: str) -> str:
    """Run a program in an interpreter that lacks these, and return what it printed."""
    setting = (
        # What Python's own library brings along is there before; only the kit goes without.
        "import os, sys\nimport asyncio, multiprocessing, pathlib, shutil, signal, socket\n"
        "import subprocess, tempfile\n"
        "import click, jinja2, msgspec, numpy, rich.console, scipy.special\n"
        f"for name in {modules!r}: sys.modules[name] = None\n"
        f"for name in {of_os!r}: vars(os).pop(name, None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", setting + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("missing", [EXTRAS, POSIX], ids=["extras", "posix"])
def test_every_module_is_imported_without(missing: tuple[str, ...]) -> None:
    names = [f"repro.{name}" for name in ORDER if not name.startswith("__") and not name.endswith("__")]
    of_os = POSIX_OF_OS if missing is POSIX else ()
    platform = "sys.platform = 'win32'\n" if missing is POSIX else ""
    program = (
        f"{platform}import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')"
    )
    assert without(missing, of_os, program) == "all\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify"], "match the statement"),
        (["show"], "A made-up case"),
        (["show", "--json"], '"statement"'),
        (["show", "--markdown"], "A made\\-up case"),
        (["preview"], "would hold"),
    ],
)
def test_a_bundle_is_read_without_the_extras(tmp_path: Path, arguments: list[str], words: str) -> None:
    path = seal(tmp_path).path
    program = (
        f"sys.argv = ['repro', {arguments[0]!r}, {str(path)!r}, *{arguments[1:]!r}]\n"
        "from repro.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, 4), end.code"
    )
    assert words in without(EXTRAS, (), program)


def test_bundles_are_compared_without_the_extras(tmp_path: Path) -> None:
    paths = [seal(tmp_path / f"{v}.zip", make_session((10.0, 10.1), v, v)).path for v in ("1.0", "1.1")]
    program = (
        f"sys.argv = ['repro', 'compare', {str(paths[0])!r}, {str(paths[1])!r}, '--fail-on', 'none']\n"
        "from repro.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code"
    )
    assert "made-up EQUIVALENT" in without(EXTRAS, (), program)
