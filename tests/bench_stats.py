"""The kit's rule beside those of other tools, on the same simulated data (`make bench-stats`).

Prints the tables of docs/method.md. The noise is that of tests/noise.py; the rules of others are written
after their documentation and source, on iterations (pooled) or on the medians of runs, as they are used.
A minute or two; only a broken bound of the kit's own rule makes this exit with 1.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy
import scipy.stats

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from repro import stats  # noqa: E402
from tests import noise  # noqa: E402
from tests.noise import BIMODAL, HEAVY, PILOT, PILOT_ROUNDS, SESSIONS, UNIMODAL, Noise, Side  # noqa: E402

ALPHA = 0.05
MARGIN = math.log1p(0.03)
CHUNK = 100
"""Experiments at a time: pooled iterations of more would not fit into a small memory."""
Calls = npt.NDArray[np.bool_]
Rule = Callable[[Side, Side], Calls]
broken: list[str] = []


class Named(NamedTuple):
    """A rule that says whether two sides differ."""

    name: str
    differs: Rule


def _below(p: npt.ArrayLike) -> Calls:
    return np.asarray(np.asarray(p) < ALPHA)


def _pooled(side: Side) -> npt.NDArray[np.float64]:
    return side.iterations.reshape(side.iterations.shape[0], -1)


def _runs(side: Side) -> npt.NDArray[np.float64]:
    return side.runs.reshape(side.runs.shape[0], -1)


def _ranks(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(scipy.stats.mannwhitneyu(a, b, axis=-1, method="asymptotic").pvalue)


def _asv(a: Side, b: Side) -> Calls:
    """Return asv's rule: a factor of 1.1, and Mann and Whitney's p below 0.002."""
    x, y = _pooled(a), _pooled(b)
    ratio = np.exp(np.median(y, axis=-1) - np.median(x, axis=-1))
    return np.asarray(((ratio > 1.1) | (ratio < 1 / 1.1)) & (_ranks(x, y) < 0.002))


def _robust(a: Side, b: Side) -> Calls:
    """Return nvbench-compare-robust's rule in time: intervals from least to third quartile, 0.5 % apart."""
    low_a, low_b = (_pooled(side).min(-1) for side in (a, b))
    high_a, high_b = (np.percentile(_pooled(side), 75, axis=-1) for side in (a, b))
    return np.asarray((low_b - high_a > np.log1p(0.005)) | (low_a - high_b > np.log1p(0.005)))


def _bootstrap(a: Side, b: Side) -> Calls:
    """Return the percentile interval of builds drawn again, 500 times, with their runs."""
    random = np.random.default_rng(0)

    def drawn(side: Side) -> npt.NDArray[np.float64]:
        n, builds, runs = side.runs.shape
        which = random.integers(0, builds, (n, 500, builds, 1))
        of_runs = random.integers(0, runs, (n, 500, builds, runs))
        return np.asarray(side.runs[np.arange(n)[:, None, None, None], which, of_runs].mean((-1, -2)))

    low, high = np.percentile(drawn(b) - drawn(a), [2.5, 97.5], axis=-1)
    return np.asarray((low > 0) | (high < 0))


def welch(a: Side, b: Side) -> Calls:
    return _below(stats.welch(a.builds, b.builds).p())


def within(a: Side, b: Side) -> Calls:
    return _below(stats.stratified(a.builds, a.modes, b.builds, b.modes).p())


OURS = Named("**Welch on builds** (configuration)", welch)
RULES = (
    OURS,
    Named("**within structures** (same structure)", within),
    Named("Mann-Whitney on all iterations", lambda a, b: _below(_ranks(_pooled(a), _pooled(b)))),
    Named(
        "Student's t on all values (as pyperf)",
        lambda a, b: _below(scipy.stats.ttest_ind(_pooled(a), _pooled(b), axis=-1).pvalue),
    ),
    Named("Mann-Whitney on runs (as benchstat)", lambda a, b: _below(_ranks(_runs(a), _runs(b)))),
    Named("Welch on runs (as hyperfine's script)", lambda a, b: _below(stats.welch(_runs(a), _runs(b)).p())),
    Named("factor 1.1 and Mann-Whitney p < 0.002 (as asv)", _asv),
    Named("gap between intervals (as nvbench-compare-robust)", _robust),
    Named("bootstrap of builds and runs, percentiles", _bootstrap),
    Named("Mann-Whitney on builds", lambda a, b: _below(_exact_ranks(a.builds, b.builds))),
)


