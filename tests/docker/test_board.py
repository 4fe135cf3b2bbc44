"""The container for `orin` with a made-up board's paths mounted under /board reads what the host reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repro.backends.trtexec import STANDIN_SWITCH
from repro.probes.jetson import BOARD_VARIABLE
from repro.schema import Record
from tests import standin
from tests.boards import trees
from tests.docker.conftest import Call, run_arguments
from tests.docker.test_cpu import record_of
from tests.docker.test_trtexec import ORIN, Make, image_of

PROBES = ("jetson", "jetson_power")


def told(record: Record) -> dict[str, object]:
    """Return all that the kernel's files said, without where they were."""
    telemetry = record.telemetry
    return {
        "board": (record.board.name, record.board.matched_id, record.board.sm_count, record.board.emulated),
        "mode": record.board.power_mode,
        "l4t": record.runtime.release.l4t,
        "clocks": {(run.sm_clock_mhz, run.memory_clock_mhz, run.throttled_share) for run in record.runs},
        "facts": [f for f in telemetry.facts if f.probe in PROBES and f.name != "read_below"],
        "channels": [(c.probe, c.name, c.unit, c.state) for c in telemetry.channels if c.probe in PROBES],
        "counters": [c for c in telemetry.counters if c.probe in PROBES],
        "changed": [c for c in telemetry.state_changed if c.probe in PROBES],
    }


@pytest.mark.parametrize("board", ["thread", "orin_nano_jp6"])
def test_a_container_with_the_boards_paths_reads_the_same_as_the_host(
    tensorrt: Make, repro: Call, tmp_path: Path, board: str
) -> None:
    image_of(tensorrt, "orin")
    tree = trees.lay(board, tmp_path / "board")
    # The container's user reads what everybody may.
    for folder in (tree.root, *tree.root.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    program = standin.install(tmp_path / "bin", "8.5.2", takes_s=1.0)
    env = {
        BOARD_VARIABLE: str(tree.root),
        STANDIN_SWITCH: "1",
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
    }
    asked = ["--device", "orin", "--no-calibrate", "--iterations", "20"]
    inside = repro(*run_arguments("engine", *asked, "--release", ORIN, "--output", "in/bundles"), env=env)
    assert inside.returncode == 0, inside.stderr
    outside = repro(*run_arguments("engine", *asked, "--output", "out/bundles", "--place", "host"), env=env)
    assert outside.returncode == 0, outside.stderr
    container, host = record_of(tmp_path / "in"), record_of(tmp_path / "out")
    assert (container.runtime.place.kind, host.runtime.place.kind) == ("docker", "host")
    where = [
        next(fact.value for fact in record.telemetry.facts if fact.name == "read_below")
        for record in (container, host)
    ]
    assert where == ["/board", "another folder"]
    assert told(container) == told(host)
    assert container.board.power_mode is not None
    assert container.board.power_mode.name == tree.current.name
