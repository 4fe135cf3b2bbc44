"""The measurement of false verdicts: how it draws, what it counts, and what becomes of a child."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import cases, compare, observed
from repro.errors import ReproError
from repro.schema import Arm
from tests import measure_ab
from tests.builders import make_arms, seal
from tests.measure_ab import ORDER, Sample, as_source, draws, mixed, only

ROOT = Path(measure_ab.__file__).parent.parent


def samples(side: Arm, times_ms: list[float], structures: str = "x") -> list[Sample]:
    return [
        Sample(
            backend="torch",
            device="made up",
            side=side,
            number=i,
            log_median=math.log(time * 1e6),
            structure_hash=structures[i % len(structures)],
            n=3,
        )
        for i, time in enumerate(times_ms)
    ]


def pool(b_over_a: float, count: int = 40) -> dict[Arm, list[Sample]]:
    noise = random.Random(3)
    times = {"A": 1.0, "B": b_over_a}
    return {
        arm: samples(arm, [times[arm] * math.exp(noise.gauss(0, 0.005)) for _ in range(count)])
        for arm in ("A", "B")
    }


def test_sides_of_a_draw_share_no_process_and_same_means_the_same_side() -> None:
    found = list(draws(pool(1.05), "same", 5, 20, seed=1))
    assert len(found) == 20
    for a, b in found:
        assert {each.side for each in (*a, *b)} == {"A"}
        assert len({each.number for each in (*a, *b)}) == 10


def test_trials_of_one_shuffling_share_no_process() -> None:
    first = list(draws(pool(1.05), "planted", 5, 8, seed=1))
    for which, side in enumerate("AB"):
        drawn = [each for trial in first for each in trial[which]]
        assert {each.side for each in drawn} == {side}
        assert len({each.number for each in drawn}) == 40


def test_the_seed_decides_the_draws() -> None:
    made = pool(1.05)
    assert list(draws(made, "same", 5, 9, seed=1)) == list(draws(made, "same", 5, 9, seed=1))
    assert list(draws(made, "same", 5, 9, seed=1)) != list(draws(made, "same", 5, 9, seed=2))


def test_a_pool_that_is_too_small_gives_no_trial() -> None:
    with pytest.raises(ReproError, match="8 processes don't give a trial"):
        list(draws(pool(1.05, count=8), "same", 5, 1, seed=1))


@pytest.mark.parametrize(("b_over_a", "verdict"), [(1.05, "slower"), (0.95, "faster"), (1.0, "equivalent")])
def test_the_verdict_is_that_of_the_kit(b_over_a: float, verdict: str) -> None:
    ((a, b),) = draws(pool(b_over_a), "planted", 8, 1, seed=1)
    found, estimate = only(compare.compare([as_source(a, "a"), as_source(b, "b")], across="setting"))
    assert found.name == verdict
    assert estimate is not None
    assert estimate.ratio == pytest.approx(b_over_a, abs=0.01)


def test_a_report_tells_modes_failures_and_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = pool(1.05)
    failed = Sample(backend="torch", device="made up", side="A", number=40, error="ended by signal 9")
    lines = [msgspec.json.encode(each) for side in made.values() for each in (*side, failed)]
    file = tmp_path / "pool.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n" + b'{"backend":"tor')
    assert measure_ab.main(["report", str(file), "--builds", "8"]) == 0
    told = capsys.readouterr().out
    assert "40 and 40 processes; failed: {'ended by signal 9': 2}" in told
    assert "planted, resampled, 20 draws of 8 + 8, seed 1: {'slower': 20}; faster or slower: 20 of 20" in told


def trial(folder: Path, name: str, b_over_a: float, slow: float = 1.0) -> Path:
    """Seal a trial of two quads; the first run of A takes `slow` times as long."""
    a = (10.0 * slow, 10.01, 9.99, 10.0)
    b = tuple(b_over_a * time for time in (10.01, 10.0, 10.0, 9.99))
    seal(folder / f"{name}.zip", *make_arms(a, b, name))
    return folder / f"{name}.zip"


def test_quads_that_are_drawn_keep_their_partners_and_none_comes_twice(tmp_path: Path) -> None:
    sources = [observed.load(trial(tmp_path, f"same-{i:02}", 1.0)) for i in range(4)]
    drawn = [
        [[(build.session, build.rounds) for build in seen.builds] for seen in each.observed]
        for each in mixed(sources, 4, 2, seed=1)
    ]
    for a, b in drawn:
        assert a == b
        assert (len(a), len(set(a))) == (8, 4), "two builds of each arm in each of four quads"
    assert len({quad for a, _ in drawn for quad in a}) == 8, "one shuffling goes through all of them"
    with pytest.raises(ReproError, match="8 quads don't give a trial of 9"):
        list(mixed(sources, 9, 1, seed=1))


def test_a_report_of_trials_counts_them_draws_more_and_tells_the_side_of_the_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        trial(tmp_path, f"planted-{i:02}", 1.05, slow=1.04 if i == 0 else 1.0)
    assert measure_ab.main(["report", str(tmp_path), "--rounds", "4", "--trials", "6"]) == 0
    told = capsys.readouterr().out
    assert "faster or slower: 3 of 4" in told, "two quads of which one is 2 % off show nothing"
    assert "planted, resampled, 6 draws of 4 quads, seed 1: {'slower': 6}" in told
    assert "ort-1.0, 12 rows: 16 runs, median 10.00 ms" in told
    assert "beyond the margin above it 6.2%, below 0.0%" in told


def test_a_line_that_was_cut_off_goes_before_the_next_one_comes(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_bytes(b'{"a": 1}\n{"b"')
    measure_ab.whole(file)
    assert file.read_bytes() == b'{"a": 1}\n'
    measure_ab.whole(tmp_path / "new" / "pool.jsonl")
    assert (tmp_path / "new" / "pool.jsonl").read_bytes() == b""


def test_sides_alternate_in_quads() -> None:
    sides = [ORDER[position % len(ORDER)] for position in range(8)]
    assert "".join(sides) == "ABBAABBA"
    by_number: dict[tuple[Arm, int], Any] = {(side, i // 2): i for i, side in enumerate(sides)}
    assert len(by_number) == 8, "each side has each number once"


@pytest.mark.needs("linux")
def test_whatever_becomes_of_a_child_is_a_sample() -> None:
    # In a process of its own: a test runner with threads must not be forked.
    script = (
        "import json, os, signal, time; from tests.measure_ab import Sample, forked\n"
        "blank = Sample(backend='x', device='y', side='A', number=0)\n"
        "def fail(): raise ValueError('no')\n"
        "def crash(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def hang(): time.sleep(60)\n"
        "works = [lambda: blank, fail, crash, hang]\n"
        "print(json.dumps([forked(work, blank, 2.0).error for work in works]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert json.loads(done.stdout) == [None, "ValueError: no", "ended with status -9", "no answer in 2 s"]


def test_half_of_the_trials_are_of_each_release_and_only_planted_ones_differ() -> None:
    made = measure_ab.trials(4, ("r1", "r2"))
    assert made.pop("releases-00") == ("conv16-small@r1", "conv16-small@r2")
    assert [a for name, (a, _) in made.items() if name.startswith("same")] == [
        "conv16-small@r1",
        "conv16-small@r2",
    ] * 2
    for name, (a, b) in made.items():
        assert b == (a if name.startswith("same") else a.replace("small@", "small:longer@"))


def test_the_shipped_trial_case_is_five_percent_longer(tmp_path: Path) -> None:
    case = msgspec.toml.decode(measure_ab.CASE_TOML, type=cases.CaseFile)
    heights = [
        cases.resolve(cases.Case(**msgspec.structs.asdict(case), folder=tmp_path), variant).model
        for variant in (None, measure_ab.PLANTED_VARIANT)
    ]
    assert heights[1] == measure_ab.longer(heights[0])
