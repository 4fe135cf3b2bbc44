"""Lines of a known form may leave the machine, all others are counted."""

from __future__ import annotations

import re

import pytest

from repro.backends.onnxruntime import LOG_LINES
from repro.bundle import logs
from repro.bundle.privacy import Redactor

GRAMMAR = [re.compile(r"\[I\] .*"), re.compile(r"time: \d+ ms")]


def keep(text: str, *values: tuple[str, str]) -> tuple[str, int, int]:
    return logs.keep(text, GRAMMAR, Redactor(values))


def test_known_lines_stay_and_others_are_counted() -> None:
    text = "[I] start\nsecret stuff\nmore\n[I] end\ntime: 12 ms\nbye\n"
    kept = "[I] start\n<2 lines left out>\n[I] end\ntime: 12 ms\n<1 lines left out>\n"
    assert keep(text) == (kept, 6, 3)


def test_a_log_without_a_known_line_gives_nothing_but_its_length() -> None:
    assert keep("a\nb\n") == ("", 2, 0)
    assert keep("") == ("", 0, 0)


def test_a_known_line_is_redacted() -> None:
    text, *_ = keep("[I] loaded /home/jane/model.onnx on box7 for jane", ("host", "box7"), ("user", "jane"))
    assert text == "[I] loaded <path> on <host> for <user>\n"


def test_the_whole_line_must_fit() -> None:
    assert keep("x time: 12 ms\ntime: 12 ms x\n")[2] == 0
    assert keep("time: 12 ms\x0bother\n") == ("time: 12 ms\n<1 lines left out>\n", 2, 1)


def test_colours_are_taken_out_before_a_line_is_judged() -> None:
    assert keep("\x1b[31mtime: 12 ms\x1b[0m\n")[0] == "time: 12 ms\n"


def test_long_lines_are_left_out() -> None:
    fits = "[I] " + "x" * (logs.MAX_LINE_CHARACTERS - 4)
    assert keep(f"{fits}\n{fits}x\n")[1:] == (2, 1)


def test_the_number_of_lines_is_bounded() -> None:
    text, lines, kept = keep("[I] a\n" * (logs.MAX_KEPT_LINES + 10))
    assert (lines, kept) == (logs.MAX_KEPT_LINES + 10, logs.MAX_KEPT_LINES)
    assert text.endswith("<10 lines left out>\n")


@pytest.mark.parametrize(
    "line",
    [
        "export SECRET=1",
        "user@host:~$ ls",
        "Trace of something else (most recent call last):",
        "anything at all",
    ],
)
def test_the_grammar_of_onnx_runtime_keeps_no_other_programs_lines(line: str) -> None:
    assert logs.keep(line, LOG_LINES, Redactor(())) == ("", 1, 0)
