"""What was observed: values of builds, clocks while they were measured, files of a wrong size."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import msgspec
import pytest

from repro import observed
from repro.errors import Refused
from repro.probes.nvml import EVENT_REASONS
from repro.schema import SCHEMA_VERSION, Channel, Coverage, Record
from tests.builders import make_arms, make_failed, make_record, make_run, seal

replace = msgspec.structs.replace

# --- the key figure, against values worked out by hand -------------------------------------------


def test_the_key_figure_is_the_geometric_mean_of_the_builds() -> None:
    figure = observed.key_figure(make_record((8.0, 2.0)))
    assert figure is not None
    assert figure.builds == 2
    assert math.isclose(figure.value_ns, 4e6)  # sqrt(8 × 2)
    # log 8 − log 2 = 2 log 2: half width t(0.975, 1) × sd / sqrt(2) = 12.7062 × log 2.
    assert math.isclose(math.log(figure.high_ns or 0) - math.log(4e6), 12.7062 * math.log(2), rel_tol=1e-4)
    assert math.isclose((figure.low_ns or 0) * (figure.high_ns or 0), figure.value_ns**2, rel_tol=1e-9)


def test_runs_of_one_build_count_as_one() -> None:
    runs = (make_run(0, 1.0), make_run(0, 4.0, id="b0r1"), make_run(1, 2.0))
    figure = observed.key_figure(make_record((1.0, 2.0), runs=runs))
    assert figure is not None
    assert (figure.builds, round(figure.value_ns)) == (2, 2_000_000)


def test_one_build_has_no_interval() -> None:
    figure = observed.key_figure(make_record((3.0,)))
    assert figure is not None
    assert (figure.low_ns, figure.high_ns, figure.builds) == (None, None, 1)


def test_no_run_has_no_figure() -> None:
    assert observed.key_figure(make_failed()) is None


# --- clocks and what held them down -------------------------------------------------------------


def channel(name: str, column: int, unit: str = "MHz", probe: str = "nvml") -> Channel:
    coverage = Coverage(4, 0, 0, 90, 30, 1.0)
    return Channel(probe, name, unit, "value", None, False, 10.0, coverage, f"telemetry/{probe}.bin", column)


NVML = (channel("sm_clock", 1), channel("memory_clock", 2), channel("event_reasons", 3, "1"))
AT_NS = (0, 12, 18, 30)
"""Runs are measured from 10 to 20: the second and the third reading count."""
POWER_CAP = float(next(bit for bit, name in EVENT_REASONS.items() if name == "sw_power_cap"))


def watched(
    clocks: tuple[float, ...], reasons: tuple[float, ...] = (0.0,) * 4, channels: tuple[Channel, ...] = NVML
) -> tuple[Record, dict[str, bytes]]:
    record = make_record((10.0, 11.0))
    record = replace(
        record,
        board=replace(record.board, compute_capability="9.0"),
        telemetry=replace(record.telemetry, channels=channels),
    )
    columns = (clocks, (2619.0,) * 4, reasons)[: len(channels)]
    packed = struct.pack("<4q", *AT_NS) + b"".join(struct.pack("<4d", *column) for column in columns)
    return record, {"telemetry/nvml.bin": packed}


def test_clocks_are_those_while_it_was_measured() -> None:
    seen = observed.observe(*_named(watched((300.0, 1980.0, 1960.0, 300.0))))
    assert (seen.clock_mhz, seen.memory_clock_mhz) == (1970.0, 2619.0)
    cycles = seen.builds[0].cycles
    assert cycles is not None
    assert math.isclose(math.exp(cycles[0]), 10e6 * 1970.0, rel_tol=1e-9)


def _named(made: tuple[Record, dict[str, bytes]]) -> tuple[Record, str, str, dict[str, bytes]]:
    return made[0], "id", "file", made[1]


@pytest.mark.parametrize("missed", [math.nan, math.inf, 0.0, -1.0])
def test_a_reading_that_is_no_clock_is_none(missed: float) -> None:
    seen = observed.observe(*_named(watched((300.0, missed, 1960.0, 300.0))))
    assert seen.clock_mhz == 1960.0
    seen = observed.observe(*_named(watched((300.0, missed, missed, 300.0))))
    assert (seen.clock_mhz, seen.builds[0].cycles) == (None, None)


def test_what_held_clocks_down_is_a_share_of_the_readings_while_measured() -> None:
    made = watched((1980.0,) * 4, (POWER_CAP, 0.0, POWER_CAP, POWER_CAP))
    assert observed.observe(*_named(made)).throttled_share == 0.5
    idle = watched((1980.0,) * 4, (1.0,) * 4)
    assert observed.observe(*_named(idle)).throttled_share == 0.0, "an idle GPU is not held down"


def test_what_was_not_read_is_unknown() -> None:
    record, _ = watched((1980.0,) * 4)
    seen = observed.observe(record, "id", "file", {})
    assert (seen.clock_mhz, seen.memory_clock_mhz, seen.throttled_share) == (None, None, None)


def test_a_processor_tells_the_mean_of_its_cores_and_no_cycles() -> None:
    channels = (channel("cpu_frequency", 1, probe="host"),)
    record, contents = watched((0.0, 2000.0, 2200.0, 0.0), channels=channels)
    record = replace(record, board=replace(record.board, compute_capability=None))
    seen = observed.observe(record, "id", "file", {"telemetry/host.bin": contents["telemetry/nvml.bin"]})
    assert (seen.clock_mhz, seen.builds[0].cycles) == (2100.0, None)


def test_a_file_of_a_wrong_size_is_refused() -> None:
    record, contents = watched((1980.0,) * 4)
    with pytest.raises(Refused, match="which are not 4 columns"):
        observed.observe(record, "id", "file", {"telemetry/nvml.bin": contents["telemetry/nvml.bin"][:-1]})


def test_an_arm_is_that_of_all_its_turns() -> None:
    a, b = make_arms((1.0, 1.0), (1.0, 1.0))
    assert [observed.observe(each, "id", "f", {}).arm for each in (a, b)] == ["A", "B"]
    assert observed.observe(make_record(), "id", "f", {}).arm is None


def test_a_bundle_is_loaded_with_its_signer_and_schema(tmp_path: Path) -> None:
    source = observed.load(seal(tmp_path / "a.zip", make_record(schema_version=SCHEMA_VERSION + 1)).path)
    assert (source.file, source.newer, source.wrong) == ("a.zip", SCHEMA_VERSION + 1, None)
    assert source.signer == "nobody signed this"
    assert observed.load(seal(tmp_path / "b.zip").path).newer is None


@pytest.mark.parametrize("log_median", [-1e308, -1.0, 46.0, 1e308])
def test_a_time_that_cannot_be_is_refused(log_median: float) -> None:
    run = make_run(0, 1.0)
    run = replace(run, summary=replace(run.summary, log_median=log_median))
    with pytest.raises(Refused, match=r"run b0r0 of base-ort-1\.0 has a time that can't be"):
        observed.observe(make_record((1.0,), runs=(run,)), "id", "f", {})


def test_more_runs_than_any_experiment_has_are_refused() -> None:
    runs = (make_run(0, 1.0),) * (observed.MOST_RUNS + 1)
    with pytest.raises(Refused, match="2000 can be compared"):
        observed.observe(make_record((1.0,), runs=runs), "id", "f", {})
