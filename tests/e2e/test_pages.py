"""The pages for reporters and vendors, run word by word: from a report to its answer and back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from repro.claims import KINDS
from repro.replay import EXIT_CODES
from repro.report.reply import WORDS
from repro.schema import Outcome

DOCS = Path(__file__).parents[2] / "docs"
REPORTERS, VENDORS = ((DOCS / name).read_text() for name in ("for-reporters.md", "for-vendors.md"))
LATER = "## When the answer comes"


def commands(page: str) -> list[tuple[str, set[int]]]:
    """Return the commands of a page's shell blocks, each with the exit codes that it may have."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            command, _, codes = line.partition("  # ")
            found.append((command, {int(code) for code in re.findall(r"\d+", codes)} or {0}))
    return found


def follow(page: str, folder: Path, tmp_path: Path) -> None:
    """Run a page's commands in a folder, with keys of that folder's own."""
    program = tmp_path / "bin" / "repro"
    if not program.exists():
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m repro "$@"\n')
        program.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    assert commands(page)
    for command, codes in commands(page):
        done = subprocess.run(
            command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode in codes, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.needs("ssh-keygen", "linux")
def test_a_report_is_answered_as_the_pages_say(tmp_path: Path) -> None:
    reporter, vendor = tmp_path / "reporter", tmp_path / "vendor"
    reporter.mkdir()
    vendor.mkdir()
    before, _, after = REPORTERS.partition(LATER)
    follow(before, reporter, tmp_path)
    assert "## Environment" in (reporter / "ticket.md").read_text()
    (reporter / "report.zip").rename(vendor / "report.zip")
    follow(VENDORS, vendor, tmp_path)
    assert "This answers the bundle" in (vendor / "answer.md").read_text()
    for name in ("report.zip", "reply.zip"):
        (vendor / name).rename(reporter / name)
    follow(after, reporter, tmp_path)


def test_every_kind_of_claim_is_explained_with_its_fields() -> None:
    rows = dict(re.findall(r"^\| `(\w+) ([^`]*)` \|", REPORTERS, re.MULTILINE))
    assert rows.keys() == KINDS.keys()
    for kind, fields in rows.items():
        required = [name for name in KINDS[kind].__struct_fields__ if name not in ("expected", "note")]
        assert fields == " ".join(f"{name}=…" for name in required)


def test_every_answer_is_explained_with_its_exit_code() -> None:
    rows = re.findall(r"^\| `([a-z ]+)` \| [^|]* \| (\d) \|", VENDORS, re.MULTILINE)
    assert rows == [(WORDS[each], str(int(EXIT_CODES[each]))) for each in get_args(Outcome)]


@pytest.mark.parametrize("page", [REPORTERS, VENDORS])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page):
        assert (DOCS / target).exists()
