"""The command line without running anything."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from repro.errors import ExitCode

HEAVY = ("numpy", "onnx", "onnxruntime", "docker", "scipy", "rich", "torch", "jinja2", "matplotlib")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["verify", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom repro.cli import main\n"
        f"sys.argv = ['repro', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_every_verb_is_told_in_one_whole_line() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "repro"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("Usage: ")
    assert "..." not in done.stderr.split("Commands:")[1]
