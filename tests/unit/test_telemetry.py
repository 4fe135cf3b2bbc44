"""What the sampler leaves, whatever happens to it: values where there were readings, words elsewhere."""

from __future__ import annotations

import functools
import io
import math
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from repro import sampling, telemetry
from repro.bundle import archive
from repro.probes import Absent, ChannelSpec, Probe, Reading
from repro.probes.host import Host
from repro.probes.jetson import Jetson
from repro.probes.jetson_power import JetsonPower
from repro.probes.nvml import Nvml
from repro.proc import Child
from repro.sampling import Closing, Opening, SamplerCost
from repro.schema import Channel, Counter, Coverage, Fact, Phase, StateChange, Telemetry
from repro.telemetry import Recorded, Recording, Sampler
from tests.boards import trees
from tests.conftest import ROOT
from tests.unit.probes.scripted import CHANNELS, SCRIPTS, Scripted, fact, steady

S = 1_000_000_000


@pytest.fixture(autouse=True)
def scripted_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the scripted probes known beside the real one."""
    for name in [*SCRIPTS, "made-up"]:
        monkeypatch.setitem(sampling.PROBES, name, functools.partial(silent, name))


def silent(name: str, pid: int, gpu: str | None) -> Probe:
    return Scripted(name, lambda n: {})


def channels_of(recording: Recording | Telemetry, probe: str) -> dict[str, Channel]:
    told = recording.telemetry if isinstance(recording, Recording) else recording
    return {channel.name: channel for channel in told.channels if channel.probe == probe}


# --- record: one probe, in this process ---------------------------------------------------------


def record(
    folder: Path,
    readings: Sequence[Mapping[str, Reading] | Exception],
    facts: Callable[[int], Sequence[Fact]] = lambda n: [fact("calm")],
    counters: Callable[[int], Mapping[str, tuple[str, int]]] = lambda n: {"faults": ("1", 10 + n)},
) -> Recording:
    """Record a probe that gives `readings`, the first of which opens; return what is collected."""
    stop = threading.Event()

    def read(n: int) -> Mapping[str, Reading]:
        if n == len(readings) - 1:
            stop.set()
        reading = readings[n]
        if isinstance(reading, Exception):
            raise reading
        return reading

    begin = time.perf_counter_ns()
    sampling.record(Scripted("made-up", read, facts, counters), folder, stop)
    return telemetry.collect(folder, ["made-up"], (begin, time.perf_counter_ns()), begin, clean=True)


def test_readings_become_rows_on_the_clock_of_the_session(tmp_path: Path) -> None:
    readings = [{"count": float(n), "other": -float(n)} for n in range(5)]
    recording = record(tmp_path, readings)
    recorded = recording.probes["made-up"]
    assert recorded.names == ("count", "other")
    assert recorded.columns[1:] == ((1.0, 2.0, 3.0, 4.0), (-1.0, -2.0, -3.0, -4.0))
    times = recorded.columns[0]
    assert list(times) == sorted(times)
    assert 0 < times[0] < times[-1] < 60 * S
    channel = channels_of(recording, "made-up")["count"]
    assert (channel.state, channel.reason, channel.file, channel.column) == (
        "value",
        None,
        "telemetry/made-up.bin",
        1,
    )
    assert channel.coverage is not None
    assert (channel.coverage.n, channel.coverage.missed) == (4, 0)


def test_a_channel_keeps_unit_rate_and_privacy_of_its_declaration(tmp_path: Path) -> None:
    channels = channels_of(record(tmp_path, [{"count": 1.0, "other": 1.0}] * 2), "made-up")
    assert [(c.name, c.unit, c.rate_hz, c.private) for c in channels.values()] == [
        ("count", "1", 1000.0, False),
        ("other", "s", 1000.0, False),
    ]


@pytest.mark.parametrize("state", ["unsupported", "denied"])
def test_an_absent_channel_says_why_and_the_others_are_read(tmp_path: Path, state: str) -> None:
    absent = msgspec.convert({"state": state, "reason": "for a reason"}, Absent)
    recording = record(tmp_path, [{"count": absent, "other": 2.0}] * 3)
    channels = channels_of(recording, "made-up")
    assert (channels["count"].state, channels["count"].reason) == (state, "for a reason")
    assert (channels["count"].coverage, channels["count"].file, channels["count"].column) == (None,) * 3
    assert (channels["other"].state, channels["other"].column) == ("value", 1)
    assert recording.probes["made-up"].names == ("other",)


def test_a_private_channel_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channels = (CHANNELS[0], msgspec.structs.replace(CHANNELS[1], private=True))
    monkeypatch.setattr(Scripted, "channels", channels)
    recording = record(tmp_path, [{"count": 1.0, "other": 4711.0}] * 3)
    other = channels_of(recording, "made-up")["other"]
    assert (other.state, other.private, other.file, other.column) == ("denied", True, None, None)
    assert recording.probes["made-up"].names == ("count",)
    assert struct.pack("<d", 4711.0) not in (tmp_path / "made-up.rows").read_bytes()


def test_a_channel_missed_at_first_may_come_later(tmp_path: Path) -> None:
    missed: dict[str, Reading] = {"count": Absent("missed", "OSError"), "other": 1.0}
    recording = record(tmp_path, [missed, missed, {"count": 7.0, "other": 1.0}])
    channel = channels_of(recording, "made-up")["count"]
    assert channel.state == "value"
    assert channel.coverage is not None
    assert (channel.coverage.n, channel.coverage.missed) == (1, 1)
    values = recording.probes["made-up"].columns[1]
    assert math.isnan(values[0])
    assert values[1] == 7.0


def test_a_reading_that_fails_is_missed_and_the_next_is_taken(tmp_path: Path) -> None:
    value = {"count": 1.0, "other": 2.0}
    recording = record(tmp_path, [value, RuntimeError("no"), value, KeyError("no"), value])
    for channel in channels_of(recording, "made-up").values():
        assert channel.state == "value"
        assert channel.coverage is not None
        assert (channel.coverage.n, channel.coverage.missed) == (2, 2)


def test_a_first_reading_that_fails_loses_only_itself(tmp_path: Path) -> None:
    recording = record(tmp_path, [RuntimeError("not yet"), {"count": 1.0, "other": 2.0}])
    assert [c.state for c in channels_of(recording, "made-up").values()] == ["value", "value"]


def test_a_probe_that_always_fails_is_missed_and_never_zero(tmp_path: Path) -> None:
    recording = record(tmp_path, [RuntimeError("no")] * 4)
    for channel in channels_of(recording, "made-up").values():
        assert (channel.state, channel.reason) == ("missed", "no reading succeeded")
        assert channel.coverage is not None
        assert (channel.coverage.n, channel.coverage.missed, channel.coverage.first_ns) == (0, 3, None)
    assert all(map(math.isnan, recording.probes["made-up"].columns[1]))


def test_a_channel_that_a_probe_leaves_out_is_unsupported(tmp_path: Path) -> None:
    channel = channels_of(record(tmp_path, [{"other": 1.0}] * 2), "made-up")["count"]
    assert (channel.state, channel.reason) == ("unsupported", "the probe does not read it here")


def test_facts_and_counters_before_and_after(tmp_path: Path) -> None:
    told = record(
        tmp_path,
        [{"count": 1.0, "other": 1.0}] * 2,
        facts=lambda n: [fact("calm" if n == 0 else "hot")],
        counters=lambda n: {"faults": ("1", 10 + n), f"only_{n}": ("1", 1)},
    ).telemetry
    assert told.facts == (fact("calm"),)
    assert told.state_changed == (StateChange("made-up", "mood", "calm", "hot"),)
    assert told.counters == (Counter("made-up", "faults", "1", 10, 11),)


def test_unchanged_facts_are_no_change(tmp_path: Path) -> None:
    assert record(tmp_path, [{"count": 1.0, "other": 1.0}] * 2).telemetry.state_changed == ()


def test_facts_and_counters_that_fail_cost_no_channel(tmp_path: Path) -> None:
    def fail(n: int) -> list[Fact]:
        raise RuntimeError("no facts")

    def fail_too(n: int) -> dict[str, tuple[str, int]]:
        raise RuntimeError("no counters")

    recording = record(tmp_path, [{"count": 1.0, "other": 1.0}] * 3, fail, fail_too)
    assert [c.state for c in channels_of(recording, "made-up").values()] == ["value", "value"]
    assert (recording.telemetry.facts, recording.telemetry.counters) == ((), ())


# --- collect: whatever lies there ---------------------------------------------------------------


def rows(*values: tuple[int, float, float]) -> bytes:
    return b"".join(struct.pack("<qdd", *row) for row in values)


def opening(**changes: object) -> bytes:
    told = Opening(CHANNELS, 1000.0, ("count", "other"), {}, (fact("calm"),), {"faults": ("1", 10)})
    return msgspec.json.encode(msgspec.structs.replace(told, **changes))


def lay(folder: Path, **files: bytes) -> None:
    names = {"opening": "made-up.json", "rows": "made-up.rows", "closing": "made-up.end.json"}
    for key, data in files.items():
        (folder / names.get(key, f"{key}.json")).write_bytes(data)


NAN = math.nan


def collected(folder: Path, span: tuple[int, int] = (100 * S, 104 * S), *, clean: bool = True) -> Recording:
    return telemetry.collect(folder, ["made-up"], span, 100 * S, clean=clean)


def test_coverage_by_hand(tmp_path: Path) -> None:
    # 4 s at 1000 Hz are 4000 readings due; gaps: 0→1, 1→1.5, 1.5→3 (one missed at 2), 3→4.
    lay(
        tmp_path,
        opening=opening(),
        rows=rows((101 * S, 1, 1), (101 * S + S // 2, 2, 1), (102 * S, NAN, 1), (103 * S, 3, 1)),
    )
    channels = channels_of(collected(tmp_path), "made-up")
    assert channels["count"].coverage == Coverage(3, 1, S, 3 * S, 3 * S // 2, 3 / 4000)
    assert channels["other"].coverage == Coverage(4, 0, S, 3 * S, S, 4 / 4000)


def test_the_longest_gap_may_be_at_either_end(tmp_path: Path) -> None:
    lay(tmp_path, opening=opening(), rows=rows((103 * S, 1, NAN), (103 * S + 5, 1, NAN)))
    channels = channels_of(collected(tmp_path), "made-up")
    assert channels["count"].coverage == Coverage(2, 0, 3 * S, 3 * S + 5, 3 * S, 2 / 4000)
    assert channels["other"].coverage == Coverage(0, 2, None, None, 4 * S, 0.0)
    assert (channels["other"].state, channels["other"].reason) == ("missed", "no reading succeeded")


def test_more_readings_than_due_are_full_coverage(tmp_path: Path) -> None:
    begin = 100 * S
    lay(tmp_path, opening=opening(), rows=rows(*((begin + i, 1.0, 1.0) for i in range(10))))
    channel = channels_of(collected(tmp_path, (begin, begin + S // 1000)), "made-up")["count"]
    assert channel.coverage is not None
    assert channel.coverage.share == 1.0


def test_an_empty_folder_is_all_missed(tmp_path: Path) -> None:
    recording = collected(tmp_path, clean=False)
    for channel in channels_of(recording, "made-up").values():
        assert (channel.state, channel.reason) == ("missed", "the probe gave no reading")
        assert (channel.coverage, channel.file, channel.column) == (None, None, None)
    told = recording.telemetry
    assert (told.facts, told.counters, told.state_changed, recording.probes) == ((), (), (), {})
    assert told.sampler is not None
    assert (told.sampler.cpu_seconds, told.sampler.cpu_share, told.sampler.ended) == (None, None, "early")


@pytest.mark.parametrize("left", [1, 8, 23])
def test_a_row_that_was_cut_off_is_dropped(tmp_path: Path, left: int) -> None:
    whole = rows((101 * S, 1, 2), (102 * S, 3, 4), (103 * S, 5, 6))
    lay(tmp_path, opening=opening(), rows=whole[: 48 + left])
    assert collected(tmp_path).probes["made-up"].columns == ((S, 2 * S), (1.0, 3.0), (2.0, 4.0))


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_an_opening_that_was_cut_off_is_none(tmp_path: Path, length: int) -> None:
    lay(tmp_path, opening=opening()[:length], rows=rows((101 * S, 1, 2)))
    assert {c.state for c in channels_of(collected(tmp_path), "made-up").values()} == {"missed"}


def test_readings_of_a_clock_that_went_backwards_are_missed_and_say_so(tmp_path: Path) -> None:
    told = [(101 * S, 1.0, 1.0), (102 * S, 2.0, 1.0), (100 * S, 99.0, 1.0), (103 * S, 3.0, 1.0)]
    closing = msgspec.json.encode(Closing((), {}, None))
    lay(tmp_path, opening=opening(), rows=rows(*told), closing=closing)
    recording = collected(tmp_path)
    channel = channels_of(recording, "made-up")["count"]
    assert (channel.state, channel.reason) == ("value", "the clock went backwards (1×)")
    assert channel.coverage is not None
    assert (channel.coverage.n, channel.coverage.missed) == (3, 1)
    assert recording.probes["made-up"].columns[:2] == ((S, 2 * S, 3 * S), (1.0, 2.0, 3.0))


def test_an_opening_without_rows_is_missed_with_its_facts_kept(tmp_path: Path) -> None:
    lay(tmp_path, opening=opening(), rows=b"")
    recording = collected(tmp_path)
    for channel in channels_of(recording, "made-up").values():
        assert (channel.state, channel.reason, channel.file) == ("missed", "no reading succeeded", None)
        assert channel.coverage == Coverage(0, 0, None, None, 4 * S, 0.0)
    assert recording.telemetry.facts == (fact("calm"),)
    assert recording.probes == {}


def test_a_closing_that_was_cut_off_gives_no_counters(tmp_path: Path) -> None:
    closing = msgspec.json.encode(Closing((fact("hot"),), {"faults": ("1", 12)}, None))
    lay(tmp_path, opening=opening(), rows=rows((101 * S, 1, 2)), closing=closing)
    whole = collected(tmp_path).telemetry
    assert whole.counters == (Counter("made-up", "faults", "1", 10, 12),)
    assert whole.state_changed == (StateChange("made-up", "mood", "calm", "hot"),)
    lay(tmp_path, closing=closing[:-3])
    cut = collected(tmp_path).telemetry
    assert (cut.counters, cut.state_changed) == ((), ())


def test_an_early_end_is_told_with_every_channel(tmp_path: Path) -> None:
    lay(tmp_path, opening=opening(), rows=rows((101 * S, 1, NAN)))
    channels = channels_of(collected(tmp_path, clean=False), "made-up")
    assert (channels["count"].state, channels["count"].reason) == ("value", "the sampler ended early")
    assert (channels["other"].state, channels["other"].reason) == ("missed", "no reading succeeded")


def test_the_cost_of_sampling_is_a_share_of_the_session(tmp_path: Path) -> None:
    lay(tmp_path, sampler=msgspec.json.encode(SamplerCost(0.5)))
    sampler = collected(tmp_path).telemetry.sampler
    assert sampler is not None
    assert (sampler.cpu_seconds, sampler.cpu_share, sampler.ended) == (0.5, 0.125, "ok")


def test_a_recording_without_a_known_span_is_covered_by_its_own_times(tmp_path: Path) -> None:
    lay(tmp_path, opening=opening(), rows=rows((101 * S, 1, 1), (103 * S, 1, 1)))
    recording = telemetry.collect(tmp_path, ["made-up"], None, 100 * S, clean=False)
    assert channels_of(recording, "made-up")["count"].coverage == Coverage(2, 0, S, 3 * S, 2 * S, 2 / 2000)


def test_telemetry_travels_as_json(tmp_path: Path) -> None:
    lay(tmp_path, opening=opening(), rows=rows((101 * S, 1, NAN), (102 * S, NAN, NAN)))
    told = collected(tmp_path, clean=False).telemetry
    assert msgspec.json.decode(msgspec.json.encode(told), type=Telemetry) == told


# --- the recorded columns -----------------------------------------------------------------------


def unpacked(data: bytes, channels: int) -> tuple[list[int], list[list[float]]]:
    """Read a telemetry file as its format is described: int64 times, then float64 columns."""
    count = len(data) // (8 * (1 + channels))
    assert len(data) == 8 * count * (1 + channels)
    times = np.frombuffer(data, "<i8", count)
    columns = np.frombuffer(data, "<f8", offset=8 * count).reshape(channels, count)
    return times.tolist(), columns.tolist()


def test_packed_columns_come_back() -> None:
    recorded = Recorded(("a", "b"), ((5, 6, 2**60 + 1), (1.5, 2.5, -3.5), (0.0, 1e300, 7.0)))
    assert unpacked(recorded.packed(), 2) == ([5, 6, 2**60 + 1], [[1.5, 2.5, -3.5], [0.0, 1e300, 7.0]])


def test_a_missed_reading_comes_back_as_one() -> None:
    (column,) = unpacked(Recorded(("a",), ((1, 2), (NAN, 3.0))).packed(), 1)[1]
    assert math.isnan(column[0])
    assert column[1] == 3.0


def test_long_recordings_are_thinned_evenly_with_first_and_last() -> None:
    n = telemetry.KEPT_ROWS + 5_000
    recorded = Recorded(("a",), (tuple(range(n)), tuple(map(float, range(n)))))
    times, (column,) = unpacked(recorded.packed(), 1)
    assert (len(times), times[0], times[-1]) == (telemetry.KEPT_ROWS, 0, n - 1)
    assert set(np.diff(times)) == {1, 2}
    assert column == times


def test_a_recording_of_just_the_kept_rows_is_whole() -> None:
    recorded = Recorded((), (tuple(range(telemetry.KEPT_ROWS)),))
    assert unpacked(recorded.packed(), 0)[0] == list(range(telemetry.KEPT_ROWS))


COUNTING = Recorded(
    ("a", "b", "reset"),
    ((0, 10, 20, 30, 40), (1.0, 2.0, NAN, 7.0, 9.0), (NAN,) * 5, (8.0, 9.0, 0.0, 9.0, 20.0)),
)


@pytest.mark.parametrize(
    ("channel", "start", "end", "expected"),
    [
        ("a", 0, 40, 8.0),
        ("a", 10, 30, 5.0),
        ("a", 10, 20, None),  # one reading only: the other was missed
        ("a", 11, 19, None),
        ("b", 0, 40, None),
        ("c", 0, 40, None),
        ("reset", 0, 40, None),  # it ended higher, and yet it is not known by how much it grew
        ("reset", 20, 40, 20.0),
    ],
)
def test_how_much_a_counter_grew_in_a_phase(
    channel: str, start: int, end: int, expected: float | None
) -> None:
    phase = Phase("measure", start, end)
    assert COUNTING.change(channel, phase) == expected
    per_second = None if expected is None else pytest.approx(expected / ((end - start) / 1e9))
    assert COUNTING.rate(channel, phase) == per_second


# --- the sampler as a process -------------------------------------------------------------------


def scripted_sampler(folder: Path, *names: str) -> Child:
    """Start a sampler of scripted probes and wait until `good` was read and the others hang."""
    folder.mkdir()
    script = "from tests.unit.probes.scripted import main; main()"
    with (folder / "log").open("wb") as log:
        child = Child(
            [sys.executable, "-c", script, str(folder), *names], stdout=Child.PIPE, stderr=log, cwd=ROOT
        )
    assert next(child.lines()) == b"ready\n"
    return child


@pytest.mark.needs("linux")
def test_a_probe_that_fails_or_hangs_loses_only_its_own_channels(tmp_path: Path) -> None:
    names = ["raises", "absent", "hangs", "hangs_at_once", "hangs_in_facts", "good"]
    begin = time.perf_counter_ns()
    child = scripted_sampler(tmp_path / "out", *names)
    status = child.end(grace_s=30)
    took_s = (time.perf_counter_ns() - begin) / 1e9
    assert status == 0
    assert took_s < 20
    recording = telemetry.collect(tmp_path / "out", names, (begin, time.perf_counter_ns()), begin, clean=True)
    states = {name: [c.state for c in channels_of(recording, name).values()] for name in names}
    assert states == {
        "good": ["value", "value"],
        "raises": ["missed", "missed"],
        "absent": ["denied", "unsupported"],
        "hangs": ["value", "value"],
        "hangs_at_once": ["missed", "missed"],
        "hangs_in_facts": ["missed", "missed"],
    }
    # What hung had been read three times: once to open, and two rows.
    assert recording.probes["hangs"].columns[1] == (1.0, 2.0)
    assert {counter.probe for counter in recording.telemetry.counters} == {"good", "absent", "raises"}
    assert (tmp_path / "out" / "log").read_text() == ""


@pytest.mark.needs("linux")
def test_what_a_killed_sampler_had_read_stays(tmp_path: Path) -> None:
    begin = time.perf_counter_ns()
    child = scripted_sampler(tmp_path / "out", "good", "hangs_in_facts")
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(30) == -signal.SIGKILL
    child.end()
    names = ["good", "hangs_in_facts"]
    recording = telemetry.collect(
        tmp_path / "out", names, (begin, time.perf_counter_ns()), begin, clean=False
    )
    for channel in channels_of(recording, "good").values():
        assert (channel.state, channel.reason) == ("value", "the sampler ended early")
        assert channel.coverage is not None
        assert channel.coverage.n >= 4
    assert recording.probes["good"].columns[1][:4] == (1.0, 2.0, 3.0, 4.0)
    assert {c.state for c in channels_of(recording, "hangs_in_facts").values()} == {"missed"}
    assert recording.telemetry.sampler is not None
    assert recording.telemetry.sampler.ended == "early"


def wait_for_rows(folder: Path, count: int) -> None:
    """Wait until the host probe has written some rows."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        path = folder / "host.rows"
        if path.is_file() and path.stat().st_size > count * 8 * 12:
            return
        time.sleep(0.01)
    raise AssertionError((folder / "sampler.log").read_text())


