"""Text to paste into a ticket: a bundle in the fields of NVIDIA/TensorRT's issue template, or a reply.

The template is `.github/ISSUE_TEMPLATE` of that repository, as its issues have it from 2023 to 2026. Every
word from the bundle is escaped; what the records don't tell is said to be unknown.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from repro import diagnose, facts
from repro.bundle import Bundle
from repro.observed import key_figure
from repro.report import content, listing, reply
from repro.report.markdown import code_block, escape, table
from repro.report.text import safe
from repro.schema import Record
from repro.telemetry import fact_value

UNKNOWN = "not known"
MAX_FINDINGS = 5
_TENSORRT = "TensorRT"


def render(bundle: Bundle) -> str:
    """Return the text: of a reply the answer to paste back, of any other bundle a whole report."""
    answered = bundle.statement.predicate.reply
    lines = _answer(bundle) if answered is not None else _report(bundle)
    return "\n".join(lines) + "\n"


# --- a report -----------------------------------------------------------------------------------


def _report(bundle: Bundle) -> Iterable[str]:
    content.card(bundle)  # Refuses a bundle without a record.
    subjects = [each for each in bundle.records.values() if each.role == "subject"]
    records = subjects or list(bundle.records.values())
    first = records[0]
    claims = bundle.statement.predicate.claims
    case = bundle.cases[first.record_name]
    yield f"<!-- Title: {_line(_title(first))} -->"
    yield ""
    yield "## Description"
    yield ""
    for claim in claims:
        yield f"- **{_line(content.claim_text(claim))}**{_more(claim.expected, claim.note)}"
    if not claims:
        yield f"{_line(case.title)}: {_line(case.question)}"
    yield ""
    yield from table(("record", "release", "time", "output", "red flags"), map(_measured, records))
    yield ""
    found = diagnose.diagnose(facts.of_bundle(bundle))[:MAX_FINDINGS]
    if found:
        yield "Findings:"
        yield ""
        yield from (f"- {each.strength}: {_line(each.says)}" for each in found)
        yield ""
    yield from _evidence(bundle)
    yield "## Environment"
    yield ""
    for name, value in _environment(first):
        yield f"{name}: {_line(value)}"
        yield ""
    yield "## Relevant Files"
    yield ""
    yield f"**Model link**: {_model(bundle, first)}"
    yield ""
    yield "## Steps To Reproduce"
    yield ""
    yield "**Commands or scripts**:"
    yield ""
    name = _quoted(bundle)
    yield from code_block([f"repro verify {name}", f"repro replay {name} --replay-unknown-signer"])
    for record in records:
        if record.commands:
            yield ""
            yield "The same by hand, in a folder with the model:"
            yield ""
            yield from code_block(listing.commands(record, "").rows)
            break
    for record in records:
        for stage in record.stages:
            if stage.error is not None:
                yield ""
                code = _line(stage.error.code or "no code")
                yield f"{_line(record.record_name)} fails in {stage.name} ({code}):"
                yield ""
                yield from code_block([safe(stage.error.message, 2000)])
    yield ""
    yield f"**Have you tried the latest release?**: {_line(_releases(records))}"
    yield ""
    yield f"**Can this model run on other frameworks?**: {_line(_frameworks(bundle, records))}"


def _title(record: Record) -> str:
    product = f"{record.runtime.product} {record.runtime.release.version}"
    failed = next((stage.name for stage in record.stages if stage.status == "failed"), None)
    what = f"Failure in {failed} of" if failed else "Performance of"
    board = record.board.name or record.runtime.device
    return f"{what} {product} when running {record.case.id} on {board}"


def _measured(record: Record) -> tuple[str, ...]:
    rows = {row.label: row.text for row in content.record_rows(record)}
    flags = "; ".join(text for _, text in content.red_flags(record)) or "none"
    return tuple(
        safe(cell)
        for cell in (
            record.record_name,
            record.runtime.release.name,
            rows["Time"],
            rows["Output"],
            flags,
        )
    )


def _environment(record: Record) -> Iterable[tuple[str, str]]:
    """Give the fields of the template; what doesn't apply says so."""
    release, told = record.runtime.release, record.telemetry.facts
    tensorrt = record.runtime.product == _TENSORRT
    none = f"not used: {record.runtime.product} {release.version}"
    libraries = {each.name: each.version for each in record.runtime.libraries}
    gpu = record.board.compute_capability is not None
    yield "**TensorRT Version**", _version(release.version, release.build) if tensorrt else none
    yield "**NVIDIA GPU**", record.board.name or UNKNOWN if gpu else f"none: {record.board.name or UNKNOWN}"
    yield "**NVIDIA Driver Version**", release.driver or (UNKNOWN if gpu else "none")
    yield "**CUDA Version**", release.cuda or (UNKNOWN if gpu else "none")
    yield "**CUDNN Version**", release.cudnn or (UNKNOWN if gpu else "none")
    system = [fact_value(told, name) for name in ("system", "kernel", "architecture")]
    yield "Operating System", ", ".join(str(each) for each in system if each is not None) or UNKNOWN
    yield "Python Version (if applicable)", str(fact_value(told, "python") or UNKNOWN)
    yield "Tensorflow Version (if applicable)", "not used"
    yield "PyTorch Version (if applicable)", libraries.get("torch", "not used")
    place = record.runtime.place
    image = place.repo_digest or place.image_id
    where = "baremetal" if place.virtualised in (None, "none") else "virtual machine"
    yield "Baremetal or Container (if so, version)", f"container {image}" if image else where


