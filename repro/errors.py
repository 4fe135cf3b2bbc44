"""What goes wrong, told to a person, and the exit codes of every verb."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """One meaning per number, the same for all verbs (`make` turns every non-zero one into 2)."""

    DONE = 0
    """Done, or a positive answer."""
    NEGATIVE = 1
    """A negative answer: a failed record, a refused bundle, slower, not reproduced."""
    USAGE = 2
    """The call can't be carried out as written."""
    UNDECIDED = 3
    """Unknown signer, inconclusive."""
    DOES_NOT_APPLY = 4
    """Unsigned, not comparable, not available here, could not run."""
    LOST = 75
    """The infrastructure went away: a link, a disk, a process."""
    INTERRUPTED = 130
    """Ctrl-C."""


class ReproError(Exception):
    """Something that the user can mend: `what` happened and a `hint` what to do, both one line."""

    code = ExitCode.NEGATIVE

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}: {self.hint}" if self.hint else self.what


class UsageError(ReproError):
    """Call it differently."""

    code = ExitCode.USAGE


class Unavailable(ReproError):
    """Not on this machine; use another one, or install what is missing."""

    code = ExitCode.DOES_NOT_APPLY


class Unknown(ReproError):
    """Find out whose key it is, then decide."""

    code = ExitCode.UNDECIDED


class Lost(ReproError):
    """Something underneath went away; try again once it is back."""

    code = ExitCode.LOST


class Interrupted(ReproError):
    """Ctrl-C; what was measured so far is kept."""

    code = ExitCode.INTERRUPTED


class Refused(ReproError):
    """The file is not what it must be; don't trust it."""


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """Return the error for a name that nobody knows, with the nearest matches."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:8]
    advice = f"did you mean {', '.join(near)}?" if near else "none is known"
    return UsageError(f"unknown {kind} '{name}'", f"{advice} {hint}".strip())


_MASKS = (
    (re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+@~-]+)+[\\/]?"), "<path>"),
    (re.compile(r"0x[0-9a-fA-F]+"), "<address>"),
    (re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"), "<n>"),
    (re.compile(r"\s+"), " "),
)


def signature(stage: str, code: str | None, message: str) -> str:
    """Return what names the same failure on any machine: paths, addresses and numbers masked."""
    for pattern, mask in _MASKS:
        message = pattern.sub(mask, message)
    return f"{stage}/{code or 'unknown'}: {message.strip()[:200]}"
