"""What a reply says: the overall answer, each claim's with its figures, and what a replay is about to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from repro import bundle, replay
from repro.bundle import Bundle, statement
from repro.compare import MARGIN
from repro.launch.confine import PARTS
from repro.rebuild import Rebuilt
from repro.report import comparison as compared
from repro.report import content
from repro.report.content import CARD_COLUMNS, CARD_LINES, LABEL_COLUMNS, Report, Row, Table
from repro.report.text import cut, milliseconds, safe, seconds
from repro.schema import (
    Absolute,
    Answer,
    BelowRoof,
    Comparison,
    Figure,
    Outcome,
    Ratio,
    Reply,
    StatedEfficiency,
)

WORDS: dict[Outcome, str] = {
    "reproduced": "reproduced",
    "not_reproduced": "not reproduced",
    "undecided": "undecided",
    "different_experiment": "different experiment",
    "could_not_run": "could not run",
}
CONFINED = {
    "memory": "memory",
    "network": "no network",
    "writes": "writes in its work folder only",
}


def report(opened: Bundle) -> Report:
    """Return what there is to say about a bundle: of a reply its answers first, of others as ever."""
    reply = opened.statement.predicate.reply
    if reply is None:
        return content.report(opened)
    return Report(card(opened), (_answers(reply), *_comparison(opened), *content.details(opened)))


def card(opened: Bundle) -> tuple[Row, ...]:
    """Return the card of a bundle; of a reply, the answer and what it rests on."""
    predicate = opened.statement.predicate
    if predicate.reply is None:
        return content.card(opened)
    found = {row.label: row for row in (content.card(opened) if opened.records else ()) if row.label}
    kept = [found[label] for label in ("STAND-IN", "Board", "Release", "Red flags") if label in found]
    signer = Row("Signer", _cut(safe(opened.inspection.signer.text)))
    rows = [
        Row("Reply to", _cut(safe(predicate.parent_bundle_id or ""))),
        Row("Answer", _cut(overall(predicate.reply))),
    ]
    shown = sorted(predicate.reply.answers, key=lambda each: not each.counts)
    room = (CARD_LINES - len(rows) - len(kept) - 1) // 2
    for number, each in enumerate(shown[:room]):
        left = len(shown) - room
        more = f"; +{left} more" if left > 0 and number == room - 1 else ""
        what = cut(about(each), CARD_COLUMNS - LABEL_COLUMNS - len(more)) + more
        rows += [Row("Claim" if each.claim else "Compared", what), Row("", _cut(told(each)))]
    return (*rows, *kept, signer)


def overall(reply: Reply) -> str:
    """Return the overall answer, with the reason that decided it."""
    word = WORDS[reply.outcome].upper()
    if reply.reason is not None:
        return f"{word} because {safe(reply.reason, 400)}"
    if reply.outcome in ("reproduced", "not_reproduced"):
        return word
    deciding = next((each for each in reply.answers if each.counts and each.outcome == reply.outcome), None)
    return f"{word} because {because(deciding)}" if deciding else word


def about(answer: Answer) -> str:
    """Return what an answer is about."""
    if answer.claim is not None:
        return safe(content.claim_text(answer.claim))
    names = " and ".join(map(safe, answer.records))
    return f"{names}: nothing was claimed, the times are set against each other"


def told(answer: Answer) -> str:
    """Return an answer as a sentence: `reproduced: 0.5345 (0.5334 to 0.5357) here, within 5 % of 0.53`."""
    aside = "" if answer.counts else "; figures from elsewhere, not part of the overall answer"
    return f"{WORDS[answer.outcome]}: {because(answer)}{aside}"


def because(answer: Answer) -> str:
    """Return why an answer is what it is, from its data alone."""
    rule = _SENTENCES.get(answer.code)
    return rule(answer) if rule else f"rule {safe(answer.code)} of another version of the kit"


def figure(value: Figure | None) -> str:
    """Return a number with its interval."""
    if value is None:
        return "–"
    form, unit = _FORMS[value.unit]
    if value.low is None or value.high is None:
        return f"{form(value.value)}{unit}"
    return f"{form(value.value)}{unit} ({form(value.low)} to {form(value.high)})"


def chain(found: Iterable[replay.Link]) -> tuple[Row, ...]:
    """Return the findings about a reply and its original."""
    return tuple(Row(each.about, safe(each.text)) for each in found)


def outline(original: Bundle, rebuilt: Rebuilt) -> tuple[Row, ...]:
    """Return what a replay is about to run, for the user to agree to."""
    job = rebuilt.job
    rows = [
        Row("Replays", safe(original.path.name)),
        Row("Id", original.id),
        Row("Signer", safe(original.inspection.signer.text)),
    ]
    for subject, source in zip(job.subjects, rebuilt.surveys.values(), strict=True):
        label = f"{subject.case.id}:{subject.case.variant}" if subject.case.variant else subject.case.id
        kinds = cut(safe(", ".join(source.operators)), 60)
        rows.append(
            Row("Builds", f"{safe(label)}, {source.nodes} operators ({kinds}), from the bundle's ONNX")
        )
    plan = job.protocol
    names = dict.fromkeys(subject.release or job.release for subject in job.subjects)
    rows += [
        Row("With", f"{', '.join(map(safe, names))} on {job.device}, place {job.place.kind}"),
        Row(
            "Protocol",
            f"{safe(plan.name)}: {plan.builds} builds × {plan.runs} runs, ≥ {plan.seconds:g} s and "
            f"≥ {plan.iterations} iterations each",
        ),
        Row("Takes", f"about {seconds(rebuilt.seconds)}"),
    ]
    limits = {**CONFINED, "memory": f"{rebuilt.limits.memory_bytes / 2**30:g} GiB of memory at most"}
    rows.append(
        Row("Confined", "; ".join(limits[part] for part in PARTS if part in rebuilt.enforced) or "no")
    )
    if lacking := [CONFINED[part] for part in PARTS if part not in rebuilt.enforced]:
        rows.append(Row("NOT held", f"{'; '.join(lacking)}: this system can't enforce it"))
    return tuple(rows)


# --- parts --------------------------------------------------------------------------------------


def _cut(text: str) -> str:
    return cut(text, CARD_COLUMNS - LABEL_COLUMNS)


def _answers(reply: Reply) -> Table:
    rows = tuple(
        (about(each), WORDS[each.outcome], figure(each.there), figure(each.here), because(each))
        for each in reply.answers
    )
    return Table("Answers", ("claim", "answer", "there", "here", "because"), rows)


def _comparison(opened: Bundle) -> Iterable[Table]:
    """Give the comparison that lies in the reply, as tables."""
    data = bundle.contents(opened, [replay.COMPARISON]).get(replay.COMPARISON)
    if data is None:
        return
    account = compared.account(statement.decode(replay.COMPARISON, data, Comparison))
    yield Table(
        "Comparison",
        ("variant", "sides", "verdict", "why"),
        tuple((each.what, " → ".join(each.sides), each.verdict, each.sentence) for each in account.told),
    )
    for told_of in account.told:
        for part in told_of.tables:
            yield Table(f"{told_of.what} · {part.title}", part.columns, part.rows)


_FORMS: dict[str, tuple[Callable[[float], str], str]] = {
    "ms": (lambda value: milliseconds(value * 1e6), " ms"),
    "ratio": (lambda value: f"{value:.4g}", ""),
    "share": (lambda value: f"{100 * value:.3g}", " %"),
    "error": (lambda value: f"{value:.2g}", ""),
}


def _here(answer: Answer, rest: str) -> str:
    there = answer.there
    bare = figure(Figure(there.value, there.unit)) if there else None
    return f"{figure(answer.here)} here, {f'{bare} there, ' if bare else ''}{rest}"


def _reason(answer: Answer) -> str:
    return safe(answer.reason or "no reason recorded", 300)


def _differs(answer: Answer) -> str:
    found = [
        f"{each.field}: {each.a or 'nothing'} there, {each.b or 'nothing'} here" for each in answer.because
    ]
    return safe("; ".join(found), 400) or "it differs"


_SENTENCES: dict[str, Callable[[Answer], str]] = {
    "within": lambda a: _here(a, f"within {_band(a)}"),
    "outside": lambda a: _here(a, f"beyond {_band(a)}"),
    "across": lambda a: _here(a, f"and the interval lies across an end of {_band(a)}"),
    "no_interval": lambda a: _here(a, "one build, which has no interval"),
    "no_sign": lambda a: _here(a, "and no difference is shown"),
    "other_sign": lambda a: _here(a, "the other way round"),
    "same_failure": lambda _: "it fails in the same stage with the same signature",
    "other_signature": lambda a: f"it fails otherwise: {_reason(a)}",
    "other_stage": lambda a: f"it fails in another stage: {_reason(a)}",
    "ran": lambda _: "it runs here",
    "as_wrong": lambda a: f"{figure(a.here)} off here; {_reason(a)}",
    "otherwise_wrong": lambda a: f"it is wrong here too, and otherwise: {_reason(a)}",
    "right": lambda a: f"the output is right here: error {figure(a.here)}",
    "unchecked": lambda _: "the output was not checked here",
    "differs": _differs,
    "elsewhere": lambda _: "figures from elsewhere can't be run again",
    "arithmetic": lambda a: f"its own figures give {figure(a.here)}",
    "other_arithmetic": lambda a: f"its own figures give {figure(a.here)}, not {figure(a.there)}",
    "no_record": lambda a: f"the bundle holds nothing called {_reason(a)}",
    "no_time_there": lambda a: f"it was not measured there: {_reason(a)}",
    "no_time_here": lambda a: f"it was not measured here: {_reason(a)}",
    "unavailable": lambda a: f"it is not available here: {_reason(a)}",
    "memory": lambda a: f"it needs more memory than it was allowed: {_reason(a)}",
    "no_roof": lambda a: f"this board has no known roof {_reason(a)}",
    "not_run": _reason,
    "meaningless": lambda _: "its numbers mean nothing",
}


def _band(answer: Answer) -> str:
    """Return what the figure was held against."""
    claim = answer.claim
    if isinstance(claim, Ratio):
        return f"{100 * claim.tolerance:g} % of {claim.factor:g}"
    if isinstance(claim, BelowRoof):
        return f"{100 * claim.fraction:.3g} %"
    what = "what it was there"
    if isinstance(claim, (Absolute, StatedEfficiency)):
        ms = claim.ms if isinstance(claim, Absolute) else claim.time_ms
        what = f"{milliseconds(ms * 1e6)} ms"
    return f"{100 * MARGIN:g} % of {what}"
