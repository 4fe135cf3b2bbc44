"""What `repro lower` tells: the commands for one release and why, or one line for each release."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from repro import lowering
from repro.schema import Scalar
from repro.trtexec import flags

Planned = Mapping[str, Scalar | None]


def commands(lowered: lowering.Commands) -> Iterator[str]:
    """Give the lines for one release: commands, substitutions, notes with their sources."""
    for command in lowered.commands:
        yield f"# {command.stage}"
        yield shlex.join(command.argv)
    if lowered.substitutions:
        yield ""
        for each in lowered.substitutions:
            yield f"instead: {each.setting} is {each.planned}, not {each.requested} ({each.declared_by})"
    yield ""
    for note in lowered.notes:
        yield f"{note.kind}: {note.about}: {note.why} ({note.source})"


def matrix(variants: Mapping[str, Planned], device: str) -> Iterator[str]:
    """Give a Markdown table with a row for each release of trtexec's table and a column for each variant."""
    yield f"| release | known from | modes | typing | {' | '.join(variants)} |"
    yield "|---|---|---|---|" + "---|" * len(variants)
    for row in flags.table().release:
        known = "documentation" if row.documented_only else row.source
        modes = "opt-in" if row.modes == "opt_in" else "opt-out"
        cells = (_cell(lowering.lower(planned, row.version, device)) for planned in variants.values())
        yield f"| {row.version} | {known} | {modes} | {', '.join(row.typing)} | {' | '.join(cells)} |"


def _cell(lowered: lowering.Commands | lowering.Unsupported) -> str:
    if isinstance(lowered, lowering.Unsupported):
        return f"no: {lowered.reason}"
    instead = [f"{each.setting} {each.planned} instead of {each.requested}" for each in lowered.substitutions]
    emulated = [f"{note.about}: {note.why}" for note in lowered.notes if note.kind == "emulated"]
    return "; ".join(["yes", *instead, *emulated])
