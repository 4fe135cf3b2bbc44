"""Bundles set against each other: comparable or not, and then a verdict that holds.

    comparison = compare([observed.load(path) for path in paths])

Pure functions of what was observed. `sides` finds who stands against whom, `comparable` says whether
they may, `estimate` measures the difference, `verdict` says what follows. What the statistics claim, and
what they don't, stands in docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from repro import alignment, comparable, power, sides, stats
from repro.errors import Unavailable, UsageError
from repro.estimate import (
    Statistic,
    by_session,
    decisive,
    estimate,
    geometric_mean,
    mean,
    rounds,
    same_structure,
)
from repro.observed import BuildSeen, Observed, Source, exp
from repro.schema import (
    Across,
    BuildValue,
    BundleSeen,
    Compared,
    Comparison,
    Estimate,
    Mode,
    Noticed,
    Side,
)
from repro.sides import Group
from repro.verdict import Evidence, conclude

MARGIN = 0.03
"""Differences below this share don't matter, unless the user says otherwise."""


class Draft(NamedTuple):
    """A pair before the family that it is judged in is known."""

    a: Group
    b: Group
    noticed: tuple[Noticed, ...]
    statistics: tuple[Statistic, ...]
    """The first one decides."""
    cycles: Statistic | None
    rounds: tuple[float, ...]

    @property
    def role(self) -> str:
        """Subject or calibration."""
        return self.a.observed[0].record.role

    @property
    def blocked(self) -> bool:
        """Whether these are different experiments, or one of them is none."""
        return any(each.weight == "blocking" for each in self.noticed)


def compare(
    sources: Sequence[Source],
    *,
    across: Across | None = None,
    margin: float = MARGIN,
    declared_mean: bool = False,
) -> Comparison:
    """Compare every later side with the first.

    `declared_mean` adds the geometric mean over variants. Raise `UsageError` or `Unavailable` where there
    are no two sides.
    """
    if not 0 < margin < 1:
        raise UsageError("--margin must lie between 0 and 100 %", "3 % is the default")
    if empty := [source.file for source in sources if not source.observed]:
        raise Unavailable(f"not comparable: {empty[0]} holds no record", "name another bundle")
    notes: list[str] = []
    sources = sides.distinct(sources, notes)
    arms = [all(seen.arm for seen in sides.subjects(source)) for source in sources]
    alternating = all(arms)
    if any(arms) and not alternating:
        hint = "compare it by itself, or with others that alternate"
        raise UsageError(f"{sources[arms.index(True)].file} is an alternating session, not all are", hint)
    if len(sources) < 2 and not alternating:
        hint = "name a second bundle, or one of an alternating session"
        raise UsageError(f"{sources[0].file} holds one side only", hint)
    chosen = across or sides.guess(sources, alternating=alternating)
    groups = sides.arms(sources) if alternating else sides.groups(sources, chosen)
    drafts = [_draft(a, b, chosen, alternating=alternating) for a, b in sides.pairs(groups, chosen, notes)]
    subjects = [draft for draft in drafts if draft.role == "subject"]
    controls = [draft for draft in drafts if draft.role == "calibration"]
    calibration = _finish(controls, (), margin, chosen)
    notes += [
        f"{source.file} has schema version {source.newer}, newer than this kit's: "
        "what it doesn't know is left out"
        for source in sources
        if source.newer is not None
    ]
    return Comparison(
        across=chosen,
        across_given=across is not None,
        margin=margin,
        alternating=alternating,
        bundles=tuple(map(_bundle_seen, sources)),
        # Arms that alternate saw the same machine: there is nothing to control.
        compared=_finish(subjects, () if alternating else calibration, margin, chosen),
        calibration=calibration,
        geometric_mean=geometric_mean(
            [draft.statistics[0] for draft in subjects if draft.statistics and not draft.blocked], margin
        )
        if declared_mean
        else None,
        notes=tuple(notes),
    )


def plan(source: Source, margin: float, wanted: float = power.POWER) -> dict[str, power.Plan | None]:
    """Return what a difference of `margin` takes to be found in each variant, from the spread in a bundle.

    `None` where a variant was not repeated. Arms of an alternating session are planned for as the pairs
    that they are.
    """
    plans: dict[str, power.Plan | None] = {}
    by_variant: dict[tuple[str, str | None, str | None], list[Observed]] = {}
    for seen in sides.subjects(source):
        # The arms of an alternation may be two variants: they are one plan.
        variant = None if seen.arm else seen.record.case.variant
        by_variant.setdefault((seen.record.case.id, variant, "arms" if seen.arm else None), []).append(seen)
    for (case, variant, arms), observed in by_variant.items():
        pairs: list[float] = []
        if arms:
            a, b = ([build for seen in observed if seen.arm == arm for build in seen.builds] for arm in "AB")
            pairs = [mean(of_b) - mean(of_a) for of_a, of_b in rounds(a, b).values()]
            observed = [seen for seen in observed if seen.arm == "A"]
        plans[f"{case}:{variant}" if variant else case] = power.plan(observed, margin, wanted, pairs)
    return plans


def _bundle_seen(source: Source) -> BundleSeen:
    board = source.observed[0].record.board.name
    releases = dict.fromkeys(seen.record.runtime.release.name for seen in source.observed)
    played = any(seen.record.runtime.place.standin for seen in source.observed)
    return BundleSeen(source.file, source.id, ", ".join(releases), board, source.signer, source.wrong, played)


