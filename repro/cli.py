"""The command line: one function per verb; the only module that prints and exits.

Nothing heavy is imported until a verb needs it, so that `repro --help` answers at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from repro import __version__
from repro.errors import ExitCode, ReproError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from repro.bundle import Bundle, Inspection
    from repro.gather import Prepared
    from repro.imported import Imported
    from repro.plan import Request
    from repro.rebuild import Rebuilt
    from repro.run import Done

BUNDLES = Path("bundles")
F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """A duration such as `90s`, `30m` or `1h`; a bare number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if not match or float(match[1]) == 0:
            self.fail(f"'{value}' is not a duration such as 90s or 30m", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]


def _sealing_options(command: F) -> F:
    """Add the options of every verb that seals a bundle."""
    for option in (
        click.option(
            "--output",
            type=click.Path(path_type=Path),
            default=BUNDLES,
            show_default=True,
            help="File or folder.",
        ),
        click.option(
            "--key", type=click.Path(path_type=Path), help="Private OpenSSH key; default: the kit's own."
        ),
        click.option("--unsigned", is_flag=True, help="Leave the bundle unsigned."),
        click.option(
            "--max-size",
            type=click.IntRange(1),
            default=20,
            show_default=True,
            help="Largest bundle, in MiB.",
        ),
        click.option(
            "--allow-finding",
            "allowed_findings",
            multiple=True,
            metavar="ID",
            help="Seal in spite of this place that looks like a secret; repeatable, recorded.",
        ),
        click.option("--yes", is_flag=True, help="Seal without asking."),
    ):
        command = option(command)
    return command


_host_option = click.option(
    "--host", help="Another machine's Docker engine, such as ssh://user@board[:port]; default: Docker's own."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="repro")
def cli() -> None:
    """Reproducible, signed evidence for TensorRT bug reports."""


def _measuring_options(command: F) -> F:
    """Add the options of every verb that measures."""
    path = click.Path(path_type=Path)
    for option in reversed(
        (
            click.option(
                "--device", default="auto", show_default=True, help="What to measure on (`repro devices`)."
            ),
            click.option("--backend", help="What builds and executes; default: the device's own."),
            click.option(
                "--place", default="auto", show_default=True, help="Where the worker runs: host or docker."
            ),
            click.option(
                "--pull", is_flag=True, help="Build the release's image, and pull its base, if it is missing."
            ),
            _host_option,
            click.option("--gpu", help="For a container: the GPU, by index or UUID; default: 0."),
            click.option(
                "--jtop",
                is_flag=True,
                help="For a container on a Jetson: let jtop's socket in (root on the board).",
            ),
            click.option("--protocol", help="brief, standard or forum; default: the device's own."),
            click.option("--duration", type=Duration(), help="Least measured time of a run."),
            click.option("--iterations", type=int, help="Least number of iterations of a run."),
            click.option(
                "--threads", type=int, help="Threads on the CPU; default: one less than usable cores."
            ),
            click.option("--work", type=path, default=Path("work"), show_default=True, help="Work folder."),
            click.option("--cases", "cases_folder", type=path, help="Folder with more cases."),
            click.option(
                "--claim",
                "claims",
                multiple=True,
                help="What is wrong, as KIND field=value …; repeatable.",
            ),
            click.option(
                "--timeout-build", type=Duration(), default="30m", show_default=True, help="Longest build."
            ),
            click.option(
                "--timeout-run", type=Duration(), default="10m", show_default=True, help="Longest run."
            ),
            click.option(
                "--rounds", type=int, help="Quads A B B A of an alternating comparison; default: 6."
            ),
        )
    ):
        command = option(command)
    return command


