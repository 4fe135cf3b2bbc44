"""The page of a bundle: figures where there are numbers, everything escaped, legible in light and dark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import bundle
from repro.bundle import statement
from repro.report import bundle_page, figures, html
from repro.schema import (
    Board,
    CaseRef,
    ConvStack,
    Effective,
    Layer,
    LayerTensor,
    Record,
    ResolvedCase,
    StatedEfficiency,
    Work,
)
from tests import chromium
from tests.builders import SETTINGS, make_files, make_predicate, make_record, make_run

replace = msgspec.structs.replace
PIXELS = 1920 * 1080
WIDTHS = (3, 8, 16, 24, 32, 48, 64, 96, 128, 256)
EVIL = "</title><script>alert(1)</script>"


def spec(width: int) -> ConvStack:
    return ConvStack("s", 1, 1920, 1080, (width,) * 4, 3, True)


def on_board(name: str, width: int, times_ms: tuple[float, ...]) -> Record:
    """Return a made-up record of three convolutions, on a board that the table knows."""
    tensor = 2 * width * PIXELS
    work = Work(2 * 9 * width * width * PIXELS * 3, 2 * tensor, 6 * tensor, ())
    record = make_record(times_ms)
    return replace(
        record,
        record_name=f"{name}-torch-2.11.0",
        case=CaseRef("made-up", 1, name, "d" * 64, "full"),
        board=Board(matched_id="h200-sxm", name="NVIDIA H200", compute_capability="9.0", sm_count=132),
        runs=tuple(
            make_run(i, ms, sm_clock_mhz=1980.0, memory_clock_mhz=3201.0) for i, ms in enumerate(times_ms)
        ),
        builds=tuple(
            replace(build, structure_hash=f"{i % 2 if width == 16 else 0}" * 64)
            for i, build in enumerate(record.builds)
        ),
        work=work,
        settings=replace(record.settings, effective={"precision": Effective("fp16", "graph")}),
        runtime=replace(record.runtime, device="x86", provider="CUDA"),
    )


def sweep() -> dict[str, tuple[Record, ConvStack]]:
    """Return a made-up sweep: bound by memory up to 64 channels, then by operations; and a copy."""
    found = {}
    for width in WIDTHS:
        ms = max(12 * width * PIXELS / 3.2e12, 54 * width * width * PIXELS / 5e14) * 1e3
        times = tuple(ms * (1 + 0.0004 * i + (0.03 if i % 2 and width == 16 else 0)) for i in range(6))
        record = on_board(f"c{width}", width, times)
        found[record.record_name] = record, spec(width)
    copy = on_board("calib", 16, (0.05,))
    copy = replace(
        copy,
        record_name="calib-copy-torch-2.11.0",
        role="calibration",
        case=CaseRef("calib-copy", 1, None, "c" * 64, "full"),
        work=Work(0, 190_000_000, 190_000_000, ()),
    )
    found[copy.record_name] = copy, spec(16)
    return found


def sealed(
    folder: Path,
    records: dict[str, tuple[Record, ConvStack]],
    claims: tuple[StatedEfficiency, ...] = (),
    **words: Any,
) -> bundle.Bundle:
    told = {"title": "Three convolutions", "question": "Do I need more channels?", **words}
    files = make_files(*(record for record, _ in records.values()))
    for name, (record, model) in records.items():
        resolved = ResolvedCase(
            record.case, source="nowhere", model=model, settings=SETTINGS, tolerances={}, **told
        )
        files[f"records/{name}/case/case.json"] = msgspec.json.encode(resolved)
    predicate = make_predicate(*(record for record, _ in records.values()), claims=claims)
    path = bundle.seal(files, predicate, key=None, target=folder, stem="made-up").path
    return bundle.read(path)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    return sealed(tmp_path_factory.mktemp("page"), sweep())


def test_a_sweep_gives_three_figures(opened: bundle.Bundle) -> None:
    text = bundle_page.render(opened)
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', text)
    assert labels == [
        "Roofline with the records as points",
        "Time and attained fraction against channels",
        "Builds as dots",
    ]
    for width in WIDTHS:
        assert f">c{width}<" in text
    assert ">4,917 GB/s at the pins<" in text
    assert ">3,800 GB/s attainable<" in text
    assert ">1,071 TFLOP/s, peak<" in text
    assert len(text.encode()) < html.MAX_BYTES


def test_every_word_of_a_figure_has_a_colour_of_the_page(opened: bundle.Bundle) -> None:
    words = re.findall(r"<text\b[^>]*>", bundle_page.render(opened))
    assert len(words) > 50
    assert [each for each in words if "fill: var(--" not in each] == []


def test_only_what_differs_in_channels_alone_is_a_sweep(opened: bundle.Bundle) -> None:
    from repro import facts

    given = facts.of_bundle(opened)
    found = tuple(given.attained.values())
    assert [width for width, _ in figures.swept(found, given.networks)] == list(WIDTHS)
    networks = dict(given.networks)
    networks["c256-torch-2.11.0"] = replace(spec(256), kernel=5)
    networks["c128-torch-2.11.0"] = replace(spec(128), channels=(128, 256))
    assert [width for width, _ in figures.swept(found, networks)] == [*WIDTHS[:-2]]
    assert figures.swept((), {}) == []


def test_without_numbers_there_is_no_figure(tmp_path: Path) -> None:
    record = make_record((), status="failed", reason="broken")
    text = bundle_page.render(sealed(tmp_path, {record.record_name: (record, spec(16))}))
    assert "<svg" not in text
    assert "Figures" not in text


def test_times_alone_give_dots_alone(tmp_path: Path) -> None:
    record = make_record()
    text = bundle_page.render(sealed(tmp_path, {record.record_name: (record, spec(16))}))
    assert re.findall(r'aria-label="([^"]*)">?', text.split("Figures</h2>")[1])[0] == "Builds as dots"


def test_what_a_bundle_says_is_escaped(tmp_path: Path) -> None:
    record = make_record()
    text = bundle_page.render(
        sealed(tmp_path, {record.record_name: (record, spec(16))}, title=EVIL, question=EVIL)
    )
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_the_findings_are_there_with_what_comes_next(opened: bundle.Bundle) -> None:
    text = bundle_page.render(opened)
    assert "the builds of c16-torch-2.11.0 are not all of one structure" in text
    assert "Next: <code>repro run made-up:c16 --device x86 --builds 10</code>" in text


HUGE = int("9" * statement.MAX_INTEGER_DIGITS)
"""Of longer numbers the reader refuses the whole bundle."""
RUN = make_run(0, 1.0)
CLAIM = StatedEfficiency(
    record="c16", flop=1e9, peak_flops=1e12, peak_is_sparse=True, time_ms=1.0, percent=0.0
)
NO_CHANNELS = LayerTensor(None, None, (1, 0, 1, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"work": Work(HUGE, 1, 1, ())},
        {"work": Work(1, HUGE, HUGE, ())},
        {"work": Work(-1, -1, -1, ())},
        {"work": Work(0, 0, 0, ())},
        {"work": Work(2**61, 1, 1, ())},
        {"runs": (replace(RUN, sm_clock_mhz=1e300, memory_clock_mhz=-5.0),)},
        {"runs": (replace(RUN, enqueue_median_ns=1.0, summary=replace(RUN.summary, median_ns=0.0)),)},
        {
            "runs": tuple(
                replace(make_run(i, 1.0), summary=replace(RUN.summary, log_median=value))
                for i, value in enumerate((-650.0, -650.0, 650.0, 650.0))
            )
        },
        {"runs": (replace(RUN, summary=replace(RUN.summary, log_median=1e308)),)},
        {"runs": (replace(RUN, summary=replace(RUN.summary, log_median=-1e308)),)},
        {"board": Board(matched_id="h200-sxm", compute_capability="9.0", sm_count=HUGE)},
        {
            "layers": (
                Layer("k", "x", tactic="fprop_tilesize0x0x0"),
                Layer("l", "x", tactic="tilesize" + "9" * 5000 + "x1x1"),
            )
        },
        {"layers": (Layer("k", "x", tactic="tilesize1x1x1", outputs=(NO_CHANNELS,)),)},
    ],
)
def test_numbers_of_a_hostile_bundle_do_no_harm(tmp_path: Path, changes: dict[str, Any]) -> None:
    record = replace(on_board("c16", 16, (1.0, 1.1, 1.2, 1.3)), **changes)
    opened = sealed(tmp_path, {record.record_name: (record, spec(16))}, claims=(CLAIM,))
    assert bundle_page.render(opened).startswith("<!doctype html>")


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_and_asks_for_nothing(opened: bundle.Bundle, tmp_path: Path, scheme: Any) -> None:
    path = tmp_path / "page.html"
    path.write_text(bundle_page.render(opened), encoding="utf-8")
    seen = chromium.look(path, tmp_path, scheme, size=(1100, 3000))
    assert seen.console == []
    assert seen.requests == []
    rows = chromium.pixels(seen.screenshot)
    corner = sum(rows[2][2][:3]) / 3
    assert (corner > 0.9) if scheme == "light" else (corner < 0.2)
    # Lines, points and text stand out from the paper in the lower half too, where the figures are.
    assert any(abs(sum(pixel[:3]) / 3 - corner) > 0.4 for row in rows[1500:] for pixel in row[::7])
