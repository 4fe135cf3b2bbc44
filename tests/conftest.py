"""What all tests share: a config folder of their own, and parts of the machine that a test `needs`.

A test that needs something which isn't here is skipped by name, unless TRT_REPRO_REQUIRE (a list with
commas) says that it must be here: then it fails.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docker.engine import answers
from tests.docker.lab import SSHD

ROOT = Path(__file__).parent.parent
HADOLINT = shutil.which(
    "hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
)
ONNX_117 = ROOT / ".venv" / "onnx-1.17"
JETSON_STATS = {v: ROOT / ".venv" / f"jetson-stats-{v}" / "bin" / "python" for v in ("4.3.2", "7.2.2")}
"""A Python for each version of the jtop service that the kit is tried with."""


def _runs(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


NEEDS: dict[str, Callable[[], bool]] = {
    "ssh-keygen": lambda: shutil.which("ssh-keygen") is not None,
    "unzip": lambda: shutil.which("unzip") is not None,
    "sha256sum": lambda: shutil.which("sha256sum") is not None,
    "cc": lambda: shutil.which("cc") is not None,
    "chromium": lambda: shutil.which("chromium") is not None,
    "make": lambda: shutil.which("make") is not None,
    "torch": lambda: importlib.util.find_spec("torch") is not None,
    "onnx-1.17": ONNX_117.is_dir,
    "jetson-stats": lambda: all(python.exists() for python in JETSON_STATS.values()),
    "tensorrt_rtx": lambda: importlib.util.find_spec("tensorrt_rtx_bindings") is not None,
    "linux": lambda: os.path.isdir("/proc/self"),
    "user-namespaces": lambda: _runs("unshare", "--user", "--map-user=54321", "true"),
    "mount": lambda: _runs("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"),
    "root": lambda: hasattr(os, "geteuid") and os.geteuid() == 0,
    "network": lambda: "TRT_REPRO_NETWORK" in os.environ,
    "compose": lambda: shutil.which("docker-compose") is not None,
    "hadolint": lambda: HADOLINT is not None,
    # An engine of the tests' own (tests/docker/engine.py), for they make images with the names of real ones.
    "docker": lambda: answers(os.environ.get("TRT_REPRO_TEST_ENGINE", "")),
    # A board behind a real sshd (tests/docker/lab.py).
    "sshd": lambda: os.path.exists(SSHD) and NEEDS["root"]() and os.path.exists("/dev/loop-control"),
    "material": lambda: "TRT_REPRO_MATERIAL" in os.environ,
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(name, ...): parts of the machine that the test needs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    required = set(filter(None, os.environ.get("TRT_REPRO_REQUIRE", "").split(",")))
    if unknown := required - set(NEEDS):
        raise pytest.UsageError(f"TRT_REPRO_REQUIRE names {sorted(unknown)}; known are {sorted(NEEDS)}")
    for item in items:
        for mark in item.iter_markers("needs"):
            if "material" in mark.args:
                item.user_properties.append(("needs", "material"))
            absent = [name for name in mark.args if not NEEDS[name]()]
            if absent and not required & set(absent):
                item.add_marker(pytest.mark.skip(reason=f"not here: {', '.join(absent)}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.getreports("skipped") if "not here: " in str(r.longrepr)]
    terminalreporter.write_line(f"tests left out for what is not here (see above): {len(skipped)}")
    ran = [r for r in terminalreporter.getreports("passed") if ("needs", "material") in r.user_properties]
    terminalreporter.write_line(f"tests over material from outside the repository that ran: {len(ran)}")


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test keys, signers and environments of its own; return the kit's config folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TRT_REPRO_LOCK", str(tmp_path / "lock"))
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "config" / "trt-repro"
