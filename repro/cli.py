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

    from repro.bundle import Inspection
    from repro.gather import Prepared
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


@cli.command()
@click.argument("case", metavar="CASE[:VARIANT]")
@click.option("--device", default="auto", show_default=True, help="What to measure on (`repro devices`).")
@click.option("--release", help="Runtime release; default: the device's own.")
@click.option("--backend", help="What builds and executes; default: the device's own.")
@click.option("--place", default="auto", show_default=True, help="Where the worker runs: host or docker.")
@_host_option
@click.option("--pull", is_flag=True, help="Build the release's image, and pull its base, if it is missing.")
@click.option("--gpu", help="For a container: the GPU, by index or UUID; default: 0.")
@click.option(
    "--jtop", is_flag=True, help="For a container on a Jetson: let jtop's socket in (root on the board)."
)
@click.option("--protocol", help="brief, standard or forum; default: the device's own.")
@click.option("--builds", type=int, help="Number of builds.")
@click.option("--runs", type=int, help="Runs of each build.")
@click.option("--duration", type=Duration(), help="Least measured time of a run.")
@click.option("--iterations", type=int, help="Least number of iterations of a run.")
@click.option("--threads", type=int, help="Threads on the CPU; default: one less than usable cores.")
@click.option(
    "--keep-log", is_flag=True, help="Put trtexec's whole log of the first build into the bundle, redacted."
)
@click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="Measure attainable bandwidth and matrix rate along; default: on a GPU.",
)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("work"), show_default=True, help="Work folder."
)
@click.option("--cases", "cases_folder", type=click.Path(path_type=Path), help="Folder with more cases.")
@click.option("--claim", "claims", multiple=True, help="What is wrong, as KIND field=value …; repeatable.")
@click.option("--timeout-build", type=Duration(), default="30m", show_default=True, help="Longest build.")
@click.option("--timeout-run", type=Duration(), default="10m", show_default=True, help="Longest run.")
@_sealing_options
def run(claims: tuple[str, ...], duration: float | None, max_size: int, yes: bool, **options: Any) -> None:
    """Run a case and seal what came of it into a signed bundle."""
    from repro import devices
    from repro.claims import parse
    from repro.plan import Request
    from repro.report import terminal
    from repro.run import run_case

    if options["device"] == "auto" and options["host"] is None and options["place"] != "docker":
        options["device"] = devices.choose("auto").name
        _say(f"measuring on {options['device']}, the best that can be measured on here (`repro devices`)")
    request = Request(
        claims=tuple(map(parse, claims)),
        duration_s=duration,
        max_size_bytes=max_size * 2**20,
        timeout_build_s=options.pop("timeout_build"),
        timeout_run_s=options.pop("timeout_run"),
        **options,
    )
    with terminal.Watcher(_console(stderr=True)) as watch:

        def approve(prepared: Prepared) -> bool:
            watch.stop()
            return _approve(prepared, yes=yes)

        done = run_case(request, watch, approve, _say)
    _finish(done)


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
    click.echo(f"next: repro show {path}\n      repro verify {path}")
    failed = any(record.status == "failed" for record in done.records)
    if failed:
        _say(f"the run failed; its logs are in {_shown(done.work)}")
    raise SystemExit(ExitCode.NEGATIVE if failed else ExitCode.DONE)


@cli.command()
@click.argument("work", type=click.Path(path_type=Path))
@_sealing_options
def seal(work: Path, max_size: int, yes: bool, **options: Any) -> None:
    """Seal the work folder of a run that could not do it itself."""
    from functools import partial

    from repro.plan import Request
    from repro.run import seal_work

    request = Request(case="", max_size_bytes=max_size * 2**20, **options)
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
@click.option("--json", "as_json", is_flag=True, help="The six findings as JSON.")
@click.option("--require-signer", metavar="PRINCIPAL", help="Accept this signer only.")
@click.option(
    "--signers", type=click.Path(path_type=Path), help="Folder with allowed_signers; default: your own."
)
def verify(path: Path | None, as_json: bool, require_signer: str | None, signers: Path | None) -> None:
    """Check container, files, signature, signer and time of a bundle.

    Default: the newest in bundles/. The numbers themselves are not judged.
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
    raise SystemExit(code)


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
def show(path: Path | None, as_json: bool, markdown: bool, card_only: bool, layers_only: bool) -> None:
    """Show what a bundle says: a card, then the details.

    Default: the newest in bundles/.
    """
    from repro import bundle
    from repro.report import content

    opened = bundle.read(path or _newest())
    if as_json:
        import msgspec

        value = {"id": opened.id, "statement": opened.statement, "records": opened.records}
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=1))
    elif markdown:
        from repro.report import markdown as page

        click.echo(page.render(content.report(opened)), nl=False)
    else:
        from repro.report import terminal

        console = _console()
        if card_only:
            terminal.show_card(console, content.card(opened))
        elif layers_only:
            from repro.report import layers

            terminal.show_tables(console, tuple(layers.tables(opened)))
        else:
            terminal.show_report(console, content.report(opened))


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
    """Show the commands that a case becomes on a release.

    The release is one of trtexec; each command is shown with its reasons, and nothing is run.
    """
    from repro import cases as table
    from repro import devices, lowering, plan
    from repro.report import commands

    if (release is None) is not everything:
        raise UsageError("name one release with --release, or ask for --all")
    case_id, variants = table.parse(case)
    loaded = table.load(case_id, cases_folder)
    place = devices.choose(device)
    if everything and ":" not in case:
        variants = (None, *loaded.variants)
    planned = {
        variant or table.BASE: plan.for_trtexec(table.resolve(loaded, variant), place) for variant in variants
    }
    if release is None:
        for line in commands.matrix(planned, place.name):
            click.echo(line)
        return
    missing = False
    for variant, wanted in planned.items():
        lowered = lowering.lower(wanted, release, place.name)
        click.echo(f"{case_id}:{variant} on {release}, {place.name}")
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
        reason = table.availability(device)
        click.echo(f"{device.name:<6} {'ready' if reason is None else 'not here':<9} {device.what}")
        if reason is not None:
            click.echo(f"{'':<16} {reason}")
        for row in rows():
            if row.device == device.name:
                click.echo(
                    f"{'':<16} {row.name}{'' if row.available else ': ' + (row.reason or 'not available')}"
                )


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
