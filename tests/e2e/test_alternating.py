"""Two arms in one session, and experiments that are repeated from a bundle, with real processes."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from repro import bundle
from repro.bundle import archive
from repro.schema import Record
from tests.e2e.conftest import CASES, QUICK, Call, Finished, bundle_of
from tests.twins import bare, twin

pytestmark = pytest.mark.needs("ssh-keygen", "linux")


ANSWERED = (0, 1, 3)
"""Which verdict a few milliseconds give is chance, and not what is tested here."""


@pytest.fixture
def measure(call: Call, tmp_path: Path) -> Call:
    """Return a function that calls a measuring verb over the cases of the tests, into a folder of its own."""

    def run(*arguments: str | Path, to: str = "bundles", **options: dict[str, str]) -> Finished:
        places = ("--cases", CASES, "--output", tmp_path / to, "--work", tmp_path / "work", "--device", "cpu")
        return call(*arguments, *places, **options)

    return run


def records_of(path: Path) -> dict[str, Record]:
    return dict(bundle.read(path).records)


def forms(record: Record) -> list[str]:
    """Return the arms of each round in order."""
    rounds = groupby(record.protocol.order, key=lambda turn: turn.round)
    return ["".join(turn.arm or "?" for turn in turns) for _, turns in rounds]


def test_two_releases_alternate_in_one_session(measure: Call, call: Call, tmp_path: Path) -> None:
    python = twin(tmp_path / "twin", "9.9.9")
    done = measure("ab", "tiny", "tiny+threads=1", "--python-b", python, "--rounds", "2", *QUICK)
    assert done.returncode in ANSWERED, done.stderr
    path = bundle_of(tmp_path)
    assert path.name.startswith("tiny_cpu_multi_")
    a, b = records_of(path).values()
    assert (a.record_name[:7], b.record_name) == ("a-base-", "b-base-ort-9.9.9")
    assert a.session_id == b.session_id
    assert a.protocol.order == b.protocol.order
    assert sorted(forms(a)) == ["ABBA", "BAAB"]
    assert len(a.runs) == len(b.runs) == 4
    assert b.runtime.release.name == "ort-9.9.9" != a.runtime.release.name
    inputs = [{build.id: build.input_hash for build in record.builds} for record in (a, b)]
    assert inputs[0] == inputs[1], "both arms compute the same"
    with archive.opened(path) as zipped:
        assert not any(str(python).encode() in zipped.read(name) for name in zipped.names)
    assert call("verify", path).returncode == 0
    compared = call("compare", path)
    assert compared.returncode == done.returncode
    verdict = compared.stdout.partition("\n\n")[0]
    assert "over 2 rounds" in verdict
    assert verdict in done.stdout, "the verdict stands at the end of the run"


def test_an_experiment_is_repeated_exactly(measure: Call, tmp_path: Path) -> None:
    assert measure("run", "tiny:base,wide", *QUICK, "--builds", "2", "--threads", "1").returncode == 0
    first = bundle_of(tmp_path)
    done = measure("run", "--like", first, to="again/bundles")
    assert done.returncode == 0, done.stderr
    again = bundle_of(tmp_path / "again")
    theirs, ours = records_of(first), records_of(again)
    assert list(theirs) == list(ours)
    for before, after in zip(theirs.values(), ours.values(), strict=True):
        assert (before.case, before.board.threads) == (after.case, after.board.threads)
        assert before.protocol.order == after.protocol.order
        assert [b.input_hash for b in before.builds] == [b.input_hash for b in after.builds]
    assert bundle.read(again).statement.predicate.parent_bundle_id == bundle.read(first).id


def test_a_bundle_is_set_against_another_release(measure: Call, tmp_path: Path) -> None:
    assert measure("run", "tiny", "--threads", "1", *QUICK).returncode == 0
    python = twin(tmp_path / "twin", "9.9.9")
    done = measure(
        "run", "--against", bundle_of(tmp_path), "--python", python, "--rounds", "1", to="ab/bundles"
    )
    assert done.returncode == 3, done.stderr
    assert "INCONCLUSIVE" in done.stdout, "one round says nothing"
    a, b = records_of(bundle_of(tmp_path / "ab")).values()
    assert a.case == b.case
    assert a.board.threads == b.board.threads == 1
    assert b.runtime.release.name == "ort-9.9.9" != a.runtime.release.name


def test_an_arm_that_fails_ends_the_session_and_is_sealed(measure: Call, tmp_path: Path) -> None:
    # The twin states a release at planning, and has lost its runtime when the turn comes.
    python = twin(tmp_path / "twin", "9.9.9")
    (site,) = (tmp_path / "twin").glob("lib/python3*/site-packages")
    (site / "sitecustomize.py").write_text(
        "import sys\nif sys.argv[:1] == ['-m']: sys.modules['onnxruntime'] = None\n"
    )
    done = measure("ab", "tiny", "tiny", "--python-b", python, "--rounds", "3", *QUICK)
    assert done.returncode == 1, done.stderr
    a, b = records_of(bundle_of(tmp_path)).values()
    assert b.status == "failed"
    assert "b-base-ort-9.9.9 failed" in (a.cut_short.reason if a.cut_short else "")


def test_identical_arms_are_said_to_be(measure: Call) -> None:
    done = measure("ab", "tiny", "tiny", "--rounds", "1", *QUICK)
    assert done.returncode == 3
    assert "both arms are the same experiment" in done.stderr


def test_arms_of_two_models_get_no_verdict_and_are_told_so_before(measure: Call, tmp_path: Path) -> None:
    done = measure("ab", "tiny", "tiny:wide", "--rounds", "1", *QUICK)
    assert done.returncode == 4
    assert "the arms are two models: times can be set side by side, but there is no verdict" in done.stderr
    assert "NOT COMPARABLE" in done.stdout
    assert len(records_of(bundle_of(tmp_path))) == 2


OFFLINE = {
    "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
    "PIP_CONFIG_FILE": "/dev/null",
    "PIP_NO_CACHE_DIR": "1",
}


def test_without_the_index_a_release_can_not_be_installed(measure: Call, tmp_path: Path) -> None:
    done = measure("ab", "tiny@ort-1.30.0", "tiny@ort-1.29.0", "--rounds", "1", *QUICK, env=OFFLINE)
    assert done.returncode == 4
    assert "the package index can't be reached" in done.stderr
    assert "it needs the network once" in done.stderr
    assert not list((tmp_path / "cache").glob("trt-repro/releases/ort-*"))


@pytest.mark.needs("network")
def test_a_release_is_installed_once_and_works_offline(measure: Call, call: Call, tmp_path: Path) -> None:
    assert call("releases", "install", "ort-1.30.0").returncode == 0
    (home,) = (tmp_path / "cache").glob("trt-repro/releases/ort-1.30.0-*")
    assert str(home) in call("releases").stdout
    done = measure("ab", "tiny@ort-1.30.0", "tiny", "--rounds", "1", *QUICK, env=OFFLINE)
    assert "making an environment" not in done.stderr
    a, b = records_of(bundle_of(tmp_path)).values()
    assert a.runtime.release.name == "ort-1.30.0" != b.runtime.release.name
    assert a.status == b.status == "measured"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("ab", "tiny"), 2, "SPEC_B"),
        (("ab", "tiny@ort-0.0", "tiny"), 2, "unknown release"),
        (("ab", "tiny@trt-8.6", "tiny"), 4, "does not exist for cpu"),
        (("ab", "tiny", "tiny++"), 2, "CASE[:VARIANT][@RELEASE][+SETTING=VALUE…]"),
        (("ab", "tiny", "tiny+spin_wait=true"), 4, "has no setting 'spin_wait'"),
        (("ab", "tiny", "tiny", "--python-a", "nowhere"), 2, "there is no Python at nowhere"),
        (("ab", "tiny", "tiny", "--python-b", "/bin/true"), 4, "is no Python"),
        (("ab", "tiny", "tiny", "--rounds", "0"), 2, "--rounds must be above 0"),
        (("run", "tiny", "--rounds", "2"), 2, "--rounds is for alternating"),
        (("run",), 2, "Missing argument"),
        (("run", "--like", "nothing.zip"), 1, "nothing.zip does not exist"),
        (("run", "tiny", "--python", "bare"), 4, "needs msgspec, numpy, onnx and onnxruntime"),
    ],
)
def test_what_can_not_be_done_is_one_line(
    measure: Call, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    bare(tmp_path / "bare")
    done = measure(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert not list(tmp_path.glob("bundles/*.zip"))
    assert not list(tmp_path.glob("work/*"))


def test_a_refused_bundle_is_not_repeated(measure: Call, tmp_path: Path) -> None:
    measure("run", "tiny", *QUICK)
    path = bundle_of(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for how in ("--like", "--against"):
        done = measure("run", how, path, to="again")
        assert done.returncode == 1
        assert not list((tmp_path / "again").glob("*.zip"))
