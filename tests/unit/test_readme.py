"""The README says what the command line says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.cli import cli
from repro.errors import ExitCode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_table_of_verbs_is_the_command_line() -> None:
    assert sorted(cli.commands) == sorted(set(re.findall(r"^\| `repro (\w+)", README, re.MULTILINE)))


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", README)) - {"turns"} <= targets


@pytest.mark.parametrize("code", [code.value for code in ExitCode])
def test_every_exit_code_is_explained(code: int) -> None:
    (sentence,) = re.findall(r"^0 done.*$", README, re.MULTILINE)
    assert re.search(rf"\b{code} \w", sentence)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_clean_removes_nothing_that_holds_data() -> None:
    recipe = MAKEFILE.split("clean: ##")[1].split("\n# ---")[0]
    assert not re.search(r"bundles|work|config|key", recipe.split("\n", 1)[1])
