"""Exit codes, the words of an error, and signatures that are the same on any machine."""

from __future__ import annotations

import inspect

import pytest

from repro import errors
from repro.errors import ExitCode, ReproError, UsageError, signature


def test_the_exit_codes_are_those_of_the_design() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "NEGATIVE": 1,
        "USAGE": 2,
        "UNDECIDED": 3,
        "DOES_NOT_APPLY": 4,
        "LOST": 75,
        "INTERRUPTED": 130,
    }


def test_no_two_exit_codes_share_a_number() -> None:
    assert len(ExitCode.__members__) == len({code.value for code in ExitCode})


def test_each_kind_of_error_has_its_code() -> None:
    kinds = {
        name: kind.code
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ReproError)
    }
    assert kinds == {
        "ReproError": ExitCode.NEGATIVE,
        "UsageError": ExitCode.USAGE,
        "Unavailable": ExitCode.DOES_NOT_APPLY,
        "Unknown": ExitCode.UNDECIDED,
        "Lost": ExitCode.LOST,
        "Interrupted": ExitCode.INTERRUPTED,
        "Refused": ExitCode.NEGATIVE,
    }


def test_an_error_says_what_and_what_to_do() -> None:
    assert str(ReproError("it broke", "mend it")) == "it broke: mend it"
    assert str(ReproError("it broke")) == "it broke"


def test_an_unknown_name_comes_with_the_nearest() -> None:
    error = errors.unknown("case", "conv61", ["resnet", "conv16", "conv32"], "(`repro cases`)")
    assert isinstance(error, UsageError)
    assert str(error) == "unknown case 'conv61': did you mean conv16, conv32? (`repro cases`)"


def test_an_unknown_name_with_nothing_near_comes_with_the_first_of_all() -> None:
    error = errors.unknown("thing", "zzz", [f"name{i}" for i in range(20)])
    assert error.hint == "did you mean name0, name1, name10, name11, name12, name13, name14, name15?"


def test_an_unknown_name_where_nothing_is_known_says_so() -> None:
    assert errors.unknown("thing", "zzz", []).hint == "none is known"


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ("can't open /home/me/model.onnx", "can't open <path>"),
        (r"can't open C:\Users\me\model.onnx", "can't open <path>"),
        ("dlopen(/usr/lib/x86_64-linux-gnu/libfoo.so.1): no", "dlopen(<path>): no"),
        ("fault at 0x7ffd12AB34", "fault at <address>"),
        ("line 17, column 4", "line <n>, column <n>"),
        ("needs 1.5e+09 bytes, has 3.25", "needs <n> bytes, has <n>"),
        ("two\n  lines\tand more", "two lines and more"),
        ("  around  ", "around"),
        ("nothing to mask here", "nothing to mask here"),
    ],
)
def test_what_differs_between_machines_is_masked(message: str, masked: str) -> None:
    assert signature("build", "Fail", message) == f"build/Fail: {masked}"


def test_the_same_failure_on_two_machines_has_one_signature() -> None:
    here = signature("run", "RuntimeError", "/work/a/m.onnx:12 failed at 0x7f00 after 3.2 s")
    there = signature("run", "RuntimeError", "/home/b/x/m2.onnx:99 failed at 0x55aa after 17 s")
    assert here == there


@pytest.mark.parametrize(
    ("stage", "code", "message"),
    [("run", "Fail", "a"), ("build", None, "a"), ("build", "Fail", "b")],
)
def test_stage_code_and_words_tell_failures_apart(stage: str, code: str | None, message: str) -> None:
    assert signature(stage, code, message) != signature("build", "Fail", "a")


def test_a_failure_without_a_code_says_unknown() -> None:
    assert signature("build", None, "gone") == "build/unknown: gone"


def test_a_signature_is_short_and_one_line() -> None:
    text = signature("build", "Fail", "words and\nlines " * 100)
    assert len(text) <= len("build/Fail: ") + 200
    assert "\n" not in text
