"""The kit beside real jtop services (jetson-stats from PyPI) on made-up boards, as root in namespaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.probes.jtop_client import LOST
from tests.boards import trees
from tests.boards.trees import BOARDS
from tests.conftest import JETSON_STATS, ROOT

pytestmark = pytest.mark.needs("jetson-stats", "mount", "root", "linux")

VERSIONS = tuple(JETSON_STATS)
OLD, NEW = VERSIONS
DOES_NOT_ANSWER = {"state": "unsupported", "reason": "the jtop service does not answer"}


def on(board: str, tmp_path: Path, scenario: str, service: str, client: str | None = None) -> Any:
    """Run a scenario on a board; return what it tells."""
    root = tmp_path / board
    trees.lay(board, root)
    done = subprocess.run(
        [
            *(ROOT / "tests/boards/enter.sh", root, sys.executable, "-m", "tests.boards.scenarios"),
            *(scenario, board, root, JETSON_STATS[service], JETSON_STATS[client or service]),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "BOARD_PYTHON": sys.executable},
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("board", [board for board in sorted(BOARDS) if board != "thread_by_table"])
def test_the_service_and_the_kernels_files_say_the_same(board: str, version: str, tmp_path: Path) -> None:
    told = on(board, tmp_path, "readings", version)
    service, own = told["jtop"], told["sysfs"]
    both = service.keys() & own.keys()
    assert {"gpu_clock", "gpu_clock_cap", "gpu_gpc1_clock", "gpu_load", "emc_clock", "emc_load"} <= both
    assert {"cpu0_clock", "cpu4_clock", "temperature_tj", "fan_duty", "fan_speed"} <= both
    assert {name for name in service if name.startswith("power_")} == {
        name for name in own if name.startswith("power_")
    }
    for name in both:
        if isinstance(own[name], dict):
            assert (service[name]["state"], own[name]["state"]) == ("missed", "missed"), name
        else:
            # The service cuts kHz, mW and percent to whole numbers.
            assert own[name] - 1.001e-3 <= service[name] <= own[name] or name == "emc_load", name
    assert service["emc_load"] == int(own["emc_load"])
    assert told["rate_hz"] == 1.0
    assert told["jtop_facts"]["version"] == version
    for name in ("power_mode", "jetson_clocks", "model", "l4t"):
        assert told["jtop_facts"][name] == told["sysfs_facts"][name], name
    offline = [name for name, reading in service.items() if isinstance(reading, dict)]
    assert "temperature_cv0" in offline
    assert 0.0 not in [v for k, v in service.items() if k.endswith("_clock")]


@pytest.mark.parametrize("version", VERSIONS)
def test_events_show_in_both(version: str, tmp_path: Path) -> None:
    told = on("agx_orin_jp6", tmp_path, "events", version)
    for source in ("jtop", "sysfs"):
        before, after = told["before"][source], told["after"][source]
        assert (before["gpu_clock"], before["emc_clock"]) == (306.0, 2133.0)
        assert (after["gpu_clock"], after["gpu_gpc0_clock"], after["emc_clock"]) == (204.0, 204.0, 665.6)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sensor_that_vanishes_is_missed_by_both(version: str, tmp_path: Path) -> None:
    told = on("agx_orin_jp6", tmp_path, "vanished", version)
    for source in ("jtop", "sysfs"):
        assert told["before"][source]["temperature_cpu"] == 52.562
        gone = told["after"][source].pop("temperature_cpu")
        assert gone["state"] == ("missed" if source == "jtop" else "unsupported")
        assert told["before"][source].items() >= told["after"][source].items(), "the others go on"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_killed_service_is_missed_from_then_on(version: str, tmp_path: Path) -> None:
    told = on("thread", tmp_path, "killed", version)
    reasons = {(r["state"], r["reason"]) for r in told["lost"].values()}
    assert reasons == {("missed", LOST)}
    assert told["socket"], "its socket stays behind"
    assert told["late"] == {"gpu_clock": DOES_NOT_ANSWER}


@pytest.mark.parametrize(("service", "client"), [(OLD, NEW), (NEW, OLD)])
def test_another_version_is_unsupported_and_named(service: str, client: str, tmp_path: Path) -> None:
    reading = on("thread", tmp_path, "once", service, client)["gpu_clock"]
    assert reading["state"] == "unsupported"
    assert service in reading["reason"]
    assert client in reading["reason"]


def test_somebody_outside_the_group_is_denied_before_connecting(tmp_path: Path) -> None:
    told = on("thread", tmp_path, "outsider", NEW)
    assert "state='denied'" in told["outside"]
    assert told["inside"] == "None"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_interval_is_the_services(version: str, tmp_path: Path) -> None:
    assert on("thread", tmp_path, "interval", version) == pytest.approx(2.5)


def test_without_a_service_nobody_connects(tmp_path: Path) -> None:
    none, folder = on("thread", tmp_path, "nothing", NEW)
    assert none == {"gpu_clock": {"state": "unsupported", "reason": "no jtop service here"}}
    assert folder["gpu_clock"]["state"] == "unsupported"
    assert "no socket" in folder["gpu_clock"]["reason"]


def test_the_sampler_records_a_throttle_from_every_source(tmp_path: Path) -> None:
    told = on("thread", tmp_path, "sampler", NEW)
    assert told["log"] == ""
    probes = {channel["probe"] for channel in told["telemetry"]["channels"]}
    assert probes == {"host", "jetson", "jetson_power", "jtop"}
    assert (told["clock"][0], told["clock"][-1]) == (510.0, 204.0)
    states = {(c["probe"], c["name"]): c["state"] for c in told["telemetry"]["channels"]}
    assert states["jtop", "gpu_clock"] == states["jetson", "gpu_clock"] == "value"
    assert states["jtop", "temperature_cv0"] == states["jetson_power", "temperature_cv0"] == "missed"
    counters = {c["name"]: (c["before"], c["after"]) for c in told["telemetry"]["counters"]}
    assert counters["instantaneous_over_current_events"] == (0, 37)
    # The scripted events changed no setting of the board.
    assert [c for c in told["telemetry"]["state_changed"] if c["probe"] != "host"] == []
