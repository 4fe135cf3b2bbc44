"""What a bundle's numbers look like: roofline, sweep of channels, builds as dots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from repro.attained import Attained
from repro.observed import build_values
from repro.report import plot
from repro.report.text import cut, safe
from repro.roofline import Machine
from repro.schema import ConvStack, ModelSpec, Record

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

LABELLED = 16
"""Up to so many points of a roofline carry their names."""
SWEEP_POINTS = 3
MAX_ROWS = 40
TERA = 1e12


class Drawn(NamedTuple):
    """A figure, and what it shows in words."""

    drawing: Markup
    caption: str


def figures(
    found: Sequence[Attained], networks: Mapping[str, ModelSpec], records: Sequence[Record]
) -> Iterator[Drawn]:
    """Give every figure that there are numbers for."""
    if any(_bandwidths(each.machine) for each in found):
        yield roofline(found)
    if len(sweep := swept(found, networks)) >= SWEEP_POINTS:
        yield channels(sweep)
    if any(build_values(record) for record in records):
        yield builds(records)


def _bandwidths(machine: Machine) -> list[tuple[str, float]]:
    rates = (("at the pins", machine.pin_bytes_s), ("attainable", machine.attainable_bytes_s))
    return [(name, rate) for name, rate in rates if rate]


def roofline(found: Sequence[Attained]) -> Drawn:
    """Draw each record at its operations per byte (unfused) and the rate that it attained."""
    points = [(each.flop_byte, each.work.flop / each.seconds / TERA) for each in found]
    drawn = [(x, y, each) for (x, y), each in zip(points, found, strict=True) if 0 < y < math.inf]
    machine = next(each.machine for each in found if _bandwidths(each.machine))
    figure, axes = plot.blank(9, 4.6)
    peak = machine.flop_s or machine.attainable_flop_s
    ends = [x for x, _, _ in drawn]
    if peak:
        ends += [peak / rate for _, rate in _bandwidths(machine)]
    low, high = min(ends or [1.0]) / 2.5, max(ends or [1.0]) * 4
    for (name, rate), style in zip(_bandwidths(machine), ("-", "--"), strict=False):
        ridge = min(peak / rate, high) if peak else high
        shown = f"{rate / 1e9:,.0f} GB/s {name}"
        axes.plot(
            [low, ridge],
            [low * rate / TERA, ridge * rate / TERA],
            style,
            color=plot.SOFT,
            linewidth=1.4,
            label=shown,
        )
    compute = ((machine.flop_s, "peak", "-"), (machine.attainable_flop_s, "measured by calib-gemm", "--"))
    for flop_s, name, style in compute:
        if flop_s:
            axes.plot([low, high], [flop_s / TERA] * 2, style, color=plot.SOFT, linewidth=1.4)
            axes.annotate(
                f"{_round(flop_s / TERA)} TFLOP/s, {name}",
                (low, flop_s / TERA),
                xytext=(4, 5 if style == "-" else -13),
                textcoords="offset points",
                color=plot.SOFT,
                fontsize=9,
            )
    axes.plot([x for x, _, _ in drawn], [y for _, y, _ in drawn], "o", color=plot.SERIES[0], markersize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda *_: "")
    axes.grid(visible=True, axis="both")
    axes.legend(loc="lower right", fontsize=9, frameon=False, labelcolor=plot.INK)
    if len(drawn) <= LABELLED:
        _names(axes, drawn)
    axes.set_xlim(low, high)
    if drawn:
        # Names stand below their points.
        axes.set_ylim(bottom=min(axes.get_ylim()[0], min(y for _, y, _ in drawn) / 3))
    axes.set_xlabel("operations per byte, every layer on its own (FLOP/B)")
    axes.set_ylabel("operations per second (TFLOP/s)")
    return Drawn(
        plot.svg(figure, "Roofline with the records as points"),
        "Roofline. A point below the sloping line is bound by something else than memory at that rate, one "
        "below the flat line by something else than multiplying.",
    )


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _names(axes: Axes, drawn: Sequence[tuple[float, float, Attained]]) -> None:
    """Name the points, those that lie close together one under the other."""
    placed: list[tuple[float, float]] = []
    for x, y, each in sorted(drawn, key=lambda point: (-point[1], point[0])):
        near = sum(abs(math.log(x / a)) < 0.15 and abs(math.log(y / b)) < 0.18 for a, b in placed)
        placed.append((x, y))
        axes.annotate(
            _label(each.record),
            (x, y),
            xytext=(0, -16 - 11 * near),
            textcoords="offset points",
            ha="center",
            color=plot.INK,
            fontsize=9,
        )


def _label(record: Record) -> str:
    """Return a short name: the variant, else the record's."""
    return cut(safe(record.case.variant or record.record_name), 24)