@cli.command()
@click.argument("case", metavar="CASE[:VARIANT]", required=False, default="")
@click.option(
    "--variants",
    is_flag=False,
    flag_value="core",
    help="Several variants: core (the same as no value), sweep:channels, all, or names with commas.",
)
@click.option("--release", help="Runtime release; default: the place's own (`repro releases`).")
@click.option("--python", type=click.Path(path_type=Path), help="Python that has the release.")
@click.option("--builds", type=int, help="Number of builds.")
@click.option("--runs", type=int, help="Runs of each build.")
@click.option(
    "--keep-log", is_flag=True, help="Put trtexec's whole log of the first build into the bundle, redacted."
)
@click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="Measure attainable bandwidth and matrix rate along; default: on a GPU.",
)
@click.option(
    "--like",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Repeat the experiment of a bundle exactly.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Repeat the experiment of a bundle as arm A, alternating with this one as arm B.",
)
@_measuring_options
@_sealing_options
def run(**options: Any) -> None:
    """Run a case and seal what came of it into a signed bundle.

    With --like or --against the experiment is that of a bundle. --against compares it with
    CASE[:VARIANT][@RELEASE][+SETTING=VALUE…], or with itself under what --release, --python or
    --threads say.
    """
    repeated = options["like"] or options["against"]
    if not options["case"] and not repeated:
        raise click.UsageError("Missing argument 'CASE[:VARIANT]'.")
    if options["variants"] and repeated:
        raise UsageError("--variants has no meaning beside --like or --against", "name one variant")
    if not repeated:
        options["device"] = _best(options)
    _run(options)


@cli.command()
@click.argument("spec_a")
@click.argument("spec_b")
@click.option("--python-a", type=click.Path(path_type=Path), help="Python that has the release of A.")
@click.option("--python-b", type=click.Path(path_type=Path), help="Python that has the release of B.")
@_measuring_options
@_sealing_options
def ab(spec_a: str, spec_b: str, python_a: Path | None, python_b: Path | None, **options: Any) -> None:
    """Compare two releases or settings, alternating in one session.

    The arms take turns in quads, A B B A or B A A B, so that drift of the machine cancels.

    A SPEC is CASE[:VARIANT][@RELEASE][+SETTING=VALUE…], for example conv16@ort-1.30.0, conv16:hwc8 or
    conv16+threads=2. Without a release it is the installed one; one that isn't here is installed into an
    environment of its own, once.
    """
    from repro.plan import ArmRequest
    from repro.spec import parse

    options["arms"] = (ArmRequest(parse(spec_a), python_a), ArmRequest(parse(spec_b), python_b))
    options["device"] = _best(options)
    _run(options)


def _best(options: dict[str, Any]) -> str:
    """Return the device to measure on, chosen here unless another machine's engine says what it is."""
    from repro import devices

    name: str = options["device"]
    if name != "auto" or options["host"] is not None or options["place"] == "docker":
        return name
    backend = options["backend"]
    device = devices.choose("auto", backend)
    if backend and (why := devices.build_only(device, backend)):
        _say(f"building for {device.name}, and not running: {why}")
    else:
        _say(f"measuring on {device.name}, the best that can be measured on here (`repro devices`)")
    return str(device.name)


def _run(options: dict[str, Any]) -> NoReturn:
    """Run what the options of `run` or `ab` ask for."""
    from repro.claims import parse
    from repro.plan import Request
    from repro.report import terminal
    from repro.run import run_case

    yes = options.pop("yes")
    request = Request(
        claims=tuple(map(parse, options.pop("claims"))),
        duration_s=options.pop("duration"),
        max_size_bytes=options.pop("max_size") * 2**20,
        timeout_build_s=options.pop("timeout_build"),
        timeout_run_s=options.pop("timeout_run"),
        **options,
    )
    if request.variants == "all":
        _agree_to_time(request, yes=yes)
    with terminal.Watcher(_console(stderr=True)) as watch:

        def approve(prepared: Prepared) -> bool:
            watch.stop()
            return _approve(prepared, yes=yes)

        done = run_case(request, watch, approve, _say)
    _finish(done)


def _agree_to_time(request: Request, *, yes: bool) -> None:
    """Say how long it will take, and ask."""
    from repro import plan
    from repro.report.text import seconds

    takes = f"{len(plan.chosen(request)[1])} variants, about {seconds(plan.estimate_s(request))}"
    if yes:
        _say(takes)
    elif not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(f"that is {takes}", "add --yes")
    elif not click.confirm(f"That is {takes}. Begin?", default=True):
        raise SystemExit(ExitCode.INTERRUPTED)


def _approve(prepared: Prepared, *, yes: bool) -> bool:
    """Show what the bundle reveals: on the screen before the first one is sealed, as a page always."""
    from repro.bundle.sign import config_folder
    from repro.report import preview

    found = preview.preview(prepared.stem, prepared.listed(), prepared.redactions, ())
    page = prepared.folder / "preview.html"
    page.write_text(preview.as_html(found), encoding="utf-8")
    seen = config_folder() / "preview_seen"
    if yes or seen.exists() or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _say(f"what it reveals: {_shown(page)}")
        return True
    click.echo(preview.as_text(found))
    click.echo(f"The same with its contents: {_shown(page)}")
    try:
        sure = click.confirm("Seal it?", default=True)
    except click.Abort:
        # Ctrl-C at a question is the same Ctrl-C: whoever called says where the work is.
        click.echo()
        raise KeyboardInterrupt from None
    if not sure:
        return False
    seen.touch()
    return True


