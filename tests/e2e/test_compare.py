"""Two real runs compared: whatever the verdict on this machine, it is a whole one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from repro.report import comparison as report
from repro.schema import Comparison
from tests.e2e.conftest import Call

pytestmark = pytest.mark.needs("ssh-keygen", "linux")


def test_two_runs_of_a_case_are_compared_and_planned_from(run_case: Call, call: Call, tmp_path: Path) -> None:
    for _ in range(2):
        assert run_case("tiny", "--builds", "3").returncode == 0
    paths = sorted((tmp_path / "bundles").glob("*.zip"))
    done = call("compare", *paths, "--json", "--html", "page.html")
    found = msgspec.json.decode(done.stdout, type=Comparison)
    (pair,) = found.compared
    assert done.returncode == report.CODES[pair.verdict.name]
    assert pair.verdict.name != "not_comparable", pair.verdict.sentence
    assert (pair.estimates[0].n_a, pair.estimates[0].n_b) == (3, 3)
    assert {each.signer.partition(":")[0] for each in found.bundles} == {"known"}
    assert "<svg" in (tmp_path / "page.html").read_text()
    planned = call("plan", "--from", paths[0])
    assert planned.returncode == 0
    assert "3 builds in 1 session" in planned.stdout


def test_other_threads_are_not_comparable_unless_they_are_meant(
    run_case: Call, call: Call, tmp_path: Path
) -> None:
    for threads in ("1", "2"):
        assert run_case("tiny", "--builds", "2", "--threads", threads).returncode == 0
    paths = sorted((tmp_path / "bundles").glob("*.zip"))
    assert call("compare", *paths, "--across", "release").returncode == 4
    meant = call("compare", *paths)
    assert meant.returncode in (0, 1, 3)
    assert "across setting" in meant.stdout
