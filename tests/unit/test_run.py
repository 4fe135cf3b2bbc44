"""The steps before and after measuring."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repro import run
from repro.bundle import sign
from repro.errors import ReproError
from repro.plan import Request

CASES = Path(__file__).parents[1] / "e2e" / "cases"


def request(case: str = "tiny", **changes: object) -> Request:
    return Request(case=case, cases_folder=CASES, **changes)  # type: ignore[arg-type]


def test_an_output_that_can_not_be_written_is_noticed_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReproError, match="--output"):
        run.output_place(request(output=tmp_path / "file" / "folder"))


@pytest.mark.needs("ssh-keygen", "linux")
def test_a_signing_tool_that_hangs_is_noticed_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "ssh-keygen"
    tool.write_text("#!/bin/sh\nexec sleep 600\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sign, "TIMEOUT_S", 0.2)
    with pytest.raises(ReproError, match="did not answer within"):
        run.signing_key(request())
