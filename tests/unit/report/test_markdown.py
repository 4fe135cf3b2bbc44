"""Markdown that shows what it is given, judged by a real Markdown parser."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from repro.report import markdown
from repro.report.content import Report, Row, Table
from repro.report.text import safe

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/pixel.png)",
    "[click](javascript:alert(1))",
    "| a | b |",
    "`code` **bold** _it_ ~~gone~~",
    "# heading",
    "&lt;b&gt; &#60;",
    "https://evil.example and www.evil.example",
    "@everyone #1 !2 $x^2$",
    "\\| \\` \\\\",
    "<!-- hidden -->",
    "a\nb",
    "- item",
    "1. item",
    "\x1b[31m",
]


def cells(text: str) -> list[str]:
    """Return the table cells of what a parser makes of `text`, refusing any other markup in them."""
    found = re.findall(r"<t[dh]>(.*?)</t[dh]>", PARSER.render(text), re.DOTALL)
    plain = [re.sub(r"</?strong>", "", cell) for cell in found]
    assert not any("<" in cell for cell in plain), plain
    return [html.unescape(cell) for cell in plain]


def rendered(value: str) -> list[str]:
    report = Report((Row("Case", value),), (Table("Part", ("a", "b"), ((value, "end"),)),))
    return cells(markdown.render(report))


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_text_is_shown_as_it_stands(value: str) -> None:
    shown = safe(value).strip()
    assert rendered(safe(value)) == ["", "", "Case", shown, "a", "b", shown, "end"]


@given(st.text(max_size=60))
def test_any_text_is_shown_as_it_stands(value: str) -> None:
    shown = safe(value)
    assert rendered(shown)[3].strip() == shown.strip()


@pytest.mark.parametrize(
    "value", ["https://evil.example", "www.evil.example", "HTTP://a.b", "mail@evil.example"]
)
def test_nothing_becomes_a_link_or_a_mention(value: str) -> None:
    """GitHub links bare addresses; a backslash inside stops it."""
    text = markdown.escape(value)
    assert not re.search(r"https?://|www\.|@\w", text, re.IGNORECASE) or "\\" in text
    assert value not in text


def test_empty_parts_are_left_out() -> None:
    report = Report((Row("Case", "x"),), (Table("Nothing", ("a",), ()),))
    assert "Nothing" not in markdown.render(report)
