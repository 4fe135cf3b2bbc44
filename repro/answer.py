"""What a replay says of each claim, with the comparison behind it: pure functions of what was observed.

    reply = answer(predicate.claims, predicate.references, there, here)

`there` are the records of the original bundle, `here` those of the replay. The rules:

- A failure is reproduced by the same stage and the same signature.
- A ratio is reproduced by its interval and its sign, on whatever board, where both sides are the same
  experiments as there.
- A time is answered only on the same board, power mode and release; so is what it is a share of a roof.
- A wrong output is reproduced where it is off by at least half as much.
- A claim on figures from elsewhere has nothing that could be replayed: its arithmetic is checked, and it
  doesn't bear on the whole.
- Where nothing is claimed of the records, their times are set against each other.

The overall answer is the weakest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import get_args

import msgspec

from repro import grounds
from repro.compare import MARGIN
from repro.grounds import Pair
from repro.observed import Observed, key_figure
from repro.schema import (
    Absolute,
    Answer,
    AnyClaim,
    BelowRoof,
    ErrorSeen,
    Fails,
    Figure,
    Outcome,
    Ratio,
    Reference,
    Reply,
    StatedEfficiency,
    WrongOutput,
)

WEAKEST_FIRST: tuple[Outcome, ...] = get_args(Outcome)[::-1]
STATED_APART = 0.02
"""A stated percentage and its own figures may differ by this share: both are rounded."""
WRONG_SHARE = 0.5
"""An output that is off by this share of what is claimed is wrong in the same way."""
_OUT_OF_MEMORY = re.compile(r"out.?of.?memory|MemoryError|bad.?alloc|failed to allocate", re.IGNORECASE)
_BASE = "base"


def answer(
    claims: Sequence[AnyClaim],
    references: Sequence[Reference],
    there: Sequence[Observed],
    here: Sequence[Observed],
) -> Reply:
    """Answer every claim, or set the times against each other where none bears on a record."""
    judge = _Judge(references, there, here)
    answers = [judge.claim(claim) for claim in claims]
    if not any(each.counts for each in answers):
        answers += judge.unclaimed()
    counting = [each.outcome for each in answers if each.counts]
    nothing: Outcome = "could_not_run"
    overall = min(counting, key=WEAKEST_FIRST.index, default=nothing)
    return Reply(outcome=overall, answers=tuple(answers))


def without_running(
    claims: Sequence[AnyClaim], references: Sequence[Reference], outcome: Outcome, reason: str
) -> Reply:
    """Return the reply where nothing ran: every claim on a record has the same answer."""
    elsewhere = _Judge(references, (), ())
    answers = tuple(
        elsewhere.claim(claim)
        if elsewhere.is_from_elsewhere(claim)
        else Answer(claim=claim, records=(), outcome=outcome, code="not_run", reason=reason)
        for claim in claims
    )
    return Reply(outcome=outcome, answers=answers, reason=reason)


class _Judge:
    def __init__(
        self, references: Sequence[Reference], there: Sequence[Observed], here: Sequence[Observed]
    ) -> None:
        self._references = {each.id for each in references}
        self._there, self._here = there, here
        mates = {_key(each): each for each in here}
        self._pairs = [Pair(each, mates[_key(each)]) for each in there if _key(each) in mates]

    def is_from_elsewhere(self, claim: AnyClaim) -> bool:
        """Tell whether a claim names figures from elsewhere, which no replay can repeat."""
        return any(name in self._references for name in _named(claim))

    def claim(self, claim: AnyClaim) -> Answer:
        if not _means_something(claim):
            return Answer(claim=claim, records=(), outcome="could_not_run", code="meaningless")
        if self.is_from_elsewhere(claim):
            return self._from_elsewhere(claim)
        if isinstance(claim, Fails):
            return self._fails(claim)
        pairs = [self._find(name) for name in _named(claim)]
        found = [each for each in pairs if each is not None]
        records = tuple(each.there.record.record_name for each in found)
        if len(found) < len(pairs):
            unknown = next(name for name, each in zip(_named(claim), pairs, strict=True) if each is None)
            return Answer(
                claim=claim, records=records, outcome="could_not_run", code="no_record", reason=unknown
            )
        if isinstance(claim, WrongOutput):
            return self._wrong_output(claim, found[0])
        if stopped := self._not_measured(claim, found):
            return stopped
        exact = not isinstance(claim, Ratio)
        if because := grounds.different(found, exact=exact):
            figures = [grounds.time(found[0].there), grounds.time(found[0].here)] if exact else [None, None]
            return Answer(
                claim=claim,
                records=records,
                outcome="different_experiment",
                code="differs",
                there=figures[0],
                here=figures[1],
                because=because,
            )
        if isinstance(claim, Ratio):
            return self._ratio(claim, found[0], found[1], claim.factor, claim.tolerance)
        if isinstance(claim, BelowRoof):
            return self._below_roof(claim, found[0])
        ms = claim.ms if isinstance(claim, Absolute) else claim.time_ms
        if isinstance(claim, StatedEfficiency) and not _arithmetic_holds(claim):
            return _arithmetic(claim, records, counts=True)
        return self._time(claim, found[0], ms)

    def unclaimed(self) -> list[Answer]:
        """Set the times against each other: of two arms their ratio, of others each one's."""
        found: list[Answer] = []
        arms = {pair.there.arm: pair for pair in self._pairs if pair.there.record.role == "subject"}
        if {"A", "B"} <= set(arms):
            a, b = arms["A"], arms["B"]
            stopped = self._not_measured(None, [a, b])
            there = grounds.ratio(a.there, b.there)
            if stopped or there is None:
                return [stopped] if stopped else []
            because = grounds.different([a, b], exact=False)
            if because:
                return [
                    Answer(
                        claim=None,
                        records=(a.there.record.record_name, b.there.record.record_name),
                        outcome="different_experiment",
                        code="differs",
                        because=because,
                    )
                ]
            return [self._ratio(None, a, b, there[0].value, MARGIN)]
        for pair in self._pairs:
            if pair.there.record.role != "subject":
                continue
            names = (pair.there.record.record_name,)
            time = grounds.time(pair.there)
            if stopped := self._not_measured(None, [pair]):
                found.append(stopped)
            elif because := grounds.different([pair], exact=True):
                found.append(
                    Answer(
                        claim=None,
                        records=names,
                        outcome="different_experiment",
                        code="differs",
                        there=time,
                        here=grounds.time(pair.here),
                        because=because,
                    )
                )
            elif time is not None:
                found.append(self._time(None, pair, time.value))
        return found

    # --- one kind of claim each -----------------------------------------------------------------

    def _from_elsewhere(self, claim: AnyClaim) -> Answer:
        if isinstance(claim, StatedEfficiency):
            return _arithmetic(claim, (), counts=False)
        return Answer(claim=claim, records=(), outcome="different_experiment", code="elsewhere", counts=False)

    def _fails(self, claim: Fails) -> Answer:
        """Look for the same failure: in the records that failed so there, or in all."""
        signed = [
            pair
            for pair in self._pairs
            if any(error.signature == claim.signature for error in _errors(pair.there))
        ]
        pairs = signed or [pair for pair in self._pairs if pair.there.record.role == "subject"]
        names = tuple(pair.there.record.record_name for pair in pairs)
        errors = [error for pair in pairs for error in _errors(pair.here)]
        if any((error.stage, error.signature) == (claim.stage, claim.signature) for error in errors):
            return Answer(claim=claim, records=names, outcome="reproduced", code="same_failure")
        if not pairs:
            return Answer(
                claim=claim, records=(), outcome="could_not_run", code="no_record", reason=claim.signature
            )
        if errors:
            first = errors[0]
            outcome, code = _other_failure(first)
            if first.stage != claim.stage and outcome == "not_reproduced":
                code = "other_stage"
            return Answer(claim=claim, records=names, outcome=outcome, code=code, reason=first.signature)
        idle = next(
            (p.here.record for p in pairs if p.here.record.status in ("unavailable", "imported")), None
        )
        if idle is not None:
            return Answer(
                claim=claim, records=names, outcome="could_not_run", code="unavailable", reason=idle.reason
            )
        return Answer(claim=claim, records=names, outcome="not_reproduced", code="ran")

    def _wrong_output(self, claim: WrongOutput, pair: Pair) -> Answer:
        names = (pair.there.record.record_name,)
        there, here = (grounds.output(each) for each in pair)
        checks = [build.check for build in pair.here.record.builds if build.check]
        if not checks:
            return self._not_measured(claim, [pair]) or Answer(
                claim=claim, records=names, outcome="could_not_run", code="unchecked"
            )
        if because := grounds.different([pair], exact=False, also_wrong=True):
            return Answer(
                claim=claim,
                records=names,
                outcome="different_experiment",
                code="differs",
                there=there,
                here=here,
                because=because,
            )
        wrong = [check for check in checks if not check.ok]
        if here is not None and here.value >= WRONG_SHARE * claim.norm_error and wrong:
            outcome: Outcome = "reproduced"
            code = "as_wrong"
        else:
            outcome, code = "not_reproduced", "otherwise_wrong" if wrong else "right"
        problem = "; ".join(wrong[0].problems) if wrong else None
        return Answer(
            claim=claim,
            records=names,
            outcome=outcome,
            code=code,
            there=there,
            here=here,
            reason=problem,
        )

    def _ratio(self, claim: Ratio | None, a: Pair, b: Pair, factor: float, tolerance: float) -> Answer:
        there, here = grounds.ratio(a.there, b.there), grounds.ratio(a.here, b.here)
        names = (a.there.record.record_name, b.there.record.record_name)
        outcome: Outcome = "undecided"
        code = "no_interval"
        if here is not None and here[0].low is not None and here[0].high is not None:
            outcome, code = grounds.ratio_held(here[0].low, here[0].high, here[1], factor, tolerance)
        return Answer(
            claim=claim,
            records=names,
            outcome=outcome,
            code=code,
            there=there[0] if there else None,
            here=here[0] if here else None,
        )

    def _time(self, claim: AnyClaim | None, pair: Pair, ms: float) -> Answer:
        here = grounds.time(pair.here)
        assert here is not None  # noqa: S101 - it was measured
        outcome, code = grounds.held(here, ms / (1 + MARGIN), ms * (1 + MARGIN))
        return Answer(
            claim=claim,
            records=(pair.there.record.record_name,),
            outcome=outcome,
            code=code,
            there=grounds.time(pair.there),
            here=here,
        )

    def _below_roof(self, claim: BelowRoof, pair: Pair) -> Answer:
        """At most that share is reached, which is what is complained of."""
        there = grounds.share(pair.there, self._there, claim.roof)
        here = grounds.share(pair.here, self._here, claim.roof)
        names = (pair.there.record.record_name,)
        if here is None:
            return Answer(
                claim=claim, records=names, outcome="could_not_run", code="no_roof", reason=claim.roof
            )
        outcome, code = grounds.held(here, 0.0, claim.fraction * (1 + MARGIN))
        return Answer(claim=claim, records=names, outcome=outcome, code=code, there=there, here=here)

    def _not_measured(self, claim: AnyClaim | None, pairs: Iterable[Pair]) -> Answer | None:
        """Return the answer where a record has no time, there or here."""
        pairs = tuple(pairs)
        names = tuple(pair.there.record.record_name for pair in pairs)
        for pair in pairs:
            if key_figure(pair.there.record) is None:
                reason = pair.there.record.reason
                return Answer(
                    claim=claim, records=names, outcome="could_not_run", code="no_time_there", reason=reason
                )
            if pair.here.record.status != "measured" or key_figure(pair.here.record) is None:
                errors = _errors(pair.here)
                reason = errors[0].signature if errors else pair.here.record.reason
                code = _other_failure(errors[0])[1] if errors else "unavailable"
                return Answer(
                    claim=claim,
                    records=names,
                    outcome="could_not_run",
                    code="memory" if code == "memory" else "no_time_here",
                    reason=reason,
                )
        return None

    def _find(self, name: str) -> Pair | None:
        """Return the record of a name, or of a variant where only one is of it."""
        named = [pair for pair in self._pairs if pair.there.record.record_name == name]
        named = named or [
            pair
            for pair in self._pairs
            if pair.there.record.role == "subject"
            and name in (pair.there.record.case.variant or _BASE, pair.there.arm)
        ]
        return named[0] if len(named) == 1 else None


