"""Figures for pages: drawn by matplotlib, given as inline SVG in the page's own colours.

    figure, axes = plot.blank(8, 3)
    axes.plot(x, y, color=plot.SERIES[0])
    drawing = plot.svg(figure, "Time by release")

The colours here are stand-ins: in the SVG each becomes a CSS variable of the page, so one drawing is
legible in light and dark. Text stays text. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# No two of them, and nothing that matplotlib draws by itself, may have the same colour.
INK, SOFT, FAINT, LINE, WASH, SHEET = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
GOOD, BAD, UNSURE = "#070707", "#080808", "#090909"
SERIES = ("#0a0a0a", "#0b0b0b", "#0c0c0c", "#0d0d0d", "#0e0e0e", "#0f0f0f")
_VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    FAINT: "faint",
    LINE: "line",
    WASH: "wash",
    SHEET: "sheet",
    GOOD: "good",
    BAD: "bad",
    UNSURE: "unsure",
    **{colour: f"s{i + 1}" for i, colour in enumerate(SERIES)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "xtick.labelcolor": SOFT,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "ytick.left": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}


def blank(width_in: float, height_in: float, **subplots: Any) -> tuple[Figure, Any]:
    """Return an empty figure and its axes (an array of them where `subplots` asks for several)."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in))
        return figure, figure.subplots(**subplots)


def svg(figure: Figure, label: str) -> Markup:
    """Return the figure as an `<svg>` element, with `label` for those who don't see it."""
    import matplotlib
    from markupsafe import Markup, escape

    file = io.StringIO()
    # Ids are hashed with the label, so that two figures of a page can't share one by chance.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure.savefig(
            file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    drawing = re.sub(r"^.*?(?=<svg)", "", file.getvalue(), count=1, flags=re.DOTALL)
    drawing = re.sub(r"\s*<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'<g id="[\w.]+_\d+"', "<g", drawing)  # Figures of one page would share these names.
    for colour, variable in _VARIABLES.items():
        drawing = drawing.replace(colour, f"var(--{variable})")
    return Markup(drawing.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))  # noqa: S704


def row_axis(axes: Axes, labels: list[str]) -> None:
    """Give each of `labels` a row, the first one on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