def _draft(a: Group, b: Group, across: Across, *, alternating: bool) -> Draft:
    least_sd = max(seen.least_sd for seen in (*a.observed, *b.observed))
    statistics = [decisive(a, b, least_sd, alternating=alternating)]
    if not alternating:
        statistics.append(same_structure(a, b, least_sd))
    quads = rounds(a.builds, b.builds).values() if alternating else ()
    return Draft(
        a,
        b,
        comparable.notice(a.observed, b.observed, across),
        tuple(each for each in statistics if each),
        decisive(a, b, least_sd, alternating=alternating, cycles=True),
        tuple(exp(mean(of_b) - mean(of_a)) for of_a, of_b in quads),
    )


def _finish(
    drafts: Sequence[Draft], calibration: Sequence[Compared], margin: float, across: Across
) -> tuple[Compared, ...]:
    """Judge pairs as one family: what isn't comparable makes no claim and doesn't count in it."""
    found = []
    families = [_adjusted(drafts, rank) for rank in range(2)]
    for i, draft in enumerate(drafts):
        estimates = [
            estimate(each, margin, families[rank].get(i)) for rank, each in enumerate(draft.statistics)
        ]
        found.append(_compared(draft, estimates, calibration, margin, across))
    return tuple(found)


def _adjusted(drafts: Sequence[Draft], rank: int) -> dict[int, float]:
    """Return Holm's p of the drafts' statistics of this rank, by the draft's place."""
    family = {
        i: draft.statistics[rank].p
        for i, draft in enumerate(drafts)
        if len(draft.statistics) > rank and not draft.blocked
    }
    return dict(zip(family, stats.holm(list(family.values())).tolist(), strict=True)) if family else {}


def _compared(
    draft: Draft,
    estimates: Sequence[Estimate],
    calibration: Sequence[Compared],
    margin: float,
    across: Across,
) -> Compared:
    a, b = draft.a.observed[0].record, draft.b.observed[0].record
    robust = None
    if draft.rounds:
        robust = float(stats.hodges_lehmann([0.0], [math.log(ratio) for ratio in draft.rounds]))
    elif draft.statistics:
        robust = float(stats.hodges_lehmann(draft.statistics[0].a, draft.statistics[0].b))
    modes, modes_p = _modes(draft.a.builds, draft.b.builds)
    cycles = estimate(draft.cycles, margin) if draft.cycles else None
    evidence = Evidence(
        draft.noticed,
        draft.statistics,
        tuple(estimates),
        cycles,
        robust,
        tuple(calibration),
        (len(draft.a.builds), len(draft.b.builds)),
    )
    variants = [record.case.variant or "base" for record in (a, b)]
    return Compared(
        case=a.case.id,
        variant=a.case.variant if variants[0] == variants[1] else " → ".join(variants),
        role=a.role,
        a=_side(draft.a),
        b=_side(draft.b),
        noticed=draft.noticed,
        estimates=tuple(estimates),
        hodges_lehmann=None if robust is None else exp(robust),
        cycles=cycles,
        rounds=draft.rounds,
        modes=modes,
        modes_p=modes_p,
        layers=alignment.align(a.layers, b.layers) if a.layers and b.layers else None,
        verdict=conclude(evidence, margin, across),
    )


def _side(group: Group) -> Side:
    sessions = by_session(group.builds)
    values = [build.value for build in group.builds]
    top = [mean(each) for each in sessions.values()] if len(sessions) >= power.SESSIONS else values
    interval = stats.mean_interval(top)
    runs = [run.summary for seen in group.observed for run in seen.record.runs]
    return Side(
        name=group.name,
        bundles=tuple(dict.fromkeys(seen.bundle_id for seen in group.observed)),
        sessions=len({seen.record.session_id for seen in group.observed}),
        builds=tuple(
            BuildValue(
                build.session,
                build.id,
                build.rounds[0] if len(set(build.rounds)) == 1 else None,
                build.structure,
                exp(build.value),
                tuple(map(exp, build.runs)),
            )
            for build in group.builds
        ),
        value_ns=exp(mean(top)) if top else None,
        low_ns=exp(interval[0]) if interval else None,
        high_ns=exp(interval[1]) if interval else None,
        p99_ns=sorted(run.p99_ns for run in runs)[len(runs) // 2] if runs else None,
        iterations=sum(run.n for run in runs),
    )


def _modes(a: Sequence[BuildSeen], b: Sequence[BuildSeen]) -> tuple[tuple[Mode, ...], float | None]:
    """Return the structures among the builds, and Fisher's p of both sides mixing them alike."""
    if not a or not b or not all(build.structure for build in (*a, *b)):
        return (), None
    found = []
    for structure in sorted({build.structure or "" for build in (*a, *b)}):
        values = [[build.value for build in side if build.structure == structure] for side in (a, b)]
        times = [exp(mean(side)) if side else None for side in values]
        found.append(Mode(structure, len(values[0]), len(values[1]), times[0], times[1]))
    found.sort(key=lambda mode: -(mode.a + mode.b))
    counts = [mode.a for mode in found], [mode.b for mode in found]
    return tuple(found), stats.fisher(*counts) if len(found) > 1 else None
