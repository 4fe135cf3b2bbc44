"""What a comparison says, in every form."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import observed
from repro.compare import compare
from repro.compare import plan as make_plan
from repro.errors import ExitCode, Refused, UsageError
from repro.observed import Source
from repro.report import comparison as report
from repro.report import markdown, page
from repro.schema import Comparison, Layer, Record, VerdictName
from tests.builders import make_arms, make_run, make_session

replace = msgspec.structs.replace
EVIL = "<script>alert(1)</script>|`x`\x1b[2J"
EVEN = (10.00, 10.02, 9.98, 10.01, 9.99)


def source(*records: Record, name: str = "") -> Source:
    file = name or records[0].session_id
    watched = tuple(observed.observe(record, f"id-{file}", file, {}) for record in records)
    return Source(file, f"id-{file}", watched, "nobody", None, None)


def session(factor: float, version: str, **changes: Any) -> Record:
    return make_session(tuple(factor * each for each in EVEN), f"s-{version}", version, **changes)


def found(*factors: float, **options: Any) -> Comparison:
    """Compare releases 1.0, 1.1, … whose times are `factors` of each other."""
    return compare([source(session(f, f"1.{i}")) for i, f in enumerate(factors)], **options)


def judged(*names: VerdictName) -> Comparison:
    one = found(1.0, 1.1)
    compared = tuple(
        replace(one.compared[0], verdict=replace(one.compared[0].verdict, name=n)) for n in names
    )
    return replace(one, compared=compared)


@pytest.mark.parametrize("name", report.WORDS)
def test_a_single_verdict_exits_with_its_code(name: VerdictName) -> None:
    assert report.exit_code(judged(name)) == report.CODES[name]


def test_the_worst_of_several_verdicts_counts() -> None:
    worst: list[VerdictName] = ["slower", "not_comparable", "inconclusive", "equivalent"]
    for i, first in enumerate(worst):
        for names in itertools.permutations(worst[i:]):
            assert report.exit_code(judged(*names)) == report.CODES[first]


def test_fail_on_names_what_fails() -> None:
    assert report.verdicts("slower, below-margin") == {"slower", "below_margin"}
    assert report.verdicts("none") == frozenset()
    assert report.exit_code(judged("slower"), frozenset()) is ExitCode.DONE
    assert report.exit_code(judged("equivalent"), frozenset({"equivalent"})) is ExitCode.NEGATIVE
    assert report.exit_code(judged("inconclusive"), frozenset({"inconclusive"})) is ExitCode.UNDECIDED
    with pytest.raises(UsageError, match="unknown verdict ''"):
        report.verdicts("slower,")


def test_reservations_are_said_with_an_answer_only() -> None:
    (slower,) = found(1.0, 1.1).compared
    assert report.words(slower.verdict) == "slower (these sessions), unconfirmed"
    stopped = replace(slower.verdict, name="not_comparable", these_sessions=False)
    assert report.words(stopped) == "not comparable"


def test_the_account_names_sides_times_and_reason() -> None:
    account = report.account(found(1.0, 1.1))
    (told,) = account.told
    assert account.title == "made-up: ort-1.0 → ort-1.1"
    assert (told.what, told.mood) == ("made-up", "bad")
    assert [row.label for row in told.times] == ["ort-1.0", "ort-1.1"]
    assert told.times[1].text.startswith("11.00 ms (")
    assert "+10.0 %" in told.sentence
    assert "a build takes" in told.sentence


def test_a_clock_says_what_it_could_account_for() -> None:
    sources = [source(session(1.0, "1.0")), source(session(1.02, "1.1"))]
    sources = [
        each._replace(observed=tuple(o._replace(clock_mhz=mhz) for o in each.observed))
        for each, mhz in zip(sources, (2000.0, 1960.0), strict=True)
    ]
    (told,) = report.account(compare(sources)).told
    assert "clock 2000 MHz → 1960 MHz could make +2.0 % by itself" in told.findings


def test_another_mix_of_structures_is_a_finding() -> None:
    def structured(record: Record, mark: str) -> Record:
        return replace(record, builds=tuple(replace(b, structure_hash=mark * 64) for b in record.builds))

    sources = [source(structured(session(1.0, v), m)) for v, m in (("1.0", "a"), ("1.1", "b"))]
    (told,) = report.account(compare(sources)).told
    assert "the structures of the builds have nothing in common (Fisher's p 0.008)" in told.findings
    assert "Structures among the builds" in [table.title for table in told.tables]


def test_several_releases_make_a_table_in_their_order() -> None:
    account = report.account(found(1.0, 1.1, 0.9))
    series = account.series
    assert series is not None
    assert [row[1] for row in series.rows] == ["ort-1.0", "ort-1.1", "ort-1.2"]
    assert [row[5].partition(" (")[0] for row in series.rows] == ["the first", "slower", "faster"]
    assert "+10.0 %" in series.rows[1]


def test_every_table_is_whole() -> None:
    layers = tuple(
        (Layer("conv1", "Convolution", f"t{i}"), Layer("conv2", "Convolution", "t")) for i in range(2)
    )
    sources = [source(session(1 + i / 10, f"1.{i}", layers=layers[i])) for i in range(2)]
    account = report.account(compare(sources))
    assert account.series is None
    tables = [*account.tables, *(t for told in account.told for t in (*told.tables, told.builds))]
    assert "Layers that changed (1 are the same)" in [table.title for table in tables]
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
        assert all(cell for row in table.rows for cell in row), table.title


@pytest.fixture
def hostile() -> Comparison:
    """Return a comparison of bundles that somebody made to harm its reader."""
    records = []
    for i in range(2):
        record = session(1 + i / 10, f"1.{i}")
        board = replace(record.board, name=f"{EVIL}{i}")
        runtime = replace(record.runtime, release=replace(record.runtime.release, name=f"{EVIL}-1.{i}"))
        layers = (Layer(EVIL, EVIL, EVIL + str(i)),)
        case = replace(record.case, id=EVIL, variant=EVIL)
        records.append(replace(record, board=board, runtime=runtime, layers=layers, case=case))
    sources = [source(record, name=f"{EVIL}{i}.zip")._replace(wrong=EVIL) for i, record in enumerate(records)]
    return compare(sources, across="release")


def test_hostile_text_is_shown_as_text(hostile: Comparison) -> None:
    account = report.account(hostile)
    text = page.render(account, hostile)
    assert "<script" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;" in text
    paper = markdown.comparison(account)
    assert "\x1b" not in paper
    assert not re.search(r"(?<!\\)<script|(?<!\\)`x", paper)


def test_a_page_of_the_most_that_is_likely_fits_into_a_ticket() -> None:
    sources = []
    for version in range(6):
        records = []
        for variant in range(4):
            record = session(1 + version / 100, f"1.{version}", record_name=f"v{variant}")
            record = replace(record, case=replace(record.case, variant=f"v{variant}"))
            runs = tuple(
                make_run(b, 10.0 + b / 100 + r / 1000, id=f"b{b}r{r}") for b in range(8) for r in range(3)
            )
            records.append(replace(record, runs=runs))
        sources.append(source(*records))
    comparison = compare(sources)
    assert len(page.render(report.account(comparison), comparison).encode()) < 1.5 * 2**20


def test_a_page_is_the_same_each_time() -> None:
    comparison = found(1.0, 1.1)
    account = report.account(comparison)
    assert page.render(account, comparison) == page.render(account, comparison)


def test_the_figure_shows_builds_rounds_and_what_has_no_interval() -> None:
    (pair,) = compare([source(*make_arms(EVEN[:4], EVEN[:4]))]).compared
    assert "rounds" not in page.draw("x", [pair], 0.03), "text stays with the caption"
    alone = compare([source(make_session((10.0,), f"s{i}", f"1.{i}")) for i in range(2)]).compared
    assert "nothing was repeated" in page.draw("x", alone, 0.03)


def test_a_page_of_failed_records_has_no_figure() -> None:
    from tests.builders import make_failed

    sources = [source(make_failed(run_id=n, session_id=n)) for n in "ab"]
    comparison = compare(sources)
    assert "<svg" not in page.render(report.account(comparison), comparison)


# --- in a browser -------------------------------------------------------------------------------


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_word_or_a_request(tmp_path: Path, scheme: Any) -> None:
    from tests.chromium import look, pixels

    comparison = found(1.0, 1.1, 0.9)
    page.write(tmp_path / "page.html", report.account(comparison), comparison)
    seen = look(tmp_path / "page.html", tmp_path, scheme)
    assert (seen.console, seen.requests) == ([], [])
    rows = pixels(seen.screenshot)
    colours = {tuple(round(each, 2) for each in pixel[:3]) for row in rows[::3] for pixel in row[::3]}
    brightness = [sum(pixel[:3]) / 3 for row in rows[::7] for pixel in row[::7]]
    middle = sorted(brightness)[len(brightness) // 2]
    assert middle > 0.9 if scheme == "light" else middle < 0.2
    assert len(colours) > 100, "blank"


# --- numbers that somebody made up to harm ------------------------------------------------------

EXTREMES = (0, -1, 1, -1e308, 1e308, 1e-308, 2**62, -(2**62))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all numbers in a JSON value."""
    if isinstance(value, dict):
        return [each for key, item in value.items() for each in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [each for i, item in enumerate(value) for each in leaves(item, (*path, i))]
    return [path] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_no_number_of_a_bundle_breaks_the_comparison() -> None:
    layers = (Layer("conv1", "Convolution", time_ns=5),)
    record = session(1.0, "1.0", layers=layers)
    # Two builds of two runs keep every rule in play and the number of numbers small.
    runs = tuple(make_run(b, 10.0 + b + r, id=f"b{b}r{r}") for b in range(2) for r in range(2))
    record = replace(record, runs=runs, builds=record.builds[:2])
    text = msgspec.json.encode(record)
    other = source(replace(record, run_id="other", session_id="other"))
    tried = 0
    for path in leaves(json.loads(text)):
        if any(isinstance(key, int) and key > 0 for key in path):
            continue  # The first of each list stands for the others.
        for extreme in EXTREMES:
            value = json.loads(text)
            inner = value
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = (
                extreme if isinstance(inner[path[-1]], float) else int(max(-(2**62), min(extreme, 2**62)))
            )
            try:
                made = source(msgspec.json.decode(msgspec.json.encode(value), type=Record))
            except (Refused, msgspec.ValidationError):
                continue
            comparison = compare([other, made])
            account = report.account(comparison)
            markdown.comparison(account)
            for plan in make_plan(made, 0.03).values():
                if plan:
                    report.plan_table("x", plan)
            tried += 1
    assert tried > 100
