"""Bounds of a time, and how much of each was attained: pure arithmetic, never one "efficiency".

A *roof* is the least time that some limit allows: the rate of the multipliers, or the bytes that must
move. The attained fraction is roof over measured time. Each roof says which bytes it counts (`fused`:
input, weights and output once; `unfused`: every tensor between layers written and read; `l2`: as that,
without what may stay in the L2 cache; `reformats`: with the copies that change layouts) and at which rate
(`pin`: what the board is rated for; `attainable`: what a calibration case reached). Times in seconds,
rates in units per second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from repro.boards import Row, TensorRate

Traffic: TypeAlias = Literal["fused", "unfused", "l2", "reformats"]
Bandwidth: TypeAlias = Literal["pin", "attainable"]


class Machine(NamedTuple):
    """The denominators: what a board could do in one second, as it was run."""

    sm_count: int | None
    sm_hz: float | None
    flop_s: float | None
    """Peak of the multipliers at that clock, by type and accumulator; dense unless a sparse kernel ran."""
    pin_bytes_s: float | None
    attainable_bytes_s: float | None = None
    assumptions: tuple[str, ...] = ()
    """Everything in here that was not read or measured."""
    attainable_flop_s: float | None = None

    @property
    def ridge_flop_byte(self) -> float | None:
        """Operations per byte above which multiplying takes longer than moving, at the pins."""
        return self.flop_s / self.pin_bytes_s if self.flop_s and self.pin_bytes_s else None

    @property
    def sm_clocks_s(self) -> float | None:
        """SM-clocks per second: all SMs together."""
        return self.sm_count * self.sm_hz if self.sm_count and self.sm_hz else None

    @property
    def bytes_per_sm_clock(self) -> float | None:
        """Bytes that memory could bring for each clock of each SM, at the pins."""
        clocks = self.sm_clocks_s
        return self.pin_bytes_s / clocks if clocks and self.pin_bytes_s else None


class Roof(NamedTuple):
    """A least time, and which side holds it up."""

    traffic: Traffic | None
    """`None`: operations alone."""
    bandwidth: Bandwidth | None
    seconds: float
    side: Literal["compute", "memory"]

    @property
    def name(self) -> str:
        """What a reader calls it: `compute`, `unfused at pin`."""
        if self.traffic is None:
            return "compute" if self.bandwidth is None else f"compute at {self.bandwidth}"
        return f"{self.traffic} at {self.bandwidth}"


def peak_flop_s(
    row: Row, rate: TensorRate | Literal["fp32"], *, sm_count: int, sm_hz: float, sparse: bool = False
) -> float | None:
    """Return SMs × operations per SM and clock × clock; `None` where the board has no such rate.

    `sparse`: a kernel for 2:4 sparse weights ran. Being allowed to is not enough.
    """
    ops = row.fp32_ops_per_sm_clock if rate == "fp32" else row.tensor_ops_per_sm_clock.get(rate)
    if ops is None:
        return None
    return sm_count * ops * sm_hz * (row.sparse_factor if sparse and rate != "fp32" else 1)


def roofs(flop: int, traffic: dict[Traffic, int], machine: Machine) -> tuple[Roof, ...]:
    """Return every roof that the machine's figures give: operations alone, then each traffic and rate.

    A roof over traffic is never below that of the operations; `side` tells which of them it is.
    """
    compute = flop / machine.flop_s if machine.flop_s else None
    found = [Roof(None, None, compute, "compute")] if compute else []
    if flop and machine.attainable_flop_s:
        found.append(Roof(None, "attainable", flop / machine.attainable_flop_s, "compute"))
    rates: list[tuple[Bandwidth, float | None]] = [
        ("pin", machine.pin_bytes_s),
        ("attainable", machine.attainable_bytes_s),
    ]
    for name, count in traffic.items():
        for bandwidth, rate in rates:
            if not rate:
                continue
            memory = count / rate
            held = compute is not None and compute > memory
            found.append(Roof(name, bandwidth, max(memory, compute or 0.0), "compute" if held else "memory"))
    return tuple(found)


def find(roofs: Sequence[Roof], traffic: Traffic | None, bandwidth: Bandwidth | None) -> Roof | None:
    """Return the roof of these bytes at this rate, `None` where the figures didn't give it."""
    return next((r for r in roofs if (r.traffic, r.bandwidth) == (traffic, bandwidth)), None)


def forum_efficiency(flop: float, peak_flop_s: float, seconds: float) -> float:
    """Return operations over peak × time, as the thread calculates it (a fraction, not percent).

    It takes whatever peak is put in, so it is only as good as the assumptions beside it.
    """
    return flop / (peak_flop_s * seconds)


def implied_bytes_s(count: int, seconds: float) -> float:
    """Return the mean rate at which `count` bytes moved, had nothing else moved."""
    return count / seconds


def sm_clocks(seconds: float, machine: Machine) -> float | None:
    """Return the SM-clocks spent: time × SMs × clock, to read times across boards."""
    return seconds * machine.sm_clocks_s if machine.sm_clocks_s else None
