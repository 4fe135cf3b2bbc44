"""Probes: each reads one source of system state and knows nothing of the others.

A probe declares its channels, and each reading of a channel is a number or the reason why there is
none: `unsupported` (not on this machine), `denied` (no permission) or `missed` (it should have been
there). A 0 is only ever a measured 0. The sampler (`telemetry`) drives them all.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from repro.schema import Fact


class ChannelSpec(msgspec.Struct, frozen=True):
    """A channel as a probe declares it; `source` says where the number comes from."""

    name: str
    unit: str
    source: str
    private: bool = False


class Absent(msgspec.Struct, frozen=True):
    """A reading that is not there."""

    state: Literal["unsupported", "denied", "missed"]
    reason: str


Reading: TypeAlias = float | Absent

NOT_HERE = Absent("unsupported", "not on this machine")
_NOT_HERE = {errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ENOSYS, errno.EOPNOTSUPP}


class Probe(Protocol):
    """Reads system state; every method may fail or hang without harm to the run."""

    name: str
    rate_hz: float
    channels: tuple[ChannelSpec, ...]

    def read(self) -> Mapping[str, Reading]:
        """Read all channels once."""

    def facts(self) -> Sequence[Fact]:
        """Read what does not change while measuring."""

    def counters(self) -> Mapping[str, tuple[str, int]]:
        """Read counters of the machine: name → (unit, value)."""


@runtime_checkable
class Listening(Protocol):
    """What a probe has as well where it waits for readings that somebody else paces."""

    def close(self) -> None:
        """End what it listens to, so that nobody waits any longer."""


def absent(error: OSError | ValueError) -> Absent:
    """Say in the contract's words why a file could not be read."""
    if isinstance(error, PermissionError):
        return Absent("denied", "no permission")
    # A kernel that has a feature switched off may keep its file and refuse to read it.
    if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno in _NOT_HERE):
        return NOT_HERE
    return Absent("missed", type(error).__name__)
