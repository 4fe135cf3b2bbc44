"""Which red flags a record raises, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import bundle
from repro.report import content
from repro.schema import (
    CutShort,
    Effective,
    Fact,
    Flag,
    Mismatch,
    Record,
    SamplerSeen,
    StateChange,
    Substitution,
)
from tests.builders import make_failed, make_record, make_run, seal

replace = msgspec.structs.replace


def telemetry(**changes: Any) -> Any:
    return replace(make_record().telemetry, **changes)


CASES: list[tuple[str, Record, str]] = [
    ("failed", make_failed("no kernel"), "failed in build: no kernel"),
    (
        "mismatch",
        make_record(mismatches=(Mismatch("precision", "fp16", "fp32", "graph"),)),
        "precision was fp32, planned fp16",
    ),
    ("cut_short", make_record(cut_short=CutShort("the budget", 2)), "only 2 of 3 rounds: the budget"),
    (
        "substitution",
        make_record(substitutions=(Substitution("precision", "fp16", "fp32", "on.cpu"),)),
        "precision is fp32 instead of fp16 (on.cpu)",
    ),
    (
        "foreign_load",
        make_record(runs=(make_run(0, 1.0, flags=(Flag("foreign_load", "busy"),)),) * 2),
        "b0r0 and 1 more: busy",
    ),
    (
        "clock_set",
        make_record(
            telemetry=telemetry(state_changed=(StateChange("host", "wall_clock", "steady", "set by +9 s"),))
        ),
        "the wall clock was set by +9 s during the session",
    ),
    (
        "settings_changed",
        make_record(
            telemetry=telemetry(state_changed=(StateChange("jetson", "jetson_clocks", "off", "on"),))
        ),
        "jetson_clocks was off before and on after the session",
    ),
    (
        "board_elsewhere",
        make_record(
            telemetry=telemetry(facts=(Fact("jetson", "read_below", None, "value", "another folder"),))
        ),
        "the board's state was read from files, not from this machine",
    ),
    (
        "sampler",
        make_record(telemetry=telemetry(sampler=SamplerSeen(None, None, None, "early"))),
        "the sampler ended early: the machine's state is known in part",
    ),
]


@pytest.mark.parametrize(("code", "record", "text"), CASES, ids=[case[0] for case in CASES])
def test_each_weakness_has_its_flag(code: str, record: Record, text: str) -> None:
    assert content.red_flags(record) == [(code, text)]
    assert code in content.FLAG_RANKS


def test_a_sound_record_has_none() -> None:
    assert content.red_flags(make_record()) == []


def test_builds_of_different_structure_are_flagged() -> None:
    record = make_record()
    builds = (replace(record.builds[0], structure_hash="0" * 64), *record.builds[1:])
    assert [code for code, _ in content.red_flags(replace(record, builds=builds))] == ["structures"]


def test_odd_samples_alone_are_no_red_flag() -> None:
    record = make_record(runs=(make_run(0, 1.0, flags=(Flag("odd_samples", "2 of 20"),)),))
    assert content.red_flags(record) == []


@pytest.mark.parametrize(
    ("sealed", "flagged"), [("at_once", False), ("later", False), ("after_reboot", True), ("elsewhere", True)]
)
def test_a_bundle_sealed_far_from_its_run_says_so(tmp_path: Path, sealed: Any, flagged: bool) -> None:
    opened = bundle.read(seal(tmp_path, sealed=sealed).path)
    text = "\n".join(row.text for row in content.card(opened))
    assert ("sealed on another machine" in text or "sealed after a reboot" in text) == flagged
    (table,) = (part for part in content.report(opened).details if part.title == "Bundle")
    assert ("sealed", content.SEALED[sealed]) in table.rows


def test_the_worst_come_first_and_the_rest_is_counted(tmp_path: Path) -> None:
    record = make_record(
        cut_short=CutShort("the budget", 2),
        substitutions=(Substitution("precision", "fp16", "fp32", "on.cpu"),),
        mismatches=(Mismatch("io_layout", "chw", "hwc8", "graph"),),
        runs=(make_run(0, 1.0, flags=(Flag("trend", "rising"), Flag("not_flat", "cold"))),),
    )
    opened = bundle.read(seal(tmp_path, record).path)
    rows = [row for row in content.card(opened) if row.label in ("Red flags", "")]
    assert len(rows) <= content.MAX_FLAGS
    assert "io_layout was hwc8" in rows[0].text
    assert "only 2 of 3 rounds" in rows[1].text
    assert rows[-1].text.endswith(f"(+{5 - len(rows)} more)")


HOSTILE = "\x1b[2J\u202eevil\r\n" + "x" * 5000 + "|<b>*[a](b)"


@pytest.mark.parametrize(
    "record",
    [
        make_failed(HOSTILE),
        make_record(board=replace(make_record().board, name=HOSTILE)),
        make_record(cut_short=CutShort(HOSTILE, 1)),
        make_record(substitutions=(Substitution(HOSTILE, HOSTILE, HOSTILE, HOSTILE),)),
        make_record(
            settings=replace(make_record().settings, effective={"precision": Effective(HOSTILE, "graph")})
        ),
        make_record((1.0,)),
        make_record((), status="failed", reason=None),
    ],
)
def test_a_card_has_twelve_lines_of_eighty_columns_whatever_it_holds(tmp_path: Path, record: Record) -> None:
    opened = bundle.read(seal(tmp_path, record, make_record(record_name="second")).path)
    rows = content.card(opened)
    assert len(rows) <= 12
    for row in rows:
        line = f"{row.label:<{content.LABEL_COLUMNS}}{row.text}"
        assert len(line) <= 80
        assert line.isprintable()
    for part in content.report(opened).details:
        assert all(cell.isprintable() for row in part.rows for cell in row)


def test_the_flag_order_has_no_name_twice() -> None:
    assert len(set(content.FLAG_RANKS)) == len(content.FLAG_RANKS)
