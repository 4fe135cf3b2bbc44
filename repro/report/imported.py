"""What a report says of an imported record: what was run, on what, how, and what nobody can tell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from repro.imported import Imported, ImportedRecord
from repro.report.content import (
    CARD_COLUMNS,
    LABEL_COLUMNS,
    Report,
    Row,
    Table,
    layers_table,
)
from repro.report.listing import MAX_COMMAND_CHARACTERS, Listing
from repro.report.text import cut, quantity, safe
from repro.trtexec.seen import Statistics

MAX_ROWS = 50
"""Layers whose candidates are listed; JSON has all."""
_METRICS = ("latency", "end_to_end", "enqueue", "h2d", "gpu_compute", "d2h")
_SWITCHES = {"cuda_graph": "CUDA graph", "spin_wait": "spin-wait", "transfers": "transfers"}


def reports(imported: Imported) -> tuple[Report, ...]:
    """Return a report for each record."""
    return tuple(report(name, record) for name, record in imported.records.items())


def report(name: str, record: ImportedRecord) -> Report:
    """Return what there is to say about an imported record."""
    return Report(card(name, record), tuple(_details(record)))


def card(name: str, record: ImportedRecord) -> tuple[Row, ...]:
    """Return at most 12 lines of 80 columns."""
    standin = [("STAND-IN", "a test's program printed this; nothing was measured")]
    beside = f", {' and '.join(record.files[1:])}" if len(record.files) > 1 else ""
    rows = [
        *(standin if record.standin else []),
        ("Imported", f"{name}{beside}: nothing here was measured by the kit"),
        ("Command", shlex.join(record.command) if record.command else "not in the log"),
        ("Release", _release(record)),
        ("Board", _board(record)),
        ("Settings", _settings(record)),
        ("Time", _time(record)),
        ("Outcome", _outcome(record)),
        ("Red flags", _flags(record)),
        ("Missing", f"{len(record.missing)}: {', '.join(each.what for each in record.missing)}"),
        ("Replay", "no: a log holds neither the model nor the machine's state"),
    ]
    return tuple(Row(label, cut(safe(text), CARD_COLUMNS - LABEL_COLUMNS)) for label, text in rows)


def _release(record: ImportedRecord) -> str:
    if record.version is None:
        return "unknown"
    build = f" {record.version.build}" if record.version.build else ""
    return f"{record.product} {record.version.text}{build}"


def _board(record: ImportedRecord) -> str:
    device = record.device
    if device is None:
        return "unknown"
    parts = [device.name or "unnamed"]
    if device.compute_capability:
        parts.append(f"compute capability {device.compute_capability}")
    if device.sm_count is not None:
        parts.append(f"{device.sm_count} SMs")
    return ", ".join(parts)


def _settings(record: ImportedRecord) -> str:
    parts = []
    if precision := record.settings.get("precision"):
        parts.append(str(precision.value))
    for name, words in _SWITCHES.items():
        if seen := record.settings.get(name):
            parts.append(f"{words} {'on' if seen.value else 'off'}")
    return ", ".join(parts) or "not in the log"


def _why(record: ImportedRecord, what: str) -> str:
    return next((each.reason for each in record.missing if each.what == what), "not in the log")


def _time(record: ImportedRecord) -> str:
    if record.times:
        times = record.times
        return f"{_ms(times.gpu_compute.median_ms)} ms GPU compute, median of {times.n} (exported times)"
    if record.summary and record.summary.gpu_compute:
        median = record.summary.gpu_compute.median_ms
        number = f" of {record.run.queries}" if record.run and record.run.queries else ""
        return f"{_ms(median)} ms GPU compute, median{number} (printed)"
    return f"none: {_why(record, 'summary' if record.summary is None else 'summary.gpu_compute')}"


def _outcome(record: ImportedRecord) -> str:
    said = record.outcome or "unknown"
    if record.error is None:
        return said
    last = "the last line is " if said == "unfinished" and not record.errors else ""
    return f"{said} in {record.error.stage}: {last}{record.error.message}"


def _flags(record: ImportedRecord) -> str:
    found = []
    if record.run and record.run.graph == "ignored":
        found.append("the CUDA graph was asked for and ignored")
    found += record.errors if record.error is None else ()
    found += record.warnings
    more = f" (+{len(found) - 1} more)" if len(found) > 1 else ""
    return cut(found[0], CARD_COLUMNS - LABEL_COLUMNS - len(more)) + more if found else "none in the log"


# --- the details ----------------------------------------------------------------------------------------


def _details(record: ImportedRecord) -> Iterable[Table | Listing]:
    if record.command:
        yield _listing("Command, as the log has it", [shlex.join(record.command)])
    yield _table(
        "Settings",
        ("setting", "value", "seen in"),
        [(n, _cell(s.value), s.source) for n, s in record.settings.items()],
    )
    yield _table(
        "Figures, in ms",
        ("quantity", "min", "mean", "median", "max", "percentiles", "source"),
        _figures(record),
    )
    yield _table("Run", ("figure", "value"), [*_fields(record.run), *_totals(record)])
    yield _table("Build", ("figure", "value"), _fields(record.build))
    yield _table("Device", ("fact", "value"), _fields(record.device))
    yield _table("Model", ("fact", "value"), _model(record))
    if record.layers:
        yield layers_table(record.layers, "Layers")
    elif record.profile:
        yield _table(
            "Profile",
            ("layer", "mean ms", "median ms", "share %"),
            [
                (row.name, _ms(row.average_ms), _ms(row.median_ms), _cell(row.percent))
                for row in record.profile.rows
            ],
        )
    yield _table(
        f"Timed candidates{_beyond(len(record.tuning))}",
        ("layer", "timed", "chosen", "ms", "best", "ms"),
        [
            (
                layer.layer,
                str(layer.timed),
                (layer.chosen.name or layer.chosen.tactic) if layer.chosen else "–",
                _ms(layer.chosen.time_ms if layer.chosen else None),
                (layer.best[0].name or layer.best[0].tactic) if layer.best else "–",
                _ms(layer.best[0].time_ms if layer.best else None),
            )
            for layer in record.tuning[:MAX_ROWS]
        ],
    )
    yield _table("Echoed options", ("option", "value"), [(o.label, o.value or "–") for o in record.options])
    yield _listing("Errors", record.errors)
    yield _listing("Warnings", record.warnings)
    yield _listing("The log's last lines", record.ending)
    yield _listing(
        f"Lines of no known form, {len(record.unknown)} of {record.unknown_lines}", record.unknown[:MAX_ROWS]
    )
    yield _table("Not known", ("what", "why"), [(each.what, each.reason) for each in record.missing])


def _figures(record: ImportedRecord) -> Iterable[tuple[str, ...]]:
    for source, of, names in (("printed", record.summary, _METRICS), ("exported", record.times, _METRICS)):
        for name in names:
            figures = getattr(of, name, None)
            if isinstance(figures, Statistics):
                percentiles = ", ".join(f"p{p} {_ms(value)}" for p, value in figures.percentiles_ms.items())
                values = (figures.min_ms, figures.mean_ms, figures.median_ms, figures.max_ms)
                yield name, *map(_ms, values), percentiles or "–", source


def _totals(record: ImportedRecord) -> Iterable[tuple[str, str]]:
    for name in ("throughput_qps", "host_walltime_s", "gpu_compute_s"):
        value = getattr(record.summary, name, None)
        if value is not None:
            yield name, _cell(value)


def _model(record: ImportedRecord) -> Iterable[tuple[str, str]]:
    yield from ((name, value) for name, value in record.onnx.items() if value)
    for binding in record.bindings:
        dims = "x".join(map(str, binding.dims))
        yield f"{binding.kind} {binding.name}", f"{dims} {binding.dtype or ''}".strip()


def _fields(value: object) -> list[tuple[str, str]]:
    """Return what is known of a value's fields."""
    names: Sequence[str] = getattr(value, "__struct_fields__", ())
    known = ((name, getattr(value, name)) for name in names)
    return [(name, _cell(each)) for name, each in known if each not in (None, ())]


def _beyond(count: int) -> str:
    return f", {MAX_ROWS} of {count} layers" if count > MAX_ROWS else ""


def _ms(value: float | None) -> str:
    return _cell(value)


def _cell(value: object) -> str:
    return quantity(value, None)


def _table(title: str, columns: tuple[str, ...], rows: Iterable[Sequence[str]]) -> Table:
    return Table(title, columns, tuple(tuple(safe(cell) for cell in row) for row in rows))


def _listing(title: str, lines: Sequence[str]) -> Listing:
    return Listing(title, tuple(safe(line, MAX_COMMAND_CHARACTERS) for line in lines))
