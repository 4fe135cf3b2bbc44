"""The container for `orin` with a made-up board's paths mounted under /board reads what the host reads."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from repro import bundle
from repro.backends.trtexec import STANDIN_SWITCH
from repro.observed import recordings
from repro.probes.jetson import BOARD_VARIABLE
from repro.schema import Record
from tests import standin
from tests.boards import trees
from tests.docker.conftest import Call, run_arguments
from tests.docker.test_cpu import record_of
from tests.docker.test_trtexec import ORIN, Make, image_of

PROBES = ("jetson", "jetson_power")


def values(folder: Path) -> dict[tuple[str, str], set[float]]:
    """Return what each channel of the kernel's files said; nothing of the board moves."""
    (path,) = (folder / "bundles").glob("*.zip")
    opened = bundle.read(path)
    record = next(iter(opened.records.values()))
    recorded = recordings(record, bundle.contents(opened, [f"telemetry/{probe}.bin" for probe in PROBES]))
    return {
        (probe, name): {value for value in column if not math.isnan(value)}
        for probe, told in recorded.items()
        for name, column in zip(told.names, told.columns[1:], strict=True)
    }


def told(record: Record) -> dict[str, object]:
    """Return all that the kernel's files said, without where they were."""
    telemetry = record.telemetry
    return {
        "board": (record.board.name, record.board.matched_id, record.board.sm_count, record.board.emulated),
        "mode": record.board.power_mode,
        "l4t": record.runtime.release.l4t,
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
    program = standin.install(tmp_path / "bin", "8.5.2")
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
    assert values(tmp_path / "in") == values(tmp_path / "out")
    assert values(tmp_path / "in")["jetson", "gpu_clock"] == {306.0}
    assert container.board.power_mode is not None
    assert container.board.power_mode.name == tree.current.name
