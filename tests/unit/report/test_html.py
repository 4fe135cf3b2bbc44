"""Pages: self-contained, escaped, not too big."""

from __future__ import annotations

import re

import jinja2
import pytest

from repro.errors import ReproError
from repro.report import html
from repro.report.content import Table

BODY = """{% extends 'page' %}{% import 'parts' as parts %}
{% block main %}<h1>{{ title }}</h1>{{ parts.table(part) }}{% endblock %}"""
EVIL = "<script>alert(1)</script>"


def page(**values: object) -> str:
    return html.render(
        BODY, **{"title": "A title", "part": Table("Things", ("a", "b"), (("1", EVIL),)), **values}
    )


def test_everything_is_escaped() -> None:
    text = page(title=f"A {EVIL}")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3  # title, heading, cell


def test_nothing_is_loaded_and_nothing_runs() -> None:
    text = page()
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|@import|url\(|<script', text) == []
    assert "default-src 'none'" in text


def test_a_table_can_be_scrolled_and_read_without_a_mouse() -> None:
    text = page()
    assert 'role="region" aria-label="Things" tabindex="0"' in text
    assert text.count('scope="col"') == 2
    assert text.count('scope="row"') == 1
    assert "<caption>Things</caption>" in text


@pytest.mark.parametrize("variable", ["--ink", "--paper", "--s1", "--s6", "--bad", "--line"])
def test_light_and_dark_have_each_colour(variable: str) -> None:
    assert len(re.findall(rf"{variable}: #[0-9a-f]+;", page())) == 2


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        html.render(BODY, title="x")


def test_a_page_that_no_ticket_takes_is_refused() -> None:
    with pytest.raises(ReproError, match=r"2\.\d MiB, and 2 MiB are allowed"):
        page(title="x" * (html.MAX_BYTES // 2 + 1))