def _finish(done: Done) -> NoReturn:
    """Print what came of a run, and exit by it."""
    from repro import bundle
    from repro.report import content, terminal

    terminal.show_card(_console(), content.card(bundle.read(done.sealed.path)))
    path = _shown(done.sealed.path)
    click.echo(f"\n{path}  ({done.sealed.size / 1024:.0f} KiB)")
    alternating = all(turn.arm for turn in done.records[0].protocol.order)
    click.echo(f"next: repro show {path}\n      repro {'compare' if alternating else 'verify'} {path}")
    for record in done.records:
        if record.status == "unavailable":
            _say(f"{record.record_name} is unavailable here: {record.reason}")
    failed = any(record.status == "failed" for record in done.records)
    if failed:
        _say(f"the run failed; its logs are in {_shown(done.work)}")
        raise SystemExit(ExitCode.NEGATIVE)
    raise SystemExit(_verdict(done.sealed.path) if alternating else ExitCode.DONE)


def _verdict(path: Path) -> ExitCode:
    """Print what came of comparing the arms of a bundle; return what the verdict exits with."""
    from repro import observed
    from repro.compare import compare as judge
    from repro.report import comparison, terminal

    found = judge([observed.load(path)])
    click.echo()
    terminal.show_verdicts(_console(), comparison.account(found))
    return comparison.exit_code(found)


@cli.command()
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--device", default="auto", show_default=True, help="What to run on; auto: what it ran on.")
@click.option("--release", help="Another release than the bundle's; nothing is installed.")
@click.option("--backend", help="What builds and executes; default: what it was run with.")
@click.option("--python", type=click.Path(path_type=Path), help="Python that has the release.")
@click.option("--place", default="auto", show_default=True, help="Where the worker runs.")
@_host_option
@click.option(
    "--replay-unknown-signer", "unknown_signer", is_flag=True, help="Replay whoever signed it, or nobody."
)
@click.option(
    "--memory", type=click.IntRange(1), help="Most memory of a process, in GiB; default: 8, on a GPU 48."
)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("work"), show_default=True, help="Work folder."
)
@_sealing_options
def replay(
    path: Path, unknown_signer: bool, memory: int | None, max_size: int, yes: bool, **options: Any
) -> None:
    """Run somebody else's bundle again, and seal the answer to it.

    It is verified, what would run is shown, and nothing in it is executed: its networks are built from its
    ONNX by this kit's options, confined. The reply answers every claim, and names the bundle by its id.
    """
    from repro import replay as steps
    from repro.plan import Request
    from repro.report import reply, terminal

    request = Request(max_size_bytes=max_size * 2**20, **options)
    asked = steps.Asked(
        path=path,
        request=request,
        unknown_signer=unknown_signer,
        memory_bytes=None if memory is None else memory * 2**30,
    )
    with terminal.Watcher(_console(stderr=True)) as watch:

        def agree(original: Bundle, rebuilt: Rebuilt) -> bool:
            watch.stop()
            terminal.show_rows(_console(stderr=yes), reply.outline(original, rebuilt))
            agreed = yes or _confirmed("Run it?")
            watch.start()
            return agreed

        def approve(prepared: Prepared) -> bool:
            watch.stop()
            return _approve(prepared, yes=yes)

        done = steps.replay(asked, agree, watch, approve, _say)
    _finish_reply(done, _shown(path))


def _finish_reply(done: Done, original: str) -> NoReturn:
    """Print the answer of a replay, and exit by it."""
    from repro import bundle
    from repro.replay import EXIT_CODES
    from repro.report import reply, terminal

    sealed = bundle.read(done.sealed.path)
    terminal.show_card(_console(), reply.card(sealed))
    shown = _shown(done.sealed.path)
    click.echo(f"\n{shown}  ({done.sealed.size / 1024:.0f} KiB)\nnext: repro verify {shown} {original}")
    answered = sealed.statement.predicate.reply
    raise SystemExit(EXIT_CODES[answered.outcome] if answered else ExitCode.NEGATIVE)


