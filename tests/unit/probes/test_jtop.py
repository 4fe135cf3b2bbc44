"""The jtop probe with clients that behave in known ways; real services are in tests/boards."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from repro import sampling, telemetry
from repro.probes import Absent, Listening, jtop, jtop_client
from repro.probes.jtop import Jtop, problem
from repro.probes.stream import ENDED, SILENT, Stream

pytestmark = pytest.mark.needs("linux")

SAMPLE: dict[str, Any] = {
    "gpu": {"ga10b": {"freq": {"cur": 306000, "max": 816000, "GPC": [305967, 0]}, "status": {"load": 25.0}}},
    "emc": {"cur": 2133000, "val": 10},
    "cpu": [{"online": True, "freq": {"cur": 729600}}, {"online": False, "freq": None}],
    "power": {
        "rail": {"VDD_GPU_SOC": {"power": 3184, "online": True}, "NC": {"power": 0, "online": False}},
        "tot": {"power": 7992, "name": "VDD_IN"},
    },
    "temperature": {"CPU": {"temp": 48.156, "online": True}, "CV0": {"temp": -256.0, "online": False}},
    "fan": {"pwmfan": {"speed": [25.0], "rpm": [1150]}},
    "power_mode": "MODE_40W",
    "jetson_clocks": False,
}
HELLO = {"version": "7.2.2", "interval": 0.5, "hardware": {"Model": "Jetson AGX Orin", "L4T": "35.4.1"}}
OFF = Absent("missed", "the sensor is off")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Lay a socket that nobody answers at."""
    (tmp_path / "run").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "run/jtop.sock"))
    listening.close()
    return tmp_path


def client(board: Path, *says: object, then: str = "sys.stdin.read()") -> Jtop:
    """Return a probe whose Python is a script that says something whatever it is to run."""
    script = board / "python"
    lines = [each if isinstance(each, str) else json.dumps(each) for each in says]
    script.write_text(
        f"#!{sys.executable}\nimport sys, os\n"
        + "".join(f"print({line!r}, flush=True)\n" for line in lines)
        + textwrap.dedent(then)
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return Jtop(board, str(script))


def test_a_sample_in_the_kits_units(board: Path) -> None:
    probe = client(board, {"hello": HELLO}, {"sample": SAMPLE})
    assert isinstance(probe, Listening)
    assert probe.read() == {
        "gpu_clock": 306.0,
        "gpu_clock_cap": 816.0,
        "gpu_load": 25.0,
        "gpu_gpc0_clock": 305.967,
        "gpu_gpc1_clock": Absent("missed", "0 Hz"),
        "emc_clock": 2133.0,
        "emc_load": 10.0,
        "cpu0_clock": 729.6,
        "cpu1_clock": Absent("missed", "off"),
        "power_vdd_gpu_soc": 3.184,
        "power_nc": OFF,
        "power_vdd_in": 7.992,
        "temperature_cpu": 48.156,
        "temperature_cv0": OFF,
        "fan_duty": 25.0,
        "fan_speed": 1150.0,
    }
    assert probe.rate_hz == 2.0
    facts = {fact.name: (fact.value, fact.unit) for fact in probe.facts()}
    assert facts["interval"] == (0.5, "s")
    assert facts["version"] == ("7.2.2", None)
    assert (facts["power_mode"][0], facts["jetson_clocks"][0]) == ("MODE_40W", "off")
    assert facts["module"] == (None, None)
    probe.close()


@pytest.mark.parametrize(
    "sample", [{}, {"gpu": None, "cpu": [None, 5], "power": [], "fan": {"x": 1}, "emc": {"cur": "a"}}]
)
def test_a_sample_without_something_is_not_zero(board: Path, sample: object) -> None:
    probe = client(board, {"hello": HELLO}, {"sample": SAMPLE}, {"sample": sample})
    # The newest of both may be the first that is read.
    probe.read()
    last = probe.read()
    assert all(isinstance(reading, Absent) for reading in last.values()), last
    probe.close()


def test_whoever_cannot_connect_starts_nothing(tmp_path: Path) -> None:
    assert problem(tmp_path / "run/jtop.sock") == Absent("unsupported", "no jtop service here")
    (tmp_path / "run/jtop.sock").mkdir(parents=True)
    found = problem(tmp_path / "run/jtop.sock")
    assert found is not None
    assert (found.state, "no socket" in found.reason) == ("unsupported", True)
    probe = client(tmp_path, then=f"open({str(tmp_path / 'started')!r}, 'w')")
    assert probe.read() == {"gpu_clock": found}
    assert not (tmp_path / "started").exists()


def test_without_permission_it_is_denied(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = problem(board / "run/jtop.sock")
    assert found is not None
    assert found.state == "denied"


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ([{"absent": ["unsupported", "not this version"]}], Absent("unsupported", "not this version")),
        ([{"absent": ["nonsense", "odd"]}], Absent("missed", "odd")),
        (["garbage"], Absent("missed", "a garbled line")),
        (["[1, 2]"], Absent("missed", "a garbled line")),
        ([{"hello": HELLO}, "{"], Absent("missed", "a garbled line")),
        ([{"hello": HELLO}, {"sample": None}], Absent("missed", "the service did not say")),
    ],
)
def test_what_a_client_may_say_instead(board: Path, says: list[object], expected: Absent) -> None:
    probe = client(board, *says)
    assert probe.read() == {"gpu_clock": expected}
    probe.close()


