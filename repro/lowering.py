"""From what an experiment means to what a backend is told, and the proof that it held.

*Requested* is the case's word. *Planned* is what this device and backend are asked for: a case may
declare substitutions per device, and settings that a backend doesn't have are listed as
inapplicable. *Effective* is read back from the backend. Planned ≠ requested is a red flag;
effective ≠ planned is a failure that names the setting.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from repro.errors import UsageError
from repro.schema import Effective, Mismatch, Scalar, Settings, Substitution


class Plan(NamedTuple):
    """What a backend is asked for."""

    planned: dict[str, Scalar | None]
    inapplicable: tuple[str, ...]
    substitutions: tuple[Substitution, ...]


def plan(requested: Settings, on_device: Mapping[str, Scalar], device: str, has: Collection[str]) -> Plan:
    """Plan `requested` for a backend that `has` these settings, with the case's `on.<device>` table."""
    wanted: dict[str, Scalar | None] = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in msgspec.structs.asdict(requested).items()
    }
    for name in on_device:
        if name not in wanted:
            raise UsageError(f"[on.{device}] sets '{name}', which is no setting", "mend its case.toml")
    try:
        msgspec.convert({**msgspec.to_builtins(requested), **on_device}, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"[on.{device}] doesn't hold settings ({error})", "mend its case.toml") from None
    substitutions = tuple(
        Substitution(name, wanted[name], value, f"on.{device}")
        for name, value in on_device.items()
        if name in has and wanted[name] != value
    )
    planned = {name: on_device.get(name, value) for name, value in wanted.items() if name in has}
    return Plan(planned, tuple(name for name in wanted if name not in has), substitutions)


def mismatches(
    planned: Mapping[str, Scalar | None], effective: Mapping[str, Effective]
) -> tuple[Mismatch, ...]:
    """Return every planned setting that was read back as something else."""
    return tuple(
        Mismatch(name, planned[name], seen.value, seen.source)
        for name, seen in effective.items()
        if name in planned and seen.value != planned[name]
    )