def _confirmed(question: str) -> bool:
    """Ask on a terminal; elsewhere nobody could answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("nobody is there to agree", "add --yes")
    return click.confirm(question, default=False)


@cli.command()
@click.argument("work", type=click.Path(path_type=Path))
@_sealing_options
def seal(work: Path, max_size: int, yes: bool, **options: Any) -> None:
    """Seal the work folder of a run that could not do it itself."""
    from functools import partial

    from repro import replay
    from repro.plan import Request
    from repro.run import seal_work

    request = Request(case="", max_size_bytes=max_size * 2**20, **options)
    if replay.is_replay(work):
        _finish_reply(replay.seal_work(work, request, partial(_approve, yes=yes)), "ORIGINAL")
    _finish(seal_work(work, request, partial(_approve, yes=yes)))


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

    chosen = path or _newest()
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
        _say(f"written to {_shown(html)}")
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
    click.echo(f"{len(names)} files in {_shown(folder)}")


@cli.command()
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("work"), help="Where runs would be kept."
)
def doctor(work: Path) -> None:
    """Tell what can be measured here and what would spoil it.

    Each line has its remedy. Nothing is changed.
    """
    from repro.doctor import examine
    from repro.report import terminal

    found = examine(work)
    terminal.show_lines(_console(), found)
    red = any(line.state == "red" for line in found)
    raise SystemExit(ExitCode.NEGATIVE if red else ExitCode.DONE)


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

    chosen = path or _newest()
    inspection = bundle.inspect(chosen, signers=signers)
    code = inspection.code(require_signer)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(inspection), indent=1))
    else:
        from repro.report import terminal

        console = _console()
        if path is None:
            _say(f"verifying {_shown(chosen)}")
        terminal.show_inspection(console, inspection)
        _explain(code, inspection, require_signer)
    if original is not None and code is not ExitCode.NEGATIVE:
        code = _verify_chain(chosen, original, code, signers)
    raise SystemExit(code)


def _verify_chain(path: Path, original: Path, code: ExitCode, signers: Path | None) -> ExitCode:
    """Print what there is to say of a reply and its original together; return the worst code."""
    from repro import bundle, replay
    from repro.report import reply, terminal

    console = _console()
    inspection = bundle.inspect(original, signers=signers)
    click.echo(f"\nOriginal {_shown(original)}")
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
        _say("the signer is unknown: add the key to allowed_signers once you know whose it is (exit 3)")
    elif code is ExitCode.DOES_NOT_APPLY:
        _say("the bundle is unsigned: anybody could have changed it (exit 4)")
    elif code is ExitCode.NEGATIVE and require_signer and inspection.files.state == "match":
        _say(f"the signer is not {require_signer} (exit 1)")


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

    chosen = path or _newest()
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
        _say(f"written to {_shown(html)}")
    elif markdown:
        from repro.report import markdown as page

        click.echo(page.render(reply.report(opened)), nl=False)
    else:
        from repro.report import terminal

        console = _console()
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

    click.echo(report.render(bundle.read(path or _newest())), nl=False)


class Share(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """A share such as `3%`, `3 %` or `0.03`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share of 1."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", str(value))
        if not match:
            self.fail(f"'{value}' is not a share such as 3% or 0.03", param, ctx)
        share = float(match[1]) / (100 if match[2] else 1)
        if not 0 < share < 1:
            self.fail(f"'{value}' does not lie between 0 and 100 %", param, ctx)
        return share


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
        _say(f"written to {_shown(html)}")
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1))
    elif markdown:
        from repro.report import markdown as page_text

        click.echo(page_text.comparison(account), nl=False)
    else:
        from repro.report import terminal

        terminal.show_comparison(_console(), account)
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

    plans = make(observed.load(path or _newest()), margin, power)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(plans), indent=1))
    else:
        from repro.report import terminal

        for what, found in plans.items():
            if found is None:
                click.echo(f"{what}: no spread was seen; measure at least 2 builds, better 5")
            else:
                terminal.show_table(_console(), report.plan_table(what, found))
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

        console = _console()
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

    path = Path(subject) if subject else _newest()
    if path.suffix == ".zip" or path.is_file():
        found = rules.diagnose(facts.of_bundle(bundle.read(path)))
    else:
        found = rules.diagnose(facts.of_case(table.load(str(subject), cases_folder)))
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1))
        return
    from repro.report import terminal

    terminal.show_findings(_console(), found)


