"""What a preview shows."""

from __future__ import annotations

import re

import pytest

from repro.report import preview
from tests.builders import make_files, make_record

FILES = make_files(make_record())


def test_every_member_has_size_and_reason() -> None:
    found = preview.preview("made-up", FILES, 3, ())
    assert [member.name for member in found.members] == sorted(FILES)
    assert all(member.size == len(FILES[member.name]) for member in found.members)
    assert {member.why for member in found.members} & {"not foreseen"} == set()
    text = preview.as_text(found)
    for name in FILES:
        assert name in text
    assert "taken out: 3." in text
    assert "without an account" in text


def test_a_member_that_nobody_foresaw_is_called_so() -> None:
    assert preview.why("records/base/surprise.txt") == "not foreseen"


def test_leaks_are_shown_on_top() -> None:
    found = preview.preview("made-up", FILES, 0, ("github_token-1234 in a.json, line 3",))
    assert "Looks like a secret: github_token-1234" in preview.as_text(found)
    assert 'class="leak">Looks like a secret: github_token-1234' in preview.as_html(found)


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "</pre><img src=x>", "\x1b[31m", "\u202eevil"]
)
def test_the_page_loads_and_runs_nothing(hostile: str) -> None:
    found = preview.preview("made-up", {"a.json": hostile.encode(), f"{hostile}.txt": b""}, 0, (hostile,))
    page = preview.as_html(found)
    assert hostile not in page
    assert preview.as_text(found).replace("\n", "").isprintable()
    assert "<script" not in page
    assert not re.search(r"<[^>]*\b(src|href)\s*=", page)
    assert "default-src 'none'" in page


def test_binary_members_are_not_shown() -> None:
    (member,) = preview.preview("x", {"samples.bin": b"\x00\x01"}, 0, ()).members
    assert member.text is None
