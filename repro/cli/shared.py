"""What the verbs share: their group, options of several, and how they speak."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from repro import __version__
from repro.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

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


def sealing_options(command: F) -> F:
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


host_option = click.option(
    "--host", help="Another machine's Docker engine, such as ssh://user@board[:port]; default: Docker's own."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="repro")
def cli() -> None:
    """Reproducible, signed evidence for TensorRT bug reports."""


def measuring_options(command: F) -> F:
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
            host_option,
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


def newest() -> Path:
    """Return the newest bundle, for verbs that are called without one."""
    found = sorted(BUNDLES.glob("*.zip"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise UsageError("there is no bundle in bundles/", "name one, or make one with `make repro`")
    return found[-1]


def short(path: Path) -> str:
    """Return a path as a user would type it here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def screen(*, stderr: bool = False) -> Console:
    """Return the terminal, that takes text as it is."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Tell the user what is no result, beside the output."""
    click.echo(text, err=True)