@cli.group()
def case() -> None:
    """Make, check and publish cases."""


@case.command("new")
@click.argument("case_id", metavar="ID")
@click.option(
    "--onnx", "path", type=click.Path(path_type=Path), required=True, help="The network; FP32 or FP16."
)
@click.option("--shape", "shapes", multiple=True, metavar="NAME:1x3x…", help="Binds the input's open shape.")
@click.option(
    "--share",
    type=click.Choice(["none", "model"]),
    default="none",
    show_default=True,
    help="none: the model never leaves this machine; model: it is in every bundle.",
)
@click.option(
    "--cases",
    "cases_folder",
    type=click.Path(path_type=Path),
    default=Path("cases"),
    show_default=True,
    help="Folder of the new case's folder.",
)
def case_new(case_id: str, path: Path, shapes: tuple[str, ...], share: str, cases_folder: Path) -> None:
    """Make a case of an ONNX file of your own; it is private unless you say otherwise.

    The id, and what you write into the case's title and question, are in every bundle.
    """
    from repro import adopt
    from repro import cases as table
    from repro.bundle import MAX_SIZE_BYTES
    from repro.report.text import quantity

    made = adopt.adopt(path, dict(map(adopt.shape, shapes)), private=share == "none")
    folder = table.new(case_id, made, share, cases_folder)
    size = quantity(len(made.model), "bytes")
    if share == "model":
        place = _shown(folder / made.spec.file)
        _say(f"share = model: {place}, {size}, will be in every bundle of {case_id}")
        if len(made.model) > MAX_SIZE_BYTES // 2:
            _say(f"a bundle has at most {MAX_SIZE_BYTES >> 20} MiB unless `repro run --max-size` says more")
    else:
        _say(f"private: {size} of model stay here, renamed by position; its bundles can't be replayed")
    click.echo(_shown(folder))
    more = f" --cases {_shown(cases_folder)}"
    click.echo(f"next: repro case check {case_id}{more}\n      repro run {case_id}{more}")


@case.command("check")
@click.argument("case_id", metavar="CASE[:VARIANT]")
@click.option("--torch", "with_torch", is_flag=True, help="Prove the torch module equal to the ONNX, too.")
@click.option("--cases", "cases_folder", type=click.Path(path_type=Path), help="Folder with more cases.")
def case_check(case_id: str, with_torch: bool, cases_folder: Path | None) -> None:
    """Check a case: every variant is complete, its models are valid, its work can be counted."""
    from repro import cases as table
    from repro import models, work
    from repro.report.text import cut, quantity

    name, variants = table.parse(case_id)
    found = table.load(name, cases_folder)
    for variant in variants if ":" in case_id else (None, *found.variants):
        experiment = table.resolve(found, variant)
        precision = experiment.settings.precision
        data = experiment.onnx[models.file_precision(precision)]
        counted = work.count(data, precision, experiment.settings.io_layout)
        text = f"{experiment.label:<20} {counted.flop:>18,} FLOP  {quantity(counted.bytes_high, 'bytes')}"
        if counted.unknown_ops:
            text += f", without {cut(', '.join(counted.unknown_ops), 60)}"
        click.echo(text)
        if with_torch:
            from repro import export

            if not export.has_module(experiment):
                click.echo(f"{'':<20} has no torch module to compare with")
                continue
            click.echo(
                f"{'':<20} equal to its torch module; outputs differ by {export.check(experiment):.1g}"
            )


@case.command("lock")
@click.argument("case_id", metavar="CASE")
@click.option("--cases", "cases_folder", type=click.Path(path_type=Path), help="Folder with more cases.")
def case_lock(case_id: str, cases_folder: Path | None) -> None:
    """Publish a case's version: write its digests into the lock file beside the cases."""
    from repro import cases as table

    found = table.load(case_id, cases_folder)
    path = table.available(cases_folder)[case_id].parent.parent / "lock.json"
    new = table.lock(found, path)
    for name in new:
        click.echo(name)
    _say(f"{len(new)} new in {_shown(path)}" if new else f"{case_id} is published already")


@cli.command()
@click.option("--cases", "cases_folder", type=click.Path(path_type=Path), help="Folder with more cases.")
def cases(cases_folder: Path | None) -> None:
    """List the cases and their variants."""
    from repro import cases as table

    for case_id in table.available(cases_folder):
        case = table.load(case_id, cases_folder)
        click.echo(f"{case.id:<12} v{case.version}  {case.title}")
        click.echo(f"{'':<16}{case.question}")
        for name, variant in case.variants.items():
            click.echo(f"  {case.id}:{name:<12} {variant.question}")


