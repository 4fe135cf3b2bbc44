"""The timeline: lines of what was read, gaps where nothing was, and a fall that no thinning loses."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from repro.probes.nvml import EVENT_REASONS
from repro.report import html, timeline
from repro.schema import Phase
from repro.telemetry import Recorded
from tests import chromium
from tests.builders import make_record, make_run

NAN = math.nan
S = 1_000_000_000
HELD = float(next(bit for bit, name in EVENT_REASONS.items() if name == "hw_thermal"))


def over(seconds: float, rate_hz: float, **columns: tuple[float, ...]) -> Recorded:
    times = tuple(i * S / rate_hz for i in range(round(seconds * rate_hz)))
    return Recorded(tuple(columns), (times, *columns.values()))


def orin() -> dict[str, Recorded]:
    """Return ten seconds of a made-up Jetson whose clock falls for a tenth of a second."""
    clock = (816.0,) * 60 + (306.0,) + (816.0,) * 39
    return {
        "jetson": over(
            10,
            10,
            gpu_clock=clock,
            gpu_clock_cap=(816.0,) * 100,
            emc_clock=(3199.0,) * 50 + (NAN,) * 50,
            throttle_gpu=(0.0,) * 55 + (1.0,) * 20 + (0.0,) * 25,
        ),
        "jetson_power": over(
            10,
            2,
            power_aaa=(1.0,) * 20,
            power_bbb=(2.0,) * 20,
            power_vdd_gpu_soc=tuple(3.0 + i / 10 for i in range(20)),
            power_vdd_in=(9.0,) * 20,
            temperature_cv0=(NAN,) * 20,
            temperature_gpu=(50.0,) * 20,
            temperature_tj=(51.0,) * 20,
        ),
    }


def labels(recorded: dict[str, Recorded]) -> dict[str, list[str]]:
    return {what: [line.label for line in lines] for what, lines in timeline.panels(recorded)}


def test_each_panel_has_what_was_read_the_telling_first() -> None:
    assert labels(orin()) == {
        "clock, MHz": ["GPU", "memory", "GPU's cap"],
        "power, W": ["vdd_in", "vdd_gpu_soc", "aaa"],
        "temperature, °C": ["tj", "gpu"],
    }


def test_a_gpu_of_a_pc_has_its_drivers_lines() -> None:
    told = over(1, 10, sm_clock=(1980.0,) * 10, power=(300.0,) * 10, temperature=(60.0,) * 10)
    assert labels({"nvml": told}) == {
        "clock, MHz": ["GPU"],
        "power, W": ["GPU"],
        "temperature, °C": ["GPU"],
    }


@pytest.mark.parametrize("silent", [NAN, math.inf, -math.inf, 1e300])
def test_what_was_not_read_has_no_line(silent: float) -> None:
    assert timeline.panels({"nvml": over(1, 10, sm_clock=(silent,) * 10)}) == []
    assert timeline.panels({}) == []


def test_a_gap_stays_one() -> None:
    lines = dict(timeline.panels(orin()))["clock, MHz"]
    memory = next(line for line in lines if line.label == "memory")
    assert [math.isnan(value) for value in memory.y] == [False] * 50 + [True] * 50


def test_thinning_keeps_the_lowest_and_the_highest() -> None:
    points = [(float(i), 100.0 + i % 7) for i in range(60_000)]
    points[31_111] = (31_111.0, 5.0)
    points[31_112] = (31_112.0, 999.0)
    kept = timeline.thin(points)
    assert len(kept) <= 2 * timeline.STRETCHES
    assert {(31_111.0, 5.0), (31_112.0, 999.0)} <= set(kept)
    assert kept == sorted(kept)
    assert timeline.thin(points[:100]) == points[:100]


def test_thinning_keeps_a_gap() -> None:
    points = [(float(i), NAN if 2000 <= i < 4000 else 1.0) for i in range(6000)]
    kept = timeline.thin(points)
    assert len(kept) <= 3 * timeline.STRETCHES
    assert {x for x, y in kept if math.isnan(y)} >= {float(x) for x in range(2000, 4000, 20)}


@pytest.mark.parametrize("times", [(-5 * S, 0, S), (0, S, 10**30), (0, 0, 0), (3 * S, 2 * S, S)])
def test_times_that_cannot_be_break_no_figure(times: tuple[int, ...]) -> None:
    told = Recorded(("sm_clock",), (times, (1000.0, 1100.0, 1200.0)))
    rows = timeline.panels({"nvml": told})
    for _, lines in rows:
        assert lines[0].x == sorted(lines[0].x)
    phases = (Phase("preheat", -(2**62), 0), Phase("measure", 0, 2**62))
    record = make_record((1.0,), runs=(make_run(0, 1.0, phases=phases),))
    assert "<svg" in timeline.draw(rows, [record], [(0.0, 1e30)]).drawing


def test_the_caption_says_what_red_is_only_where_there_is_some() -> None:
    rows, record = timeline.panels(orin()), make_record()
    assert "Red" not in timeline.draw(rows, [record], []).caption
    assert "Red: something held the clocks down" in timeline.draw(rows, [record], [(S, 2 * S)]).caption


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_throttle_is_red_in_light_and_dark(tmp_path: Path, scheme: str) -> None:
    run = make_run(0, 1.0, phases=(Phase("preheat", S, 4 * S), Phase("measure", 4 * S, 9 * S)))
    record = make_record((1.0,), runs=(run,))
    record = msgspec.structs.replace(record, stages=())

    def red(held: list[tuple[float, float]]) -> int:
        drawn = timeline.draw(timeline.panels(orin()), [record], held)
        text = "{% extends 'page' %}{% block main %}{{ f.drawing }}{% endblock %}"
        page = tmp_path / "page.html"
        page.write_text(html.render(text, title="t", f=drawn))
        seen = chromium.look(page, tmp_path, "dark" if scheme == "dark" else "light", (1000, 700))
        assert (seen.console, seen.requests) == ([], [])
        return sum(
            r - max(g, b) > 0.05 and abs(g - b) < 0.06
            for row in chromium.pixels(seen.screenshot)
            for r, g, b, *_ in row
        )

    assert red([(5.5 * S, 7.5 * S)]) > 10_000 > 5 * red([])