@pytest.mark.needs("linux")
def test_the_real_sampler_reads_this_machine_and_says_what_it_cost(tmp_path: Path) -> None:
    origin = time.perf_counter_ns()
    with Sampler(tmp_path / "out", os.getpid(), watched=["host"]) as sampler:
        wait_for_rows(tmp_path / "out", 3)
        recording = sampler.end(origin)
    told = recording.telemetry
    assert told.sampler is not None
    assert told.sampler.ended == "ok"
    assert told.sampler.cpu_seconds is not None
    assert told.sampler.cpu_seconds > 0
    assert told.sampler.cpu_share is not None
    assert 0 < told.sampler.cpu_share < 1
    channels = channels_of(recording, "host")
    for name in ("load_1min", "own_cpu", "memory_available"):
        assert (channels[name].state, channels[name].reason) == ("value", None)
        coverage = channels[name].coverage
        assert coverage is not None
        assert coverage.n >= 3
        assert coverage.first_ns is not None
        assert coverage.first_ns > 0
    assert telemetry.fact_value(told.facts, "cores_online") == os.cpu_count()
    assert telemetry.fact_value(told.facts, "no such fact") is None


@pytest.mark.needs("linux")
def test_a_killed_sampler_ended_early(tmp_path: Path) -> None:
    origin = time.perf_counter_ns()
    with Sampler(tmp_path / "out", os.getpid(), watched=["host"]) as sampler:
        wait_for_rows(tmp_path / "out", 2)
        os.kill(sampler._child.pid, signal.SIGKILL)
        recording = sampler.end(origin)
    told = recording.telemetry
    assert told.sampler is not None
    assert (told.sampler.ended, told.sampler.cpu_seconds) == ("early", None)
    channel = channels_of(recording, "host")["load_1min"]
    assert (channel.state, channel.reason) == ("value", "the sampler ended early")
    assert told.facts
    assert told.counters == ()


