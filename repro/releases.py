"""Releases: pinned runtimes by device, with their holes (`images/releases.toml`)."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from repro.errors import Unavailable, UsageError, unknown
from repro.schema import ReleaseSeen


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one release on one device."""

    name: str
    device: str
    available: bool
    source: str
    reason: str | None = None
    requirements: tuple[str, ...] = ()
    """Exact pins of the packages that bring it into a Python of the host, beside what every turn needs."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    release: tuple[Row, ...]


@functools.cache
def table() -> tuple[Row, ...]:
    """Return all rows, from the checkout or from the package."""
    package = Path(__file__).parent
    checkout = package.parent / "images" / "releases.toml"
    path = checkout if checkout.is_file() else package / "data" / "images" / "releases.toml"
    return msgspec.toml.decode(path.read_bytes(), type=_Table).release


def choose(name: str | None, device: str, installed: ReleaseSeen | None) -> str:
    """Return the release to run on `device`: the installed one, one that the host can install, or why not.

    `name` may be any unambiguous beginning of a release's name.
    """
    here = {installed.name} if installed else set()
    if installed and name in (None, installed.name):
        return installed.name
    if name is None:
        raise Unavailable("no release is installed here", "name one; `repro releases` lists them")
    names = sorted({row.name for row in table()} | here)
    matches = [known for known in names if known.startswith(name)]
    if name in names:
        matches = [name]
    if not matches:
        raise unknown("release", name, names)
    if len(matches) > 1:
        raise UsageError(f"release '{name}' could be {', '.join(matches)}", "write more of it")
    if matches[0] in here:
        return matches[0]
    row = next((row for row in table() if row.name == matches[0] and row.device == device), None)
    if row is None:
        raise Unavailable(f"{matches[0]} does not exist for {device}", "`repro devices` lists what does")
    if not row.available:
        raise Unavailable(f"{matches[0]} is not available on {device}", row.reason or "")
    if row.requirements:
        return row.name
    hint = f"{installed.name} is; leave --release out" if installed else "nor is any other release"
    raise Unavailable(f"{matches[0]} is not installed here", hint)
