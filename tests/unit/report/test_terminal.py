"""What a terminal, a pipe and a log get to see."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest
from rich.console import Console

from repro import bundle
from repro.doctor import Line
from repro.report import content, terminal
from repro.schema import Claim, Fact, Layer, Missing, WrongOutput
from repro.worker import Progress
from tests.builders import make_failed, make_record, make_run, seal

HOSTILE = "\x1b]0;owned\x07\x1b[31m[red]\u202eevil\u2066\r\n\x00\x9b2J" + "x" * 3000
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def console(*, terminal: bool = False, width: int = 80) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=width, highlight=False, markup=False), out


def event(**changes: object) -> Progress:
    told = Progress(phase="run", record="base-ort-1.0", build=2, builds=3, run=1, runs=3, left_s=None)
    return msgspec.structs.replace(told, **changes)


def test_progress_names_phase_build_run_and_time_left() -> None:
    screen, out = console()
    with terminal.Watcher(screen) as watch:
        watch(event())
        watch(event(phase="check", left_s=75.0))
    assert out.getvalue().splitlines() == [
        "base-ort-1.0: build 2 of 3, run 1 of 3, measuring",
        "base-ort-1.0: build 2 of 3, run 1 of 3, checking the output; about 1 min 15 s left",
    ]


@pytest.mark.parametrize("phase", get_args(get_type_hints(Progress)["phase"]))
def test_every_phase_has_words(phase: str) -> None:
    screen, out = console()
    terminal.Watcher(screen)(event(phase=phase))
    assert terminal.PHASES[phase] in out.getvalue()


def test_where_it_is_no_terminal_lines_are_plain() -> None:
    screen, out = console()
    with terminal.Watcher(screen) as watch:
        watch(event())
    assert CONTROL.search(out.getvalue()) is None


def test_on_a_terminal_one_line_is_drawn_again_and_taken_away() -> None:
    screen, out = console(terminal=True)
    with terminal.Watcher(screen) as watch:
        watch(event())
        watch(event(phase="check"))
    assert out.getvalue().count("\n") <= 1
    assert out.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("coloured", [True, False])
def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    if not coloured:
        monkeypatch.setenv("NO_COLOR", "1")
    screen, out = console(terminal=True)
    terminal.show_card(screen, content.card(bundle.read(seal(tmp_path, make_failed()).path)))
    terminal.show_lines(screen, [Line("signing", "red", "no key", "make one")])
    for red in ("\x1b[31mfailed in build", "\x1b[1;31mred  \x1b[0msigning"):
        assert (red in out.getvalue()) == coloured


def test_hostile_text_moves_hides_and_colours_nothing(tmp_path: Path) -> None:
    record = make_failed(HOSTILE)
    replace = msgspec.structs.replace
    record = replace(
        record,
        builds=make_record().builds,
        runs=(make_run(0, 1.0),),
        layers=(Layer(HOSTILE, HOSTILE),),
        missing=(Missing(HOSTILE, HOSTILE),),
        board=replace(record.board, name=HOSTILE),
        telemetry=replace(record.telemetry, facts=(Fact("host", HOSTILE, HOSTILE, "value", HOSTILE),)),
    )
    claim: Claim = WrongOutput(record=HOSTILE, norm_error=1.0, expected=HOSTILE, note=HOSTILE[:400])
    opened = bundle.read(seal(tmp_path, record, claims=(claim,), created_utc=HOSTILE).path)
    screen, out = console(terminal=True)
    terminal.show_report(screen, content.report(opened))
    terminal.show_inspection(screen, opened.inspection)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert CONTROL.search(shown) is None
    assert "[red]" in shown, "markup is text"
    # Numbers are never cut, so that a table of many may be wider than the screen.
    assert max(map(len, shown.splitlines())) <= 120
    assert len(shown) < 60_000, "nothing huge is shown whole"


def test_a_card_stays_within_twelve_lines_of_eighty_columns(tmp_path: Path) -> None:
    opened = bundle.read(seal(tmp_path, make_failed(HOSTILE)).path)
    screen, out = console(width=200)
    terminal.show_card(screen, content.card(opened))
    assert len(out.getvalue().splitlines()) <= 12
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_a_doctors_line_has_its_remedy() -> None:
    screen, out = console()
    terminal.show_lines(screen, [Line("disk", "red", "full", "make room"), Line("lock", "ok", "free")])
    assert out.getvalue().splitlines() == ["red  disk        full; make room", "ok   lock        free"]


def test_no_number_loses_its_last_digits_where_the_screen_is_narrow() -> None:
    screen, out = console(width=40)
    names = tuple(f"column {i}" for i in range(9))
    rows = (tuple(f"{1000001 + i}" for i in range(9)), tuple(f"{i}.25" for i in range(9)))
    terminal.show_table(screen, content.Table("Many", names, rows))
    shown = out.getvalue()
    for word in (*names, *rows[0], *rows[1]):
        assert word in shown
    assert screen.width == 40
