"""A bundle's report as one self-contained page: card, findings, figures, details."""

from __future__ import annotations

from repro import diagnose, facts
from repro.bundle import Bundle
from repro.report import content, figures, html
from repro.report.text import safe


def render(bundle: Bundle) -> str:
    """Return the page."""
    report = content.report(bundle)
    given = facts.of_bundle(bundle)
    record = next(iter(bundle.records.values()))
    return html.render(
        "report",
        title=safe(f"{record.case.id}: {bundle.cases[record.record_name].title}"),
        question=safe(bundle.cases[record.record_name].question, 400),
        card=report.card,
        findings=[
            {
                "strength": each.strength,
                "says": safe(each.says, 400),
                "rule": each.rule,
                "evidence": [(safe(e.what), safe(e.value), safe(e.where)) for e in each.evidence],
                "next": safe(each.next, 400),
            }
            for each in diagnose.diagnose(given)
        ],
        figures=list(figures.figures(tuple(given.attained.values()), given.networks, given.records)),
        details=[part for part in report.details if part.rows],
        bundle_id=bundle.id,
    )
