"""Lines to copy from a report: the commands of a record."""

from __future__ import annotations

import shlex
import typing
from collections.abc import Iterable

import msgspec

from repro import lowering, models
from repro.errors import UsageError
from repro.report.text import safe
from repro.schema import Command, Record, Settings

MAX_COMMAND_CHARACTERS = 4_000
LAYOUTS = typing.get_args(typing.get_type_hints(Settings)["io_layout"])


class Listing(msgspec.Struct, frozen=True):
    """Lines to copy, each whole, that stand as they are."""

    title: str
    rows: tuple[str, ...]


def commands(record: Record, of: str) -> Listing:
    """Return the commands of a record, for a shell in the folder where the bundle was unpacked.

    The input is made by our own words, from typed values alone. Commands that this kit would not give
    for the record's settings are pointed out: whoever made the bundle may have written them.
    """
    lines = [shlex.join(["cd", f"records/{record.record_name}/case"])]
    lines += [shlex.join(["python3", "-c", code]) for code in _input_code(record)]
    lines += [shlex.join(command.argv) for command in record.commands]
    if record.case.share == "none":
        lines.insert(0, "# the model is private and not in the bundle")
    known = _known_commands(record)
    if any(command not in known for command in record.commands):
        lines.insert(0, "# this kit gives other commands for these settings: read before you run any")
    title = f"Commands{of}, in the folder where the bundle was unpacked"
    return Listing(title, tuple(safe(line, MAX_COMMAND_CHARACTERS) for line in lines))


def _input_code(record: Record) -> Iterable[str]:
    """Give the code that writes the first build's input, where the record describes one of the kit's own."""
    layout = record.settings.planned.get("io_layout")
    for source in record.model.inputs:
        laid_out = layout == "chw" or (layout in LAYOUTS and len(source.shape) == 4)
        if laid_out and source.dtype in models.DTYPES and source.name == lowering.INPUT:
            own = msgspec.structs.replace(source, layout=str(layout))
            yield models.input_code(f"{record.protocol.seed}/0", own)


def _known_commands(record: Record) -> tuple[Command, ...]:
    """Return the commands that this kit gives for a record's settings; none where it can't give any."""
    planned = record.settings.planned
    if any(field.name not in planned for field in msgspec.structs.fields(Settings)):
        return ()
    try:
        own = lowering.lower(
            planned,
            record.runtime.release.name,
            record.runtime.device,
            files=(record.model.built_from,),
            iterations=record.protocol.planned.iterations,
        )
    except (UsageError, ValueError):
        # Somebody else's record may hold any value of the right type.
        return ()
    return own.commands if isinstance(own, lowering.Commands) else ()
