"""HOST=ssh://…: a board behind a real sshd on loopback does what the local engine does."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import containers
from tests.docker.conftest import RELEASE, Call, run_arguments
from tests.docker.lab import Board
from tests.docker.test_cpu import record_of

pytestmark = pytest.mark.needs("sshd", "mount")
ON_CPU = ("--device", "cpu", "--release", RELEASE)


def test_a_case_runs_on_a_board_end_to_end(far: Call, board: Board, delivered: str, tmp_path: Path) -> None:
    done = far(*run_arguments("tiny", *ON_CPU, "--host", board.url))
    assert done.returncode == 0, done.stderr
    record = record_of(tmp_path)
    place = record.runtime.place
    assert (record.status, place.kind, place.remote) == ("measured", "docker", True)
    assert place.image_id == delivered
    far_engine = containers.connect(board.local_url)
    assert far_engine.client.containers.list(all=True) == []
    assert far_engine.client.volumes.list() == []
    far_engine.close()
    assert board.sessions() == [], "no connection is left"
    for path in (tmp_path / "bundles").iterdir():
        assert b"127.0.0.1" not in path.read_bytes()