def swept(found: Sequence[Attained], networks: Mapping[str, ModelSpec]) -> list[tuple[int, Attained]]:
    """Return the records that differ from each other in their channels only, by channels."""
    alike: dict[object, dict[int, Attained]] = {}
    for each in found:
        spec = networks.get(each.record.record_name)
        if not isinstance(spec, ConvStack) or len(set(spec.channels)) != 1:
            continue
        rest = (spec.height, spec.width, spec.kernel, spec.bias, spec.weights, spec.quantised)
        planned = sorted((name, str(value)) for name, value in each.record.settings.planned.items())
        group = (rest, len(spec.channels), tuple(planned), each.record.runtime.release.name)
        alike.setdefault(group, {}).setdefault(spec.channels[0], each)
    return sorted(max(alike.values(), key=len, default={}).items())


def channels(sweep: Sequence[tuple[int, Attained]]) -> Drawn:
    """Draw time, and the fraction attained of each roof, against channels."""
    figure, (left, right) = plot.blank(9, 3.6, ncols=2)
    width = [count for count, _ in sweep]
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(width, [str(count) for count in width], fontsize=9)
        axes.minorticks_off()
        axes.grid(visible=True, axis="both")
        axes.set_xlabel("channels")
    left.plot(width, [each.seconds * 1e3 for _, each in sweep], "o-", color=plot.SERIES[0])
    left.set_yscale("log")
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.yaxis.set_minor_formatter(lambda *_: "")
    left.set_title("time, ms", loc="left", fontsize=10.5)
    lines = (
        ("operations, peak", [each.share(None) for _, each in sweep]),
        ("operations, measured", [each.share(None, "attainable") for _, each in sweep]),
        ("memory, attainable", [_memory(each) for _, each in sweep]),
    )
    for (name, shares), colour in zip(lines, plot.SERIES, strict=False):
        there = [(c, 100 * s) for c, s in zip(width, shares, strict=True) if s is not None]
        if there:
            right.plot(*zip(*there, strict=True), "o-", color=colour, label=name)
    right.set_ylim(bottom=0)
    right.set_title("attained, %", loc="left", fontsize=10.5)
    if right.lines:
        right.legend(fontsize=9, frameon=False, labelcolor=plot.INK)
    return Drawn(
        plot.svg(figure, "Time and attained fraction against channels"),
        "Sweep of channels. Time that stays flat between two widths may be padding to a tile.",
    )


def _memory(each: Attained) -> float | None:
    """Return the rate of bytes, unfused, over what a copy attained: also where operations are the roof."""
    rate = each.machine.attainable_bytes_s
    return each.work.bytes_high / rate / each.seconds if rate else None


def builds(records: Sequence[Record]) -> Drawn:
    """Draw each build's time as a dot, one row for each record, one colour for each structure."""
    rows = [(record, values) for record in records if (values := build_values(record))][:MAX_ROWS]
    figure, axes = plot.blank(9, 0.9 + 0.36 * len(rows))
    for row, (record, _) in enumerate(rows):
        centre = math.fsum(rows[row][1]) / len(rows[row][1])
        structures = list(dict.fromkeys(build.structure_hash for build in record.builds))
        by_build = {build.id: structures.index(build.structure_hash) for build in record.builds}
        ids = list(dict.fromkeys(run.build for run in record.runs))
        for name, value in zip(ids, rows[row][1], strict=True):
            axes.plot(
                100 * math.expm1(min(value - centre, 50.0)),
                row,
                "o",
                color=plot.SERIES[by_build.get(name, 0) % len(plot.SERIES)],
                alpha=0.75,
                markersize=7,
            )
    labels = [f"{_label(record)}  {math.exp(min(_mean(v), 700.0)) / 1e6:.4g} ms" for record, v in rows]
    plot.row_axis(axes, labels)
    axes.axvline(0, color=plot.FAINT, linewidth=0.8)
    axes.set_xlabel("time of a build against the mean of its record, %")
    return Drawn(
        plot.svg(figure, "Builds as dots"),
        "Builds. Each dot is one build; another colour in a row is another structure. Two groups in a row "
        "are two kinds of builds.",
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
