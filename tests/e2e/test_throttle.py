"""A board that throttles in the middle of a run, played by files that change: it shows everywhere."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from repro.backends.trtexec import STANDIN_SWITCH
from repro.probes.jetson import BOARD_VARIABLE
from repro.schema import Record
from tests import standin
from tests.boards import trees
from tests.boards.trees import Tree
from tests.e2e.conftest import Call
from tests.e2e.test_run import record_of

pytestmark = pytest.mark.needs("ssh-keygen", "linux")

RUN_S, MEASURED = 4.5, "4s"
FALLS_S, RISES_S = 3.0, 4.0
"""Well inside of the last four seconds of a run, which are those that count."""


class Ran(NamedTuple):
    """A run on a made-up board."""

    bundle: Path
    record: Record


class Bench(NamedTuple):
    """The thread's board at its cap, and a trtexec on it that measures nothing."""

    tree: Tree
    call: Call
    folder: Path

    def run(self, **events: Any) -> Ran:
        """Run the case once; `events` are for the stand-in."""
        standin.install(
            self.folder / "bin", "8.5.2", integrated=True, takes_s=RUN_S, gpu_ms=1.0, seed=1, **events
        )
        before = set((self.folder / "bundles").glob("*.zip"))
        done = self.call(
            *("run", "engine", "--cases", Path(__file__).parent / "cases", "--device", "orin"),
            *("--output", self.folder / "bundles", "--work", self.folder / "work", "--no-calibrate"),
            *("--protocol", "forum", "--duration", MEASURED, "--iterations", "20"),
        )
        assert done.returncode == 0, done.stderr
        (bundle,) = set((self.folder / "bundles").glob("*.zip")) - before
        return Ran(bundle, record_of(bundle))


@pytest.fixture
def bench(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Lay the board and put the stand-in in the path."""
    tree = trees.lay("thread", tmp_path / "board")
    tree.gpu_clock(816000000)
    monkeypatch.setenv(BOARD_VARIABLE, str(tree.root))
    monkeypatch.setenv(STANDIN_SWITCH, "1")
    monkeypatch.delenv("TRTEXEC", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return Bench(tree, call, tmp_path)


def throttle(tree: Tree) -> list[tuple[float, str, str]]:
    """Return the events of a throttle: the clock falls, an alert rises, a counter runs; then it is over."""
    alert = next(
        device / "cur_state"
        for device in tree.thermal.glob("cooling_device*")
        if (device / "type").read_text().strip() == "gpu-throttle-alert"
    )
    clock = tree.devfreq / "cur_freq"
    counter = tree.sys / "class/hwmon/hwmon2/oc3_event_cnt"
    return [
        (FALLS_S, str(clock), "408000000\n"),
        (FALLS_S, str(alert), "1\n"),
        (FALLS_S, str(counter), "37\n"),
        (RISES_S, str(clock), "816000000\n"),
        (RISES_S, str(alert), "0\n"),
    ]


def test_a_throttle_in_the_middle_of_a_run_shows_everywhere(bench: Bench) -> None:
    steady = bench.run()
    throttled = bench.run(events=throttle(bench.tree))

    # The record.
    for run in steady.record.runs:
        assert (run.sm_clock_mhz, run.memory_clock_mhz, run.throttled_share) == (816.0, 2133.0, 0.0)
        assert not {flag.code for flag in run.flags} & {"slowed", "clock_moved"}
    for run in throttled.record.runs:
        spread = run.sm_clock_spread
        assert spread is not None
        assert (spread.probe, spread.channel) == ("jetson", "gpu_clock")
        assert (run.sm_clock_mhz, spread.low_mhz, spread.high_mhz) == (816.0, 408.0, 816.0)
        assert 0.1 < spread.below_share < 0.5
        assert run.throttled_share is not None
        assert 0.1 < run.throttled_share < 0.5
        slowed = [flag.detail.split(" in ")[0] for flag in run.flags if flag.code == "slowed"]
        assert "clocks were held down by throttle_gpu" in slowed
        (moved,) = [flag.detail for flag in run.flags if flag.code == "clock_moved"]
        assert moved.startswith("the SM clock moved from 408 to 816 MHz: ")
    counters = {c.name: c.after - c.before for c in throttled.record.telemetry.counters}
    assert counters["instantaneous_over_current_events"] == 37

    # What the board is.
    board = throttled.record.board
    assert (board.emulated, board.sm_count) == ("AGX Orin 32GB (p3701-0004)", 14)
    assert board.power_mode is not None
    assert (board.power_mode.name, board.power_mode.content["gpu_clock_max_mhz"]) == ("MODE_40W", 816.0)

    # The triage card.
    card = bench.call("show", "--card", throttled.bundle).stdout
    assert "clocks were held down by" in card
    assert "held down" not in bench.call("show", "--card", steady.bundle).stdout

    # The timeline.
    pages = {}
    for name, ran in (("steady", steady), ("throttled", throttled)):
        page = bench.folder / f"{name}.html"
        done = bench.call("show", ran.bundle, "--html", page)
        assert done.returncode == 0, done.stderr
        pages[name] = page.read_text()
        assert "clock, MHz" in pages[name]
    assert "Red: something held the clocks down" in pages["throttled"]
    assert "Red: something held the clocks down" not in pages["steady"]

    # compare.
    compared = bench.call("compare", steady.bundle, throttled.bundle, "--json")
    (pair,) = json.loads(compared.stdout)["compared"]
    noticed = {each["field"]: each for each in pair["noticed"]}
    assert noticed["throttled"]["weight"] == "blocking"
    assert noticed["throttled"]["a"] == "0.0 %"
    assert 10 < float(noticed["throttled"]["b"].removesuffix(" %")) < 50
    assert noticed["clock_moved"]["b"] == "in 1 of 1 runs"

    # diagnose.
    told = bench.call("diagnose", throttled.bundle, "--json").stdout
    findings = {each["rule"]: each for each in json.loads(told)}
    assert findings["throttled"]["strength"] == "proven"
    assert re.search(r"throttle_gpu in \d+ of \d+ readings", findings["throttled"]["evidence"][0]["value"])
    assert "clock_moved" in findings
    quiet = {each["rule"] for each in json.loads(bench.call("diagnose", steady.bundle, "--json").stdout)}
    assert not quiet & {"throttled", "clock_moved"}


def test_a_power_mode_that_changes_during_the_run_is_told(bench: Bench) -> None:
    status = bench.tree.root / "var/lib/nvpmodel/status"
    ran = bench.run(events=[(0.5, str(status), "pmode:0000 fmode:quiet\n")])
    changes = {c.name: (c.before, c.after) for c in ran.record.telemetry.state_changed if c.probe == "jetson"}
    assert changes["power_mode"] == ("MODE_40W", "MAXN")
    assert changes["mode_gpu_clock_max"] == (816.0, None)
    assert ran.record.board.power_mode is not None
    assert ran.record.board.power_mode.name == "MODE_40W", "as it was before"
    said = "power_mode was MODE_40W before and MAXN after the session"
    assert said in bench.call("show", "--card", ran.bundle).stdout
    findings = json.loads(bench.call("diagnose", ran.bundle, "--json").stdout)
    assert said in next(f for f in findings if f["rule"] == "settings_changed")["evidence"][0]["value"]