@pytest.mark.needs("linux")
def test_leaving_the_context_ends_the_sampler(tmp_path: Path) -> None:
    with Sampler(tmp_path / "out", os.getpid(), watched=["host"]) as sampler:
        assert sampler._child.poll() is None
    assert sampler._child.poll() is not None


# --- what is missed, and why --------------------------------------------------------------------


def test_a_channel_tells_why_readings_were_missed(tmp_path: Path) -> None:
    off: dict[str, Reading] = {"count": Absent("missed", "0 Hz"), "other": 1.0}
    gone: dict[str, Reading] = {"count": Absent("unsupported", "not on this machine"), "other": 1.0}
    good: dict[str, Reading] = {"count": 1.0, "other": 1.0}
    channels = channels_of(record(tmp_path, [good, off, good, off, gone]), "made-up")
    assert (channels["count"].state, channels["count"].reason) == ("value", "0 Hz (2×), it went away (1×)")
    assert channels["other"].reason is None


def test_a_channel_without_a_reading_says_what_it_said_instead(tmp_path: Path) -> None:
    off: dict[str, Reading] = {"count": Absent("missed", "the sensor is off"), "other": 1.0}
    channel = channels_of(record(tmp_path, [off] * 3), "made-up")["count"]
    assert (channel.state, channel.reason) == ("missed", "no reading succeeded: the sensor is off (2×)")


