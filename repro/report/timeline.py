"""What the machine did while a session went on: clocks, power and temperature against its phases.

All from the readings in the bundle. A line is thinned to what the figure can show, and keeps the lowest
and the highest reading of every stretch, so that a short fall of a clock stays visible. Where nothing
was read there is no line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from repro import bundle as container
from repro import clocks
from repro.bundle import Bundle
from repro.observed import recordings
from repro.report import plot
from repro.report.figures import Drawn
from repro.report.text import cut, safe
from repro.schema import Phase, Record
from repro.telemetry import Recorded

STRETCHES = 300
"""A line is drawn in so many stretches at most."""
MOST_RUNS = 200
NAMED_RUNS = 12
MOST_LINES = 3
MOST = 1e9
"""No reading of a machine is larger."""
LATEST_S = 1e7
_RAILS = ("vdd_in", "vin", "vdd_gpu_soc", "vdd_cpu_gpu_cv", "vdd_gpu")
_HEAT = ("tj", "gpu", "cpu")
_STAGES = ("build", "profile", "check")


class Line(NamedTuple):
    """A channel to draw: points in seconds of the session; a gap is a point that is not a number."""

    label: str
    x: list[float]
    y: list[float]
    dashed: bool = False


def figures(bundle: Bundle) -> Iterator[Drawn]:
    """Give the timeline of a bundle's session, if anything of it was read."""
    records = tuple(bundle.records.values())
    files = {each.file for record in records for each in record.telemetry.channels if each.file}
    recorded = recordings(records[0], container.contents(bundle, sorted(files)))
    rows = panels(recorded)
    if rows:
        yield draw(rows, records, clocks.spans(recorded))


def panels(recorded: Mapping[str, Recorded]) -> list[tuple[str, list[Line]]]:
    """Return the lines of each panel that has any: (what, lines)."""
    found = (
        ("clock, MHz", _clock_lines(recorded)),
        ("power, W", _lines(recorded, "power", _RAILS)),
        ("temperature, °C", _lines(recorded, "temperature", _HEAT)),
    )
    return [(what, lines) for what, lines in found if lines]


def _clock_lines(recorded: Mapping[str, Recorded]) -> list[Line]:
    lines = []
    for name, sources in (
        ("GPU", clocks.SM_CLOCKS),
        ("memory", clocks.MEMORY_CLOCKS),
        ("processor", (("jetson", "cpu0_clock"), *clocks.CPU_CLOCKS)),
    ):
        line = next(filter(None, (_line(recorded, *source, name) for source in sources)), None)
        if line:
            lines.append(line)
    cap = _line(recorded, "jetson", "gpu_clock_cap", "GPU's cap")
    return [*lines, cap._replace(dashed=True)] if cap else lines


def _lines(recorded: Mapping[str, Recorded], kind: str, first: Sequence[str]) -> list[Line]:
    """Return the lines of a kind: the driver's, else the board's, those called `first` before others."""
    if line := _line(recorded, "nvml", kind, "GPU"):
        return [line]
    for probe in ("jetson_power", "jtop", "tegrastats"):
        prefix = f"{kind}_"
        names = (
            [name for name in recorded[probe].names if name.startswith(prefix)] if probe in recorded else []
        )
        names.sort(key=lambda name: _rank(name.removeprefix(prefix), first))
        lines = [_line(recorded, probe, name, name.removeprefix(prefix)) for name in names]
        if told := [line for line in lines if line]:
            return told[:MOST_LINES]
    return []


def _rank(name: str, first: Sequence[str]) -> int:
    return first.index(name) if name in first else len(first)


