"""A bundle's report as one self-contained page: card, findings, figures, details; of a reply, its answers."""

from __future__ import annotations

from repro import diagnose, facts
from repro.bundle import Bundle
from repro.report import figures, html, reply, timeline
from repro.report.text import safe

OPEN = ("Answers", "Comparison")
"""Parts of a reply that come before its findings."""


def render(bundle: Bundle) -> str:
    """Return the page."""
    report = reply.report(bundle)
    given = facts.of_bundle(bundle) if bundle.records else None
    title, question = _heading(bundle)
    return html.render(
        "report",
        title=title,
        question=question,
        card=report.card,
        findings=[
            {
                "strength": each.strength,
                "says": safe(each.says, 400),
                "rule": each.rule,
                "evidence": [(safe(e.what), safe(e.value), safe(e.where)) for e in each.evidence],
                "next": safe(each.next, 400),
            }
            for each in (diagnose.diagnose(given) if given else ())
        ],
        figures=[
            *figures.figures(tuple(given.attained.values()), given.networks, given.records),
            *timeline.figures(bundle),
        ]
        if given
        else [],
        # Of a reply, its answers and the comparison stand open; cells hold the whole of what the card cuts.
        opening=[part for part in report.details if part.title in OPEN],
        details=[part for part in report.details if part.rows and part.title not in OPEN],
        bundle_id=bundle.id,
    )


def _heading(bundle: Bundle) -> tuple[str, str]:
    """Return title and question of a page."""
    answered = bundle.statement.predicate.reply
    record = next(iter(bundle.records.values()), None)
    case = bundle.cases[record.record_name] if record else None
    name = safe(f"{record.case.id}: {case.title}") if record and case else "a bundle"
    if answered is not None:
        return f"Reply: {reply.overall(answered)}", f"The replay of {name}"
    return name, safe(case.question, 400) if case else ""
