"""Claims on the command line: every kind, and every way to write one wrongly."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import claims
from repro.errors import ExitCode, ReproError, UsageError
from repro.schema import (
    Absolute,
    AnyClaim,
    BelowRoof,
    Fails,
    Ratio,
    StatedEfficiency,
    WrongOutput,
)
from tests.builders import make_failed, make_record

WRITTEN: dict[str, AnyClaim] = {
    "absolute record=base ms=8.98": Absolute("base", 8.98),
    "ratio record_a=old record_b=new factor=2 tolerance=0.1": Ratio("old", "new", 2.0, 0.1),
    "below_roof record=base roof=fp16-dense fraction=0.05": BelowRoof("base", "fp16-dense", 0.05),
    "fails stage=build signature='build/Fail: no kernel for <n>'": Fails(
        "build", "build/Fail: no kernel for <n>"
    ),
    "wrong_output record=base norm_error=0.3": WrongOutput("base", 0.3),
    "stated_efficiency record=a flop=3e10 peak_flops=4e13 peak_is_sparse=true time_ms=9 percent=5": (
        StatedEfficiency("a", 3e10, 4e13, True, 9.0, 5.0)
    ),
    "absolute record=base ms=1 expected='half of it' note=\"it's slow\"": Absolute(
        "base", 1.0, expected="half of it", note="it's slow"
    ),
    "  absolute   ms=1\n record=base": Absolute("base", 1.0),
    "absolute record=a=b ms=1": Absolute("a=b", 1.0),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_claim_is_a_kind_and_its_fields(text: str) -> None:
    assert claims.parse(text) == WRITTEN[text]


def test_every_kind_of_the_schema_can_be_written() -> None:
    assert {type(claim) for claim in WRITTEN.values()} == set(claims.KINDS.values())
    for kind, claim in claims.KINDS.items():
        assert claim.__struct_config__.tag == kind


@pytest.mark.parametrize("text", WRITTEN)
def test_a_claim_travels_as_json(text: str) -> None:
    claim = claims.parse(text)
    assert msgspec.json.decode(msgspec.json.encode(claim), type=AnyClaim) == claim


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "unknown kind of claim ''"),
        ("slow", "unknown kind of claim 'slow'"),
        ("absolut record=base ms=1", "did you mean absolute?"),
        ("'a\nb' ms=1", "unknown kind of claim 'a b'"),
        ("absolute", "missing required field `record`"),
        ("absolute record=base", "missing required field `ms`"),
        ("absolute base 8.98", "'base' in the claim is not field=value"),
        ("absolute record=base ms=", "'ms=' in the claim is not field=value"),
        ("absolute record= ms=1", "'record=' in the claim is not field=value"),
        ("absolute 'two\nlines' ms=1", "'two lines' in the claim is not field=value"),
        ("absolute record=base ms=fast", "Expected `float`"),
        ("absolute record='a\nb' ms=fast", "the claim 'absolute record='a b' ms=fast' is not complete"),
        ("absolute record=base ms=nan", "ms in the claim 'absolute record=base ms=nan' must be a number"),
        ("absolute record=base ms=inf", "must be a number above 0"),
        ("absolute record=base ms=1e400", "out of range"),
        ("absolute record=base ms=0", "must be a number above 0"),
        ("absolute record=base ms=-1", "must be a number above 0"),
        ("ratio record_a=a record_b=b factor=nan tolerance=0.1", "factor in the claim"),
        ("absolute record=base ms=1 ms=2", "says ms twice"),
        ("absolute record=base ms=1 kind=ratio", "says kind twice"),
        ("absolute record=base ms=1 unit=s", "unknown field `unit`"),
        ("absolute record='base ms=1", "can't read the claim"),
        ("absolute record='ba\nse ms=1", "can't read the claim"),
        ("fails stage=link signature=x", "stage"),
        (
            "stated_efficiency record=a flop=1 peak_flops=1 peak_is_sparse=maybe time_ms=1 percent=1",
            "peak_is_sparse",
        ),
        (
            "stated_efficiency record=a flop=1 peak_flops=1 peak_is_sparse=no time_ms=0 percent=1",
            "peak_is_sparse",
        ),
        (
            "stated_efficiency record=a flop=1 peak_flops=1 peak_is_sparse=false time_ms=0 percent=1",
            "time_ms in the claim",
        ),
        ("absolute record=base ms=1 note=" + "x" * 501, "a claim's note has at most 500 characters"),
    ],
)
def test_what_is_no_claim_is_a_usage_error_of_one_line(text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        claims.parse(text)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code is ExitCode.USAGE
    assert caught.value.hint


def test_a_note_of_just_the_limit_is_fine() -> None:
    assert claims.parse("absolute record=base ms=1 note=" + "ä" * 500).note == "ä" * 500


def test_the_hint_shows_how_the_kind_is_written() -> None:
    with pytest.raises(UsageError) as caught:
        claims.parse("ratio record_a=old")
    assert caught.value.hint == "write: ratio record_a=… record_b=… factor=… tolerance=…"


almost = st.builds("{} {}={}".format, st.sampled_from([*claims.KINDS]), st.text(), st.text())


@given(st.text(max_size=40) | almost)
def test_whatever_is_written_gives_a_claim_or_one_line(text: str) -> None:
    lines = [""]
    try:
        claims.parse(text)
    except ReproError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1


def test_each_failure_is_a_claim_by_its_signature() -> None:
    failed = make_failed("no kernel")
    assert claims.derived([make_record(), failed]) == (Fails("build", "build/Fail: no kernel"),)


def test_a_measured_record_claims_nothing_by_itself() -> None:
    assert claims.derived([make_record()]) == ()