def _key(seen: Observed) -> tuple[str, str, str | None, str | None]:
    record = seen.record
    return record.role, record.case.id, record.case.variant, seen.arm


def _named(claim: AnyClaim) -> tuple[str, ...]:
    """Return the records or figures that a claim names."""
    if isinstance(claim, Ratio):
        return claim.record_a, claim.record_b
    return () if isinstance(claim, Fails) else (claim.record,)


def _means_something(claim: AnyClaim) -> bool:
    """Tell whether a claim's numbers are such as the command line takes: above 0, and finite."""
    numbers = (value for value in msgspec.structs.asdict(claim).values() if isinstance(value, float))
    return all(0 < number < math.inf for number in numbers)


def _errors(seen: Observed) -> list[ErrorSeen]:
    return [stage.error for stage in seen.record.stages if stage.error is not None]


def _other_failure(error: ErrorSeen) -> tuple[Outcome, str]:
    """Say what a failure that is not the claimed one means: want of memory is the replay's own limit."""
    if _OUT_OF_MEMORY.search(f"{error.code} {error.message}"):
        return "could_not_run", "memory"
    return "not_reproduced", "other_signature"


def _arithmetic_holds(claim: StatedEfficiency) -> bool:
    own = 100 * claim.flop / (claim.peak_flops * claim.time_ms / 1e3)
    return abs(own - claim.percent) <= STATED_APART * max(own, claim.percent)


def _arithmetic(claim: StatedEfficiency, records: tuple[str, ...], *, counts: bool) -> Answer:
    """Say whether a stated percentage is what its own figures give."""
    right = _arithmetic_holds(claim)
    own = claim.flop / (claim.peak_flops * claim.time_ms / 1e3)
    return Answer(
        claim=claim,
        records=records,
        outcome="reproduced" if right else "not_reproduced",
        code="arithmetic" if right else "other_arithmetic",
        there=Figure(claim.percent / 100, "share"),
        here=Figure(own, "share"),
        counts=counts,
    )