@cli.command()
@click.argument("case", metavar="CASE[:VARIANT]")
@click.option("--release", help="Release of TensorRT, such as 8.5.2 or trt-10.3.")
@click.option("--device", default="x86", show_default=True, help="What it would be measured on.")
@click.option("--all", "everything", is_flag=True, help="One line for each release that is known.")
@click.option("--cases", "cases_folder", type=click.Path(path_type=Path), help="Folder with more cases.")
def lower(
    case: str, release: str | None, device: str, *, everything: bool, cases_folder: Path | None
) -> None:
    """Show the commands of a case on a release of trtexec."""
    from repro import cases as table
    from repro import devices, lowering, measure, plan
    from repro.report import commands

    if (release is None) is not everything:
        raise UsageError("name one release with --release, or ask for --all")
    case_id, variants = table.parse(case)
    loaded = table.load(case_id, cases_folder)
    target = devices.choose(device)
    protocol = measure.protocol(target.protocol, build_outlives_process=True)
    if everything and ":" not in case:
        variants = (None, *loaded.variants)
    experiments = {variant or table.BASE: table.resolve(loaded, variant) for variant in variants}
    if release is None:
        for line in commands.matrix(experiments, target, protocol):
            click.echo(line)
        return
    missing = False
    for variant, experiment in experiments.items():
        lowered = plan.for_trtexec(experiment, target, release, protocol)
        click.echo(f"{case_id}:{variant} on {release}, {target.name}")
        if isinstance(lowered, lowering.Unsupported):
            click.echo(f"unsupported: {lowered.reason}")
            missing = True
        else:
            for line in commands.commands(lowered):
                click.echo(line)
    if missing:
        raise SystemExit(ExitCode.DOES_NOT_APPLY)


@cli.command()
def devices() -> None:
    """List the devices, and what can be measured on each of them here."""
    from repro import devices as table
    from repro.releases import table as rows

    for device in table.DEVICES.values():
        chosen, why_not = table.standing(device)
        click.echo(f"{device.name:<6} {'ready' if chosen else 'not here':<9} {device.what}")
        for said in (chosen and f"measured with {chosen}", why_not):
            if said:
                click.echo(f"{'':<16} {said}")
        for row in rows():
            if row.device == device.name:
                click.echo(
                    f"{'':<16} {row.name}{'' if row.available else ': ' + (row.reason or 'not available')}"
                )


@cli.group(invoke_without_command=True)
@click.pass_context
def releases(context: click.Context) -> None:
    """List the releases, and where each of them is here."""
    from repro import devices, environments
    from repro.releases import table

    if context.invoked_subcommand:
        return
    here = {
        device.name: {
            found.name
            for backend in device.backends
            if (found := environments.own(backend, gpu=device.gpu)) is not None
        }
        for device in devices.DEVICES.values()
    }
    for row in table():
        if row.name in here[row.device]:
            state = "installed"
        elif not row.available:
            state = f"not available: {row.reason}"
        elif not row.requirements:
            state = "as an image (`repro images list`)" if row.base else "not here"
        elif environments.is_made(row):
            state = f"in {environments.place(row)}"
        else:
            state = "installed when asked for"
        click.echo(f"{row.device:<6} {row.name:<24} {state}")


@releases.command()
@click.argument("release")
def install(release: str) -> None:
    """Install a release into an environment of its own, beside the one of the kit."""
    from repro import environments

    found = environments.choose(release, "cpu", "onnxruntime", gpu=False, say=_say)
    where = _shown(found.interpreter) if found.interpreter else "the kit's own environment"
    click.echo(f"{found.release.name} is in {where}")


# --- images --------------------------------------------------------------------------------------


@cli.group()
def images() -> None:
    """List, build, pull and lock the images of pinned releases."""


_device = click.option("--device", default="auto", show_default=True, help="Whose image (`repro devices`).")


@images.command("list")
@click.option("--device", help="Only those of this device.")
@_host_option
def list_images(device: str | None, host: str | None) -> None:
    """List the releases that have an image, and which of them the engine has."""
    from repro import devices, images
    from repro.containers import connect
    from repro.errors import Unavailable

    wanted = devices.DEVICES if device is None else [devices.choose(device).name]
    engine = None
    try:
        engine = connect(host)
    except Unavailable as error:
        _say(f"which of them are built is not known: {error}")
    for line in images.listing(wanted, engine):
        click.echo(line)


