"""Replies in words: every rule has its sentence, the card fits, and nothing foreign passes unescaped."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import answer, bundle, compare, grounds, replay
from repro.errors import Refused, Unavailable
from repro.observed import Source, observe
from repro.report import bundle_page, content, markdown, reply
from repro.report.text import UNSAFE, columns
from repro.schema import (
    Absolute,
    Answer,
    Fails,
    Figure,
    Noticed,
    Outcome,
    Ratio,
    Record,
    Reply,
    StatedEfficiency,
)
from tests.builders import make_files, make_predicate, make_record, make_session

PARENT = "5" * 64
RATIO = Ratio(record_a="base", record_b="wide", factor=0.53, tolerance=0.05)
FIGURE = Figure(0.5345, "ratio", 0.5334, 0.5357)


def sealed(
    folder: Path, said: Reply, *records: Record, files: dict[str, bytes] | None = None
) -> bundle.Bundle:
    predicate = make_predicate(*records, reply=said, parent_bundle_id=PARENT, signer_role="vendor")
    members = {**make_files(*records), **(files or {})}
    return bundle.read(bundle.seal(members, predicate, key=None, target=folder / "r.zip", stem="r").path)


def one(outcome: Outcome = "reproduced", code: str = "within", **changes: Any) -> Answer:
    known: dict[str, Any] = {"claim": RATIO, "there": Figure(0.53, "ratio"), "here": FIGURE}
    return Answer(records=("base",), outcome=outcome, code=code, **{**known, **changes})


def test_every_rule_has_its_sentence_and_no_other() -> None:
    source = "".join(Path(str(module.__file__)).read_text() for module in (answer, grounds))
    outcomes = "|".join(get_args(Outcome))
    found = re.findall(rf'code="(\w+)"|code = "(\w+)"|"(?:{outcomes})", "(\w+)"', source)
    codes = {code for each in found for code in each if code}
    chosen = re.findall(r'"(\w+)" if \w+(?: == "\w+")? else "(\w+)"', source)
    codes |= {code for each in chosen for code in each}
    assert codes - set(get_args(Outcome)) == set(reply._SENTENCES)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (one(), "reproduced: 0.5345 (0.5334 to 0.5357) here, 0.53 there, within 5 % of 0.53"),
        (
            one("undecided", "no_interval", here=Figure(0.5, "ratio"), there=None),
            "undecided: 0.5 here, one build, which has no interval",
        ),
        (
            one(
                "not_reproduced",
                "outside",
                claim=Absolute(record="base", ms=9.0),
                here=Figure(12.0, "ms", 11.9, 12.1),
            ),
            "not reproduced: 12.00 ms (11.90 to 12.10) here, 0.53 there, beyond 3 % of 9.000 ms",
        ),
        (
            one(
                "different_experiment", "differs", because=(Noticed("board", "Orin", None, "blocking", "s"),)
            ),
            "different experiment: board: Orin there, nothing here",
        ),
        (
            one("could_not_run", "memory", reason="build/X"),
            "could not run: it needs more memory than it was allowed: build/X",
        ),
        (
            one("reproduced", "from_the_future"),
            "reproduced: rule from_the_future of another version of the kit",
        ),
        (
            one("different_experiment", "elsewhere", counts=False),
            "different experiment: figures from elsewhere can't be run again; figures from elsewhere, "
            "not part of the overall answer",
        ),
    ],
)
def test_an_answer_is_a_sentence(given: Answer, text: str) -> None:
    assert reply.told(given) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Reply(outcome="reproduced", answers=(one(),)), "REPRODUCED"),
        (Reply(outcome="not_reproduced", answers=(one("not_reproduced", "ran"),)), "NOT REPRODUCED"),
        (
            Reply(outcome="undecided", answers=(one(), one("undecided", "across"))),
            "UNDECIDED because 0.5345 (0.5334 to 0.5357) here, 0.53 there, and the interval lies across "
            "an end of 5 % of 0.53",
        ),
        (
            Reply(outcome="different_experiment", answers=(), reason="it is another one"),
            "DIFFERENT EXPERIMENT because it is another one",
        ),
        (
            Reply(outcome="could_not_run", answers=(), reason="it is private"),
            "COULD NOT RUN because it is private",
        ),
        (Reply(outcome="could_not_run", answers=()), "COULD NOT RUN"),
    ],
)
def test_the_overall_answer_has_its_reason(given: Reply, text: str) -> None:
    assert reply.overall(given) == text


@pytest.mark.parametrize("claims", [0, 1, 2, 3, 9])
def test_the_card_fits(tmp_path: Path, claims: int) -> None:
    said = Reply(outcome="reproduced", answers=(one(),) * claims)
    rows = reply.card(sealed(tmp_path, said, make_record()))
    assert len(rows) <= content.CARD_LINES
    assert all(columns(row.text) + content.LABEL_COLUMNS <= content.CARD_COLUMNS for row in rows)
    assert (rows[0].label, rows[0].text, rows[1].text) == ("Reply to", PARENT, "REPRODUCED")
    assert [row.label for row in rows].count("Claim") == min(claims, 3)
    if claims > 3:
        assert f"; +{claims - 3} more" in rows[6].text


def test_what_counts_comes_first_on_the_card(tmp_path: Path) -> None:
    aside = one("not_reproduced", "other_arithmetic", counts=False)
    rows = reply.card(sealed(tmp_path, Reply(outcome="reproduced", answers=(aside, one())), make_record()))
    assert rows[3].text.startswith("reproduced: ")


def test_a_bundle_that_is_no_reply_is_shown_as_ever(tmp_path: Path) -> None:
    from tests.builders import seal

    opened = bundle.read(seal(tmp_path / "b.zip").path)
    assert reply.card(opened) == content.card(opened)
    assert reply.report(opened) == content.report(opened)


def test_a_reply_without_a_record_is_shown_in_every_form(tmp_path: Path) -> None:
    said = Reply(
        outcome="could_not_run", answers=(one("could_not_run", "not_run", reason="why"),), reason="why"
    )
    opened = sealed(tmp_path, said)
    assert [row.label for row in reply.card(opened)] == ["Reply to", "Answer", "Claim", "", "Signer"]
    assert "COULD NOT RUN because why" in markdown.render(reply.report(opened))
    assert "Reply: COULD NOT RUN because why" in bundle_page.render(opened)


def test_a_run_without_a_record_has_nothing_to_show(tmp_path: Path) -> None:
    made = bundle.seal({}, make_predicate(), key=None, target=tmp_path / "b.zip", stem="b")
    with pytest.raises(Unavailable, match="holds no record"):
        reply.card(bundle.read(made.path))


def comparison() -> bytes:
    sources = [
        Source(name, name, (observe(make_session((10.0, 10.1, 9.9), name), name, name, {}),), "", None, None)
        for name in ("there", "here")
    ]
    return msgspec.json.encode(compare.compare(sources))


def test_the_comparison_behind_it_is_shown(tmp_path: Path) -> None:
    said = Reply(outcome="reproduced", answers=(one(),))
    opened = sealed(tmp_path, said, make_record(), files={replay.COMPARISON: comparison()})
    titles = [part.title for part in reply.report(opened).details]
    assert titles[:3] == ["Answers", "Comparison", "made-up · What differs, the weightiest first"]
    page = bundle_page.render(opened)
    parts = ("<h2>The answer", "<caption>Answers", "<caption>Comparison", "<h2>Findings")
    at = [page.index(part) for part in parts]
    assert at == sorted(at)


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"across": 1}', b"\xff"])
def test_a_comparison_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    said = Reply(outcome="reproduced", answers=(one(),))
    opened = sealed(tmp_path, said, make_record(), files={replay.COMPARISON: data})
    with pytest.raises(Refused, match=r"replay/comparison\.json"):
        reply.report(opened)


NASTY = st.text(max_size=60) | st.sampled_from(["\x1b[2J", "\u202egnp", "a\nb", "<script>", "| x |", "@all"])
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
FIGURES = st.none() | st.builds(
    Figure, NUMBER, st.sampled_from(["ms", "ratio", "share", "error"]), st.none() | NUMBER, st.none() | NUMBER
)
CLAIMS = (
    st.none()
    | st.builds(Fails, stage=st.just("build"), signature=NASTY)
    | st.builds(Absolute, record=NASTY, ms=NUMBER)
    | st.builds(Ratio, record_a=NASTY, record_b=NASTY, factor=NUMBER, tolerance=NUMBER)
    | st.builds(
        StatedEfficiency,
        record=NASTY,
        flop=NUMBER,
        peak_flops=NUMBER,
        peak_is_sparse=st.booleans(),
        time_ms=NUMBER,
        percent=NUMBER,
    )
)
ANSWERS = st.builds(
    Answer,
    claim=CLAIMS,
    records=st.tuples(NASTY),
    outcome=st.sampled_from(get_args(Outcome)),
    code=st.sampled_from(sorted(reply._SENTENCES)) | NASTY,
    there=FIGURES,
    here=FIGURES,
    because=st.tuples(st.builds(Noticed, NASTY, NASTY, NASTY, st.just("blocking"), NASTY)),
    reason=st.none() | NASTY,
    counts=st.booleans(),
)


@given(ANSWERS)
def test_whatever_an_answer_holds_is_one_safe_line(given: Answer) -> None:
    said = Reply(outcome=given.outcome, answers=(given,), reason=given.reason)
    for text in (reply.about(given), reply.told(given), reply.overall(said), reply.figure(given.here)):
        assert not any(unicodedata.category(char) in UNSAFE for char in text)
