"""The commands of a report."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from repro import lowering
from repro.report import content, listing, markdown
from repro.schema import Command, Record, ReleaseSeen, Settings
from tests.builders import SETTINGS, make_record


def record(*commands: Command) -> Record:
    planned = lowering.plan(SETTINGS, {}, "x86", [f.name for f in msgspec.structs.fields(Settings)]).planned
    own = lowering.lower(planned, "trt-8.5.2", "x86", iterations=20)
    assert isinstance(own, lowering.Commands)
    plain = make_record()
    return msgspec.structs.replace(
        plain,
        commands=commands or own.commands,
        settings=msgspec.structs.replace(plain.settings, planned=planned),
        runtime=msgspec.structs.replace(
            plain.runtime, device="x86", release=ReleaseSeen("trt-8.5.2", "8.5.2")
        ),
    )


def test_a_report_has_the_commands_for_a_shell() -> None:
    first, second, *rest = listing.commands(record(), "").rows
    assert first == "cd records/base-ort-1.0/case"
    assert second.startswith("python3 -c ")
    assert [line.split()[0] for line in rest] == ["trtexec"] * 4


def test_without_its_model_a_bundle_says_so() -> None:
    plain = record()
    private = msgspec.structs.replace(plain, case=msgspec.structs.replace(plain.case, share="none"))
    assert listing.commands(private, "").rows[0] == "# the model is private and not in the bundle"


def test_commands_that_this_kit_would_not_give_are_pointed_out() -> None:
    rows = listing.commands(record(Command("run", ("curl", "example.org"))), "").rows
    assert rows[0].startswith("# this kit gives other commands")


def test_a_release_that_nobody_knows_is_no_crash() -> None:
    foreign = msgspec.structs.replace(record(), commands=(Command("run", ("x",)),))
    foreign = msgspec.structs.replace(
        foreign,
        runtime=msgspec.structs.replace(foreign.runtime, release=ReleaseSeen("somebody's", "1")),
        settings=msgspec.structs.replace(foreign.settings, planned={}),
    )
    assert listing.commands(foreign, "").rows[0].startswith("# this kit gives other commands")


@pytest.mark.parametrize(("layout", "told"), [("chw", True), ("hwc8", False), ("hwc9", False)])
def test_an_input_that_has_no_such_layout_has_no_code(layout: str, told: bool) -> None:
    plain = record()
    inputs = tuple(msgspec.structs.replace(each, shape=(1, 2)) for each in plain.model.inputs)
    planned = {**plain.settings.planned, "io_layout": layout}
    flat = msgspec.structs.replace(
        plain,
        model=msgspec.structs.replace(plain.model, inputs=inputs),
        settings=msgspec.structs.replace(plain.settings, planned=planned),
    )
    assert any("python3" in line for line in listing.commands(flat, "").rows) is told


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 'x").digest(1); import os; os.system("id"); ("'},
        {"dtype": "fp16; import os"},
    ],
)
def test_no_code_is_made_of_what_a_record_calls_its_input(changes: dict[str, Any]) -> None:
    plain = record()
    inputs = tuple(msgspec.structs.replace(each, **changes) for each in plain.model.inputs)
    foreign = msgspec.structs.replace(plain, model=msgspec.structs.replace(plain.model, inputs=inputs))
    assert not any("python3" in line for line in listing.commands(foreign, "").rows)


@pytest.mark.parametrize("setting", ["io_layout", "duration_s", "percentiles", "optimization_level"])
def test_settings_of_any_value_are_no_crash(setting: str) -> None:
    plain = record()
    planned = {**plain.settings.planned, setting: "$(id)"}
    foreign = msgspec.structs.replace(
        plain, settings=msgspec.structs.replace(plain.settings, planned=planned)
    )
    assert listing.commands(foreign, "").rows[0].startswith("# this kit gives other commands")


def test_nothing_in_a_command_ends_the_block_of_markdown() -> None:
    rows = listing.commands(record(Command("run", ("a```\n```b", "x" * 9000))), "").rows
    assert all("\n" not in row and len(row) <= listing.MAX_COMMAND_CHARACTERS for row in rows)
    page = markdown.render(content.Report((), (listing.Listing("t", rows),)))
    assert page.count("````") == 2
