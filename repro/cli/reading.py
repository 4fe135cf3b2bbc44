"""Verbs over bundles and logs that are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repro.cli.shared import Share, cli, newest, say, screen, short
from repro.errors import ExitCode, ReproError, UsageError

if TYPE_CHECKING:
    from repro.bundle import Inspection
    from repro.imported import Imported


@cli.command()
@click.argument("path", metavar="[WORK|BUNDLE]", required=False, type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with all contents there.")
def preview(path: Path | None, html: Path | None) -> None:
    """Show what a work folder or a bundle reveals.

    Default: the newest bundle. Looks for secrets, too.
    """
    from repro import gather
    from repro.bundle import archive, leaks
    from repro.report import preview as report

    chosen = path or newest()
    if chosen.is_dir():
        prepared = gather.left(chosen)
        files, title, redactions = prepared.listed(), prepared.stem, prepared.redactions
    else:
        from repro import bundle

        opened = bundle.read(chosen)
        with archive.opened(chosen) as zipped:
            files = {name: zipped.read(name) for name in zipped.names}
        title = chosen.name
        redactions = sum(r.privacy.redactions for r in opened.records.values() if r.privacy)
    hits = tuple(f"{hit.id} ({hit.file}, line {hit.line})" for hit in leaks.scan(files))
    found = report.preview(title, files, redactions, hits)
    if html is not None:
        html.write_text(report.as_html(found), encoding="utf-8")
        say(f"written to {short(html)}")
    else:
        click.echo(report.as_text(found), nl=False)
    raise SystemExit(ExitCode.NEGATIVE if hits else ExitCode.DONE)


@cli.command()
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def extract(path: Path, folder: Path) -> None:
    """Unpack a bundle that is intact into a new folder."""
    from repro.bundle.unpack import extract as unpack

    names = unpack(path, folder)
    click.echo(f"{len(names)} files in {short(folder)}")


@cli.command()
@click.argument("path", metavar="[BUNDLE]", required=False, type=click.Path(path_type=Path))
@click.argument("original", metavar="[ORIGINAL]", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The six findings as JSON.")
@click.option("--require-signer", metavar="PRINCIPAL", help="Accept this signer only.")
@click.option(
    "--signers", type=click.Path(path_type=Path), help="Folder with allowed_signers; default: your own."
)
def verify(
    path: Path | None, original: Path | None, as_json: bool, require_signer: str | None, signers: Path | None
) -> None:
    """Check container, files, signature, signer and time of a bundle.

    Default: the newest in bundles/. The numbers themselves are not judged. With the ORIGINAL that a reply
    answers, both are checked, and that the one belongs to the other.
    """
    from repro import bundle

    chosen = path or newest()
    inspection = bundle.inspect(chosen, signers=signers)
    code = inspection.code(require_signer)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(inspection), indent=1))
    else:
        from repro.report import terminal

        console = screen()
        if path is None:
            say(f"verifying {short(chosen)}")
        terminal.show_inspection(console, inspection)
        _explain(code, inspection, require_signer)
    if original is not None and code is not ExitCode.NEGATIVE:
        code = _verify_chain(chosen, original, code, signers)
    raise SystemExit(code)


def _verify_chain(path: Path, original: Path, code: ExitCode, signers: Path | None) -> ExitCode:
    """Print what there is to say of a reply and its original together; return the worst code."""
    from repro import bundle, replay
    from repro.report import reply, terminal

    console = screen()
    inspection = bundle.inspect(original, signers=signers)
    click.echo(f"\nOriginal {short(original)}")
    terminal.show_inspection(console, inspection)
    codes = {code, inspection.code()}
    if ExitCode.NEGATIVE not in codes:
        found = replay.chain(path, original, signers)
        click.echo()
        terminal.show_rows(console, reply.chain(found))
        codes |= {replay.LINK_CODES[each.state] for each in found}
    worst = (ExitCode.NEGATIVE, ExitCode.DOES_NOT_APPLY, ExitCode.UNDECIDED)
    return next((each for each in worst if each in codes), ExitCode.DONE)


def _explain(code: ExitCode, inspection: Inspection, require_signer: str | None) -> None:
    if code is ExitCode.UNDECIDED:
        say("the signer is unknown: add the key to allowed_signers once you know whose it is (exit 3)")
    elif code is ExitCode.DOES_NOT_APPLY:
        say("the bundle is unsigned: anybody could have changed it (exit 4)")
    elif code is ExitCode.NEGATIVE and require_signer and inspection.files.state == "match":
        say(f"the signer is not {require_signer} (exit 1)")


@cli.command()
@click.argument("path", metavar="[BUNDLE]", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Statement and records as JSON.")
@click.option("--markdown", is_flag=True, help="As Markdown, for a ticket.")
@click.option("--card", "card_only", is_flag=True, help="Only the card of twelve lines.")
@click.option("--layers", "layers_only", is_flag=True, help="Only the layers of each mode of the engine.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with findings and figures there.")
def show(
    path: Path | None, as_json: bool, markdown: bool, card_only: bool, layers_only: bool, html: Path | None
) -> None:
    """Show what a bundle says: a card, then the details.

    Default: the newest in bundles/.
    """
    from repro import bundle, imported
    from repro.report import reply

    chosen = path or newest()
    if imported.is_json(chosen):
        _show_imported(imported.load(chosen), as_json, markdown)
        return
    opened = bundle.read(chosen)
    if as_json:
        import msgspec

        value = {"id": opened.id, "statement": opened.statement, "records": opened.records}
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=1))
    elif html is not None:
        from repro.report.bundle_page import render

        try:
            html.write_text(render(opened), encoding="utf-8")
        except OSError as error:
            raise ReproError(f"can't write {html} ({error.strerror})", "name another file") from None
        say(f"written to {short(html)}")
    elif markdown:
        from repro.report import markdown as page

        click.echo(page.render(reply.report(opened)), nl=False)
    else:
        from repro.report import terminal

        console = screen()
        if card_only:
            terminal.show_card(console, reply.card(opened))
        elif layers_only:
            from repro.report import layers

            terminal.show_tables(console, tuple(layers.tables(opened)))
        else:
            terminal.show_report(console, reply.report(opened))


@cli.command()
@click.argument("path", metavar="[BUNDLE]", required=False, type=click.Path(path_type=Path))
def ticket(path: Path | None) -> None:
    """Print a bundle as text to paste into a ticket.

    The fields are those of NVIDIA/TensorRT's issue template. A reply becomes the answer to paste back.
    Default: the newest in bundles/.
    """
    from repro import bundle
    from repro.report import ticket as report

    click.echo(report.render(bundle.read(path or newest())), nl=False)


@cli.command()
@click.argument("paths", metavar="A [B …]", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--across",
    type=click.Choice(["release", "device", "setting"]),
    help="What is meant to differ; default: the first of these that does.",
)
@click.option(
    "--margin", type=Share(), default="3%", show_default=True, help="Differences that don't matter."
)
@click.option("--geomean", is_flag=True, help="Test the geometric mean of all variants too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON (comparison.v1.json).")
@click.option("--markdown", is_flag=True, help="As Markdown, for a ticket.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with figures there, too.")
@click.option("--fail-on", metavar="VERDICTS", help="Exit with 0 but for these: slower,inconclusive or none.")
@click.option("--unverified", is_flag=True, help="Read bundles that are not intact; every output says so.")
def compare(
    paths: tuple[Path, ...],
    margin: float,
    geomean: bool,
    as_json: bool,
    markdown: bool,
    html: Path | None,
    fail_on: str | None,
    unverified: bool,
    **options: Any,
) -> None:
    """Compare bundles, or the arms of one: a verdict and its reason."""
    from repro import observed
    from repro.compare import compare as judge
    from repro.report import comparison as report

    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other", "choose one; --html goes with either")
    failing = None if fail_on is None else report.verdicts(fail_on)
    sources = [observed.load(path, verified=not unverified) for path in paths]
    found = judge(sources, margin=margin, declared_mean=geomean, **options)
    account = report.account(found)
    if html is not None:
        from repro.report import page

        page.write(html, account, found)
        say(f"written to {short(html)}")
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1))
    elif markdown:
        from repro.report import markdown as page_text

        click.echo(page_text.comparison(account), nl=False)
    else:
        from repro.report import terminal

        terminal.show_comparison(screen(), account)
    raise SystemExit(report.exit_code(found, failing))


@cli.command()
@click.option("--margin", type=Share(), default="3%", show_default=True, help="Difference to be found.")
@click.option(
    "--from",
    "path",
    metavar="BUNDLE",
    type=click.Path(path_type=Path),
    help="Bundle that shows the spread; default: the newest.",
)
@click.option("--power", type=Share(), default="90%", show_default=True, help="In which share of cases.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def plan(margin: float, path: Path | None, power: float, as_json: bool) -> None:
    """Tell how many builds, rounds or sessions a difference takes."""
    from repro import observed
    from repro.compare import plan as make
    from repro.report import comparison as report

    plans = make(observed.load(path or newest()), margin, power)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(plans), indent=1))
    else:
        from repro.report import terminal

        for what, found in plans.items():
            if found is None:
                click.echo(f"{what}: no spread was seen; measure at least 2 builds, better 5")
            else:
                terminal.show_table(screen(), report.plan_table(what, found))
                for note in report.plan_notes(found):
                    click.echo(f"note: {note}")
    raise SystemExit(ExitCode.DONE if any(plans.values()) else ExitCode.UNDECIDED)


@cli.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The imported records as JSON, for `repro show`.")
@click.option("--markdown", is_flag=True, help="As Markdown, for a ticket.")
def log(files: tuple[Path, ...], as_json: bool, markdown: bool) -> None:
    """Read a trtexec log from elsewhere, and exports beside it.

    FILE may be - for standard input. Nothing is measured: the records are marked as imported, and tell
    what the files don't.
    """
    import shutil
    import tempfile

    from repro import imported

    with tempfile.TemporaryDirectory() as folder:
        typed = Path(folder, "stdin")
        if Path("-") in files:
            with typed.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        records = imported.read([typed if path == Path("-") else path for path in files])
    _show_imported(records, as_json, markdown)


def _show_imported(records: Imported, as_json: bool, markdown: bool) -> None:
    """Print what was imported; a failed run that somebody had is no failure here."""
    from repro.report.imported import reports

    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(records), indent=1))
    elif markdown:
        from repro.report import markdown as page

        click.echo("\n".join(map(page.render, reports(records))), nl=False)
    else:
        from repro.report import terminal

        console = screen()
        for number, report in enumerate(reports(records)):
            if number:
                console.print()
            terminal.show_report(console, report)


@cli.command()
@click.argument("subject", metavar="BUNDLE|CASE", required=False)
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.option("--cases", "cases_folder", type=click.Path(path_type=Path), help="Folder with more cases.")
def diagnose(subject: str | None, as_json: bool, cases_folder: Path | None) -> None:
    """Find what a bundle or a case shows or suggests.

    A case needs no run for that. Each finding has its evidence, its strength (proven, supported,
    possible) and the next experiment. Default: the newest bundle in bundles/.
    """
    from repro import bundle, facts
    from repro import cases as table
    from repro import diagnose as rules

    path = Path(subject) if subject else newest()
    if path.suffix == ".zip" or path.is_file():
        found = rules.diagnose(facts.of_bundle(bundle.read(path)))
    else:
        found = rules.diagnose(facts.of_case(table.load(str(subject), cases_folder)))
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1))
        return
    from repro.report import terminal

    terminal.show_findings(screen(), found)
