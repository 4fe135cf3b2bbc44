"""A comparison as a page: the verdicts, builds and runs as dots with intervals, then the tables."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import ReproError
from repro.report import html, plot
from repro.report.comparison import WORDS, Account, by_variant
from repro.report.text import safe
from repro.schema import Compared, Comparison, Estimate, Side

if TYPE_CHECKING:
    from markupsafe import Markup

_NAME_COLUMNS = 30


def write(path: Path, account: Account, comparison: Comparison) -> None:
    """Write the page to `path`, whole or not at all; raise `ReproError` where that can't be done."""
    text = render(account, comparison)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ReproError(f"can't write {path} ({error.strerror})", "name another file with --html") from None


def render(account: Account, comparison: Comparison) -> str:
    """Return the page; raise `ReproError` where it would not fit into a ticket."""
    drawings = [
        (what, draw(what, group, comparison.margin), _caption(group, comparison.margin))
        for what, group in by_variant(comparison)
        if any(side.builds for each in group for side in (each.a, each.b))
    ]
    return html.render("comparison", title=account.title, account=account, drawings=drawings)


def draw(what: str, group: Sequence[Compared], margin: float) -> Markup:
    """Return the figure of one variant: all its sides, and the changes against the first."""
    sides = [group[0].a, *(each.b for each in group)]
    changes = _changes(group)
    heights = [0.5 + 0.42 * len(sides), 0.5 + 0.36 * len(changes)]
    figure, (times, ratios) = plot.blank(
        8.2, sum(heights) + 0.5, nrows=2, gridspec_kw={"height_ratios": heights}
    )
    plot.row_axis(times, [_short(side.name) for side in sides])
    for row, side in enumerate(sides):
        _side(times, row, side, plot.SERIES[row % len(plot.SERIES)])
    times.set_xlabel("time of one inference, ms")
    plot.row_axis(ratios, [name for name, _, _ in changes])
    limit = 100 * margin
    ratios.axvspan(100 / (1 + margin) - 100, limit, color=plot.WASH, zorder=0)
    ratios.axvline(0, color=plot.FAINT, linewidth=1)
    for row, (_, one, rounds) in enumerate(changes):
        at = [100 * (ratio - 1) for ratio in rounds]
        ratios.scatter(at, [row + 0.18] * len(at), s=14, color=plot.FAINT, linewidths=0)
        if one is not None and one.high < 2:
            low, centre, high = (100 * (ratio - 1) for ratio in (one.low, one.ratio, one.high))
            ratios.plot([low, high], [row, row], color=plot.INK, linewidth=2.2, solid_capstyle="butt")
            ratios.plot([centre], [row], "o", color=plot.INK, markersize=5)
    ratios.set_xlabel("change of the time, %; shaded: within the margin")
    return plot.svg(figure, f"Times and changes of {what}")


def _side(axes: Any, row: int, side: Side, colour: str) -> None:
    builds = [build.value_ns / 1e6 for build in side.builds]
    # Evenly up and down, in the order of building: dots of equal time stay apart.
    spread = [0.2 * ((i % 3) - 1) for i in range(len(builds))]
    for build, shift in zip(side.builds, spread, strict=True):
        if len(build.runs_ns) > 1:
            at = [run / 1e6 for run in build.runs_ns]
            axes.plot(at, [row + shift] * len(at), color=colour, linewidth=0.7, alpha=0.5)
            axes.scatter(
                at, [row + shift] * len(at), s=9, facecolors="none", edgecolors=colour, linewidths=0.7
            )
    axes.scatter(builds, [row + shift for shift in spread], s=26, color=colour, linewidths=0, alpha=0.8)
    if side.value_ns is not None and side.low_ns is not None and side.high_ns is not None:
        low, high = side.low_ns / 1e6, side.high_ns / 1e6
        if high < 2 * low:
            axes.plot([low, high], [row + 0.34] * 2, color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot([side.value_ns / 1e6] * 2, [row + 0.26, row + 0.42], color=colour, linewidth=2)


def _changes(group: Sequence[Compared]) -> list[tuple[str, Estimate | None, tuple[float, ...]]]:
    if len(group) > 1:
        return [(_short(each.b.name), next(iter(each.estimates), None), each.rounds) for each in group]
    (only,) = group
    found: list[tuple[str, Estimate | None, tuple[float, ...]]] = [
        (one.estimand.replace("_", " "), one, only.rounds if one.unit == "rounds" else ())
        for one in only.estimates
    ]
    if only.cycles:
        found.append(("clock cycles", only.cycles, ()))
    return found or [("nothing was repeated", None, ())]


def _caption(group: Sequence[Compared], margin: float) -> str:
    text = (
        "A dot is a build; where a build has several runs, small rings are its runs. The bar below is the "
        "95 % interval of the mean. Below: the change of the time with its 95 % interval; the shaded band is "
        f"the margin of {100 * margin:g} %."
    )
    if group[0].rounds:
        text += " Grey dots there are rounds of the alternating session."
    verdicts = "; ".join(f"{safe(each.b.name)} is {WORDS[each.verdict.name]}" for each in group)
    return f"{text} Verdict: {verdicts}."


def _short(name: str) -> str:
    shown = safe(name)
    return shown if len(shown) <= _NAME_COLUMNS else shown[: _NAME_COLUMNS - 1] + "…"
