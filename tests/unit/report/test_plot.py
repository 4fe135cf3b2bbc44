"""Figures: the page's colours, text as text, the same bytes each time."""

from __future__ import annotations

import re
import xml.dom.minidom

from repro.report import plot


def drawing(label: str = "a label") -> str:
    figure, axes = plot.blank(5, 2)
    axes.scatter([1, 2], [0, 1], color=plot.SERIES[1])
    axes.axvspan(1.2, 1.5, color=plot.WASH)
    axes.set_xlabel("time, ms")
    plot.row_axis(axes, ["first <b>", "second"])
    return str(plot.svg(figure, label))


def test_every_colour_is_one_of_the_page() -> None:
    text = drawing()
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", text.replace("xlink:href", "")) == []
    assert {"var(--s2)", "var(--wash)", "var(--ink)"} <= set(re.findall(r"var\(--\w+\)", text))


def test_no_two_stand_ins_are_equal_or_grown_from_each_other() -> None:
    assert len(set(plot._VARIABLES)) == len(plot._VARIABLES) == 15
    assert {len(colour) for colour in plot._VARIABLES} == {7}


def test_text_stays_text_and_is_escaped() -> None:
    text = drawing()
    assert "first &lt;b&gt;" in text
    assert "time, ms" in text
    assert 'aria-label="a &lt;label&gt; &#34;"' in drawing('a <label> "')


def test_the_same_figure_gives_the_same_bytes_and_well_formed_markup() -> None:
    assert drawing() == drawing()
    document = xml.dom.minidom.parseString(drawing())
    assert document.documentElement is not None
    assert document.documentElement.getAttribute("viewBox") == "0 0 360 144"
    assert not document.documentElement.hasAttribute("width")


def test_two_figures_of_a_page_share_no_id() -> None:
    ids = [set(re.findall(r' id="([^"]+)"', drawing(label))) for label in ("one", "another")]
    assert ids[0]
    assert ids[0] & ids[1] == set()


def test_an_id_that_is_used_is_there() -> None:
    text = drawing()
    assert set(re.findall(r"(?:url\(|href=\")#([\w-]+)", text)) <= set(re.findall(r' id="([^"]+)"', text))


def test_nothing_is_loaded() -> None:
    loaded = re.findall(r'(?:href|src)="([^"]*)"', drawing())
    assert [address for address in loaded if not address.startswith("#")] == []
