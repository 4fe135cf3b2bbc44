"""One verdict with its reason: what can be said of two sides, and with which reservations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from repro import power
from repro.estimate import ALPHA, Statistic
from repro.schema import Across, Compared, Estimate, Noticed, Verdict, VerdictName

_OF = {
    "configuration": "a build takes",
    "engine": "these engines take",
    "same_structure": "builds of equal structure take",
}

_STATE = frozenset({"clock", "memory_clock", "throttled"})


class Evidence(NamedTuple):
    """Everything that a verdict rests on."""

    noticed: tuple[Noticed, ...]
    statistics: tuple[Statistic, ...]
    estimates: tuple[Estimate, ...]
    """One for each statistic; the first decides."""
    cycles: Estimate | None
    robust: float | None
    """The median of all differences of log times."""
    calibration: tuple[Compared, ...]
    builds: tuple[int, int]


def conclude(evidence: Evidence, margin: float, across: Across) -> Verdict:
    """Return the verdict, by the first of these that applies.

    (1) A blocking difference: not comparable. (2) Nothing was repeated: inconclusive. (3) Neither test
    succeeds: inconclusive. (4) The mean and the median of differences have opposite signs. (5) The
    calibration cases changed so much that the machine may be the reason. (6) The difference is not there
    in clock cycles. (7) What the tests say, qualified where only these sessions are known.
    """
    doubts = tuple(dict.fromkeys(each.field for each in evidence.noticed if each.weight == "suspicious"))

    def verdict(name: VerdictName, code: str, sentence: str, *, these: bool = False) -> Verdict:
        return Verdict(name, code, sentence, these, doubts)

    # (1)
    if blocking := [each for each in evidence.noticed if each.weight == "blocking"]:
        first, more = blocking[0], len(blocking) - 1
        values = f"{first.a or 'nothing'} against {first.b or 'nothing'}"
        rest = f" (and {more} more)" if more else ""
        return verdict("not_comparable", first.field, f"{first.field}: {values}; {first.sentence}{rest}")
    # (2)
    if not evidence.estimates:
        a, b = evidence.builds
        sentence = f"{a} and {b} builds say nothing about builds: at least 2 a side are needed, better 5"
        if min(a, b) >= 2:
            sentence = "no round has both arms in full: at least 2 rounds are needed, better 5"
        return verdict("inconclusive", "too_few", sentence)
    best = evidence.estimates[0]
    about = _about(best)
    # (3)
    if best.verdict == "inconclusive":
        wanted = _wanted(evidence.statistics[0], margin)
        code = "too_few" if math.isnan(float(evidence.statistics[0].difference.se)) else "too_noisy"
        return verdict("inconclusive", code, f"{about}: {wanted}")
    # (4)
    differs = best.verdict != "equivalent"
    if differs and evidence.robust is not None and evidence.robust * math.log(best.ratio) < 0:
        sentence = f"{about}, but the median of all differences has the other sign"
        return verdict("inconclusive", "estimators_disagree", sentence)
    # (5) In an alternating session, and over several sessions, the machine's changes average out.
    these = best.unit in ("builds", "runs")
    if these and across != "device" and (changed := _machine_changed(best, evidence.calibration, margin)):
        sentence = f"{about}, but the machine may have changed: {changed}"
        return verdict("inconclusive", "machine_changed", sentence)
    # (6) Across devices or settings another clock can be what is compared.
    cycles = evidence.cycles
    if cycles and across == "release" and not _confirmed(best, cycles):
        in_cycles = f"in clock cycles it is {change(cycles)}"
        if best.verdict in ("faster", "slower"):
            sentence = f"{about}, but {in_cycles}: the clock may account for it"
            return verdict("inconclusive", "clock", sentence)
        doubts = (*doubts, "cycles")
    # (7)
    limit = f"{100 * margin:g} %"
    if best.verdict == "below_margin":
        about += f": different, and within {limit}"
    elif best.verdict == "equivalent":
        about += f": within {limit}"
    if these:
        about += "; other sessions may differ by themselves"
    return verdict(best.verdict, best.unit, about, these=these)


def percent(ratio: float) -> str:
    """Return a ratio of times as a signed change: `+4.2 %`."""
    value = 100 * (ratio - 1)
    if value > 10_000:
        return "no limit"
    return f"{value:+.{2 if abs(value) < 0.095 else 1}f} %".replace("-", "−")


def change(estimate: Estimate) -> str:
    """Return an estimate with its 95 % interval."""
    return f"{percent(estimate.ratio)} ({percent(estimate.low)} to {percent(estimate.high)})"


def _about(best: Estimate) -> str:
    counted = f"{best.n_a} rounds" if best.unit == "rounds" else f"{best.n_a} and {best.n_b} {best.unit}"
    return f"{_OF[best.estimand]} {change(best)} over {counted}"


def _wanted(statistic: Statistic, margin: float) -> str:
    """Say how many more it takes to tell, at the spread seen: to find the margin, and around this estimate.

    The interval must become narrow enough to leave out 0 or the margin, whichever is farther:
    n × (half width / distance)².
    """
    difference, n_a, n_b = statistic.difference, len(statistic.a), len(statistic.b)
    se, centre, limit = float(difference.se), abs(float(difference.estimate)), math.log1p(margin)
    if math.isnan(se):
        return f"one {statistic.unit.removesuffix('s')} shows no spread: at least 2 are needed, better 5"
    pairs = statistic.unit == "rounds"
    sd = se * math.sqrt(n_a) if pairs else se / math.sqrt(1 / n_a + 1 / n_b)
    distance = max(centre, limit - centre)
    narrow = math.ceil(max(n_a, n_b) * (float(difference.half_width()) / distance) ** 2)
    n = max(power.needed(sd, margin, pairs=pairs) or power.MOST + 1, narrow)
    many = f"about {n}" if n <= power.MOST else f"more than {power.MOST}"
    side = "" if pairs else " a side"
    return (
        f"neither a difference nor equivalence within {100 * margin:g} % is shown; "
        f"{many} {statistic.unit}{side} would do"
    )


def _machine_changed(best: Estimate, calibration: Sequence[Compared], margin: float) -> str | None:
    """Return which calibration case changed so much that the verdict may come from the machine.

    A change beyond the margin always counts; a smaller one where the verdict would not outlast it.
    """
    limit = math.log1p(margin)
    for control in calibration:
        blocking = {each.field for each in control.noticed if each.weight == "blocking"}
        # A clock that is another one, or held down, is no reason not to look: it is what is looked for.
        if blocking - _STATE or not control.estimates:
            continue
        seen = control.estimates[0]
        if seen.p_adjusted >= ALPHA:
            continue
        shift = abs(math.log(seen.ratio))
        if best.verdict in ("faster", "slower"):
            outlasts = min(abs(math.log(best.low)), abs(math.log(best.high))) > shift
        else:
            outlasts = max(abs(math.log(best.low_90)), abs(math.log(best.high_90))) + shift < limit
        if shift > limit or not outlasts:
            return f"{control.case} takes {change(seen)}"
    return None


def _confirmed(best: Estimate, cycles: Estimate) -> bool:
    """Tell whether cycles say the same: the same sign beyond chance, or equivalent as well."""
    if best.verdict in ("faster", "slower"):
        return cycles.p < ALPHA and (cycles.ratio > 1) == (best.ratio > 1)
    return cycles.verdict in ("equivalent", "below_margin")