def test_a_client_that_ends_or_is_not_there_is_missed(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jtop, "CONNECT_S", 0.5)
    for probe in (client(board, then="sys.exit(1)"), Jtop(board, str(board / "no-such-python"))):
        (reading,) = set(probe.read().values())
        assert isinstance(reading, Absent)
        assert reading.state == "missed"
        probe.close()


def end(stop: threading.Event, probe: Listening) -> None:
    stop.set()
    probe.close()


def test_the_sampler_records_the_service_and_ends_it(board: Path, tmp_path: Path) -> None:
    then = f"""
    while True:
        import time, json
        print({json.dumps({"sample": SAMPLE})!r}, flush=True)
        time.sleep(0.05)
    """
    probe, stop = client(board, {"hello": {**HELLO, "interval": 0.05}}, then=then), threading.Event()
    ender = threading.Timer(0.5, end, (stop, probe))
    ender.start()
    begin = time.perf_counter_ns()
    sampling.record(probe, tmp_path, stop)
    ender.join()
    told = telemetry.collect(tmp_path, ["jtop"], (begin, time.perf_counter_ns()), begin, clean=True).telemetry
    channel = next(channel for channel in told.channels if channel.name == "gpu_clock")
    assert (channel.state, channel.unit, channel.rate_hz) == ("value", "MHz", 20.0)
    assert channel.coverage is not None
    assert 2 <= channel.coverage.n <= 30
    assert probe._stream is not None
    assert probe._stream._child is not None
    assert probe._stream._child.poll() is not None


# --- the client ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "expected"),
    [("4.3.0", True), ("4.3.2", True), ("7.2.2", True), ("4.2.12", False), ("5.0", False), ("", False)],
)
def test_which_versions_are_supported(version: str, expected: bool) -> None:
    assert jtop_client.supported(version) is expected


@pytest.mark.parametrize(
    ("message", "state"),
    [
        # The messages of jetson-stats 4.3.2 and 7.2.2.
        ("The jtop.service is not active. Please run:\nsudo jtop --install-service", "unsupported"),
        ("I can't access jtop.service.\nPlease logout or reboot this board.", "denied"),
        (
            "Mismatch version jtop service: [4.3.2] and client: [7.2.2]. Please run:\n\nsudo jtop",
            "unsupported",
        ),
        ("Lost connection with jtop server", "missed"),
        ("Error connection", "missed"),
    ],
)
def test_what_jtop_says_in_the_kits_words(message: str, state: str) -> None:
    told, reason = jtop_client.why(message)
    assert told == state
    assert reason
    assert "\n" not in reason


def test_a_python_without_jetson_stats_says_so(board: Path) -> None:
    probe = Jtop(board, sys.executable)
    (reading,) = probe.read().values()
    assert isinstance(reading, Absent)
    assert reading.state == "unsupported"
    assert reading.reason.startswith("jetson-stats is not installed for ")
    probe.close()


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_gives_the_newest_line_and_then_its_end() -> None:
    stream = Stream([sys.executable, "-c", "print('a\\nb', flush=True); import sys; sys.stdin.read()"])
    assert stream.line(10) == b"a\n"
    assert stream.newest(10) == b"b\n"
    assert stream.line(0.01) == SILENT
    stream.close()
    assert stream.newest(5) == ENDED
    assert stream.line(5) == ENDED
