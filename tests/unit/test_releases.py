"""Releases by name, by a short name, and their holes."""

from __future__ import annotations

import re

import pytest

from repro import releases
from repro.devices import DEVICES
from repro.errors import ExitCode, Unavailable, UsageError
from repro.releases import Row
from repro.schema import ReleaseSeen

INSTALLED = ReleaseSeen("ort-2.1.0", "2.1.0")
ROWS = (
    Row("ort-2.1.0", "cpu", True, "made up"),
    Row("ort-2.1.0+cuda13", "x86", True, "made up"),
    Row("ort-2.0.9", "cpu", True, "made up"),
    Row("trt-8.5", "orin", False, "made up", "no image"),
    Row("trt-9.1", "x86", True, "made up"),
    Row("trt-9.1", "orin", False, "made up", None),
)


SHIPPED = releases.table()


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "table", lambda: ROWS)


@pytest.mark.parametrize("name", [None, "ort-2.1.0"])
def test_without_a_name_or_by_its_own_it_is_the_installed_one(name: str | None) -> None:
    assert releases.choose(name, "cpu", INSTALLED) == "ort-2.1.0"


def test_an_installed_release_that_no_table_knows_is_chosen_too() -> None:
    unlisted = ReleaseSeen("ort-7.0", "7.0")
    assert releases.choose(None, "cpu", unlisted) == "ort-7.0"
    assert releases.choose("ort-7", "cpu", unlisted) == "ort-7.0"


def test_a_short_name_is_enough_while_it_is_the_beginning_of_one() -> None:
    assert releases.choose("ort-2.0", "cpu", ReleaseSeen("ort-2.0.9", "2.0.9")) == "ort-2.0.9"


def test_a_short_name_of_several_names_them_all() -> None:
    with pytest.raises(UsageError) as caught:
        releases.choose("ort-2", "cpu", INSTALLED)
    assert str(caught.value) == ("release 'ort-2' could be ort-2.0.9, ort-2.1.0: write more of it")


def test_a_whole_name_is_not_ambiguous_although_another_begins_with_it() -> None:
    other = ReleaseSeen("ort-2.0.9", "2.0.9")
    with pytest.raises(Unavailable, match=re.escape("ort-2.1.0 is not installed here")):
        releases.choose("ort-2.1.0", "cpu", other)


def test_an_unknown_release_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=re.escape("unknown release 'ort-2.1.1': did you mean ort-2.1.0")):
        releases.choose("ort-2.1.1", "cpu", INSTALLED)


@pytest.mark.parametrize(("name", "told"), [("trt-8", "trt-8.5"), ("trt", "trt")])
def test_a_release_of_another_device_does_not_exist_for_this_one(name: str, told: str) -> None:
    with pytest.raises(Unavailable, match=re.escape(f"{told} does not exist for cpu")):
        releases.choose(name, "cpu", INSTALLED)


@pytest.mark.parametrize(("name", "hint"), [("trt-8.5", ": no image"), ("trt-9.1", "")])
def test_a_hole_is_an_answer_with_its_reason(name: str, hint: str) -> None:
    with pytest.raises(Unavailable) as caught:
        releases.choose(name, "orin", INSTALLED)
    assert str(caught.value) == f"{name} is not available on orin{hint}"
    assert caught.value.code is ExitCode.DOES_NOT_APPLY


def test_a_release_that_exists_but_is_not_installed_says_which_one_is() -> None:
    with pytest.raises(Unavailable) as caught:
        releases.choose("ort-2.0.9", "cpu", INSTALLED)
    assert str(caught.value) == "ort-2.0.9 is not installed here: ort-2.1.0 is; leave --release out"


def test_the_shipped_table_names_known_devices_and_gives_each_hole_a_reason() -> None:
    assert {row.device for row in SHIPPED} <= set(DEVICES)
    assert len({(row.name, row.device) for row in SHIPPED}) == len(SHIPPED)
    for row in SHIPPED:
        assert row.source
        assert row.available or row.reason
