"""A stand-in for trtexec: plays one release of it, so that tests have something to run."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("trtexec.py")


def install(folder: Path, release: str, **scenario: Any) -> Path:
    """Write an executable `trtexec` into `folder` that plays `release`; return its path.

    The scenario (see `trtexec.Scenario`) stands beside it as `trtexec.json`, and may be rewritten between
    two calls of the program.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "trtexec.json"
    plan.write_text(json.dumps(scenario))
    launcher = folder / "trtexec"
    launcher.write_text(
        f"#!/bin/sh\nexport TRT_STANDIN_RELEASE={shlex.quote(release)} "
        f'TRT_STANDIN_SCENARIO={shlex.quote(str(plan))} TRT_STANDIN_NAME="$0"\n'
        f'exec {shlex.quote(sys.executable)} {shlex.quote(str(PROGRAM))} "$@"\n'
    )
    launcher.chmod(0o755)
    return launcher
