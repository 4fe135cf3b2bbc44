"""What a record attained of its roofs: the board's peaks at the clocks that were read.

Whatever is not a reading of that machine is an assumption, and is named as one.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from repro import boards, roofline
from repro.boards import TensorRate
from repro.roofline import Machine, Roof
from repro.schema import Layer, Record, Work

COPY, GEMM = "calib-copy", "calib-gemm"
"""The calibration cases that say what bandwidth and what rate of multiplying is attainable."""

MOST = 2**62
"""Counts and rates above this are no measurement: whoever wrote the record made them up."""

_SUMS = (
    # cuDNN and TensorRT name the types of inputs, output and sums; CUTLASS the instruction.
    (re.compile(r"f16f16_f16f16_f16|[_.]h\d{3,5}(?:gemm|fprop|_|$)"), "fp16"),
    (re.compile(r"f16f16_f16f32_f32|[_.]s\d{3,5}(?:gemm|fprop|_|$)"), "fp32"),
)
_TILE = re.compile(r"tilesize(\d{1,5})x(\d{1,5})x(\d{1,5})(?!\d)|_(\d{1,5})x(\d{1,5})_(\d{1,5})x\d+_")


class Tile(NamedTuple):
    """The block of outputs that a kernel calculates at once: pixels, output channels, length of sums."""

    m: int
    n: int
    k: int


class Calibration(NamedTuple):
    """What the calibration cases reached in the same session."""

    bytes_s: float | None = None
    flop_s: float | None = None
    precision: str | None = None
    """Of `flop_s`."""


class Attained(NamedTuple):
    """A record's time against its roofs."""

    record: Record
    seconds: float
    work: Work
    machine: Machine
    roofs: tuple[Roof, ...]
    sparse_flop_s: float | None
    """The peak for 2:4 sparse weights, as vendors print it."""

    def share(
        self, traffic: roofline.Traffic | None, bandwidth: roofline.Bandwidth | None = None
    ) -> float | None:
        """Return roof over time, `None` where the figures gave no such roof."""
        roof = roofline.find(self.roofs, traffic, bandwidth)
        return roof.seconds / self.seconds if roof else None

    @property
    def forum_efficiency(self) -> float | None:
        """What the thread's formula gives with the peak that it takes, that for sparse weights."""
        peak = self.sparse_flop_s
        return roofline.forum_efficiency(self.work.flop, peak, self.seconds) if peak else None

    @property
    def flop_byte(self) -> float:
        """Operations per byte, every layer on its own."""
        return self.work.flop / self.work.bytes_high if self.work.bytes_high else 0.0

    @property
    def sm_clocks(self) -> float | None:
        """SM-clocks spent on one inference."""
        return roofline.sm_clocks(self.seconds, self.machine)


def calibration(times: Iterable[tuple[Record, float]]) -> Calibration:
    """Return what the calibration records among `times` (record, seconds) reached."""
    found = Calibration()
    for record, seconds in times:
        if record.role != "calibration" or record.work is None or not _sound(record.work, seconds):
            continue
        if record.case.id == COPY:
            found = found._replace(bytes_s=record.work.bytes_low / seconds)
        elif record.case.id == GEMM:
            found = found._replace(flop_s=record.work.flop / seconds, precision=precision(record))
    return found


def of(record: Record, seconds: float, calibrated: Calibration) -> Attained | None:
    """Return a record's time of `seconds` against its roofs; `None` where its work was not counted."""
    counted = record.work
    if counted is None or not _sound(counted, seconds):
        return None
    made, sparse = machine(record, calibrated)
    traffic: dict[roofline.Traffic, int] = {"fused": counted.bytes_low, "unfused": counted.bytes_high}
    if counted.bytes_l2 is not None and counted.bytes_l2 != counted.bytes_high:
        traffic["l2"] = counted.bytes_l2
    if counted.bytes_reformats:
        traffic["reformats"] = counted.bytes_high + counted.bytes_reformats
    return Attained(record, seconds, counted, made, roofline.roofs(counted.flop, traffic, made), sparse)


