"""The card and the details: right numbers, at most 12 lines of 80 columns, safe text only."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import bundle
from repro.report import content, markdown
from repro.report.text import UNSAFE, columns
from repro.schema import (
    Absolute,
    BelowRoof,
    Board,
    Fails,
    Ratio,
    StatedEfficiency,
    Work,
    WrongOutput,
)
from tests.builders import make_failed, make_predicate, make_record, seal

replace = msgspec.structs.replace


# --- claims -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        (Absolute(record="a", ms=27.3), "a takes 27.3 ms"),
        (Ratio(record_a="a", record_b="b", factor=1.25, tolerance=0.1), "b takes 1.25 times the time of a"),
        (BelowRoof(record="a", fraction=0.05, roof="dense"), "a reaches 5% of the roof dense"),
        (Fails(stage="build", signature="build/Fail: no kernel"), "fails in build: no kernel"),
        (WrongOutput(record="a", norm_error=0.0312), "the output of a is off by 0.031"),
        (
            StatedEfficiency(
                record="a", percent=5.46, flop=2.5e10, peak_flops=1e13, time_ms=10.0, peak_is_sparse=True
            ),
            "a: stated 5.46 %, own figures 25.00 %, sparse peak",
        ),
    ],
)
def test_a_claim_is_a_sentence(claim: Any, text: str) -> None:
    assert content.claim_text(claim) == text


@pytest.mark.parametrize(("peak", "ms"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_an_efficiency_of_nothing_is_none(peak: float, ms: float) -> None:
    claim = StatedEfficiency(
        record="a", percent=1, flop=1.0, peak_flops=peak, time_ms=ms, peak_is_sparse=False
    )
    assert content.efficiency(claim) is None
    assert "own figures none" in content.claim_text(claim)


# --- the card -----------------------------------------------------------------------------------


def opened(folder: Path, *records: Any, **changes: Any) -> bundle.Bundle:
    return bundle.read(seal(folder, *records, **changes).path)


def card(folder: Path, *records: Any, **changes: Any) -> dict[str, str]:
    return {row.label: row.text for row in content.card(opened(folder, *records, **changes))}


def test_the_card_of_a_good_record(tmp_path: Path) -> None:
    shown = card(tmp_path, claims=(Absolute(record="a", ms=2.0), Absolute(record="b", ms=3.0)))
    assert shown["Case"] == "made-up@1: A made-up case"
    assert shown["Claim"] == "a takes 2 ms; +1 more"
    assert shown["Board"] == "Made-up CPU, 1 of 2 cores"
    assert shown["Release"] == "ort-1.0 (ONNX Runtime), fp32"
    # exp(mean of the logs of 10.0, 10.1, 9.9) and t(0.975, 2) = 4.3027 standard errors about it.
    assert shown["Time"] == "10.00 ms (9.754 to 10.25, 95 % over 3 builds)"
    assert shown["Protocol"].startswith("brief: 3 of 3 builds × 1 run, ≥ ")
    assert shown["Output"] == "right: error 1.0e-07, allowed 1.0e-05 (FP64, 256 positions)"
    assert shown["Red flags"] == "none"
    assert shown["Signer"] == "nobody signed this"
    assert shown["Replay"] == "yes: model, settings and protocol are in the bundle"


def test_the_card_of_a_failed_record(tmp_path: Path) -> None:
    shown = card(tmp_path, make_failed("no kernel for Conv_3"))
    assert shown["Time"] == "FAILED: no kernel for Conv_3"
    assert shown["Output"] == "not checked"
    assert shown["Claim"] == "none was made"


def test_more_records_are_counted(tmp_path: Path) -> None:
    shown = card(tmp_path, make_record(), make_failed(record_name="b"), make_failed(record_name="c"))
    assert shown["Time"].endswith("; +2 more records")


def test_a_private_model_cannot_be_replayed() -> None:
    record = make_record()
    private = replace(record, case=replace(record.case, share="private"))
    assert content.replayable(private).startswith("no, because the model is private")
    assert content.replayable(replace(record, origin="imported")).startswith("no, because it was imported")


def test_the_group_is_the_same_for_duplicates_only() -> None:
    record = make_record()
    key = content.group_key(record)
    assert key == content.group_key(make_record((1.0, 2.0, 3.0)))
    text = "\0".join(["d" * 64, "Made-up CPU", "ort-1.0", record.builds[0].structure_hash or ""])
    assert key == hashlib.sha256(text.encode()).hexdigest()[:16]
    others = [
        replace(record, board=replace(record.board, name="Another")),
        replace(record, case=replace(record.case, digest="e" * 64)),
        replace(record, builds=tuple(replace(b, structure_hash="0" * 64) for b in record.builds)),
    ]
    assert len({key, *map(content.group_key, others)}) == 4


hostile = st.text(max_size=120) | st.sampled_from(["\x1b[2J" * 40, "漢" * 200, "\u202e" * 90, "x" * 5000])


@given(hostile, hostile, hostile)
@settings(deadline=None, max_examples=60)
def test_a_card_of_hostile_text_has_12_lines_of_80_columns(
    tmp_path_factory: pytest.TempPathFactory, reason: str, name: str, note: str
) -> None:
    record = make_failed(reason, board=replace(make_record().board, name=name))
    inspection = bundle.inspect(seal(tmp_path_factory.mktemp("card")).path)
    told = make_predicate(record, claims=(Fails(stage="build", signature=reason, note=note[:500]),))
    source = bundle.read(seal(tmp_path_factory.mktemp("card")).path)
    made = source._replace(
        statement=replace(source.statement, predicate=told),
        records={record.record_name: record},
        inspection=inspection,
    )
    report = content.report(made)
    assert len(report.card) <= content.CARD_LINES
    for row in report.card:
        assert content.LABEL_COLUMNS + columns(row.text) <= content.CARD_COLUMNS
    shown = [row.text for row in report.card]
    shown += [cell for part in report.details for cells in part.rows for cell in cells]
    shown += markdown.render(report).split("\n")
    assert not {unicodedata.category(char) for text in shown for char in text} & UNSAFE


# --- roofs --------------------------------------------------------------------------------------


def test_work_and_roofs_are_tables_with_every_assumption(tmp_path: Path) -> None:
    work = Work(10**9, 10**6, 3 * 10**6, ("MyOp 'a'",))
    board = Board(matched_id="h200-sxm", name="NVIDIA H200", compute_capability="9.0", sm_count=132)
    records = [
        replace(make_record((ms,)), record_name=f"{name}-ort-1.0", work=work, board=board)
        for name, ms in (("a", 1.0), ("b", 2.0))
    ]
    details = content.report(bundle.read(seal(tmp_path, *records).path)).details
    tables = {part.title: part for part in details if isinstance(part, content.Table)}
    overview = tables["Attained fractions"]
    assert [row[0] for row in overview.rows] == ["a-ort-1.0", "b-ort-1.0"]
    told = tables["Work of a-ort-1.0"].rows
    assert ("multiply-adds, two operations each", "1,000,000,000 FLOP") in told
    assert ("operators without a rule", "MyOp 'a'") in told
    assert [text for what, text in told if what == "assumed"] == [
        "SM clock 1830 MHz, the board's reference: the runs tell none",
        "memory at its rated 4800 GB/s: its clock was not read",
    ]
    roofs = {row[0]: row for row in tables["Roofs of a-ort-1.0"].rows}
    assert roofs.keys() == {"compute", "fused at pin", "unfused at pin"}
    # 1e9 FLOP at 132 × 256 × 1.83 GHz are 16.17 µs: above both memory roofs.
    assert roofs["unfused at pin"][1:4] == ("0.01617", "1.6%", "compute")


def test_one_record_needs_no_overview(tmp_path: Path) -> None:
    record = make_record(work=Work(1, 1, 1, ()))
    titles = [part.title for part in content.report(bundle.read(seal(tmp_path, record).path)).details]
    assert "Attained fractions" not in titles
    assert "Work" in titles
