"""Numbers as people read them, and foreign text that can do nothing to a terminal."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.report.text import columns, cut, kernel, milliseconds, quantity, safe, seconds


@pytest.mark.parametrize(
    ("value_ns", "shown"),
    [
        (27.3e6, "27.30"),
        (9_999_600, "10.00"),
        (9_999_400, "9.999"),
        (123_456_789, "123.5"),
        (1_234_567_890, "1235"),
        (1, "0.000001000"),
        (0, "0"),
        (-1e6, "-1"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_milliseconds_have_four_digits(value_ns: float, shown: str) -> None:
    assert milliseconds(value_ns) == shown


@given(st.floats(1, 1e18))
def test_milliseconds_are_right_to_four_digits(value_ns: float) -> None:
    assert math.isclose(float(milliseconds(value_ns)) * 1e6, value_ns, rel_tol=5.1e-4)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "MHz", "–"),
        (True, None, "yes"),
        (False, "1", "no"),
        (0, "MHz", "0 MHz"),
        (1377.0, "MHz", "1377 MHz"),
        (0.25, "1", "0.25"),
        (2**31, "bytes", "2.0 GiB"),
        (3 * 2**20, "bytes", "3.0 MiB"),
        ("\x1b[2Jx", None, "\\x1b[2Jx"),
        ((90, 95), None, "90, 95"),
    ],
)
def test_quantities_have_their_unit(value: object, unit: str | None, shown: str) -> None:
    assert quantity(value, unit) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.4, "0 s"), (59, "59 s"), (80, "1 min 20 s"), (-3, "0 s")])
def test_seconds_are_for_people(value: float, shown: str) -> None:
    assert seconds(value) == shown


HOSTILE = [
    "\x1b[31mred",
    "\x1b]8;;http://evil\x07link",
    "\x9b31m",
    "a\rb",
    "a\nb",
    "a\tb",
    "a\x00b",
    "a\u202eb",
    "a\u2066b",
    "a\u200bb",
    "a\u2028b",
    "\ufeff",
    "\ud800",
    "\ue000",
    "\U000e0041",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_what_moves_hides_or_turns_text_is_escaped(text: str) -> None:
    shown = safe(text)
    assert shown.isprintable()
    assert "\\" in shown


@given(st.text(st.characters(), max_size=300))
def test_safe_text_is_one_printable_line_of_bounded_length(text: str) -> None:
    shown = safe(text)
    assert len(shown) <= 200
    assert all(unicodedata.category(char)[0] != "C" for char in shown)
    assert len(shown.splitlines()) <= 1


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=200))
def test_harmless_text_stays(text: str) -> None:
    assert safe(text) == text


def test_a_huge_text_is_cut_before_it_is_looked_at() -> None:
    assert safe("x" * 10**8) == "x" * 199 + "…"


@given(st.text(max_size=60), st.integers(1, 50))
def test_cut_text_fits(text: str, room: int) -> None:
    assert columns(cut(text, room)) <= room
    assert columns(text) > room or cut(text, room) == text


def test_wide_characters_take_two_columns() -> None:
    assert columns("a漢b") == 4
    assert cut("漢字漢字", 5) == "漢字…"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("sm80_xmma_fprop_f16f16", "sm80_xmma_fprop_f16f16"),
        ("0x89c31fbb4ae4fe2f", "0x89c31fbb4ae4fe2f"),
        (
            "void cudnn::engines_precompiled::nchwToNhwcKernel<__half, true, (cudnnKernelDataType_t)0>"
            "(cudnn::engines_precompiled::params_t<float>, __half const*)",
            "nchwToNhwcKernel<__half, true, (cudnnKernelDataType_t)0>",
        ),
        (
            "void at::native::add<at::native::Functor<c10::Half> >(int, {lambda(int)#1})",
            "add<Functor<Half> >",
        ),
        ("(anonymous)", "(anonymous)"),
        ("", ""),
    ],
)
def test_a_kernel_without_its_surroundings(name: str, shown: str) -> None:
    assert kernel(name) == shown
