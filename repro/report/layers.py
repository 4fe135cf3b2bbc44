"""The layers of each mode of an engine, from a bundle."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from repro.bundle import Bundle, archive
from repro.errors import Refused
from repro.report.content import Table, layers_table, modes
from repro.report.text import safe
from repro.schema import Layer, Record


def tables(bundle: Bundle) -> Iterator[Table]:
    """Give a table for each mode of each record: the layers of its first build."""
    for record in bundle.records.values():
        shown: set[str] = set()
        for build, letter in modes(record).items():
            if letter not in shown:
                shown.add(letter)
                found = _layers(bundle, record, build)
                title = f"Layers of {record.record_name}, mode {letter} (build {build})"
                yield layers_table(found, safe(title))


def _layers(bundle: Bundle, record: Record, build: str) -> tuple[Layer, ...]:
    """Return the layers of a build: those of the first stand in the record, others in files of their own."""
    file = next(each.layers for each in record.builds if each.id == build)
    if file is None:
        return record.layers or ()
    name = f"records/{record.record_name}/{file}"
    with archive.opened(bundle.path) as zipped:
        if name not in zipped.names:
            raise Refused(f"{bundle.path} has no {safe(name)}", "its record names it")
        try:
            return msgspec.json.decode(zipped.read(name), type=tuple[Layer, ...] | None) or ()
        except msgspec.DecodeError:
            raise Refused(f"{safe(name)} holds no layers") from None