def test_reasons_beyond_counting_are_one(tmp_path: Path) -> None:
    absent = [Absent("missed", f"reason {n}") for n in range(sampling.OTHER_REASONS + 5)]
    readings: list[Mapping[str, Reading]] = [{"count": each, "other": 1.0} for each in absent]
    reason = channels_of(record(tmp_path, readings), "made-up")["count"].reason
    assert reason is not None
    assert reason.startswith("no reading succeeded: another reason (4×), reason 1 (1×)")
    assert reason.count("(") == sampling.OTHER_REASONS + 1


def test_a_probe_that_stopped_answering_is_told_from_a_sampler_that_ended(tmp_path: Path) -> None:
    lay(tmp_path, opening=opening(), rows=rows((101 * S, 1, 1)))
    assert channels_of(collected(tmp_path), "made-up")["count"].reason == "the probe stopped answering"


def test_a_probe_that_tells_nothing_is_not_asked_again(tmp_path: Path) -> None:
    asked = []

    def read(n: int) -> Mapping[str, Reading]:
        asked.append(n)
        return dict.fromkeys(("count", "other"), Absent("unsupported", "not by this driver"))

    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    sampling.record(Scripted("made-up", read), tmp_path, stop)
    assert asked == [0]
    told = telemetry.collect(tmp_path, ["made-up"], (0, S), 0, clean=True).telemetry
    assert [(c.state, c.reason) for c in told.channels] == [("unsupported", "not by this driver")] * 2
    assert (told.facts, len(told.counters)) == ((fact("calm"),), 1)


