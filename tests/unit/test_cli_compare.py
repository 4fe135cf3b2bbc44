"""The verbs `compare` and `plan` as they are called: output, exit codes, one line for each bad input."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from repro import cli
from repro.bundle import archive
from repro.schema import Comparison, Record
from tests.builders import make_arms, make_failed, make_record, make_session, seal

EVEN = (10.00, 10.02, 9.98, 10.01, 9.99)
SLOW = (10.50, 10.52, 10.48, 10.51, 10.49)
NOISY = (9.0, 10.0, 11.5, 9.5, 10.4)


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["repro", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run


def sealed(folder: Path, name: str, *records: Record) -> Path:
    return seal(folder / f"{name}.zip", *records).path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return the bundles of a release and of a slower one."""
    return (
        sealed(tmp_path, "old", make_session(EVEN, "one", "1.0")),
        sealed(tmp_path, "new", make_session(SLOW, "two", "1.1")),
    )


# --- the answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "code", "words"),
    [
        (EVEN, SLOW, 1, "SLOWER (THESE SESSIONS)"),
        (SLOW, EVEN, 0, "FASTER (THESE SESSIONS)"),
        (EVEN, EVEN[::-1], 0, "EQUIVALENT (THESE SESSIONS)"),
        (EVEN, tuple(1.01 * each for each in EVEN), 0, "DIFFERENT, BELOW THE MARGIN (THESE SESSIONS)"),
        (EVEN, NOISY, 3, "INCONCLUSIVE"),
        (EVEN[:1], EVEN[1:2], 3, "INCONCLUSIVE"),
    ],
)
def test_each_verdict_has_its_words_and_its_exit_code(
    call: Call, tmp_path: Path, a: tuple[float, ...], b: tuple[float, ...], code: int, words: str
) -> None:
    paths = (
        sealed(tmp_path, "a", make_session(a, "one", "1.0")),
        sealed(tmp_path, "b", make_session(b, "two", "1.1")),
    )
    answer = call("compare", *paths)
    assert answer.code == code
    assert f"made-up {words}" in answer.out


def test_what_is_not_comparable_exits_with_4_and_shows_its_numbers(call: Call, tmp_path: Path) -> None:
    other = make_session(SLOW, "two", "1.1")
    other = msgspec.structs.replace(other, board=msgspec.structs.replace(other.board, threads=2))
    paths = sealed(tmp_path, "a", make_session(EVEN, "one")), sealed(tmp_path, "b", other)
    answer = call("compare", *paths)
    assert answer.code == 4
    assert "made-up NOT COMPARABLE" in answer.out
    assert "threads: 1 against 2" in answer.out
    assert "10.50 ms" in answer.out


def test_the_arms_of_one_bundle_are_compared_in_pairs(call: Call, tmp_path: Path) -> None:
    times = (10.0, 10.1, 10.9, 11.0, 10.3, 10.2)
    path = sealed(tmp_path, "ab", *make_arms(times, tuple(1.05 * each for each in times)))
    answer = call("compare", path)
    assert answer.code == 1
    assert "made-up SLOWER" in answer.out
    assert "THESE SESSIONS" not in answer.out
    assert "over 3 rounds" in answer.out


def test_json_is_of_the_schema_and_the_only_output(call: Call, pair: tuple[Path, Path]) -> None:
    answer = call("compare", *pair, "--json")
    found = msgspec.json.decode(answer.out, type=Comparison)
    assert answer.code == 1
    assert found.compared[0].verdict.name == "slower"
    assert json.loads(answer.out)["across"] == "release"


def test_markdown_names_verdict_and_reason(call: Call, pair: tuple[Path, Path]) -> None:
    answer = call("compare", *pair, "--markdown")
    assert "**made\\-up: slower \\(these sessions\\)" in answer.out
    assert len(answer.out) < 60_000, "GitHub takes 65,536 characters"


