"""tegrastats lines of every layout: nothing known is lost, nothing unknown becomes a number."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import sampling, telemetry
from repro.probes import Absent
from repro.probes.tegrastats import MAX_CORES, Engine, Tegrastats, parse, readings

# Written in the layouts of JetPack 4 to 7; the values are made up.
JP4 = (
    "RAM 331/3964MB (lfb 758x4MB) IRAM 0/252kB(lfb 252kB) CPU [5%@102,off,0%@204] EMC_FREQ 3%@204 "
    "GR3D_FREQ 0%@76 APE 25 PLL@20.5C CPU@23.5C POM_5V_IN 933/933 POM_5V_GPU 0/0"
)
JP5 = (
    "04-24-2023 00:01:24 RAM 1/2MB (lfb 1x4MB) SWAP 0/3MB (cached 0MB) CPU [0%@729,7%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 VIC_FREQ 729 APE 174 CV0@-256C Tboard@32C "
    "VDD_GPU_SOC 2399mW/2400mW NC 0mW/0mW VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW"
)
JP6 = (
    "05-09-2026 18:42:07 RAM 1/2MB (lfb 4x4MB) CPU [16%@1949,6%@1761] EMC_FREQ 3%@2133 "
    "GR3D_FREQ 63%@[0,621] NVENC 78%@166 NVDEC off PVA0_FREQ off APE 174 cpu@52.343C VDD_IN 12479mW/12479mW"
)
NO_ROOT = "06-18-2025 11:25:24 RAM 1/2MB (lfb 2x4MB) CPU [1%@1420] GR3D_FREQ 0% cpu@50.031C"
JP7 = (
    "08-08-2026 21:00:39 RAM 1/2MB (lfb 3x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 "
    "GR3D_FREQ 87%@[1574,off,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C "
    "VIN 124486mW/36487mW/124486mW FUTURE_TOKEN value"
)
OFF = Absent("missed", "off")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            JP4,
            {
                "gpu_load": 0.0,
                "gpu_clock": 76.0,
                "emc_load": 3.0,
                "emc_clock": 204.0,
                "cpu0_clock": 102.0,
                "cpu1_clock": OFF,
                "cpu2_clock": 204.0,
                "temperature_pll": 20.5,
                "temperature_cpu": 23.5,
                "power_pom_5v_in": 0.933,
                "power_pom_5v_gpu": 0.0,
            },
        ),
        (
            JP5,
            {
                "gpu_load": 0.0,
                "gpu_clock": Absent("missed", "0 Hz"),
                "emc_load": 0.0,
                "emc_clock": 2133.0,
                "cpu0_clock": 729.0,
                "cpu1_clock": 729.0,
                "temperature_cv0": Absent("missed", "the sensor is off (-256 °C)"),
                "temperature_tboard": 32.0,
                "power_vdd_gpu_soc": 2.399,
                "power_vin_sys_5v0": 4.032,
            },
        ),
        (
            JP6,
            {
                "gpu_load": 63.0,
                "gpu_clock": 621.0,
                "emc_load": 3.0,
                "emc_clock": 2133.0,
                "cpu0_clock": 1949.0,
                "cpu1_clock": 1761.0,
                "temperature_cpu": 52.343,
                "power_vdd_in": 12.479,
            },
        ),
        (NO_ROOT, {"gpu_load": 0.0, "cpu0_clock": 1420.0, "temperature_cpu": 50.031}),
        (
            JP7,
            {
                "gpu_load": 87.0,
                "gpu_clock": 1574.0,
                "emc_clock": 4266.0,
                "cpu0_clock": 2601.0,
                "cpu1_clock": 2601.0,
                "cpu2_clock": OFF,
                "temperature_cpu": 58.25,
                "power_vin": 124.486,
            },
        ),
    ],
    ids=["jp4", "jp5", "jp6", "no_root", "jp7"],
)
def test_a_line_of_each_layout(line: str, expected: dict[str, object]) -> None:
    assert {name: reading for name, (_, reading) in readings(parse(line)).items()} == expected
    assert parse(line).rest == ("FUTURE_TOKEN value" if line == JP7 else "")


def test_engines_keep_their_places() -> None:
    engines = parse(JP7).engines
    assert engines["GR3D"] == Engine(87, (1574, None, 1574))
    assert engines["VIC"] is None
    assert engines["NVENC0"] == Engine(None, (1691,))


@pytest.mark.needs("material")
def test_every_captured_line_is_known_to_the_last_word() -> None:
    text = (Path(os.environ["TRT_REPRO_MATERIAL"]) / "boards/tegrastats.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) >= 9
    assert {parse(line).rest for line in lines} == {"", "FUTURE_TOKEN value"}


@given(st.text())
def test_any_text_gives_readings_that_can_be_true(text: str) -> None:
    check(text)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([*JP4.split(" "), *JP5.split(" "), *JP6.split(" "), *JP7.split(" ")]),
            st.from_regex(r"[A-Z]{1,4}\d? \d{1,9}(%|%@\d{1,9}|mW|/\d{1,9})?", fullmatch=True),
            st.from_regex(r"[a-z]{1,4}@-?\d{1,9}(\.\d{1,9})?C", fullmatch=True),
            st.from_regex(r"VDD -?\d{1,12}mW/\d{1,4}mW", fullmatch=True),
        ),
        max_size=40,
    )
)
def test_parts_of_lines_in_any_order_give_readings_that_can_be_true(parts: list[str]) -> None:
    check(" ".join(parts))


def check(text: str) -> None:
    limits = {"MHz": (1e-6, 20e3), "%": (0, float("inf")), "C": (-60, 150), "W": (0, 1000)}
    for unit, reading in readings(parse(text)).values():
        assert isinstance(reading, Absent) or limits[unit][0] <= reading <= limits[unit][1], (unit, reading)


@given(st.integers(0, 100), st.integers(1, 20_000), st.integers(-59_000, 149_000), st.integers(0, 999_999))
def test_what_was_written_is_read(load: int, clock: int, millidegrees: int, milliwatts: int) -> None:
    line = f"GR3D_FREQ {load}%@[{clock}] gpu@{millidegrees / 1e3:g}C VDD_GPU {milliwatts}mW/{milliwatts}mW"
    assert {name: reading for name, (_, reading) in readings(parse(line)).items()} == {
        "gpu_load": load,
        "gpu_clock": clock,
        "temperature_gpu": pytest.approx(float(f"{millidegrees / 1e3:g}")),
        "power_vdd_gpu": pytest.approx(milliwatts / 1e3),
    }


def test_a_very_long_line_is_cut() -> None:
    assert len(parse("CPU [" + "1%@2," * 100_000 + "1%@2]").cores) <= MAX_CORES


def test_the_sampler_listens_to_the_tool(tmp_path: Path) -> None:
    script = f"import time\nwhile True: print({JP5!r}, flush=True); time.sleep(0.02)"
    probe, stop = Tegrastats([sys.executable, "-c", script]), threading.Event()
    threading.Timer(0.5, stop.set).start()
    begin = time.perf_counter_ns()
    sampling.record(probe, tmp_path, stop)
    probe.close()
    span = (begin, time.perf_counter_ns())
    told = telemetry.collect(tmp_path, ["tegrastats"], span, begin, clean=True).telemetry
    states = {channel.name: (channel.state, channel.reason) for channel in told.channels}
    assert states["emc_clock"][0] == "value"
    assert states["gpu_clock"][0] == "missed"
    assert (states["gpu_clock"][1] or "").startswith("no reading succeeded: 0 Hz")
    assert [(fact.name, fact.value) for fact in told.facts] == [("unknown_words", 0)]