def _exact_ranks(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(scipy.stats.mannwhitneyu(a, b, axis=-1, method="exact").pvalue)


def rates(
    rules: Sequence[Named], kind: Noise, experiments: int, shift: float, builds: int, runs: int
) -> list[float]:
    """Return in which share of experiments each rule calls the sides different."""
    random = np.random.default_rng(20261126)
    calls = np.zeros(len(rules))
    for _ in range(experiments // CHUNK):
        a = noise.side(random, kind, CHUNK, builds, runs)
        b = noise.side(random, kind, CHUNK, builds, runs, shift=shift)
        calls += [rule.differs(a, b).sum() for rule in rules]
    return [float(each) / (experiments // CHUNK * CHUNK) for each in calls]


def percent(value: float, bound: float | None = None, *, least: bool = False, what: str = "") -> str:
    """Return a rate, and note where it breaks a `bound` (a greatest one, or the `least`)."""
    if bound is not None and (value < bound if least else value > bound):
        broken.append(f"{what}: {value:.1%}, bound {bound:.1%}")
    return f"{100 * value:.1f} %"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def beside(experiments: int) -> None:
    """False and found differences, 5 builds × 3 runs a side."""
    kinds = (("unimodal", UNIMODAL), ("bimodal", BIMODAL), ("heavy", HEAVY))
    grid = [(name, kind, shift) for name, kind in kinds for shift in (0.0, MARGIN)]
    grid.append(("sessions", SESSIONS, 0.0))
    cells = [(name, shift, rates(RULES, kind, experiments, shift, 5, 3)) for name, kind, shift in grid]
    rows = []
    for i, rule in enumerate(RULES):
        row = [rule.name]
        for name, shift, values in cells:
            bound = 0.075 if rule is OURS and not shift and name != "sessions" else None
            row.append(percent(values[i], bound, what=f"{rule.name}, {name}"))
        rows.append(row)
    heads = [f"{name}, {'no difference' if not shift else '3 %'}" for name, shift, _ in cells]
    table(["called different", *heads], rows)


def by_design(experiments: int) -> None:
    """The kit's rule at other numbers of builds and runs."""
    rows = []
    for builds, runs in ((2, 3), (3, 1), (3, 5), (5, 3), (8, 1), (8, 3), (12, 3)):
        row = [f"{builds} × {runs}"]
        for kind, name in ((UNIMODAL, "unimodal"), (BIMODAL, "bimodal")):
            where = f"{builds} × {runs} {name}"
            random = np.random.default_rng(7)
            a, b = (noise.side(random, kind, experiments, builds, runs) for _ in range(2))
            apart = Side(b.iterations + MARGIN, b.modes)
            of_same, of_apart = (stats.welch(a.builds, each.builds) for each in (b, apart))
            row += [
                percent(float(_below(of_same.p()).mean()), 0.075, what=where),
                percent(float(_below(of_apart.p()).mean())),
                percent(float(_below(of_same.p_equivalent(MARGIN)).mean())),
                percent(
                    float(_below(of_apart.p_equivalent(MARGIN)).mean()), 0.06, what=f"equivalent, {where}"
                ),
            ]
            if kind is BIMODAL:
                row += [
                    percent(float(within(a, b).mean()), 0.075, what=f"within structures, {where}"),
                    percent(float(within(a, apart).mean())),
                ]
        rows.append(row)
    heads = ["different at 0", "different at 3 %", "equivalent at 0", "equivalent at 3 %"]
    table(
        ["builds × runs", *(f"unimodal: {head}" for head in heads), *(f"bimodal: {head}" for head in heads),
         "same structure: at 0", "same structure: at 3 %"],
        rows,
    )  # fmt: skip


def drifting(experiments: int) -> None:
    """Alternating against one side after the other, by the drift of the machine."""
    rows = []
    shift = math.log1p(0.02)
    for kind, name in ((Noise(drift=0.01), "1 %"), (Noise(drift=0.03), "3 %"), (PILOT, "as in the pilot")):
        random = np.random.default_rng(11)
        a, b = noise.alternating(random, kind, experiments, PILOT_ROUNDS)
        pairs = noise.pairs(a, b)
        first, second = noise.sequential(random, kind, experiments, 2 * PILOT_ROUNDS)
        least = 0.80 if kind is PILOT else None
        rows.append(
            [
                name,
                percent(float(_below(stats.paired(pairs).p()).mean()), 0.075, what=f"pairs, drift {name}"),
                percent(
                    float(_below(stats.paired(pairs + shift).p()).mean()), least, least=True, what="pairs"
                ),
                percent(float(welch(a, b).mean())),
                percent(float(_below(stats.welch(a.builds, b.builds + shift).p()).mean())),
                percent(float(welch(first, second).mean())),
            ]
        )
    table(
        ["drift (sd)", "pairs: no difference", "pairs: 2 %", "unpaired: no difference", "unpaired: 2 %",
         "one after the other: no difference"],
        rows,
    )  # fmt: skip


def sessions(experiments: int) -> None:
    """Sessions as the unit, by how many there are a side."""
    rows = []
    for n in (1, 2, 3, 5):
        random = np.random.default_rng(13)
        sides = [noise.side(random, SESSIONS, experiments, 5) for _ in range(2 * n)]
        means = np.stack([side.builds.mean(-1) for side in sides], axis=-1)
        a, b = (np.concatenate([side.builds for side in each], axis=-1) for each in (sides[:n], sides[n:]))
        row = [str(n), percent(float(_below(stats.welch(a, b).p()).mean()))]
        if n > 1:
            bound = 0.075 if n >= 3 else None
            of_sessions = stats.welch(means[:, :n], means[:, n:])
            found = stats.welch(means[:, :n], means[:, n:] + MARGIN)
            row += [percent(float(_below(of_sessions.p()).mean()), bound, what=f"{n} sessions"),
                    percent(float(_below(found.p()).mean()))]  # fmt: skip
        rows.append(row + ["–"] * (4 - len(row)))
    table(
        ["sessions a side", "builds pooled: no difference", "sessions: no difference", "sessions: 3 %"], rows
    )


def families(experiments: int) -> None:
    """Twelve variants at once, one of them slower by 3 %."""
    random = np.random.default_rng(17)
    p = []
    for i in range(12):
        a = noise.side(random, UNIMODAL, experiments, 5)
        b = noise.side(random, UNIMODAL, experiments, 5, shift=0.0 if i else MARGIN)
        p.append(stats.welch(a.builds, b.builds).p())
    family = np.stack(p, axis=-1)
    adjusted = stats.holm(family)
    table(
        ["twelve variants", "any false one", "the true 3 % found"],
        [
            ["uncorrected", percent(float(_below(family[:, 1:]).any(-1).mean())),
             percent(float(_below(family[:, 0]).mean()))],
            ["**Holm**", percent(float(_below(adjusted[:, 1:]).any(-1).mean()), 0.075, what="Holm"),
             percent(float(_below(adjusted[:, 0]).mean()))],
        ],
    )  # fmt: skip


def tactics(experiments: int) -> None:
    """A release that always takes the slow tactic, which the other takes in 30 % of builds."""
    rows = []
    for builds in (5, 8, 12):
        random = np.random.default_rng(19)
        a = noise.side(random, BIMODAL, experiments, builds)
        b = noise.side(random, BIMODAL, experiments, builds, slow_share=1.0)
        slower = welch(a, b)
        p = {k: stats.fisher([builds - k, k], [0, builds]) for k in range(builds + 1)}
        mixed = np.array([p[k] < ALPHA for k in a.modes.sum(-1).tolist()])
        rows.append([str(builds), *(percent(float(x.mean())) for x in (slower, mixed, slower | mixed))])
    table(["builds a side", "slower (Welch)", "mixed differently (Fisher)", "either"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2000)
    experiments = parser.parse_args().experiments
    today = datetime.datetime.now(datetime.timezone.utc).date()
    versions = f"Python {sys.version.split()[0]}, numpy {np.__version__}, scipy {scipy.__version__}"
    print(f"{today}, {versions}: {experiments} experiments a cell, {noise.ITERATIONS} iterations a run.\n")
    for part in (beside, by_design, drifting, sessions, families, tactics):
        print(f"{(part.__doc__ or '').strip()}\n")
        part(experiments)
    if broken:
        print("beyond the bound: " + "; ".join(broken))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
