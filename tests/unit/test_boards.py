"""The table of boards agrees with itself, and boards are found by what drivers call them."""

from __future__ import annotations

import pytest

from repro import boards, roofline
from repro.boards import Headline, Row
from repro.errors import UsageError

ROWS = tuple(boards.table().values())
HEADLINES = [(row, headline) for row in ROWS for headline in row.headlines]


def test_every_board_has_a_source_and_an_id_of_its_own() -> None:
    assert len(ROWS) == 28
    assert all(row.sources for row in ROWS)
    assert boards.traps()


@pytest.mark.parametrize(("row", "headline"), HEADLINES, ids=lambda each: getattr(each, "id", ""))
def test_headlines_follow_from_the_rates(row: Row, headline: Headline) -> None:
    peak = roofline.peak_flop_s(
        row,
        headline.rate,
        sm_count=row.sm_count,
        sm_hz=row.reference_mhz * 1e6,
        sparse=headline.sparse,
    )
    assert peak is not None
    assert peak / 1e12 / headline.tera == pytest.approx(1, abs=0.027)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_bandwidths_follow_from_clock_and_bus(row: Row) -> None:
    if row.memory.clock_mhz is not None:
        # H200's vendor states 4.8 TB/s where its pins give 4.9.
        assert row.memory.bytes_s(row.memory.clock_mhz) == pytest.approx(row.memory.bytes_s(), rel=0.025)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_power_modes_never_add_sms(row: Row) -> None:
    assert all(mode.sm_count <= row.sm_count for mode in row.modes)


def test_a_power_mode_may_switch_sms_off() -> None:
    modes = {mode.name: mode.sm_count for mode in boards.find("agx-orin-64gb").modes}
    assert modes == {"MAXN": 16, "15W": 6, "30W": 8, "50W": 16}


def test_consumer_boards_halve_fp16_with_fp32_sums_and_orin_does_not() -> None:
    halved = {
        row.id
        for row in ROWS
        if row.tensor_ops_per_sm_clock["fp16_acc32"] < row.tensor_ops_per_sm_clock["fp16_acc16"]
    }
    assert halved == {"rtx-3080-10gb", "rtx-3090", "rtx-4090", "rtx-5090"}


@pytest.mark.parametrize(
    ("name", "capability", "sms", "expected"),
    [
        ("NVIDIA H200", "9.0", 132, "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "9.0", 132, "h100-sxm"),
        ("NVIDIA H100 PCIe", "9.0", 114, "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "8.0", 108, "a100-80gb-sxm"),
        ("NVIDIA A100-PCIE-40GB", "8.0", 108, "a100-40gb"),
        ("NVIDIA A10", "8.6", 72, "a10"),
        ("NVIDIA L40S", "8.9", 142, "l40s"),
        ("NVIDIA L4", "8.9", 58, "l4"),
        ("Tesla T4", "7.5", 40, "t4"),
        ("NVIDIA GeForce RTX 3080", "8.6", 68, "rtx-3080-10gb"),
        ("Jetson AGX Orin 64GB", "8.7", 8, "agx-orin-64gb"),
        ("Jetson Orin NX 16GB (Super)", "8.7", 8, "orin-nx-16gb-super"),
        ("Jetson Orin NX 16GB", "8.7", 8, "orin-nx-16gb"),
        # The laptop's, the 12GB one, a slice, a sibling: other chips under nearly the same name.
        ("NVIDIA GeForce RTX 3080 Laptop GPU", "8.6", 48, None),
        ("NVIDIA GeForce RTX 3080", "8.6", 70, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "9.0", 16, None),
        ("NVIDIA A10G", "8.6", 72, None),
        ("NVIDIA H200", "8.0", 132, None),
        ("Jetson AGX Orin Developer Kit", "8.7", 16, None),
        ("NVIDIA GeForce GTX 1080", "6.1", 20, None),
        ("", None, None, None),
        (None, "9.0", 132, None),
    ],
)
def test_boards_are_matched_by_name_and_figures(
    name: str | None, capability: str | None, sms: int | None, expected: str | None
) -> None:
    row = boards.match(name, capability, sms)
    assert (row.id if row else None) == expected


def test_an_unknown_board_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean h200-sxm"):
        boards.find("h200-sxn")
