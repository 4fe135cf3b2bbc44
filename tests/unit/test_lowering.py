"""Requested, planned, effective: what a backend lacks is listed, and what did not hold is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from repro import lowering
from repro.errors import UsageError
from repro.schema import Effective, Mismatch, Scalar, Settings, Substitution
from tests.builders import SETTINGS

EVERYTHING = tuple(field.name for field in msgspec.structs.fields(Settings))


def test_a_backend_that_has_everything_is_asked_for_everything() -> None:
    plan = lowering.plan(SETTINGS, {}, "x86", EVERYTHING)
    assert set(EVERYTHING) == set(plan.planned)
    assert (plan.inapplicable, plan.substitutions) == ((), ())
    requested = {**msgspec.structs.asdict(SETTINGS), "percentiles": "90,99"}
    assert plan.planned == requested


def test_settings_that_a_backend_lacks_are_inapplicable_and_not_planned() -> None:
    plan = lowering.plan(SETTINGS, {}, "cpu", {"precision", "warm_up_ms"})
    assert plan.planned == {"precision": "fp32", "warm_up_ms": 10}
    assert set(plan.inapplicable) == set(EVERYTHING) - {"precision", "warm_up_ms"}
    assert plan.substitutions == ()


def test_every_setting_is_planned_or_inapplicable_never_both() -> None:
    plan = lowering.plan(SETTINGS, {}, "cpu", {"precision", "io_layout", "percentiles"})
    assert sorted([*plan.planned, *plan.inapplicable]) == sorted(EVERYTHING)


def test_a_substitution_says_what_was_asked_what_is_planned_and_who_says_so() -> None:
    plan = lowering.plan(SETTINGS, {"precision": "fp16", "spin_wait": True}, "cpu", EVERYTHING)
    assert (plan.planned["precision"], plan.planned["spin_wait"]) == ("fp16", True)
    assert plan.substitutions == (
        Substitution("precision", "fp32", "fp16", "on.cpu"),
        Substitution("spin_wait", False, True, "on.cpu"),
    )


def test_a_substitution_by_the_same_value_is_none() -> None:
    plan = lowering.plan(SETTINGS, {"precision": "fp32"}, "cpu", EVERYTHING)
    assert (plan.planned["precision"], plan.substitutions) == ("fp32", ())


def test_a_substitution_of_a_setting_that_the_backend_lacks_is_none() -> None:
    plan = lowering.plan(SETTINGS, {"cuda_graph": True}, "cpu", {"precision"})
    assert plan.substitutions == ()
    assert "cuda_graph" in plan.inapplicable
    assert "cuda_graph" not in plan.planned


def test_a_substitution_of_what_is_no_setting_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"\[on.cpu\] sets 'flags', which is no setting"):
        lowering.plan(SETTINGS, {"flags": "--fp16"}, "cpu", EVERYTHING)


@pytest.mark.parametrize(
    "on_device",
    [
        {"precision": "fp99"},
        {"precision": 16},
        {"warm_up_ms": "soon"},
        {"warm_up_ms": 1.5},
        {"spin_wait": 1},
        {"percentiles": "90,99"},
    ],
)
def test_a_substitution_by_a_value_of_the_wrong_kind_is_a_usage_error(on_device: dict[str, Scalar]) -> None:
    with pytest.raises(UsageError, match=r"\[on.cpu\] doesn't hold settings") as caught:
        lowering.plan(SETTINGS, on_device, "cpu", EVERYTHING)
    assert "\n" not in str(caught.value)


def seen(**values: Any) -> dict[str, Effective]:
    return {name: Effective(value, "graph") for name, value in values.items()}


def test_what_held_is_no_mismatch() -> None:
    assert lowering.mismatches({"precision": "fp16", "warm_up_ms": 200}, seen(precision="fp16")) == ()


def test_what_did_not_hold_is_named_with_its_source() -> None:
    planned = {"precision": "fp16", "io_layout": "chw"}
    assert lowering.mismatches(planned, seen(precision="fp32", io_layout="chw")) == (
        Mismatch("precision", "fp16", "fp32", "graph"),
    )


def test_a_value_that_could_not_be_read_back_is_a_mismatch() -> None:
    assert lowering.mismatches({"precision": "fp16"}, seen(precision=None)) == (
        Mismatch("precision", "fp16", None, "graph"),
    )


def test_what_was_not_planned_can_not_mismatch() -> None:
    assert lowering.mismatches({}, seen(precision="fp32")) == ()
