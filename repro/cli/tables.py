"""Verbs over what can be measured: cases, devices, releases and their images."""

from __future__ import annotations

from pathlib import Path

import click

from repro.cli.shared import cli, host_option, say, short
from repro.errors import ExitCode, UsageError


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
        place = short(folder / made.spec.file)
        say(f"share = model: {place}, {size}, will be in every bundle of {case_id}")
        if len(made.model) > MAX_SIZE_BYTES // 2:
            say(f"a bundle has at most {MAX_SIZE_BYTES >> 20} MiB unless `repro run --max-size` says more")
    else:
        say(f"private: {size} of model stay here, renamed by position; its bundles can't be replayed")
    click.echo(short(folder))
    more = f" --cases {short(cases_folder)}"
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
    say(f"{len(new)} new in {short(path)}" if new else f"{case_id} is published already")


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

    found = environments.choose(release, "cpu", "onnxruntime", gpu=False, say=say)
    where = short(found.interpreter) if found.interpreter else "the kit's own environment"
    click.echo(f"{found.release.name} is in {where}")


@cli.group()
def images() -> None:
    """List, build, pull and lock the images of pinned releases."""


_device = click.option("--device", default="auto", show_default=True, help="Whose image (`repro devices`).")


@images.command("list")
@click.option("--device", help="Only those of this device.")
@host_option
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
        say(f"which of them are built is not known: {error}")
    for line in images.listing(wanted, engine):
        click.echo(line)


@images.command()
@click.argument("release", required=False)
@_device
@host_option
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
    image = images.build(engine, row, say, base=base, archive=python_archive)
    click.echo(f"{image.name}  {image.id}")


@images.command()
@click.argument("release", required=False)
@_device
@host_option
def pull(release: str | None, device: str, host: str | None) -> None:
    """Pull the base of a release's image, by its locked digest where there is one."""
    from repro import images, places

    engine, row = places.pinned(device, release, host)
    images.fitting(engine, row)
    image = images.pull(engine, row, say)
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
    image = delivery.push(connect(source), far, row, say)
    click.echo(f"{image.name}  {image.id}")


@images.command("lock")
@host_option
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
@host_option
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
    made = offline.contents(row, engine, say, python=python, archive=python_archive)
    path = offline.write(made, output, say)
    click.echo(f"{short(path)}  ({path.stat().st_size / 2**20:.0f} MiB)")
    click.echo(f"there: tar -xf {path.name} && sh {offline.FOLDER}/install.sh")
