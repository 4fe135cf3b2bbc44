"""What a process of trtexec says while it runs: just as much as the backend must know to judge it.

Lines are heard one by one as they come, since a verbose build prints tens of MB. Logs that somebody
attached to a ticket are another matter: they may be pasted, wrapped or cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from repro.trtexec.readback import GRAPH_LOST

Outcome = Literal["passed", "failed", "unfinished"]

_LINE = re.compile(r"\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[([VIWEF])\] ?(?:\[TRT\] )?(.*)")
_END = re.compile(r"&&&& (\w+) TensorRT\.trtexec \[TensorRT v(\d+)\](?: \[b(\d+)\])?")
_ECHO = re.compile(r"([^:]{1,60}): ?(.*)")
_FIGURES = re.compile(
    r"(GPU Compute Time|Enqueue Time): min = (\S+) ms, max = (\S+) ms, mean = (\S+) ms, median = (\S+) ms(.*)"
)
_PERCENTILE = re.compile(r"percentile\(([\d.]+)%\) = (\S+) ms")
_CODE = re.compile(r"Error Code (\d+)")
_NO_MEMORY = re.compile(r"out ?of ?memory|memory \(\d+ bytes\) could not be allocated", re.IGNORECASE)
_DEVICE = ("Selected Device", "Compute Capability", "SMs")


class Printed(NamedTuple):
    """A line of the performance summary, in milliseconds, as printed."""

    minimum: float
    maximum: float
    mean: float
    median: float
    percentiles: dict[float, float]


class Heard:
    """What was said so far."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.build: str | None = None
        self.outcome: Outcome = "unfinished"
        self.echo: dict[str, str] = {}
        """The options as trtexec understood them, and other lines of the same form; the first of each."""
        self.printed: dict[str, Printed] = {}
        self.warnings: list[str] = []
        """What the performance summary warns of."""
        self.errors: list[str] = []
        self.last = ""
        self.graph_lost = False

    def line(self, text: str) -> str:
        """Hear a line; return its severity, "" where it has none."""
        if end := _END.match(text):
            self._end(end)
            return ""
        match = _LINE.match(text)
        severity, said = (match[1], match[2].rstrip()) if match else ("", text.strip())
        if said:
            self.last = said
        if severity == "V":
            return severity
        if GRAPH_LOST.search(said):
            self.graph_lost = True
        if severity in ("E", "F") and said:
            self.errors.append(said)
        elif figures := _FIGURES.fullmatch(said):
            name, low, high, mean, median, rest = figures.groups()
            percentiles = {float(p): float(value) for p, value in _PERCENTILE.findall(rest)}
            self.printed[name] = Printed(float(low), float(high), float(mean), float(median), percentiles)
        elif said.startswith("* "):
            self.warnings.append(said[2:])
        elif severity and (echo := _ECHO.fullmatch(said)):
            self.echo.setdefault(echo[1].strip(), echo[2].strip())
        return severity

    def _end(self, match: re.Match[str]) -> None:
        self.version, self.build = version(int(match[2])), match[3]
        if match[1] in ("PASSED", "FAILED"):
            self.outcome = "passed" if match[1] == "PASSED" else "failed"

    def device(self) -> dict[str, str]:
        """Return what it says of the GPU, as far as that names the GPU's kind."""
        return {label: self.echo[label] for label in _DEVICE if label in self.echo}


def cause(errors: Sequence[str]) -> tuple[str, str] | None:
    """Return a code and the words of what TensorRT's errors say went wrong, `None` where they say no code."""
    if short := next(filter(_NO_MEMORY.search, errors), None):
        return "out_of_memory", short
    if code := next(filter(None, map(_CODE.search, errors)), None):
        return f"Error Code {code[1]}", errors[0]
    return None


def version(number: int) -> str:
    """Return a banner's number as a version: 8502 is 8.5.2, 8510 is 8.5.10, 101601 is 10.16.1."""
    thousand = 1000 if number < 10_000 else 10_000
    return f"{number // thousand}.{number % thousand // 100}.{number % 100}"
