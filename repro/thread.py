"""The thread worked through: its claims recomputed from the case, the table of boards and arithmetic.

`python -m repro.thread` writes `docs/thread.md`; a test holds that the file is what this makes of it.
What the thread doesn't say is assumed here, once and by name, and printed with the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from repro import boards, cases, roofline, work
from repro.roofline import Machine, Roof
from repro.schema import Reference, StatedEfficiency, Work

PAGE = Path(__file__).parent.parent / "docs" / "thread.md"
TEMPLATE = PAGE.with_name("thread.md.jinja")


class Assumed(NamedTuple):
    """What stands in for readings that the thread doesn't have."""

    reference: str
    board: str
    sm_mhz: float
    sm_source: str
    attainable_gb_s: float
    attainable_source: str
    statistic: str
    """The one of the thread's figures that its own formula uses."""


ASSUMED = (
    Assumed(
        "thread-orin",
        "agx-orin-32gb",
        816.0,
        "the thread says so: 40W mode",
        152.8,
        "measured by others on an AGX Orin 64GB, whose memory is the same (boards.toml)",
        "median_ms",
    ),
    Assumed(
        "thread-rtx3080",
        "rtx-3080-10gb",
        1710.0,
        "assumed: the board's rated boost, the thread names no clock",
        692.0,
        "assumed: 91 % of the pin rate, as is usual for GDDR6X",
        "min_ms",
    ),
)
SLOW_EMC_MHZ = 2133.0
"""The other memory clock of an AGX Orin, which its 15W mode sets."""


class Side(NamedTuple):
    """One device of the thread, with every roof that its figures give."""

    assumed: Assumed
    reference: Reference
    claim: StatedEfficiency
    row: boards.Row
    seconds: float
    """The thread's time, to three digits."""
    machine: Machine
    """With the peak for dense FP16 and FP16 sums, which favours no side."""
    flop_s_acc32: float
    compute_acc32_s: float
    roofs: tuple[Roof, ...]
    counted: Work
    reformats_bytes: int
    """Unfused, with a copy of the input and one of the output to and from another layout."""

    def roof(self, traffic: roofline.Traffic | None, bandwidth: roofline.Bandwidth | None) -> Roof:
        """Return a roof that the thread's figures do give."""
        found = roofline.find(self.roofs, traffic, bandwidth)
        if found is None:
            raise LookupError(f"no roof {traffic} at {bandwidth}")
        return found

    def attained(self, traffic: roofline.Traffic | None, bandwidth: roofline.Bandwidth | None) -> float:
        """Return roof over measured time."""
        return self.roof(traffic, bandwidth).seconds / self.seconds

    @property
    def compute_s(self) -> float:
        """Time of the operations alone."""
        return self.roof(None, None).seconds

    @property
    def forum_sparse(self) -> float:
        """The thread's formula with its own peak."""
        return roofline.forum_efficiency(self.claim.flop, self.claim.peak_flops, self.claim.time_ms / 1e3)

    @property
    def forum_dense(self) -> float:
        """The thread's formula with the peak for dense weights at the clock that was set."""
        return roofline.forum_efficiency(self.counted.flop, self.machine.flop_s or 0.0, self.seconds)

    @property
    def sm_clocks(self) -> float:
        """SM-clocks spent on one inference."""
        return roofline.sm_clocks(self.seconds, self.machine) or 0.0

    @property
    def implied_gb_s(self) -> float:
        """Mean rate of memory if both layout changes ran, in 10⁹ bytes per second."""
        return roofline.implied_bytes_s(self.reformats_bytes, self.seconds) / 1e9


def sides() -> tuple[Side, Side]:
    """Return both devices of the thread: the Jetson, then the GeForce."""
    experiment = cases.resolve(cases.load("conv16"), None)
    counted = work.count(experiment.onnx["fp16"], "fp16")
    orin, rtx = (_side(experiment.case, counted, assumed) for assumed in ASSUMED)
    return orin, rtx


def _side(case: cases.Case, counted: Work, assumed: Assumed) -> Side:
    row = boards.find(assumed.board)
    reference = next(each for each in case.references if each.id == assumed.reference)
    claim = next(
        each for each in case.claims if isinstance(each, StatedEfficiency) and each.record == reference.id
    )
    hz = assumed.sm_mhz * 1e6
    peaks = [
        roofline.peak_flop_s(row, rate, sm_count=row.sm_count, sm_hz=hz)
        for rate in ("fp16_acc16", "fp16_acc32")
    ]
    acc16, acc32 = (peak or 0.0 for peak in peaks)
    machine = Machine(
        row.sm_count, hz, acc16, row.memory.bytes_s(), assumed.attainable_gb_s * 1e9, (assumed.sm_source,)
    )
    reformats = counted.bytes_high + 2 * (counted.bytes_ends or 0)
    traffic: dict[roofline.Traffic, int] = {
        "fused": counted.bytes_low,
        "unfused": counted.bytes_high,
        "reformats": reformats,
    }
    return Side(
        assumed,
        reference,
        claim,
        row,
        round(reference.statistics[assumed.statistic], 2) / 1e3,
        machine,
        acc32,
        counted.flop / acc32,
        roofline.roofs(counted.flop, traffic, machine),
        counted,
        reformats,
    )


def render() -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 - Markdown, from our own numbers
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    orin, rtx = sides()
    # Explanations of Orin's time that the thread leaves open, by what each would give.
    share = orin.assumed.attainable_gb_s / orin.row.memory.gb_s
    slow_emc_s = orin.reformats_bytes / (orin.row.memory.bytes_s(SLOW_EMC_MHZ) * share)
    exact_bytes_s = orin.reformats_bytes / orin.seconds / share
    ends_s = (orin.reformats_bytes - orin.counted.bytes_high) / (orin.assumed.attainable_gb_s * 1e9)
    case = cases.load("conv16")
    sweep = {
        width: work.count(cases.resolve(case, width).onnx["fp16"], "fp16")
        for width in case.sets["sweep:channels"]
    }
    first = [
        next(
            w
            for w, each in sweep.items()
            if each.flop / each.bytes_high > (side.machine.ridge_flop_byte or 0)
        )
        for side in (orin, rtx)
    ]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        orin=orin,
        rtx=rtx,
        widths=[(width, each) for width, each in sweep.items() if width in ("c16", "c32", "c64", "c128")],
        orin_width=first[0],
        rtx_width=first[1],
        slow_emc_s=slow_emc_s,
        exact_emc_hz=exact_bytes_s / (2 * orin.row.memory.bus_bits / 8),
        padded_s=4 * orin.compute_s + ends_s,
        faster_rtx_clocks=roofline.sm_clocks(rtx.seconds, rtx.machine._replace(sm_hz=1900e6)),
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
