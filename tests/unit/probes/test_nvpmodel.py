"""Tables of power modes: NVIDIA's keywords, whatever stands between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.probes import nvpmodel
from repro.probes.nvpmodel import Mode
from tests.boards.trees import BOARDS, config


def test_a_mode_is_what_it_sets() -> None:
    table = nvpmodel.parse(config(BOARDS["thread"]))
    assert table.default == 2
    assert table.modes[3] == Mode(3, "MODE_40W", 8, 1497600, 816000000, None, 128)
    assert table.modes[0] == Mode(0, "MAXN", 8, None, None, None, 128)
    assert [mode.sm_count for mode in table.modes.values()] == [14, 6, 8, 14]


def test_what_stands_before_the_modes_belongs_to_none() -> None:
    text = "< PARAM TYPE=CLOCK NAME=GPU >\nGPU MAX_FREQ 1\n< POWER_MODEL ID=0 NAME=A >\nGPU MAX_FREQ 5\n"
    assert nvpmodel.parse(text).modes == {0: Mode(0, "A", gpu_clock_max_hz=5)}


def test_a_mode_named_twice_is_the_first() -> None:
    text = "<POWER_MODEL ID=0 NAME=A>\n< POWER_MODEL ID=0 NAME=B >\nGPU MAX_FREQ 5\n"
    assert nvpmodel.parse(text).modes == {0: Mode(0, "A")}


@given(st.text())
def test_any_text_is_a_table_with_or_without_modes(text: str) -> None:
    nvpmodel.parse(text)
    nvpmodel.current(text)
    nvpmodel.module(text)
    nvpmodel.emulation(text, text, nvpmodel.parse(text))


@pytest.mark.parametrize(
    ("mask", "sms"), [(0, 16), (128, 14), (240, 8), (248, 6), (252, 4), (256, None), (-1, None)]
)
def test_multiprocessors_that_a_mask_leaves(mask: int, sms: int | None) -> None:
    assert nvpmodel.sm_count(mask) == sms


@pytest.mark.parametrize(
    ("compatible", "config_name", "module"),
    [
        # The text that L4T's own script looks for, and those of its overlays for other modules.
        ("nvidia,p3737-0000+p3701-0000-as-p3701-0004", None, "p3701-0004"),
        ("nvidia,p3737-0000+p3701-0000-as-p3767-0000", None, "p3767-0000"),
        ("nvidia,p3737-0000+p3701-0000", "nvpmodel_p3701_0004.conf", "p3701-0004"),
        # One table serves several modules, and a super mode is a table of the same module.
        ("nvidia,p3737-0000+p3701-0005", "nvpmodel_p3701_0000.conf", None),
        ("nvidia,p3737-0000+p3701-0004", "nvpmodel_p3701_0004_super.conf", None),
        ("nvidia,p3768-0000+p3767-0005", "nvpmodel_p3767_0003_super.conf", None),
        ("nvidia,p3768-0000+p3767-0005", None, None),
        ("nvidia,tegra234", "nvpmodel_p3701_0004.conf", None),
        ("", None, None),
    ],
)
def test_which_module_is_emulated(compatible: str, config_name: str | None, module: str | None) -> None:
    found = nvpmodel.emulation(compatible, config_name, None)
    assert (found.module if found else None) == module


def test_a_table_in_the_modules_own_name_still_tells_by_its_modes() -> None:
    table = nvpmodel.parse(config(BOARDS["thread"]))
    found = nvpmodel.emulation("nvidia,p3737-0000+p3701-0005", "nvpmodel_p3701_0000.conf", table)
    assert found is not None
    assert found.module == "p3701-0004"
