"""Verbs that measure, and seal what came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from repro.cli.shared import cli, host_option, measuring_options, say, screen, sealing_options, short
from repro.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from repro.bundle import Bundle
    from repro.gather import Prepared
    from repro.plan import Request
    from repro.rebuild import Rebuilt
    from repro.run import Done


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
@measuring_options
@sealing_options
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
@measuring_options
@sealing_options
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
        say(f"building for {device.name}, and not running: {why}")
    else:
        say(f"measuring on {device.name}, the best that can be measured on here (`repro devices`)")
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
    with terminal.Watcher(screen(stderr=True)) as watch:

        def approve(prepared: Prepared) -> bool:
            watch.stop()
            return _approve(prepared, yes=yes)

        done = run_case(request, watch, approve, say)
    _finish(done)


def _agree_to_time(request: Request, *, yes: bool) -> None:
    """Say how long it will take, and ask."""
    from repro import plan
    from repro.report.text import seconds

    takes = f"{len(plan.chosen(request)[1])} variants, about {seconds(plan.estimate_s(request))}"
    if yes:
        say(takes)
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
        say(f"what it reveals: {short(page)}")
        return True
    click.echo(preview.as_text(found))
    click.echo(f"The same with its contents: {short(page)}")
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

    terminal.show_card(screen(), content.card(bundle.read(done.sealed.path)))
    path = short(done.sealed.path)
    click.echo(f"\n{path}  ({done.sealed.size / 1024:.0f} KiB)")
    alternating = all(turn.arm for turn in done.records[0].protocol.order)
    click.echo(f"next: repro show {path}\n      repro {'compare' if alternating else 'verify'} {path}")
    for record in done.records:
        if record.status == "unavailable":
            say(f"{record.record_name} is unavailable here: {record.reason}")
    failed = any(record.status == "failed" for record in done.records)
    if failed:
        say(f"the run failed; its logs are in {short(done.work)}")
        raise SystemExit(ExitCode.NEGATIVE)
    raise SystemExit(_verdict(done.sealed.path) if alternating else ExitCode.DONE)


def _verdict(path: Path) -> ExitCode:
    """Print what came of comparing the arms of a bundle; return what the verdict exits with."""
    from repro import observed
    from repro.compare import compare as judge
    from repro.report import comparison, terminal

    found = judge([observed.load(path)])
    click.echo()
    terminal.show_verdicts(screen(), comparison.account(found))
    return comparison.exit_code(found)


@cli.command()
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--device", default="auto", show_default=True, help="What to run on; auto: what it ran on.")
@click.option("--release", help="Another release than the bundle's; nothing is installed.")
@click.option("--backend", help="What builds and executes; default: what it was run with.")
@click.option("--python", type=click.Path(path_type=Path), help="Python that has the release.")
@click.option("--place", default="auto", show_default=True, help="Where the worker runs.")
@host_option
@click.option(
    "--replay-unknown-signer", "unknown_signer", is_flag=True, help="Replay whoever signed it, or nobody."
)
@click.option(
    "--memory", type=click.IntRange(1), help="Most memory of a process, in GiB; default: 8, on a GPU 48."
)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("work"), show_default=True, help="Work folder."
)
@sealing_options
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
    with terminal.Watcher(screen(stderr=True)) as watch:

        def agree(original: Bundle, rebuilt: Rebuilt) -> bool:
            watch.stop()
            terminal.show_rows(screen(stderr=yes), reply.outline(original, rebuilt))
            agreed = yes or _confirmed("Run it?")
            watch.start()
            return agreed

        def approve(prepared: Prepared) -> bool:
            watch.stop()
            return _approve(prepared, yes=yes)

        done = steps.replay(asked, agree, watch, approve, say)
    _finish_reply(done, short(path))


def _finish_reply(done: Done, original: str) -> NoReturn:
    """Print the answer of a replay, and exit by it."""
    from repro import bundle
    from repro.replay import EXIT_CODES
    from repro.report import reply, terminal

    sealed = bundle.read(done.sealed.path)
    terminal.show_card(screen(), reply.card(sealed))
    shown = short(done.sealed.path)
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
@sealing_options
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
    terminal.show_lines(screen(), found)
    red = any(line.state == "red" for line in found)
    raise SystemExit(ExitCode.NEGATIVE if red else ExitCode.DONE)