def _line(recorded: Mapping[str, Recorded], probe: str, channel: str, label: str) -> Line | None:
    if probe not in recorded or channel not in recorded[probe].names:
        return None
    told = recorded[probe]
    values = told.columns[1 + told.names.index(channel)]
    points = [
        (time / 1e9, value if abs(value) < MOST else math.nan)
        for time, value in zip(told.columns[0], values, strict=True)
        if 0 <= time / 1e9 < LATEST_S
    ]
    points.sort(key=lambda point: point[0])
    if all(math.isnan(value) for _, value in points):
        return None
    kept = thin(points)
    return Line(cut(safe(label), 18), [x for x, _ in kept], [y for _, y in kept])


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most two points of each stretch, its lowest and its highest, and one for a gap."""
    if len(points) <= 2 * STRETCHES:
        return list(points)
    size = math.ceil(len(points) / STRETCHES)
    kept = []
    for at in range(0, len(points), size):
        part = points[at : at + size]
        told = [point for point in part if not math.isnan(point[1])]
        if len(told) < len(part) and (not told or math.isnan(part[0][1])):
            kept.append((part[0][0], math.nan))
        ends = {min(told, key=lambda p: p[1]), max(told, key=lambda p: p[1])} if told else set()
        kept += sorted(ends)
    return kept


def draw(
    rows: Sequence[tuple[str, list[Line]]], records: Sequence[Record], held: Sequence[tuple[float, float]]
) -> Drawn:
    """Draw the panels under a strip of phases, all over the same seconds."""
    heights = [0.42, *(1.5 for _ in rows)]
    figure, axes = plot.blank(
        9, sum(heights) + 0.6, nrows=len(heights), sharex=True, gridspec_kw={"height_ratios": heights}
    )
    windows = [phase for record in records for run in record.runs for phase in run.phases][: 2 * MOST_RUNS]
    measured = [phase for phase in windows if phase.name == "measure"]
    _phases(axes[0], records, windows)
    for (what, lines), panel in zip(rows, axes[1:], strict=True):
        for phase in measured:
            panel.axvspan(*_seconds(phase), color=plot.WASH, zorder=0)
        for start, end in held[:MOST_RUNS]:
            panel.axvspan(start / 1e9, end / 1e9, color=plot.BAD, alpha=0.22, linewidth=0, zorder=1)
        for line, colour in zip(lines, plot.SERIES, strict=False):
            panel.plot(
                line.x,
                line.y,
                "--" if line.dashed else "-",
                color=plot.FAINT if line.dashed else colour,
                linewidth=1.1 if line.dashed else 1.5,
                marker="o" if len(line.x) < 40 and not line.dashed else None,
                markersize=2.5,
                label=line.label,
            )
        panel.set_title(what, loc="left", fontsize=10)
        panel.grid(visible=True, axis="both")
        _room(panel)
        panel.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 0.98),
            ncols=4,
            fontsize=8.5,
            labelcolor=plot.INK,
            borderpad=0,
            frameon=False,
        )
    axes[-1].set_xlabel("seconds of the session")
    caption = (
        "The machine during the session. Above: builds, before measuring (grey) and measuring (blue); "
        "the panels are shaded where something was measured. A gap is where nothing was read."
    )
    if held:
        caption += " Red: something held the clocks down."
    return Drawn(plot.svg(figure, "Clocks, power and temperature against the phases"), caption)


def _room(panel: Any) -> None:
    """Leave room around lines that hardly move: what is steady is to look steady."""
    low, high = panel.get_ylim()
    room = 0.1 * max(abs(low), abs(high)) - (high - low)
    if room > 0:
        panel.set_ylim(low - room / 2, high + room / 2)


def _phases(strip: Any, records: Sequence[Record], windows: Sequence[Phase]) -> None:
    first = min((phase.start_ns for phase in windows), default=None)
    before = [
        Phase(stage.name, stage.start_ns, stage.end_ns)
        for record in records
        for stage in record.stages
        if stage.name in _STAGES and stage.start_ns is not None and stage.end_ns is not None
        # Where builds and runs take turns, a stage lasts as long as the session and says nothing.
        if first is None or stage.end_ns <= first
    ]
    if before:
        all_of_it = Phase("", min(s.start_ns for s in before), max(s.end_ns for s in before))
        strip.axvspan(*_seconds(all_of_it), color=plot.LINE, linewidth=0)
        strip.text(sum(_seconds(all_of_it)) / 2, 1.15, "builds", ha="center", fontsize=8, color=plot.SOFT)
    for phase in windows:
        colour = plot.SERIES[0] if phase.name == "measure" else plot.FAINT
        strip.axvspan(*_seconds(phase), color=colour, linewidth=0)
    runs = [(run.id, run.phases[-1]) for record in records for run in record.runs if run.phases]
    for name, phase in runs if len(runs) <= NAMED_RUNS else ():
        start, end = _seconds(phase)
        strip.text((start + end) / 2, 1.15, cut(safe(name), 8), ha="center", fontsize=8, color=plot.SOFT)
    strip.set_ylim(0, 1)
    strip.set_yticks([])
    strip.grid(visible=False)
    strip.spines["bottom"].set_visible(False)
    strip.tick_params(bottom=False)


def _seconds(phase: Phase) -> tuple[float, float]:
    start, end = (min(max(0.0, each / 1e9), LATEST_S) for each in (phase.start_ns, phase.end_ns))
    return start, end