def _version(version: str, build: str | None) -> str:
    return f"{version} (build {build})" if build else version


def _model(bundle: Bundle, record: Record) -> str:
    name = f"attached: {_code(bundle.path.name)}"
    if record.case.share == "none":
        return f"{name}; the model is private and not in it"
    built = f"records/{record.record_name}/case/model.{record.model.built_from}.onnx"
    return f"{name}, a zip file; the ONNX is {_code(built)} in it"


def _releases(records: Iterable[Record]) -> str:
    names = dict.fromkeys(each.runtime.release.name for each in records)
    return f"measured with {', '.join(names)}; repro replay --release … runs it with another"


def _frameworks(bundle: Bundle, records: Iterable[Record]) -> str:
    right = [
        f"{each.runtime.product} {each.runtime.release.version}"
        for each in records
        if each.runtime.product != _TENSORRT and key_figure(each) is not None
    ]
    if right:
        return f"yes, with a checked output: {', '.join(dict.fromkeys(right))}"
    return f"not in this bundle; repro replay {_quoted(bundle)} --device cpu runs it with ONNX Runtime"


# --- both ---------------------------------------------------------------------------------------


def _answer(bundle: Bundle) -> Iterable[str]:
    predicate = bundle.statement.predicate
    assert predicate.reply is not None  # noqa: S101 - it is what makes a bundle a reply
    yield f"**{_line(reply.overall(predicate.reply))}**"
    yield ""
    answers = predicate.reply.answers
    yield from (f"- {_line(reply.about(each))}: **{_line(reply.told(each))}**" for each in answers)
    yield ""
    if bundle.records:
        first = next(iter(bundle.records.values()))
        yield from table(
            ("record", "release", "time", "output", "red flags"), map(_measured, bundle.records.values())
        )
        yield ""
        for name, value in _environment(first):
            yield f"{name}: {_line(value)}  "
        yield ""
    yield f"This answers the bundle {_code(predicate.parent_bundle_id or '')}."
    yield ""
    yield from _evidence(bundle)
    yield "To check it:"
    yield ""
    yield from code_block([f"repro verify {_quoted(bundle)} ORIGINAL.zip", f"repro show {_quoted(bundle)}"])


def _evidence(bundle: Bundle) -> Iterable[str]:
    told = (bundle.path.name, f"id {bundle.id}", bundle.inspection.signature.text)
    yield f"Evidence: {', '.join(map(_code, told))}."
    yield ""


def _more(expected: str | None, note: str | None) -> str:
    parts = [f"expected: {expected}"] if expected else []
    parts += [note] if note else []
    return f" ({_line('; '.join(parts))})" if parts else ""


def _quoted(bundle: Bundle) -> str:
    """Return the bundle's file name as a word of a shell."""
    return shlex.quote(safe(bundle.path.name))


def _code(text: str) -> str:
    """Return text as it stands, in a span of code that nothing in it ends."""
    shown = safe(text, 600)
    return f"`{shown}`" if "`" not in shown else escape(shown)


def _line(text: str) -> str:
    return escape(safe(text, 600))
