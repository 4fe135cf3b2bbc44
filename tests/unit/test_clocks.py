"""Where clocks are read, how steady they stood, what held them down."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from repro import clocks
from repro.clocks import Clock
from repro.probes.nvml import EVENT_REASONS
from repro.schema import Phase, StateChange, Telemetry
from repro.telemetry import Recorded

NAN = math.nan
TIMES = (0.0, 10.0, 20.0, 30.0, 40.0)
WINDOW = Phase("measure", 10, 30)
BIT = {name: float(bit) for bit, name in EVENT_REASONS.items()}


def recorded(**columns: tuple[float, ...]) -> Recorded:
    return Recorded(tuple(columns), (TIMES, *columns.values()))


def test_the_first_source_that_told_anything_is_read() -> None:
    orin = recorded(gpu_clock=(306.0, 816.0, 816.0, 408.0, 306.0))
    silent = recorded(sm_clock=(NAN,) * 5)
    told = clocks.read({"nvml": silent, "jetson": orin}, clocks.SM_CLOCKS, WINDOW)
    assert told == Clock(("jetson", "gpu_clock"), (816.0, 816.0, 408.0))
    assert told.median_mhz == 816.0
    both = {"jetson": orin, "nvml": recorded(sm_clock=(1980.0,) * 5)}
    best = clocks.read(both, clocks.SM_CLOCKS, WINDOW)
    assert best is not None
    assert best.source == ("nvml", "sm_clock")


@pytest.mark.parametrize("absurd", [NAN, 0.0, -306.0, math.inf, 1e7])
def test_what_is_no_clock_is_in_no_median(absurd: float) -> None:
    told = clocks.read(
        {"jetson": recorded(gpu_clock=(1.0, absurd, 816.0, absurd, 1.0))}, clocks.SM_CLOCKS, WINDOW
    )
    assert told is not None
    assert told.values == (816.0,)
    none = {"jetson": recorded(gpu_clock=(1.0, absurd, absurd, absurd, 1.0))}
    assert clocks.read(none, clocks.SM_CLOCKS, WINDOW) is None
    assert clocks.read({}, clocks.SM_CLOCKS, WINDOW) is None


def test_the_spread_by_hand() -> None:
    values = (1000.0,) * 6 + (970.0, 969.0, 1030.0, 1031.0)
    spread = Clock(("nvml", "sm_clock"), values).spread()
    assert (spread.n, spread.low_mhz, spread.high_mhz) == (10, 969.0, 1031.0)
    assert (spread.below_share, spread.above_share) == (0.1, 0.1), "exactly 3 % apart is still at it"
    assert clocks.moved(spread)
    assert not clocks.moved(Clock(("a", "b"), (1000.0,) * 19 + (408.0,)).spread()), "5 % is a moment"
    assert clocks.moved(Clock(("a", "b"), (1000.0,) * 17 + (408.0,)).spread())


def test_a_clock_that_was_low_for_most_of_the_time_moved_too() -> None:
    spread = Clock(("jetson", "gpu_clock"), (816.0,) * 3 + (408.0,) * 7).spread()
    assert (spread.below_share, spread.above_share) == (0.0, 0.3)
    assert clocks.moved(spread)


# --- what held clocks down ----------------------------------------------------------------------


def held(**columns: tuple[float, ...]) -> clocks.HeldDown | None:
    probe = "nvml" if "event_reasons" in columns else "jetson"
    return clocks.held_down({probe: recorded(**columns)}, [WINDOW])


def test_the_drivers_reasons_count_by_name() -> None:
    cap, idle = BIT["sw_power_cap"], BIT["idle"]
    assert held(event_reasons=(cap, idle, cap, cap + BIT["sw_thermal"], 0.0)) == (
        2 / 3,
        {"sw_power_cap": (2, 3), "sw_thermal": (1, 3)},
    )
    assert held(event_reasons=(cap, idle, idle, idle, cap)) == (0.0, {})


def test_alerts_and_alarms_of_a_board_count_while_they_are_set() -> None:
    assert held(throttle_gpu=(1.0, 0.0, 2.0, 0.0, 1.0), throttle_cpu=(0.0,) * 5) == (
        1 / 3,
        {"throttle_gpu": (1, 3)},
    )
    assert held(over_current_vdd_in=(0.0, 1.0, NAN, 1.0, 0.0)) == (1.0, {"over_current_vdd_in": (2, 2)})


def test_a_counter_counts_where_it_ran_and_not_for_what_it_says() -> None:
    assert held(under_voltage_events=(37.0,) * 5) == (0.0, {})
    assert held(under_voltage_events=(0.0, 5.0, NAN, 9.0, 9.0)) == (1.0, {"under_voltage_events": (2, 2)})
    assert held(under_voltage_events=(9.0, 9.0, 0.0, 0.0, 0.0)) == (0.0, {}), "it was reset, and ran nowhere"


def test_the_worst_probe_decides_the_share() -> None:
    both = {
        "jetson": recorded(throttle_gpu=(0.0, 0.0, 1.0, 0.0, 0.0)),
        "jetson_power": recorded(over_current_vdd_in=(0.0, 1.0, 1.0, 0.0, 0.0)),
    }
    found = clocks.held_down(both, [WINDOW])
    assert found is not None
    assert found.share == 2 / 3
    assert set(found.reasons) == {"throttle_gpu", "over_current_vdd_in"}


@pytest.mark.parametrize(
    "silent",
    [
        {},
        {"jetson": recorded(gpu_clock=(1.0,) * 5)},
        {"nvml": recorded(event_reasons=(NAN, -1.0, 1e300, NAN, 1.0))},
    ],
)
def test_what_nobody_could_tell_is_unknown_and_not_none(silent: dict[str, Recorded]) -> None:
    assert clocks.held_down(silent, [WINDOW]) is None


def test_a_warning_that_holds_nothing_down_is_none() -> None:
    assert held(throttle_gpu=(0.0,) * 5, alert_hot_surface=(1.0,) * 5) == (0.0, {})


def test_others_may_name_channels_alike() -> None:
    # The event counters of another probe, or its clocks, throttle nothing.
    assert clocks.held_down({"host": recorded(some_events=(0.0, 1.0, 2.0, 3.0, 4.0))}, [WINDOW]) is None


def test_spans_are_when_something_held_on_any_probe() -> None:
    both = {
        "jetson": recorded(throttle_gpu=(0.0, 1.0, 1.0, 0.0, 1.0)),
        "nvml": recorded(event_reasons=(0.0, 0.0, BIT["hw_thermal"], 0.0, 0.0)),
    }
    assert clocks.spans(both) == [(10.0, 30.0), (40.0, 40.0)]
    assert clocks.spans({}) == []


# --- settings that change -----------------------------------------------------------------------


def changed(*names: str, **values: Any) -> str | None:
    changes = tuple(
        msgspec.structs.replace(StateChange("jetson", name, "off", "on"), **values) for name in names
    )
    return clocks.settings_changed(Telemetry((), (), (), changes, None))


def test_a_setting_that_changed_is_told_and_the_mode_first() -> None:
    assert changed("gpu_clock_max", before=816.0, after=930.75) == (
        "gpu_clock_max was 816.0 before and 930.75 after the session"
    )
    assert changed("mode_gpu_clock_max", "jetson_clocks", "power_mode") == (
        "power_mode was off before and on after the session, and 2 more"
    )
    assert changed("emc_locked", after=None) == "emc_locked was off before and unread after the session"


@pytest.mark.parametrize("name", ["cpu4_governor", "cpu0_clock_max", "current_crit_vdd_in", "power_limit"])
def test_what_somebody_sets_is_a_setting(name: str) -> None:
    assert changed(name)


@pytest.mark.parametrize("name", ["pcie_generation", "wall_clock", "boot_id", "memory_reserved", "interval"])
def test_what_changes_by_itself_is_none(name: str) -> None:
    assert changed(name) is None
