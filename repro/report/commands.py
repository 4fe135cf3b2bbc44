"""What `repro lower` tells: the commands for one release and why, or one line for each release."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from repro import lowering, plan
from repro.cases import Experiment
from repro.devices import Device
from repro.schema import Protocol
from repro.trtexec import flags


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


def matrix(experiments: Mapping[str, Experiment], device: Device, protocol: Protocol) -> Iterator[str]:
    """Give a Markdown table with a row for each release of trtexec's table.

    Its last cell says what becomes of the variants: first those that differ, then all others.
    """
    yield "| release | known from | modes | typing | variants |"
    yield "|---|---|---|---|---|"
    for row in flags.table().release:
        known = "documentation" if row.documented_only else row.source
        modes = "opt-in" if row.modes == "opt_in" else "opt-out"
        outcomes: dict[str, list[str]] = {}
        for name, experiment in experiments.items():
            text = _outcome(plan.for_trtexec(experiment, device, row.version, protocol))
            outcomes.setdefault(text, []).append(name)
        *few, (most, _) = sorted(outcomes.items(), key=lambda item: len(item[1]))
        parts = [f"{', '.join(names)}: {text}" for text, names in few]
        parts.append(f"{'all others' if few else 'all'}: {most}")
        yield f"| {row.version} | {known} | {modes} | {', '.join(row.typing)} | {'; '.join(parts)} |"


def _outcome(lowered: lowering.Commands | lowering.Unsupported) -> str:
    if isinstance(lowered, lowering.Unsupported):
        return f"no ({lowered.reason})"
    changed = [f"{each.setting} {each.planned} instead of {each.requested}" for each in lowered.substitutions]
    changed += [f"{note.about}: {note.why}" for note in lowered.notes if note.kind == "emulated"]
    return f"yes ({'; '.join(changed)})" if changed else "yes"