@images.command()
@click.argument("release", required=False)
@_device
@_host_option
@click.option("--base", help="Build on this image of the engine, which must hold the same.")
@click.option(
    "--python-archive", type=click.Path(path_type=Path), help="The Python archive, where it can't be fetched."
)
def build(
    release: str | None, device: str, host: str | None, base: str | None, python_archive: Path | None
) -> None:
    """Build a release's image, and have it prove what it holds.

    Default: the release that fits the device.
    """
    from repro import images, places

    engine, row = places.pinned(device, release, host)
    image = images.build(engine, row, _say, base=base, archive=python_archive)
    click.echo(f"{image.name}  {image.id}")


@images.command()
@click.argument("release", required=False)
@_device
@_host_option
def pull(release: str | None, device: str, host: str | None) -> None:
    """Pull the base of a release's image, by its locked digest where there is one."""
    from repro import images, places

    engine, row = places.pinned(device, release, host)
    images.fitting(engine, row)
    image = images.pull(engine, row, _say)
    click.echo(f"{row.base}  {image.repo_digest or image.id}")


@images.command()
@click.argument("host")
@click.argument("release", required=False)
@_device
@click.option("--from", "source", help="Engine that has the image; default: Docker's own choice.")
def push(host: str, release: str | None, device: str, source: str | None) -> None:
    """Deliver a release's image to another machine's engine, such as ssh://user@board.

    Default: the release that fits that machine. Nothing is sent where it has the image already.
    """
    from repro import delivery, places
    from repro.containers import connect

    far, row = places.pinned(device, release, host)
    image = delivery.push(connect(source), far, row, _say)
    click.echo(f"{image.name}  {image.id}")


@images.command("lock")
@_host_option
def lock_images(host: str | None) -> None:
    """Write the digests of the images that the engine has into images/lock.json."""
    import datetime

    from repro import images, releases
    from repro.containers import connect

    now = datetime.datetime.now(datetime.timezone.utc)
    for name, entry in images.lock(connect(host), releases.table(), f"{now:%Y-%m-%dT%H:%M:%SZ}").items():
        click.echo(f"{name}  {entry.base_digest}")


@cli.command()
@click.option("--device", default="auto", show_default=True, help="What will be measured on there.")
@click.option("--release", help="Whose image goes along; default: the device's own.")
@_host_option
@click.option("--python", help="Python there, such as 3.10; archive: bring one along. Default: the board's.")
@click.option(
    "--python-archive", type=click.Path(path_type=Path), help="The Python archive, where it can't be fetched."
)
@click.option("--image/--no-image", default=True, help="Take the image along.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path(), show_default=True, help="File or folder."
)
def offline(
    device: str,
    release: str | None,
    host: str | None,
    python: str | None,
    python_archive: Path | None,
    output: Path,
    *,
    image: bool,
) -> None:
    """Write a tar that installs kit and image without internet."""
    from repro import offline, places

    engine, row = places.pinned(device, release, host) if image else (None, places.named(device, release))
    made = offline.contents(row, engine, _say, python=python, archive=python_archive)
    path = offline.write(made, output, _say)
    click.echo(f"{_shown(path)}  ({path.stat().st_size / 2**20:.0f} MiB)")
    click.echo(f"there: tar -xf {path.name} && sh {offline.FOLDER}/install.sh")


# --- what the verbs share -------------------------------------------------------------------------


def _newest() -> Path:
    found = sorted(BUNDLES.glob("*.zip"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise UsageError("there is no bundle in bundles/", "name one, or make one with `make repro`")
    return found[-1]


def _shown(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _say(text: str) -> None:
    click.echo(text, err=True)


def main() -> NoReturn:
    """Run the command line; the one place that turns errors into a line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message())
        sys.exit(ExitCode.USAGE)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f" (see `{context.command_path} --help`)" if context else ""
        _say(f"repro: {error.format_message()}{hint}")
        sys.exit(ExitCode.USAGE)
    except ReproError as error:
        _say(f"repro: {error}")
        sys.exit(error.code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        _say("repro: interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away; that is its right. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.DONE)
    sys.exit(ExitCode.DONE)
