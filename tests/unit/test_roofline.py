"""Roofs: peaks from rates, and nothing where figures are missing."""

from __future__ import annotations

from repro import boards, roofline
from repro.roofline import Machine


def test_a_rate_that_a_board_lacks_gives_no_peak() -> None:
    assert roofline.peak_flop_s(boards.find("t4"), "fp4", sm_count=40, sm_hz=1e9) is None


def test_sparsity_counts_only_where_it_ran_and_only_on_tensor_cores() -> None:
    row = boards.find("h200-sxm")
    dense, sparse = (
        roofline.peak_flop_s(row, "fp16_acc32", sm_count=132, sm_hz=1e9, sparse=on) for on in (False, True)
    )
    assert sparse == 2 * (dense or 0)
    plain = roofline.peak_flop_s(row, "fp32", sm_count=132, sm_hz=1e9, sparse=True)
    assert plain == 132 * 256 * 1e9


def test_without_figures_there_is_no_roof() -> None:
    nothing = Machine(None, None, None, None)
    assert roofline.roofs(10, {"fused": 10}, nothing) == ()
    assert (nothing.ridge_flop_byte, nothing.sm_clocks_s, nothing.bytes_per_sm_clock) == (None, None, None)
    assert roofline.sm_clocks(1.0, nothing) is None


def test_a_net_without_products_has_memory_roofs_only() -> None:
    machine = Machine(1, 1e9, 1e12, 1e9)
    (roof,) = roofline.roofs(0, {"fused": 10**9}, machine)
    assert (roof.name, roof.seconds, roof.side) == ("fused at pin", 1.0, "memory")
