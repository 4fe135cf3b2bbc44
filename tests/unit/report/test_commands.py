"""What `repro lower` tells, and the commands of a report."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from repro import lowering
from repro.cli import cli, main
from repro.report import content, markdown
from repro.schema import Command, Record, ReleaseSeen, Settings
from tests.builders import SETTINGS, make_record


def lower(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["lower", *arguments])


def test_one_release_is_told_with_commands_and_reasons() -> None:
    told = lower("conv16:hwc8", "--release", "trt-11.1", "--device", "x86")
    assert told.exit_code == 0
    assert "trtexec --onnx=model.fp16.onnx" in told.output
    assert "instead: typing is strong, not weak (trtexec 11.1)" in told.output
    assert "absent: typing: this release knows no other" in told.output


def test_what_a_release_can_t_run_has_a_reason_and_an_exit_code() -> None:
    told = lower("conv16", "--release", "11.1", "--device", "orin")
    assert told.exit_code == 4
    assert "unsupported: JetPack is not supported" in told.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["conv16"], "name one release"),
        (["conv16", "--all", "--release", "8.5"], "name one release"),
        (["conv16", "--release", "ort-1.31.1"], "no release of TensorRT"),
        (["conv99", "--all"], "unknown case"),
        (["conv16:none", "--all"], "unknown variant"),
        (["conv16", "--all", "--device", "moon"], "unknown device"),
    ],
)
def test_a_wrong_call_says_what_to_do(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["repro", "lower", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


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
    first, second, *rest = content.commands(record(), "").rows
    assert first == "cd records/base-ort-1.0/case"
    assert second.startswith("python3 -c ")
    assert [line.split()[0] for line in rest] == ["trtexec"] * 4


def test_commands_that_this_kit_would_not_give_are_pointed_out() -> None:
    rows = content.commands(record(Command("run", ("curl", "example.org"))), "").rows
    assert rows[0].startswith("# this kit gives other commands")


def test_a_release_that_nobody_knows_is_no_crash() -> None:
    foreign = msgspec.structs.replace(record(), commands=(Command("run", ("x",)),))
    foreign = msgspec.structs.replace(
        foreign,
        runtime=msgspec.structs.replace(foreign.runtime, release=ReleaseSeen("somebody's", "1")),
        settings=msgspec.structs.replace(foreign.settings, planned={}),
    )
    assert content.commands(foreign, "").rows[0].startswith("# this kit gives other commands")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 'x").digest(1); import os; os.system("id"); ("'},
        {"dtype": "fp16; import os"},
        {"shape": (1, 2)},
    ],
)
def test_no_code_is_made_of_what_a_record_calls_its_input(changes: dict[str, Any]) -> None:
    plain = record()
    inputs = tuple(msgspec.structs.replace(each, **changes) for each in plain.model.inputs)
    foreign = msgspec.structs.replace(plain, model=msgspec.structs.replace(plain.model, inputs=inputs))
    assert not any("python3" in line for line in content.commands(foreign, "").rows)


@pytest.mark.parametrize("setting", ["io_layout", "duration_s", "percentiles", "optimization_level"])
def test_settings_of_any_value_are_no_crash(setting: str) -> None:
    plain = record()
    planned = {**plain.settings.planned, setting: "$(id)"}
    foreign = msgspec.structs.replace(
        plain, settings=msgspec.structs.replace(plain.settings, planned=planned)
    )
    assert content.commands(foreign, "").rows[0].startswith("# this kit gives other commands")


def test_nothing_in_a_command_ends_the_block_of_markdown() -> None:
    rows = content.commands(record(Command("run", ("a```\n```b", "x" * 9000))), "").rows
    assert all("\n" not in row and len(row) <= content.MAX_COMMAND_CHARACTERS for row in rows)
    page = markdown.render(content.Report((), (content.Listing("t", rows),)))
    assert page.count("````") == 2
