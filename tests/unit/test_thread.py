"""The thread by hand: every figure of both devices, from the case and the table of boards."""

from __future__ import annotations

import pytest

from repro import boards, roofline, thread
from repro.thread import Side

ORIN, RTX = thread.sides()
BOTH = pytest.mark.parametrize("side", [ORIN, RTX], ids=["orin", "rtx3080"])


def ms(side: Side, traffic: roofline.Traffic | None, bandwidth: roofline.Bandwidth | None) -> float:
    return side.roof(traffic, bandwidth).seconds * 1e3


def percent(side: Side, traffic: roofline.Traffic | None, bandwidth: roofline.Bandwidth | None) -> float:
    return side.attained(traffic, bandwidth) * 100


# --- the thread's network and its work ------------------------------------------------------------


def test_the_work_of_the_network() -> None:
    work = ORIN.counted
    assert work.flop == 28_665_446_400
    assert {layer.flop for layer in work.layers} == {9_555_148_800}
    assert {layer.flop // 2 for layer in work.layers} == {4_777_574_400}
    assert work.other_ops == pytest.approx(99.5e6, abs=0.05e6)
    assert (work.bytes_ends or 0) / 2 == 66_355_200
    assert {layer.bytes for layer in work.layers} == {132_715_040}
    assert work.layers[0].bytes - 2 * 66_355_200 == 4_640
    assert round(work.bytes_high / 1e6, 1) == 398.1
    assert round(work.bytes_low / 1e6, 1) == 132.7
    assert round(ORIN.reformats_bytes / 1e6, 1) == 663.6
    assert round((ORIN.reformats_bytes - work.bytes_high) / 1e6, 1) == 265.4
    assert round(ORIN.reformats_bytes / work.bytes_high, 2) == 1.67
    intensities = [work.flop / count for count in (work.bytes_high, work.bytes_low, ORIN.reformats_bytes)]
    assert [round(each, 1) for each in intensities] == [72.0, 216.0, 43.2]


# --- both devices ---------------------------------------------------------------------------------


def test_the_times_are_those_of_the_thread() -> None:
    assert (ORIN.seconds, RTX.seconds) == (8.98e-3, 1.11e-3)
    ratios = [
        ORIN.reference.statistics[name] / RTX.reference.statistics[name]
        for name in ("median_ms", "min_ms", "mean_ms")
    ]
    assert [round(each, 2) for each in ratios] == [8.01, 8.05, 8.05]
    assert round(ORIN.seconds / RTX.seconds, 2) == 8.09


@pytest.mark.parametrize(
    ("side", "acc16", "acc32", "ridge"), [(ORIN, 23.4, 23.4, 114), (RTX, 119.1, 59.5, 157)]
)
def test_peaks(side: Side, acc16: float, acc32: float, ridge: float) -> None:
    assert round((side.machine.flop_s or 0) / 1e12, 1) == acc16
    assert round(side.flop_s_acc32 / 1e12, 1) == acc32
    assert round(side.machine.ridge_flop_byte or 0) == ridge


def test_the_ridge_of_the_geforce_with_fp32_sums() -> None:
    machine = RTX.machine._replace(flop_s=RTX.flop_s_acc32)
    assert round(machine.ridge_flop_byte or 0) == 78


@pytest.mark.parametrize(
    ("side", "fused", "unfused", "reformats", "attainable"),
    [(ORIN, 1.225, 1.944, 3.240, 4.343), (RTX, 0.241, 0.524, 0.873, 0.959)],
)
def test_roofs(side: Side, fused: float, unfused: float, reformats: float, attainable: float) -> None:
    assert round(ms(side, "fused", "pin"), 3) == fused
    assert round(ms(side, None, None), 3) == fused
    assert side.roof("fused", "pin").side == "compute"
    assert round(ms(side, "unfused", "pin"), 3) == unfused
    assert side.roof("unfused", "pin").side == "memory"
    assert round(ms(side, "reformats", "pin"), 3) == reformats
    assert round(ms(side, "reformats", "attainable"), 3) == attainable


@pytest.mark.parametrize(
    ("side", "unfused", "reformats", "attainable", "compute"),
    [(ORIN, 21.6, 36.1, 48.4, 13.6), (RTX, 47.2, 78.6, 86.4, 21.7)],
)
def test_fractions(side: Side, unfused: float, reformats: float, attainable: float, compute: float) -> None:
    assert round(percent(side, "unfused", "pin"), 1) == unfused
    assert round(percent(side, "reformats", "pin"), 1) == reformats
    assert round(percent(side, "reformats", "attainable"), 1) == attainable
    assert round(percent(side, None, None), 1) == compute
    assert round(side.forum_dense * 100, 1) == compute


def test_the_geforce_with_fp32_sums() -> None:
    assert round(RTX.compute_acc32_s / RTX.seconds * 100, 1) == 43.4


@pytest.mark.parametrize(
    ("side", "rate", "clocks", "share"), [(ORIN, 73.9, 102.6, 17.9), (RTX, 597.8, 129.1, 6.5)]
)
def test_what_reads_across_devices(side: Side, rate: float, clocks: float, share: float) -> None:
    assert round(side.implied_gb_s, 1) == rate
    assert round(side.sm_clocks / 1e6, 1) == clocks
    assert round(side.machine.bytes_per_sm_clock or 0, 1) == share


def test_ratios_between_the_devices() -> None:
    assert round((RTX.machine.pin_bytes_s or 0) / (ORIN.machine.pin_bytes_s or 1), 2) == 3.71
    assert round((RTX.machine.attainable_bytes_s or 0) / (ORIN.machine.attainable_bytes_s or 1), 1) == 4.5
    assert round((RTX.machine.flop_s or 0) / (ORIN.machine.flop_s or 1), 2) == 5.09
    assert round((RTX.machine.sm_clocks_s or 0) / (ORIN.machine.sm_clocks_s or 1), 2) == 10.18
    assert round(RTX.sm_clocks / ORIN.sm_clocks, 2) == 1.26


# --- the thread's own formula ---------------------------------------------------------------------


def test_the_formula_of_the_thread_with_its_own_peaks() -> None:
    assert round(ORIN.forum_sparse * 100, 2) == 6.74
    assert ORIN.claim.percent == 5.46
    assert round(RTX.forum_sparse * 100, 2) == 10.85
    assert round(RTX.forum_sparse * 100, 4) == 10.8535
    # What was printed belongs to other times.
    assert round(ORIN.claim.flop / (ORIN.claim.peak_flops * 0.0546) * 1e3, 1) == 11.1
    assert round(RTX.claim.flop / (RTX.claim.peak_flops * 0.0011105) * 100, 4) == pytest.approx(
        RTX.claim.percent, abs=2e-4
    )


def test_where_the_peaks_of_the_thread_come_from() -> None:
    orin = boards.find("agx-orin-32gb")
    sparse = roofline.peak_flop_s(orin, "fp16_acc32", sm_count=14, sm_hz=930.75e6, sparse=True)
    assert round((sparse or 0) / 1e12, 1) == 53.4
    rtx = boards.find("rtx-3080-10gb")
    sparse = roofline.peak_flop_s(rtx, "fp16_acc16", sm_count=68, sm_hz=1710e6, sparse=True)
    assert round((sparse or 0) / 1e12) == 238
    dense = roofline.peak_flop_s(rtx, "int8", sm_count=68, sm_hz=1710e6)
    assert round((dense or 0) / 1e12) == 238


def test_another_clock_does_not_change_the_conclusion() -> None:
    faster = RTX.machine._replace(sm_hz=1900e6)
    clocks = roofline.sm_clocks(RTX.seconds, faster) or 0
    assert round(clocks / 1e6) == 143
    assert round(clocks / ORIN.sm_clocks, 2) == 1.40


# --- candidates for what holds Orin up ------------------------------------------------------------


def test_candidates_on_orin() -> None:
    slow = boards.find("agx-orin-32gb").memory.bytes_s(2133)
    attainable = slow * 152.8 / 204.8
    seconds = ORIN.reformats_bytes / attainable
    assert round(slow / 1e9, 1) == 136.5
    assert round(seconds * 1e3, 1) == 6.5
    assert round(seconds / ORIN.seconds * 100) == 73
    padded = 4 * ms(ORIN, None, None)
    assert round(padded, 2) == 4.90
    assert round(padded + (ORIN.reformats_bytes - ORIN.counted.bytes_high) / 152.8e9 * 1e3, 1) == 6.6
    assert round(2 * padded, 1) == 9.8
    assert round(8 * ms(RTX, None, None), 2) == 1.93
    exact = ORIN.reformats_bytes / ORIN.seconds / (152.8 / 204.8) / (2 * 256 / 8)
    assert round(exact / 1e9, 2) == 1.55


@BOTH
def test_no_roof_over_traffic_is_below_that_of_the_operations(side: Side) -> None:
    compute = ms(side, None, None)
    assert all(roof.seconds * 1e3 >= compute for roof in side.roofs)


# --- the page -------------------------------------------------------------------------------------


def test_the_page_on_the_thread_is_what_the_numbers_make_of_it() -> None:
    assert thread.PAGE.read_text(encoding="utf-8") == thread.render(), "python -m repro.thread writes it"
