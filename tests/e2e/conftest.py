"""The command line as a process of its own, over small cases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

CASES = Path(__file__).parent / "cases"
QUICK = ("--protocol", "forum", "--duration", "0.05s", "--iterations", "5")

Finished = subprocess.CompletedProcess[str]
Call = Callable[..., Finished]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "repro", *map(str, arguments)]


def run_arguments(case: str, folder: Path, *more: str) -> list[str]:
    places = ["--cases", str(CASES), "--output", str(folder / "bundles"), "--work", str(folder / "work")]
    return ["run", case, *places, *QUICK, *more]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Return a function that runs `repro` in the test's folder, and refuses a traceback."""

    def run(*arguments: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> Finished:
        finished = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )
        assert "Traceback" not in finished.stderr, finished.stderr
        return finished

    return run


@pytest.fixture
def run_case(call: Call, tmp_path: Path) -> Call:
    """Return a function that runs a case of the tests briefly."""

    def run(case: str, *more: str, **options: Any) -> Finished:
        return call(*run_arguments(case, tmp_path, *more), **options)

    return run


def bundle_of(folder: Path) -> Path:
    (path,) = (folder / "bundles").glob("*.zip")
    return path