def _sound(counted: Work, seconds: float) -> bool:
    """Tell whether these can be calculated with, whoever wrote them."""
    counts = (counted.flop, counted.bytes_low, counted.bytes_high, counted.bytes_l2, counted.bytes_reformats)
    return 0 < seconds < MOST and all(0 <= count < MOST for count in counts if count is not None)


def _readings(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and 0 < value < MOST]


def machine(record: Record, calibrated: Calibration) -> tuple[Machine, float | None]:
    """Return the board's rates as it was run, and its peak for sparse weights."""
    assumed: list[str] = []
    row = boards.table().get(record.board.matched_id or "")
    sm_count = record.board.sm_count if 0 < (record.board.sm_count or 0) < MOST else None
    read = _readings(run.sm_clock_mhz for run in record.runs)
    sm_hz = statistics.median(read) * 1e6 if read else None
    if sm_hz is None and row:
        sm_hz = row.reference_mhz * 1e6
        assumed.append(f"SM clock {row.reference_mhz:g} MHz, the board's reference: the runs tell none")
    flop_s = sparse_flop_s = None
    if row and sm_count and sm_hz:
        rate = _rate(record, row, assumed)
        sparse = _sparse_kernel_ran(record)
        if record.settings.planned.get("sparsity") and not sparse:
            assumed.append("dense peak: sparsity was allowed, but no kernel names it")
        if rate:
            flop_s = roofline.peak_flop_s(row, rate, sm_count=sm_count, sm_hz=sm_hz, sparse=sparse)
            sparse_flop_s = roofline.peak_flop_s(row, rate, sm_count=sm_count, sm_hz=sm_hz, sparse=True)
    pin = None
    if row:
        clocks = _readings(run.memory_clock_mhz for run in record.runs)
        pin = row.memory.bytes_s(statistics.median(clocks) if clocks else None)
        if not clocks:
            assumed.append(f"memory at its rated {row.memory.gb_s:g} GB/s: its clock was not read")
    return Machine(
        sm_count,
        sm_hz,
        flop_s,
        pin,
        calibrated.bytes_s,
        tuple(assumed),
        calibrated.flop_s if calibrated.precision == precision(record) else None,
    ), sparse_flop_s


def precision(record: Record) -> str | None:
    """Return the precision that a record was really run in."""
    seen = record.settings.effective.get("precision")
    value = seen.value if seen else record.settings.planned.get("precision")
    return value if isinstance(value, str) else None


def _rate(record: Record, row: boards.Row, assumed: list[str]) -> TensorRate | Literal["fp32"] | None:
    """Return which of the board's rates bounds a record; TF32's is not in the table."""
    kind = precision(record)
    if kind == "int8":
        return "int8"
    if kind == "fp32":
        return "fp32"
    if kind != "fp16":
        return None
    ops: Mapping[TensorRate, int] = row.tensor_ops_per_sm_clock
    if ops.get("fp16_acc16") == ops.get("fp16_acc32"):
        return "fp16_acc32"
    seen = sums(record.layers)
    if seen is None:
        assumed.append("sums in FP16, the faster on this board: no kernel says otherwise")
    return "fp16_acc32" if seen == "fp32" else "fp16_acc16"


def sums(layers: Iterable[Layer] | None) -> Literal["fp16", "fp32"] | None:
    """Return the type of the sums that all kernels which tell agree on, else `None`."""
    seen = {
        kind
        for layer in layers or ()
        for pattern, kind in _SUMS
        if pattern.search(layer.tactic or layer.name)
    }
    if len(seen) != 1:
        return None
    return "fp32" if "fp32" in seen else "fp16"


def tile(layer: Layer) -> Tile | None:
    """Return the tile that a kernel's name tells."""
    match = _TILE.search(layer.tactic or layer.name)
    sizes = [int(each) for each in match.groups() if each is not None] if match else [0]
    return Tile(*sizes) if min(sizes) > 0 and max(sizes) < MOST else None


def _sparse_kernel_ran(record: Record) -> bool:
    return any(
        re.search(r"sparse|spgemm", layer.tactic or "", re.IGNORECASE) for layer in record.layers or ()
    )
