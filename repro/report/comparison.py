"""What there is to say about a comparison, for every form that it is shown in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

from repro import comparable
from repro.errors import ExitCode, unknown
from repro.power import MOST, SESSION_SD, Plan
from repro.report.content import Row, Table
from repro.report.text import milliseconds, safe
from repro.schema import Compared, Comparison, Estimate, Side, Verdict, VerdictName
from repro.verdict import change, percent

Mood: TypeAlias = Literal["good", "bad", "unsure"]
WORDS: dict[VerdictName, str] = {
    "faster": "faster",
    "slower": "slower",
    "below_margin": "different, below the margin",
    "equivalent": "equivalent",
    "inconclusive": "inconclusive",
    "not_comparable": "not comparable",
}
CODES: dict[VerdictName, ExitCode] = {
    "faster": ExitCode.DONE,
    "slower": ExitCode.NEGATIVE,
    "below_margin": ExitCode.DONE,
    "equivalent": ExitCode.DONE,
    "inconclusive": ExitCode.UNDECIDED,
    "not_comparable": ExitCode.DOES_NOT_APPLY,
}
"""What a verdict exits with, qualified or not."""
_MOODS: dict[ExitCode, Mood] = {ExitCode.DONE: "good", ExitCode.NEGATIVE: "bad"}
_WORST_FIRST = (ExitCode.NEGATIVE, ExitCode.DOES_NOT_APPLY, ExitCode.UNDECIDED, ExitCode.DONE)
MIX_ALPHA = 0.05


class Told(msgspec.Struct, frozen=True):
    """One variant on two sides."""

    what: str
    sides: tuple[str, str]
    verdict: str
    mood: Mood
    sentence: str
    findings: tuple[str, ...]
    """What else bears on it, a line each."""
    times: tuple[Row, Row]
    tables: tuple[Table, ...]
    builds: Table
    compared: Compared


class Account(msgspec.Struct, frozen=True):
    """A whole comparison."""

    title: str
    stamp: str | None
    """What is wrong with the bundles, in front of everything else."""
    told: tuple[Told, ...]
    """By variant, then in the order of the sides."""
    series: Table | None
    """All sides in their order, where there are more than two."""
    tables: tuple[Table, ...]
    """What bears on all of it."""
    notes: tuple[str, ...]


def account(comparison: Comparison) -> Account:
    """Return what there is to say, the verdicts first; all text is safe to print."""
    told = tuple(_told(each) for _, group in by_variant(comparison) for each in group)
    names = dict.fromkeys(name for each in told for name in each.sides)
    cases = dict.fromkeys(safe(each.case) for each in comparison.compared)
    series = _series(comparison)
    tables = (_bundles(comparison), _calibration(comparison), _mean(comparison))
    return Account(
        f"{', '.join(cases)}: {' → '.join(names)}",
        _stamp(comparison),
        told,
        series if series.rows else None,
        tuple(table for table in tables if table.rows),
        (_setup(comparison), *map(safe, comparison.notes)),
    )


def _stamp(comparison: Comparison) -> str | None:
    """Return what is wrong with the bundles, `None` where nothing is."""
    found = []
    if played := [safe(each.file) for each in comparison.bundles if each.standin]:
        found.append(f"STAND-IN: a test program took part in {', '.join(played)}; this counts for nothing")
    if wrong := [each for each in comparison.bundles if each.unverified]:
        files = "; ".join(f"{safe(each.file)}: {safe(each.unverified or '')}" for each in wrong)
        found.append(f"UNVERIFIED: {files}")
    return ". ".join(found) or None


def exit_code(comparison: Comparison, fail_on: frozenset[VerdictName] | None = None) -> ExitCode:
    """Return the worst code of all verdicts; with `fail_on`, only of those, and none of them is 0."""
    names = {each.verdict.name for each in comparison.compared}
    codes = {CODES[name] for name in names}
    if fail_on is not None:
        codes = {CODES[name] or ExitCode.NEGATIVE for name in names & fail_on}
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.DONE)


def verdicts(text: str) -> frozenset[VerdictName]:
    """Return the verdicts that a list with commas names; raise `UsageError` for an unknown one."""
    known = {name.replace("_", "-"): name for name in WORDS}
    named = [part.strip() for part in text.split(",")]
    for part in named:
        if part not in known and part != "none":
            raise unknown("verdict", part, [*known, "none"])
    return frozenset(known[part] for part in named if part in known)


def words(verdict: Verdict) -> str:
    """Return a verdict with its reservations: `slower (these sessions), unconfirmed`."""
    sessions = " (these sessions)" if verdict.these_sessions else ""
    answered = verdict.name not in ("inconclusive", "not_comparable")
    return WORDS[verdict.name] + sessions + (", unconfirmed" if answered and verdict.unconfirmed else "")


def label(compared: Compared) -> str:
    """Return case and variant as the user names them."""
    return safe(f"{compared.case}:{compared.variant}" if compared.variant else compared.case)


def _setup(comparison: Comparison) -> str:
    given = "" if comparison.across_given else ", as the first that differs"
    how = "arms alternate in one session" if comparison.alternating else "sessions of their own"
    return f"across {comparison.across}{given}; margin {100 * comparison.margin:g} %; {how}"


# --- one variant ------------------------------------------------------------------------------------


def _told(each: Compared) -> Told:
    verdict = each.verdict
    tables = (_noticed(each), _estimates(each), _modes(each), _layers(each))
    return Told(
        label(each),
        (safe(each.a.name), safe(each.b.name)),
        words(verdict),
        _MOODS.get(CODES[verdict.name], "unsure"),
        safe(verdict.sentence, 500),
        tuple(_findings(each)),
        (Row(safe(each.a.name), _time(each.a)), Row(safe(each.b.name), _time(each.b))),
        tuple(table for table in tables if table.rows),
        _builds(each),
        each,
    )


def _findings(each: Compared) -> Iterable[str]:
    if each.verdict.unconfirmed:
        yield f"unconfirmed: {', '.join(map(safe, each.verdict.unconfirmed))}"
    for one in each.noticed:
        if one.effect is not None:
            values = f"{_or_none(one.a)} → {_or_none(one.b)}"
            yield f"{one.field} {values} could make {percent(one.effect)} by itself"
    if each.modes_p is not None and each.modes_p < MIX_ALPHA:
        shared = sum(mode.a > 0 < mode.b for mode in each.modes)
        what = "are mixed differently" if shared else "have nothing in common"
        yield f"the structures of the builds {what} (Fisher's p {_p(each.modes_p)})"


def _time(side: Side) -> str:
    if side.value_ns is None:
        return "not measured"
    counted = f"{_many(len(side.builds), 'build')}, {_many(side.sessions, 'session')}"
    text = f"{milliseconds(side.value_ns)} ms"
    if side.low_ns is not None and side.high_ns is not None:
        text += f" ({milliseconds(side.low_ns)} to {milliseconds(side.high_ns)})"
    if side.p99_ns is not None:
        counted += f"; p99 {milliseconds(side.p99_ns)} ms of {side.iterations} iterations, not judged"
    return f"{text}, {counted}"


def _noticed(each: Compared) -> Table:
    rows = [
        (
            one.field,
            _or_none(one.a),
            _or_none(one.b),
            one.weight if one.sentence in comparable.SAYS.values() else f"{one.weight}: {safe(one.sentence)}",
        )
        for one in each.noticed
    ]
    return Table("What differs, the weightiest first", ("field", "A", "B", "weight"), tuple(rows))


def _estimates(each: Compared) -> Table:
    rows = [_estimate(one.estimand.replace("_", " "), one) for one in each.estimates]
    if each.cycles:
        rows.append(_estimate("clock cycles", each.cycles))
    if each.hodges_lehmann is not None and each.estimates:
        rows.append(("Hodges-Lehmann", percent(each.hodges_lehmann), "–", "–", "–", "–"))
    return Table("What was tested", _TESTED, tuple(rows))


_TESTED = ("estimate", "change (95 %)", "over", "p, Holm", "p, margin", "says")


def _estimate(name: str, one: Estimate) -> tuple[str, ...]:
    over = f"{one.n_a} rounds" if one.unit == "rounds" else f"{one.n_a} + {one.n_b} {one.unit}"
    return name, change(one), over, _p(one.p_adjusted), _p(one.p_equivalent), WORDS[one.verdict]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _modes(each: Compared) -> Table:
    if len(each.modes) < 2:
        return Table("", (), ())
    rows = [
        (safe(mode.structure_hash[:12]), _share(mode.a, each.a), _share(mode.b, each.b), _ms(mode.a_ns),
         _ms(mode.b_ns))
        for mode in each.modes
    ]  # fmt: skip
    columns = ("structure", "builds A", "builds B", "time A", "time B")
    return Table("Structures among the builds", columns, tuple(rows))


def _share(builds: int, side: Side) -> str:
    return f"{builds} of {len(side.builds)}"


def _layers(each: Compared) -> Table:
    changed = [one for one in each.layers or () if one.kind != "same"]
    rows = [
        (
            one.kind + (" (reformat)" if one.is_reformat else ""),
            _names(one.a),
            _names(one.b),
            _ms(one.a_time_ns),
            _ms(one.b_time_ns),
            _arrow(one.tactics),
            _arrow(one.formats),
        )
        for one in changed
    ]
    same = len(each.layers or ()) - len(changed)
    title = f"Layers that changed ({same} are the same)"
    columns = ("kind", "A", "B", "time A", "time B", "tactic", "formats")
    return Table(title, columns, tuple(rows))


def _names(names: Sequence[str]) -> str:
    return ", ".join(safe(name, 80) for name in names) or "–"


def _arrow(pair: tuple[str | None, str | None]) -> str:
    a, b = (safe(part, 80) if part else "–" for part in pair)
    return a if a == b else f"{a} → {b}"


def _builds(each: Compared) -> Table:
    rows = [
        (
            name,
            safe(build.build),
            "–" if build.round is None else str(build.round),
            milliseconds(build.value_ns) + " ms",
            str(len(build.runs_ns)),
            safe((build.structure_hash or "–")[:12]),
        )
        for name, side in (("A", each.a), ("B", each.b))
        for build in side.builds
    ]
    return Table("Builds", ("side", "build", "round", "time", "runs", "structure"), tuple(rows))


# --- all of it --------------------------------------------------------------------------------------


def _series(comparison: Comparison) -> Table:
    """Return a row for each side and variant, where there are more than two sides."""
    rows: list[tuple[str, ...]] = []
    for what, group in by_variant(comparison):
        if len(group) > 1:
            first = group[0].a
            rows.append((what, safe(first.name), _short(first), "–", "–", "the first"))
            for each in group:
                best = each.estimates[0] if each.estimates else None
                changed = percent(best.ratio) if best else "–"
                interval = f"{percent(best.low)} to {percent(best.high)}" if best else "–"
                rows.append((what, safe(each.b.name), _short(each.b), changed, interval, words(each.verdict)))
    return Table("In order", ("variant", "side", "time", "change", "95 %", "verdict"), tuple(rows))


def by_variant(comparison: Comparison) -> Iterable[tuple[str, list[Compared]]]:
    """Give the pairs of each variant, all with the same first side."""
    ordered = sorted(comparison.compared, key=label)
    for what, group in itertools.groupby(ordered, key=label):
        yield what, list(group)


def _short(side: Side) -> str:
    if side.value_ns is None:
        return "not measured"
    if side.low_ns is None or side.high_ns is None:
        return f"{milliseconds(side.value_ns)} ms"
    return f"{milliseconds(side.value_ns)} ms ({milliseconds(side.low_ns)} to {milliseconds(side.high_ns)})"


def _bundles(comparison: Comparison) -> Table:
    rows = [
        (safe(each.file), each.id[:12], safe(each.release), _or_none(each.board), safe(each.signer))
        for each in comparison.bundles
    ]
    return Table("Bundles", ("file", "id", "release", "board", "signer"), tuple(rows))


def _calibration(comparison: Comparison) -> Table:
    rows = [
        (label(each), _short(each.a), _short(each.b), change(each.estimates[0]) if each.estimates else "–",
         words(each.verdict) if each.estimates else "not repeated: no control")
        for each in comparison.calibration
    ]  # fmt: skip
    return Table("Calibration, the negative control", ("case", "A", "B", "change", "verdict"), tuple(rows))


def _mean(comparison: Comparison) -> Table:
    found = comparison.geometric_mean
    rows = (_estimate("geometric mean of the variants", found),) if found else ()
    return Table("Declared extra", _TESTED, rows)


def _or_none(text: str | None) -> str:
    return "–" if text is None else safe(text)


def _ms(value_ns: float | None) -> str:
    return "–" if value_ns is None else f"{milliseconds(value_ns)} ms"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


# --- a plan -----------------------------------------------------------------------------------------


def plan_table(what: str, plan: Plan) -> Table:
    """Return how many repetitions a plan takes, by the way of repeating."""
    rows = [
        (row.design, _needs(row.needs, row.unit), _needs(row.at_worst, ""), row.verdict) for row in plan.rows
    ]
    title = f"{safe(what)}: to find {100 * plan.margin:g} % in {100 * plan.power:g} % of cases"
    return Table(title, ("how", "it takes", "at worst", "and holds"), tuple(rows))


def plan_notes(plan: Plan) -> tuple[str, ...]:
    """Return what a plan rests on."""
    seen = plan.spread
    runs = "not repeated" if seen.runs is None else f"{100 * seen.runs:.2g} %"
    sessions = "not repeated" if seen.sessions is None else f"{100 * seen.sessions:.2g} %"
    if plan.sessions_assumed:
        sessions += f", {100 * SESSION_SD:g} % assumed"
    sd = f"builds {100 * (seen.builds or 0.0):.2g} %, runs {runs}, sessions {sessions}"
    source = f"{_many(seen.n_builds, 'build')} in {_many(seen.n_sessions, 'session')}"
    found = [
        f"spread (sd) seen: {sd}; from {source}",
        "at worst: if the spread is as large as its upper 80 % limit",
    ]
    if seen.runs is not None:
        found.append(f"worth taking: {_many(plan.runs, 'run')} of each build")
    return tuple(found)


def _needs(count: int | None, unit: str) -> str:
    return (f"more than {MOST}" if count is None else str(count)) + (f" {unit}" if unit else "")
