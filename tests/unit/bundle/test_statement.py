"""JSON from strangers: read strictly, or refused with a reason; never slow, never deep."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.bundle import statement
from repro.errors import Refused
from repro.schema import RUN_PREDICATE, STATEMENT_TYPE, Record
from tests.builders import make_predicate, make_record


class Small(msgspec.Struct, frozen=True):
    a: int = 0
    b: float = 0.0
    c: str = ""
    d: tuple[int, ...] = ()


def refusal(data: bytes, kind: type[object] = Small) -> str:
    with pytest.raises(Refused) as caught:
        statement.decode("x.json", data, kind)
    assert caught.value.what.startswith("x.json ")
    assert caught.value.what.isprintable()
    assert len(caught.value.what) < 1000
    return caught.value.what


# --- what is accepted ---------------------------------------------------------------------------


def test_a_record_survives() -> None:
    record = make_record()
    assert record == statement.decode("record.json", msgspec.json.encode(record), Record)


def test_unknown_fields_of_a_later_version_are_ignored() -> None:
    assert Small(1) == statement.decode("x.json", b'{"a": 1, "later": {"b": [1, 2, {}]}, "z": null}', Small)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b' \r\n\t{"a":1} \n', Small(1)),
        (b'{"a": 18446744073709551615}', Small(2**64 - 1)),
        (b'{"a": -9223372036854775808}', Small(-(2**63))),
        (b'{"b": 1e308}', Small(b=1e308)),
        (b'{"b": 1e-999}', Small(b=0.0)),
        (b'{"b": 3}', Small(b=3.0)),
        (b'{"c": "\\u00e4\\ud83d\\ude00 \\" \\\\ \\\\\\" [{"}', Small(c='ä😀 " \\ \\" [{')),
        ('{"c": "\ufeff"}'.encode(), Small(c="\ufeff")),
        (b'{"c": "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}', Small(c="[" * 37)),
        (b'{"c": "\\\\", "x": "]"}', Small(c="\\")),
    ],
)
def test_odd_but_good_json_is_read(text: bytes, value: Small) -> None:
    assert value == statement.decode("x.json", text, Small)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values, st.booleans(), st.sampled_from([None, 1]))
def test_any_json_is_read_as_it_was_written(value: object, ascii_only: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert value == statement.decode("x.json", data, object)


@given(st.text('[]{}",:\\u0 1-eEN.tf', max_size=40))
def test_anything_is_read_as_json_reads_it_or_refused(text: str) -> None:
    try:
        value = statement.decode("x.json", text.encode(), object)
    except Refused:
        return
    assert json.loads(text) == value


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(b'{"a": 1, "a": 2}', "a key stands there twice", id="key twice"),
        pytest.param(b'{"a": 1, "\\u0061": 2}', "a key stands there twice", id="key twice, escaped"),
        pytest.param(b'{"z": [{"y": 1, "y": 1}]}', "a key stands there twice", id="key twice, ignored"),
        pytest.param(b'{"b": NaN}', "NaN is no number", id="NaN"),
        pytest.param(b'{"b": Infinity}', "Infinity is no number", id="Infinity"),
        pytest.param(b'{"z": -Infinity}', "-Infinity is no number", id="-Infinity, ignored"),
        pytest.param(b'{"b": 1e999}', "a number is too big", id="1e999"),
        pytest.param(b'{"z": -1e999}', "a number is too big", id="-1e999, ignored"),
        pytest.param(b'{"a": ' + b"9" * 21 + b"}", "a number is too long", id="long integer"),
        pytest.param(b'{"z": ' + b"9" * 5000 + b"}", "a number is too long", id="huge integer, ignored"),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', "BOM", id="byte-order mark"),
        pytest.param('{"a": 1}'.encode("utf-16"), "is not UTF-8", id="UTF-16"),
        pytest.param(b'{"c": "\xff"}', "is not UTF-8", id="broken UTF-8"),
        pytest.param(b'{"z": "\xed\xa0\x80"}', "is not UTF-8", id="surrogate in UTF-8"),
        pytest.param(b'{"c": "\xc0\xaf"}', "is not UTF-8", id="overlong UTF-8"),
        pytest.param(b'{"a": 1} {"a": 2}', "Extra data", id="another value behind"),
        pytest.param(b'{"a": 1}x', "Extra data", id="garbage behind"),
        pytest.param(b'{"a": 1}\0', "Extra data", id="NUL behind"),
        pytest.param(b"", "Expecting value", id="nothing"),
        pytest.param(b'{"a": 1', "brackets don't match", id="cut short"),
        pytest.param(b'{"a": 1]', "is not as it must be", id="brackets of two kinds"),
        pytest.param(b'{"c": "x}', "brackets don't match", id="open string"),
        pytest.param(b"{'a': 1}", "is not as it must be", id="single quotes"),
        pytest.param(b'{"a": 1,}', "is not as it must be", id="comma at the end"),
        pytest.param(b'{"a": 1} // x', "Extra data", id="comment"),
        pytest.param(b'{"a": 01}', "is not as it must be", id="leading zero"),
        pytest.param(b'{"c": "a\nb"}', "control character", id="line feed in a string"),
        pytest.param(b'{"a": "1"}', "Expected `int`, got `str`", id="text for integer"),
        pytest.param(b'{"a": 1.5}', "Expected `int`, got `float`", id="fraction for integer"),
        pytest.param(b'{"a": true}', "Expected `int`, got `bool`", id="truth for integer"),
        pytest.param(b'{"b": "1"}', "Expected `float`, got `str`", id="text for number"),
        pytest.param(b'{"c": null}', "Expected `str`, got `null`", id="null for text"),
        pytest.param(b'{"d": {"0": 1}}', "Expected `array`, got `object`", id="object for array"),
        pytest.param(b'{"d": [1, []]}', "Expected `int`, got `array`", id="array for integer"),
        pytest.param(b"[]", "Expected `object`, got `array`", id="array for all"),
        pytest.param(b"null", "Expected `object`, got `null`", id="null for all"),
    ],
)
def test_bad_json_is_refused(text: bytes, reason: str) -> None:
    assert reason in refusal(text)


def test_a_lone_surrogate_is_refused_or_kept_from_text() -> None:
    assert "is not as it must be" in refusal(b'{"c": "\\ud800"}')


def nested(depth: int) -> bytes:
    """Return JSON that nests `depth` deep."""
    return b'{"z": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_the_depth_is_limited() -> None:
    assert Small() == statement.decode("x.json", nested(statement.MAX_JSON_DEPTH), Small)
    assert "is nested too deeply" in refusal(nested(statement.MAX_JSON_DEPTH + 1))


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"a":'])
def test_endless_nesting_is_refused_without_recursion(unit: bytes) -> None:
    assert "is nested too deeply" in refusal(unit * 100_000)


def test_brackets_in_strings_are_no_depth() -> None:
    text = json.dumps({"c": '[{"\\' * 100 + "]"})
    assert Small(c='[{"\\' * 100 + "]") == statement.decode("x.json", text.encode(), Small)


def test_a_string_does_not_hide_depth() -> None:
    assert "is nested too deeply" in refusal(b'{"c": "\\\\", "z": ' + b"[" * 40 + b'"\\""' + b"]" * 40 + b"}")


def test_the_size_is_limited() -> None:
    text = b'{"c": "' + b"x" * (statement.MAX_JSON_BYTES - 9) + b'"}'
    assert len(text) == statement.MAX_JSON_BYTES
    assert statement.decode("x.json", text, Small).c[:5] == "x" * 5
    assert f"x.json has {len(text) + 1} bytes; {len(text)} are allowed" == refusal(text + b" ")


def test_a_message_quotes_no_control_characters() -> None:
    error = refusal(b'{"x": "\\u001b[2J\\n\\u202e", "kind": "\\u001b[31mred"}', dict[str, int])
    assert "\x1b" not in error
    error = refusal(b'{"status": "\\u001b[31mred\\u202e"}', make_status())
    assert "\\x1b[31mred" in error
    assert "\\u202e" in error


def make_status() -> type[object]:
    """A type whose error message quotes the value."""
    return msgspec.defstruct("Odd", [("status", Literal["good"])])


SIZE = 4 * 2**20


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"[" * SIZE, id="opening"),
        pytest.param(b"]" * SIZE, id="closing"),
        pytest.param(b"[" * (SIZE // 2) + b"]" * (SIZE // 2), id="deep"),
        pytest.param(b"[]" * (SIZE // 2), id="flat"),
        pytest.param(b'"' * SIZE, id="quotes"),
        pytest.param(b"\\" * SIZE, id="backslashes"),
        pytest.param(b'"\\"' * (SIZE // 3), id="escaped quotes"),
        pytest.param(b'"' + b"\\\\" * (SIZE // 2), id="open string"),
        pytest.param(b"9" * SIZE, id="digits"),
        pytest.param(b"0." + b"9" * SIZE, id="fraction"),
        pytest.param(b"1e" + b"9" * SIZE, id="exponent"),
        pytest.param(b"[" + b"1," * (SIZE // 2) + b"1]", id="integers"),
        pytest.param(b"[" + b"{}," * (SIZE // 3) + b"{}]", id="objects"),
        pytest.param(b"{" + b",".join(b'"%d":1' % i for i in range(SIZE // 12)) + b',"0":1}', id="keys"),
        pytest.param(b" " * SIZE, id="blanks"),
    ],
)
def test_hostile_json_takes_linear_time(data: bytes) -> None:
    begin = time.process_time()
    refusal(data)
    # Measured: at most 0.7 s; anything quadratic would take hours.
    assert time.process_time() - begin < 20


# --- the statement ------------------------------------------------------------------------------


def made(**changes: Any) -> bytes:
    data = statement.make({"b.txt": "b" * 64, "a.txt": "a" * 64}, make_predicate(make_record()))
    return json.dumps({**json.loads(data), **changes}).encode()


def test_a_statement_is_an_in_toto_statement_over_all_files_in_order() -> None:
    value = json.loads(made())
    assert value["_type"] == STATEMENT_TYPE
    assert value["predicateType"] == RUN_PREDICATE
    assert value["subject"] == [
        {"name": "a.txt", "digest": {"sha256": "a" * 64}},
        {"name": "b.txt", "digest": {"sha256": "b" * 64}},
    ]
    assert value["predicate"]["createdUtc"] == "2026-01-01T00:00:00Z"


def test_a_statement_does_not_depend_on_the_order_of_files() -> None:
    predicate = make_predicate()
    files = {"a.txt": "a" * 64, "b.txt": "b" * 64}
    assert statement.make(files, predicate) == statement.make(dict(reversed(files.items())), predicate)


def test_a_statement_survives() -> None:
    predicate = make_predicate(make_record(), ticket="ä\x1b")
    data = statement.make({"a.txt": "a" * 64}, predicate)
    assert data.isascii()
    assert predicate == statement.parse(data).predicate


def test_the_id_is_the_digest_of_the_bytes_as_stored() -> None:
    data = made()
    assert hashlib.sha256(data).hexdigest() == statement.bundle_id(data)
    assert statement.bundle_id(data) != statement.bundle_id(data + b"\n")


def test_unknown_fields_of_a_statement_are_ignored() -> None:
    assert statement.parse(made()) == statement.parse(made(later={"x": 1}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "is not an in-toto Statement v1"),
        ({"_type": None}, "is not as it must be"),
        ({"predicateType": "urn:trt-repro:run:v2"}, "has the predicate type 'urn:trt-repro:run:v2'"),
        ({"predicateType": "\x1b[2J"}, "has the predicate type '\\x1b[2J'"),
        ({"predicateType": 1}, "is not as it must be"),
        ({"subject": {}}, "is not as it must be"),
        ({"subject": [{"name": "a.txt"}]}, "is not as it must be"),
        ({"subject": [{"name": "a.txt", "digest": {"sha512": "a"}}]}, "is not as it must be"),
        ({"predicate": None}, "is not as it must be"),
    ],
)
def test_another_statement_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        statement.parse(made(**changes))
    assert f"META/statement.json {reason}" in caught.value.what
    assert caught.value.what.isprintable()


@pytest.mark.parametrize("field", ["_type", "subject", "predicateType", "predicate"])
def test_a_statement_without_a_field_is_refused(field: str) -> None:
    value = json.loads(made())
    del value[field]
    with pytest.raises(Refused, match=f"missing required field `{field}`"):
        statement.parse(json.dumps(value).encode())