def test_html_is_written_beside_the_other_output(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    answer = call("compare", *pair, "--html", tmp_path / "page.html")
    assert answer.code == 1
    assert "SLOWER" in answer.out
    assert "slower (these sessions)" in (tmp_path / "page.html").read_text()
    assert [path.name for path in tmp_path.glob("*.part")] == []


@pytest.mark.parametrize(
    ("wanted", "code"),
    [("slower", 1), ("inconclusive", 0), ("none", 0), ("faster,slower", 1), ("equivalent, slower", 1)],
)
def test_fail_on_says_which_verdicts_fail(
    call: Call, pair: tuple[Path, Path], wanted: str, code: int
) -> None:
    assert call("compare", *pair, "--fail-on", wanted).code == code


def test_fail_on_makes_a_good_verdict_fail_with_1(call: Call, pair: tuple[Path, Path]) -> None:
    assert call("compare", *pair[::-1], "--fail-on", "faster").code == 1


def test_a_wide_margin_makes_it_equivalent(call: Call, pair: tuple[Path, Path]) -> None:
    assert call("compare", *pair, "--margin", "8%").code == 0
    assert call("compare", *pair, "--margin", "0.08").code == 0


# --- bad input ----------------------------------------------------------------------------------


def refusal(answer: Answer, code: int, *words: str) -> None:
    """Check that it is one line with these words, and this exit code."""
    assert answer.code == code
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1, answer.err
    assert answer.err.startswith("repro: ")
    for each in words:
        assert each in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        (["{a}"], "holds one side only"),
        (["{a}", "{b}", "--margin", "0"], "does not lie between 0 and 100 %"),
        (["{a}", "{b}", "--margin", "lots"], "is not a share such as 3%"),
        (["{a}", "{b}", "--margin", "150%"], "does not lie between"),
        (["{a}", "{b}", "--across", "colour"], "colour"),
        (["{a}", "{b}", "--json", "--markdown"], "exclude each other"),
        (["{a}", "{b}", "--fail-on", "slwer"], "did you mean slower"),
    ],
)
def test_a_wrong_call_is_told(call: Call, pair: tuple[Path, Path], arguments: list[str], words: str) -> None:
    refusal(call("compare", *(each.format(a=pair[0], b=pair[1]) for each in arguments)), 2, words)


@pytest.mark.parametrize("twice", ["named", "copied", "sealed"])
def test_a_bundle_compared_with_itself_is_told(call: Call, tmp_path: Path, twice: str) -> None:
    record = make_session(EVEN, "one")
    first = sealed(tmp_path, "a", record)
    second = tmp_path / "b.zip"
    if twice == "named":
        second = first
    elif twice == "copied":
        second.write_bytes(first.read_bytes())
    else:
        second = seal(second, record, created_utc="2026-01-02T00:00:00Z").path
    same = "hold the same runs" if twice == "sealed" else "are the same bundle"
    refusal(call("compare", first, second), 4, "not comparable", same)