def test_a_probe_may_know_its_channels_and_rate_only_after_reading(tmp_path: Path) -> None:
    stop = threading.Event()

    class Late(Scripted):
        channels: tuple[ChannelSpec, ...] = ()

        def read(self) -> Mapping[str, Reading]:
            if self.channels:
                stop.set()
            self.channels, self.rate_hz = (ChannelSpec("found", "MHz", "there"),), 500.0
            return {"found": 5.0}

    sampling.record(Late("made-up", steady), tmp_path, stop)
    (channel,) = telemetry.collect(tmp_path, ["made-up"], (0, S), 0, clean=True).telemetry.channels
    assert (channel.name, channel.unit, channel.rate_hz, channel.state) == ("found", "MHz", 500.0, "value")


# --- which probes, from which core, and how much of it ------------------------------------------


@pytest.mark.needs("linux")
def test_a_machine_has_the_probes_that_tell_something_there(tmp_path: Path) -> None:
    jetson = {"jetson", "jetson_power"}
    assert set(telemetry.probes(None, tmp_path)) == {"host"}
    assert set(telemetry.probes("GPU-0", tmp_path)) == {"host", "nvml"}
    trees.lay("agx_orin_jp6", tmp_path / "orin")
    assert set(telemetry.probes(None, tmp_path / "orin")) >= {"host", *jetson}
    assert "nvml" not in telemetry.probes(None, tmp_path / "orin")
    assert set(telemetry.probes("GPU-0", tmp_path / "orin")) >= {"host", "nvml", *jetson}


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Make this process one of four cores; return what it was pinned to, one after another."""
    pinned = [{0, 1, 2, 5}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: pinned[-1], raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pinned.append(cores), raising=False)
    return pinned


@pytest.mark.parametrize(
    ("threads", "core", "expected"),
    [(1, "5", [{0, 1, 2}, {0, 1, 2, 5}]), (3, "5", [{0, 1, 2}, {0, 1, 2, 5}]), (4, "", []), (None, "", [])],
)
def test_the_sampler_gets_a_core_where_enough_are_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: list[set[int]],
    threads: int | None,
    core: str,
    expected: list[set[int]],
) -> None:
    started: list[list[str]] = []

    class Quiet:
        def __init__(self, argv: list[str], **options: object) -> None:
            started.append(argv)

        def end(self, grace_s: float) -> int:
            return 0

    monkeypatch.setattr(telemetry, "Child", Quiet)
    with Sampler(tmp_path / "out", 1, None, ["host"], threads):
        pass
    assert started[0][3:] == [str(tmp_path / "out"), "1", "", core, "host"]
    assert cores[1:] == expected


@pytest.mark.needs("linux")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only")
def test_a_real_sampler_says_where_it_ran_and_the_worker_is_elsewhere(tmp_path: Path) -> None:
    all_cores = os.sched_getaffinity(0)
    with Sampler(tmp_path / "out", os.getpid(), watched=["host"], threads=1) as sampler:
        wait_for_rows(tmp_path / "out", 1)
        assert os.sched_getaffinity(sampler._child.pid) == {max(all_cores)}
        assert os.sched_getaffinity(0) == all_cores - {max(all_cores)}
        told = sampler.end(time.perf_counter_ns()).telemetry.sampler
    assert told is not None
    assert told.pinned_to == (max(all_cores),)
    assert os.sched_getaffinity(0) == all_cores


@pytest.mark.needs("linux")
def test_ten_minutes_of_all_channels_stay_under_a_megabyte(tmp_path: Path) -> None:
    orin = trees.lay("thread", tmp_path / "orin")
    random = np.random.default_rng(1)
    members = []
    own = (Host(os.getpid()), Nvml(os.getpid(), None), Jetson(orin.root), JetsonPower(orin.root))
    probes = [(probe.name, probe.rate_hz, [spec.unit for spec in probe.channels]) for probe in own]
    # A service and a tool that speak once a second; of an AGX Orin they tell fewer channels than this.
    probes += [("jtop", 1.0, ["MHz"] * 40), ("tegrastats", 1.0, ["MHz"] * 40)]
    for name, rate_hz, units in probes:
        n = round(600 * rate_hz)
        # Late by up to a millisecond, and as restless as sensors are: steps of the kernel's own units.
        times = (np.arange(n) / rate_hz * 1e9 + random.integers(0, 1_000_000, n)).astype(int)
        columns = [
            np.cumsum(random.integers(0, 1000, n)) / 1e3
            if unit in ("s", "us", "J")
            else 4e4 + random.integers(-60, 60, n) / 8
            for unit in units
        ]
        names = tuple(map(str, range(len(units))))
        recorded = Recorded(names, (tuple(times.tolist()), *(tuple(c.tolist()) for c in columns)))
        members.append((f"telemetry/{name}.bin", recorded.packed()))
    assert sum(len(data) for _, data in members) > 1_500_000
    assert archive.write(io.BytesIO(), dict(members)) < 1_000_000
