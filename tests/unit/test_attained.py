"""What a record attained: rates that were read, assumptions that are named, names of kernels."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from repro import attained, boards
from repro.attained import Calibration, Tile
from repro.schema import Board, CaseRef, Effective, Layer, Record, Work
from tests.builders import make_record, make_run

replace = msgspec.structs.replace
WORK = Work(
    flop=10**9,
    bytes_low=10**6,
    bytes_high=3 * 10**6,
    unknown_ops=(),
    bytes_l2=2 * 10**6,
    bytes_reformats=10**6,
)
NOTHING = Calibration()


def on(row_id: str, precision: str = "fp16", **changes: Any) -> Record:
    """Return a record of 10 ms on a board of the table, with clocks that were read."""
    row = boards.find(row_id)
    record = make_record(
        runs=(make_run(0, 10.0, sm_clock_mhz=1000.0, memory_clock_mhz=2000.0),),
        work=WORK,
        board=Board(matched_id=row_id, compute_capability=row.compute_capability, sm_count=row.sm_count),
    )
    settings = replace(record.settings, effective={"precision": Effective(precision, "graph")})
    return replace(record, **{"settings": settings, **changes})


def kernels(*tactics: str) -> tuple[Layer, ...]:
    return tuple(Layer(f"kernel {i}", "kernel", tactic=tactic) for i, tactic in enumerate(tactics))


# --- denominators -------------------------------------------------------------------------------


def test_peak_and_bandwidth_are_those_of_the_clocks_that_were_read() -> None:
    machine, sparse = attained.machine(on("h200-sxm"), NOTHING)
    assert machine.flop_s == 132 * 4096 * 1e9
    assert sparse == 2 * machine.flop_s
    assert machine.pin_bytes_s == 2000e6 * 2 * 6144 / 8
    assert machine.assumptions == ()


def test_what_was_not_read_is_assumed_by_name() -> None:
    record = on("h200-sxm", runs=(make_run(0, 10.0),))
    machine, _ = attained.machine(record, NOTHING)
    row = boards.find("h200-sxm")
    assert machine.sm_hz == row.reference_mhz * 1e6
    assert machine.pin_bytes_s == row.memory.gb_s * 1e9
    assert [text.split(" ")[0] for text in machine.assumptions] == ["SM", "memory"]


def test_an_unknown_board_has_no_peak_but_what_was_measured() -> None:
    record = on("h200-sxm", board=Board(name="a new one", sm_count=10))
    machine, sparse = attained.machine(record, Calibration(1e9, 1e12, "fp16"))
    assert (machine.flop_s, machine.pin_bytes_s, sparse) == (None, None, None)
    assert (machine.attainable_bytes_s, machine.attainable_flop_s) == (1e9, 1e12)


@pytest.mark.parametrize(
    ("precision", "peak"), [("fp16", 4096), ("int8", 8192), ("fp32", 256), ("tf32", None), ("mixed", None)]
)
def test_each_precision_has_its_rate_or_none(precision: str, peak: int | None) -> None:
    machine, _ = attained.machine(on("h200-sxm", precision), NOTHING)
    assert machine.flop_s == (None if peak is None else 132 * peak * 1e9)


def test_a_rate_measured_in_another_precision_says_nothing() -> None:
    machine, _ = attained.machine(on("h200-sxm", "fp32"), Calibration(1e9, 1e12, "fp16"))
    assert machine.attainable_flop_s is None


@pytest.mark.parametrize(
    ("tactic", "ops", "assumed"),
    [
        ("xmma_fprop_f16f16_f16f32_f32_nhwc", 512, 0),
        ("xmma_fprop_f16f16_f16f16_f16_nhwc", 1024, 0),
        ("some_kernel", 1024, 1),
    ],
)
def test_geforce_is_bound_by_the_type_of_its_sums(tactic: str, ops: int, assumed: int) -> None:
    machine, _ = attained.machine(on("rtx-3080-10gb", layers=kernels(tactic)), NOTHING)
    assert machine.flop_s == 68 * ops * 1e9
    assert len(machine.assumptions) == assumed


@pytest.mark.parametrize(("tactic", "factor", "assumed"), [("sm80_sparse_gemm", 2, 0), ("sm80_gemm", 1, 1)])
def test_the_sparse_peak_is_for_kernels_that_are_sparse(tactic: str, factor: int, assumed: int) -> None:
    record = on("h200-sxm", layers=kernels(tactic))
    settings = replace(record.settings, planned={"sparsity": True})
    machine, _ = attained.machine(replace(record, settings=settings), NOTHING)
    assert machine.flop_s == factor * 132 * 4096 * 1e9
    assert len(machine.assumptions) == assumed


# --- calibration --------------------------------------------------------------------------------


def calibration(name: str, work: Work, **changes: Any) -> Record:
    return on(
        "h200-sxm", role="calibration", case=CaseRef(name, 1, None, "c" * 64, "full"), work=work, **changes
    )


def test_calibration_cases_give_rates() -> None:
    copy = calibration("calib-copy", replace(WORK, bytes_low=4 * 10**9))
    gemm = calibration("calib-gemm", replace(WORK, flop=10**12))
    assert attained.calibration([(copy, 0.001), (gemm, 0.002), (on("h200-sxm"), 1.0)]) == Calibration(
        4e12, 5e14, "fp16"
    )


def test_a_subject_of_such_a_name_is_no_calibration() -> None:
    record = replace(calibration("calib-copy", WORK), role="subject")
    assert attained.calibration([(record, 0.001)]) == NOTHING


# --- roofs --------------------------------------------------------------------------------------


def test_every_traffic_has_a_roof_and_a_share() -> None:
    found = attained.of(on("h200-sxm"), 0.01, Calibration(1e9, 1e12, "fp16"))
    assert found is not None
    assert {roof.name for roof in found.roofs} == {
        "compute",
        "compute at attainable",
        *(
            f"{what} at {rate}"
            for what in ("fused", "unfused", "l2", "reformats")
            for rate in ("pin", "attainable")
        ),
    }
    assert found.share("fused", "attainable") == pytest.approx(0.1)
    assert found.share("l2", "attainable") == pytest.approx(0.2)
    assert found.share("unfused", "attainable") == pytest.approx(0.3)
    assert found.share("reformats", "attainable") == pytest.approx(0.4)
    assert found.share(None, "attainable") == pytest.approx(0.1)
    assert found.forum_efficiency == pytest.approx(1e9 / (2 * 132 * 4096 * 1e9 * 0.01))
    assert found.sm_clocks == pytest.approx(132 * 1e9 * 0.01)
    assert found.flop_byte == pytest.approx(1000 / 3)


def test_without_a_count_nothing_is_attained() -> None:
    assert attained.of(on("h200-sxm", work=None), 0.01, NOTHING) is None


def test_a_processor_without_a_row_has_no_roof() -> None:
    found = attained.of(make_record(work=replace(WORK, bytes_l2=None)), 0.01, NOTHING)
    assert found is not None
    assert (found.roofs, found.forum_efficiency, found.sm_clocks) == ((), None, None)


# --- names of kernels ---------------------------------------------------------------------------

XMMA = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize256x32x32_stage4_warpsize4x1x1"
CUTLASS = "cutlass_tensorop_f16_s16816fprop_optimized_f16_64x128_32x6_nhwc_align8"


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ((XMMA,), "fp32"),
        ((CUTLASS,), "fp32"),
        (("cutlass_tensorop_h16816gemm_128x64_32x3_nn",), "fp16"),
        (("ampere_h1688gemm_128x128_ldg8_stages_32x1_nn",), "fp16"),
        ((XMMA, "cutlass_tensorop_h16816gemm_128x64_32x3_nn"), None),
        (("vectorized_elementwise_kernel",), None),
        ((), None),
    ],
)
def test_sums(names: tuple[str, ...], kind: str | None) -> None:
    assert attained.sums(kernels(*names)) == kind


@pytest.mark.parametrize(
    ("name", "tile"),
    [(XMMA, Tile(256, 32, 32)), (CUTLASS, Tile(64, 128, 32)), ("nchwToNhwcKernel", None)],
)
def test_tiles(name: str, tile: Tile | None) -> None:
    assert attained.tile(kernels(name)[0]) == tile