def test_what_is_not_there_or_no_bundle_is_told(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    refusal(call("compare", pair[0], tmp_path / "none.zip"), 1, "does not exist")
    (tmp_path / "text.zip").write_text("no zip")
    refusal(call("compare", pair[0], tmp_path / "text.zip"), 1, "text.zip is refused")
    refusal(call("compare", pair[0], tmp_path), 1, "is a folder")


def test_no_common_variant_is_told(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    record = make_session(EVEN, "three", "1.1")
    other = msgspec.structs.replace(record, case=msgspec.structs.replace(record.case, id="another"))
    refusal(call("compare", pair[0], sealed(tmp_path, "c", other)), 4, "have no variant in common")


def test_a_bundle_without_records_is_told(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    from repro import bundle
    from tests.builders import make_predicate

    path = bundle.seal({}, make_predicate(), key=None, target=tmp_path / "e.zip", stem="x").path
    refusal(call("compare", pair[0], path), 4, "holds no record")


def test_a_failed_record_is_not_comparable_and_says_why(
    call: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    failed = make_failed("no kernel for it", run_id="three", session_id="three")
    answer = call("compare", pair[0], sealed(tmp_path, "f", failed))
    assert answer.code == 4
    assert "failed: no kernel for it" in answer.out


def test_one_record_missing_is_noted_and_the_rest_compared(
    call: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    extra = make_session(EVEN, "three", "1.1", record_name="wide-ort-1.1")
    extra = msgspec.structs.replace(extra, case=msgspec.structs.replace(extra.case, variant="wide"))
    both = sealed(tmp_path, "c", make_session(SLOW, "three", "1.1"), extra)
    answer = call("compare", pair[0], both)
    assert answer.code == 1
    assert "made-up:wide is in ort-1.1 only" in answer.out


def test_an_alternating_bundle_is_not_mixed_with_others(
    call: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    path = sealed(tmp_path, "ab", *make_arms(EVEN[:4], SLOW[:4]))
    refusal(call("compare", pair[0], path), 2, "ab.zip is an alternating session")


def test_a_newer_schema_is_read_as_far_as_it_is_understood(
    call: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    newer = make_session(SLOW, "three", "1.1", schema_version=7)
    answer = call("compare", pair[0], sealed(tmp_path, "n", newer))
    assert answer.code == 1
    assert "n.zip has schema version 7, newer than this kit's" in answer.out


def test_what_a_newer_kit_calls_critical_stops_it(
    call: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    newer = make_session(SLOW, "three", "1.1", schema_version=7, critical=("tides",))
    answer = call("compare", pair[0], sealed(tmp_path, "n", newer))
    assert answer.code == 4
    assert "tides" in answer.out


def test_a_page_that_cannot_be_written_is_told(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    refusal(call("compare", *pair, "--html", tmp_path / "none" / "page.html"), 1, "can't write")
    (tmp_path / "folder").mkdir()
    refusal(call("compare", *pair, "--html", tmp_path / "folder"), 1, "can't write")


def tampered(path: Path) -> Path:
    """Change a sample of a bundle, and keep its container well-formed."""
    with zipfile.ZipFile(path) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    name = next(name for name in members if "/samples/" in name)
    members[name] = members[name][:-1] + b"\x01"
    with path.with_name("bad.zip").open("wb") as file:
        archive.write(file, members)
    return path.with_name("bad.zip")


def test_a_tampered_bundle_is_refused(call: Call, pair: tuple[Path, Path]) -> None:
    refusal(call("compare", pair[0], tampered(pair[1])), 1, "bad.zip is refused", "CHANGED")


@pytest.mark.parametrize("form", ["", "--json", "--markdown", "--html"])
def test_what_is_read_unverified_stamps_every_output(
    call: Call, pair: tuple[Path, Path], tmp_path: Path, form: str
) -> None:
    page = tmp_path / "page.html"
    answer = call("compare", pair[0], tampered(pair[1]), "--unverified", *([form] if form else []),
                  *([page] if form == "--html" else []))  # fmt: skip
    assert answer.code == 1
    text = page.read_text() if form == "--html" else answer.out
    assert re.search(r"UNVERIFIED.*bad\\?\.zip|\"unverified\": \"its files", text)


def test_unverified_stamps_nothing_that_is_intact(call: Call, pair: tuple[Path, Path]) -> None:
    assert "UNVERIFIED" not in call("compare", *pair, "--unverified").out


def test_a_record_of_no_session_does_not_break_it(call: Call, tmp_path: Path) -> None:
    paths = [sealed(tmp_path, n, make_record((1.0, 2.0), run_id=n, session_id="")) for n in "ab"]
    assert call("compare", *paths).code == 3


# --- planning -----------------------------------------------------------------------------------


def test_a_plan_says_how_many_of_each_kind(call: Call, pair: tuple[Path, Path]) -> None:
    answer = call("plan", "--margin", "2%", "--from", pair[0])
    assert answer.code == 0
    assert "to find 2 % in 90 % of cases" in answer.out
    assert re.search(r"one session a side +2 builds a side", answer.out)
    assert "5 builds in 1 session" in answer.out


def test_a_plan_from_one_build_is_undecided(call: Call, tmp_path: Path) -> None:
    answer = call("plan", "--from", sealed(tmp_path, "one", make_record((1.0,))))
    assert (answer.code, answer.out) == (
        3,
        "made-up: no spread was seen; measure at least 2 builds, better 5\n",
    )


def test_a_plan_as_json(call: Call, pair: tuple[Path, Path]) -> None:
    found = json.loads(call("plan", "--from", pair[0], "--json").out)
    assert [row["needs"] for row in found["made-up"]["rows"]][1] == 2


def test_a_plan_from_nothing_is_told(call: Call, tmp_path: Path) -> None:
    refusal(call("plan"), 2, "there is no bundle in bundles/")
    refusal(call("plan", "--from", tmp_path / "none.zip"), 1, "does not exist")
    refusal(call("plan", "--power", "100%"), 2, "does not lie between")
