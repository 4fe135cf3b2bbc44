"""The command line: one function per verb; the only package that prints and exits.

Nothing heavy is imported until a verb needs it, so that `repro --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from repro.cli import measuring, reading, tables  # noqa: F401 - they bring the verbs
from repro.cli.shared import cli, say
from repro.errors import ExitCode, ReproError

__all__ = ["cli", "main"]


def main() -> NoReturn:
    """Run the command line; the one place that turns errors into a line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        sys.exit(ExitCode.USAGE)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f" (see `{context.command_path} --help`)" if context else ""
        say(f"repro: {error.format_message()}{hint}")
        sys.exit(ExitCode.USAGE)
    except ReproError as error:
        say(f"repro: {error}")
        sys.exit(error.code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        say("repro: interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away; that is its right. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.DONE)
    sys.exit(ExitCode.DONE)
