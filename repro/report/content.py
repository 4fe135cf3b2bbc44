"""What a report says, before it is dressed for terminal or Markdown: a triage card, then details."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from repro import attained, clocks
from repro.bundle import Bundle
from repro.errors import Unavailable
from repro.observed import exp, key_figure
from repro.probes.jetson import ELSEWHERE
from repro.report import roofs, state
from repro.report.listing import Listing, commands
from repro.report.text import cut, kernel, milliseconds, quantity, safe
from repro.schema import (
    Absolute,
    AnyClaim,
    BelowRoof,
    Fails,
    Layer,
    LayerTensor,
    OutputCheck,
    Ratio,
    Record,
    StatedEfficiency,
    WrongOutput,
)
from repro.telemetry import fact_value

CARD_LINES = 12
CARD_COLUMNS = 80
LABEL_COLUMNS = 11
MAX_FLAGS = 3

# The worst first; what is not here is no red flag.
FLAG_RANKS = (
    "failed",
    "mismatch",
    "cut_short",
    "slowed",
    "settings_changed",
    "board_elsewhere",
    "substitution",
    "clock_moved",
    "gpu_shared",
    "clocks_disagree",
    "enqueue_bound",
    "foreign_load",
    "trend",
    "not_flat",
    "coarse_clock",
    "clock_set",
    "sealed",
    "sampler",
    "structures",
    "reformat",
    "managed_memory",
)
SEALED = {
    "at_once": "at once",
    "later": "later, from the work folder that the run left",
    "after_reboot": "after a reboot, from the work folder that the run left",
    "elsewhere": "on another machine or by another user, from the work folder that the run left",
}


class Row(msgspec.Struct, frozen=True):
    """A line of the card."""

    label: str
    text: str


class Table(msgspec.Struct, frozen=True):
    """A part of the details."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def filled(self) -> Table:
        """Return the table without those columns that are empty in every row."""
        kept = [i for i in range(len(self.columns)) if any(row[i] != "–" for row in self.rows)]
        return Table(
            self.title,
            tuple(self.columns[i] for i in kept),
            tuple(tuple(row[i] for i in kept) for row in self.rows),
        )


class Report(msgspec.Struct, frozen=True):
    """A whole report; every string in it is safe to print."""

    card: tuple[Row, ...]
    details: tuple[Table | Listing, ...]


def attained_by(bundle: Bundle) -> tuple[attained.Attained, ...]:
    """Return what each subject of a bundle attained of its roofs, where it was measured and counted."""
    times = [
        (record, figure.value_ns / 1e9)
        for record in bundle.records.values()
        if (figure := key_figure(record)) is not None
    ]
    calibrated = attained.calibration(times)
    found = [
        attained.of(record, seconds, calibrated) for record, seconds in times if record.role == "subject"
    ]
    return tuple(each for each in found if each is not None)


def report(bundle: Bundle) -> Report:
    """Return what there is to say about a bundle."""
    return Report(card(bundle), tuple(details(bundle)))


# --- the card -----------------------------------------------------------------------------------


def card(bundle: Bundle) -> tuple[Row, ...]:
    """Return at most 12 lines of 80 columns: is it real, and what is it about."""
    record = next(iter(bundle.records.values()), None)
    if record is None:
        raise Unavailable(f"{bundle.path.name} holds no record", "there is nothing to show")
    others = len(bundle.records) - 1
    claims = bundle.statement.predicate.claims
    more_records = f"; +{others} more record{'s' if others > 1 else ''}" if others else ""
    more_claims = f"; +{len(claims) - 1} more" if len(claims) > 1 else ""
    standin = [("STAND-IN", "a stand-in of the kit's tests took part; this counts for nothing")]
    rows = [
        *(standin if record.runtime.place.standin else []),
        ("Case", f"{_label(record)}: {bundle.cases[record.record_name].title}"),
        (
            "Claim",
            _cut(safe(claim_text(claims[0])), len(more_claims)) + more_claims if claims else "none was made",
        ),
        ("Board", _board(record)),
        ("Release", _release(record)),
        ("Time", _cut(safe(_time(record)), len(more_records)) + more_records),
        ("Protocol", _protocol(record)),
        ("Output", _output(record)),
    ]
    flags = [flag for each in bundle.records.values() for flag in red_flags(each)]
    sealed = bundle.statement.predicate.sealed
    if sealed in ("after_reboot", "elsewhere"):
        flags.append(("sealed", f"sealed {SEALED[sealed]}"))
    flags.sort(key=lambda flag: FLAG_RANKS.index(flag[0]))
    room = CARD_LINES - len(rows) - 3
    shown = flags[: min(MAX_FLAGS, room)]
    left = len(flags) - len(shown)
    for i, (_, text) in enumerate(shown):
        more = f" (+{left} more)" if left and i == len(shown) - 1 else ""
        rows.append(("Red flags" if i == 0 else "", _cut(safe(text), len(more)) + more))
    if not flags:
        rows.append(("Red flags", "none"))
    rows += [
        ("Signer", bundle.inspection.signer.text),
        ("Replay", replayable(record)),
        ("Group", group_key(record)),
    ]
    return tuple(Row(label, _cut(safe(text))) for label, text in rows)


def record_rows(record: Record) -> tuple[Row, ...]:
    """Return the rows of the card that are of one record alone, uncut."""
    told = {"Board": _board, "Release": _release, "Time": _time, "Protocol": _protocol, "Output": _output}
    return tuple(Row(label, safe(tell(record), 600)) for label, tell in told.items())


def _cut(text: str, reserve: int = 0) -> str:
    return cut(text, CARD_COLUMNS - LABEL_COLUMNS - reserve)


def _label(record: Record) -> str:
    variant = f":{record.case.variant}" if record.case.variant else ""
    return f"{record.case.id}@{record.case.version}{variant}"


def claim_text(claim: AnyClaim) -> str:
    """Return a claim as a sentence; stated efficiencies are calculated again."""
    if isinstance(claim, Absolute):
        return f"{claim.record} takes {claim.ms:g} ms"
    if isinstance(claim, Ratio):
        return f"{claim.record_b} takes {claim.factor:g} times the time of {claim.record_a}"
    if isinstance(claim, BelowRoof):
        return f"{claim.record} reaches {claim.fraction:.0%} of the roof {claim.roof}"
    if isinstance(claim, Fails):
        return f"fails in {claim.stage}: {claim.signature.partition(': ')[2]}"
    if isinstance(claim, WrongOutput):
        return f"the output of {claim.record} is off by {claim.norm_error:.2g}"
    if isinstance(claim, StatedEfficiency):
        sparse = ", sparse peak" if claim.peak_is_sparse else ""
        own = efficiency(claim)
        shown = "none" if own is None else f"{own:.2f} %"
        return f"{claim.record}: stated {claim.percent:g} %, own figures {shown}{sparse}"
    raise TypeError(claim)


def efficiency(claim: StatedEfficiency) -> float | None:
    """Return flop / (peak × time) in percent, from the claim's own figures; `None` where they give none."""
    roof = claim.peak_flops * claim.time_ms / 1e3
    return 100 * claim.flop / roof if roof > 0 else None


def _board(record: Record) -> str:
    board = record.board
    parts = [board.name or "unknown"]
    if board.cores is not None and board.threads is not None:
        parts.append(f"{board.threads} of {board.cores} cores")
    if board.emulated:
        parts.append(f"emulating {board.emulated}")
    if board.power_mode:
        parts.append(f"mode {board.power_mode.name}")
    machine = record.runtime.place.virtualised
    if machine not in (None, "none"):
        parts.append("virtual machine" if machine == "unnamed" else f"virtual machine ({machine})")
    return ", ".join(parts)


def _release(record: Record) -> str:
    precision = record.settings.effective.get("precision")
    shown = precision.value if precision else record.settings.planned.get("precision")
    return f"{record.runtime.release.name} ({record.runtime.product}), {shown}"


def _time(record: Record) -> str:
    figure = key_figure(record)
    if record.status == "failed":
        return f"FAILED: {record.reason or 'no reason recorded'}"
    if figure is None:
        return f"{record.status}: {record.reason or 'not measured'}"
    if figure.low_ns is None or figure.high_ns is None:
        return f"{milliseconds(figure.value_ns)} ms (one build: no interval)"
    low, high = milliseconds(figure.low_ns), milliseconds(figure.high_ns)
    return f"{milliseconds(figure.value_ns)} ms ({low} to {high}, 95 % over {figure.builds} builds)"


def _protocol(record: Record) -> str:
    plan = record.protocol.planned
    if record.status == "built":
        return f"{plan.name}: {record.protocol.builds_done} of {plan.builds} builds, none of them run"
    return (
        f"{plan.name}: {record.protocol.builds_done} of {plan.builds} builds × {plan.runs} run"
        f"{'s' if plan.runs > 1 else ''}, ≥ {plan.seconds:g} s and ≥ {plan.iterations} iterations each"
    )


def _output(record: Record) -> str:
    checks = [build.check for build in record.builds if build.check]
    if not checks:
        return "not checked"
    if wrong := [check for check in checks if not check.ok]:
        return f"WRONG in {len(wrong)} of {len(checks)} builds: {wrong[0].problems[0]}"
    worst = max(check.error or 0.0 for check in checks)
    return f"right: error {worst:.1e}, allowed {checks[0].tolerance:.1e} ({_method(checks[0])})"


def _method(check: OutputCheck) -> str:
    if check.method == "fp64_at_sampled_positions":
        return f"FP64, {check.positions} positions"
    return "same library"


def red_flags(record: Record) -> list[tuple[str, str]]:
    """Return (code, sentence) of everything that weakens a record."""
    found = []
    if record.status == "failed":
        stage = next((stage.name for stage in record.stages if stage.status == "failed"), "")
        found.append(("failed", f"failed in {stage}: {record.reason}"))
    found += [("mismatch", f"{m.setting} was {m.effective}, planned {m.planned}") for m in record.mismatches]
    if record.cut_short:
        done = f"{record.cut_short.rounds_done} of {record.protocol.planned.builds} rounds"
        found.append(("cut_short", f"only {done}: {record.cut_short.reason}"))
    found += [
        ("substitution", f"{s.setting} is {s.planned} instead of {s.requested} ({s.declared_by})")
        for s in record.substitutions
    ]
    seen: dict[str, list[tuple[str, str]]] = {}
    for run in record.runs:
        for flag in run.flags:
            seen.setdefault(flag.code, []).append((run.id, flag.detail))
    for code, times in seen.items():
        if code in FLAG_RANKS:
            name, detail = times[0]
            more = f" and {len(times) - 1} more" if len(times) > 1 else ""
            found.append((code, f"{name}{more}: {detail}"))
    if (changed := clocks.settings_changed(record.telemetry)) is not None:
        found.append(("settings_changed", changed))
    if fact_value(record.telemetry.facts, "read_below") == ELSEWHERE:
        found.append(("board_elsewhere", "the board's state was read from files, not from this machine"))
    found += [
        ("clock_set", f"the wall clock was {change.after} during the session")
        for change in record.telemetry.state_changed
        if change.name == "wall_clock"
    ]
    sampler = record.telemetry.sampler
    if sampler is None or sampler.ended != "ok":
        found.append(("sampler", "the sampler ended early: the machine's state is known in part"))
    if len(set(modes(record).values())) > 1:
        found.append(("structures", f"the builds are not all of one structure: {_modes_text(record)}"))
    return found


def modes(record: Record) -> dict[str, str]:
    """Return a letter for each build: builds of one structure are of one mode, A is the first build's."""
    letters: dict[str, str] = {}
    for build in record.builds:
        letters.setdefault(build.structure_hash or "", chr(ord("A") + min(len(letters), 25)))
    return {build.id: letters[build.structure_hash or ""] for build in record.builds}


def _modes_text(record: Record) -> str:
    """Return each mode with its builds and its time: `A b0 b2 0.662 ms, B b1 0.684 ms`."""
    members: dict[str, list[str]] = {}
    for build, letter in modes(record).items():
        members.setdefault(letter, []).append(build)
    parts = []
    for letter, builds in members.items():
        values = [run.summary.log_median for run in record.runs if run.build in builds]
        time = f" {milliseconds(exp(sum(values) / len(values)))} ms" if values else ""
        parts.append(f"{letter} {' '.join(builds)}{time}")
    return ", ".join(parts)


def replayable(record: Record) -> str:
    """Say whether somebody else can run this again from the bundle."""
    if record.case.share not in ("full", "model"):
        return "no, because the model is private and not in the bundle"
    if record.origin == "imported":
        return "no, because it was imported from a log"
    if record.case.share == "model":
        return "yes: the user's own model is in the bundle, on the user's word"
    return "yes: model, settings and protocol are in the bundle"


def group_key(record: Record) -> str:
    """Return what duplicates share: case digest, board, release and structure."""
    structures = sorted({build.structure_hash or "" for build in record.builds})
    parts = [
        record.case.digest,
        record.board.matched_id or record.board.name or "",
        record.runtime.release.name,
        *structures,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


# --- the details --------------------------------------------------------------------------------


def details(bundle: Bundle) -> Iterable[Table | Listing]:
    """Give the parts below the card."""
    predicate = bundle.statement.predicate
    yield Table(
        "Bundle",
        ("field", "value"),
        _rows(
            ("id", bundle.id),
            ("created", predicate.created_utc),
            ("sealed", SEALED[predicate.sealed]),
            ("kit", f"{predicate.kit.version}, source {predicate.kit.tree_sha256[:16]}"),
            ("signature", bundle.inspection.signature.text),
            ("files", bundle.inspection.files.text),
        ),
    )
    yield Table(
        "Claims",
        ("claim", "expected", "note"),
        _rows(*((claim_text(c), c.expected or "–", c.note or "–") for c in predicate.claims)),
    )
    yield Table(
        "References",
        ("id", "board", "release", "statistics"),
        _rows(
            *(
                (r.id, r.board, r.release, ", ".join(f"{k} {v:g}" for k, v in r.statistics.items()))
                for r in predicate.references
            )
        ),
    )
    bounded = {each.record.record_name: each for each in attained_by(bundle)}
    for part in roofs.overview(tuple(bounded.values())):
        yield _table(part)
    for record in bundle.records.values():
        of = f" of {record.record_name}" if len(bundle.records) > 1 else ""
        if record.record_name in bounded:
            yield from map(_table, roofs.details(bounded[record.record_name], of))
        yield from _of_record(record, of)
        if record.commands:
            yield commands(record, of)


def layers_table(layers: Sequence[Layer], title: str) -> Table:
    """Return the layers of an engine in order."""
    return Table(
        title,
        ("layer", "type", "tactic", "in", "out", "time ms", "reformat"),
        _rows(
            *(
                (
                    layer.name,
                    layer.type or "–",
                    kernel(layer.tactic) if layer.tactic else "–",
                    _formats(layer.inputs),
                    _formats(layer.outputs),
                    "–" if layer.time_ns is None else milliseconds(layer.time_ns),
                    quantity(layer.is_reformat, None),
                )
                for layer in layers
            )
        ),
    ).filled()


def _place(record: Record, of: str) -> Table:
    """Return where the record was made, and in a container which bits exactly."""
    place = record.runtime.place
    limits = msgspec.structs.asdict(place.limits) if place.limits else {}
    pins = {"image": place.image_id, "repository digest": place.repo_digest, "base": place.base_digest}
    return Table(
        f"Place{of}",
        ("what", "value"),
        _rows(
            ("place", f"{place.kind}, another machine's" if place.remote else place.kind),
            *((name, value) for name, value in pins.items() if value is not None),
            *place.labels.items(),
            *((f"limit on {name}", quantity(value, None)) for name, value in limits.items() if value),
            *([("engine", place.engine)] if place.engine else []),
        ),
    )


def _formats(tensors: Sequence[LayerTensor]) -> str:
    return ", ".join(f"{tensor.dtype or '?'}:{tensor.format or '?'}" for tensor in tensors) or "–"


def _per_iteration(count: float | None) -> str:
    return "–" if count is None else f"{count:.2g}"


def _of_record(record: Record, of: str) -> Iterable[Table]:
    requested = msgspec.to_builtins(record.settings.requested)
    yield Table(
        f"Settings{of}",
        ("setting", "requested", "planned", "effective", "seen in"),
        _rows(
            *(
                (
                    name,
                    quantity(value, None),
                    "not applicable"
                    if name in record.settings.inapplicable
                    else quantity(record.settings.planned.get(name), None),
                    quantity(seen.value, None) if (seen := record.settings.effective.get(name)) else "–",
                    seen.source if seen else "–",
                )
                for name, value in requested.items()
            )
        ),
    )
    yield Table(
        f"Runs{of}",
        ("run", "round", "n", "median ms", "min", "p90", "p99", "pre-heat s", "switches/iter"),
        _rows(
            *(
                (
                    run.id,
                    str(run.round),
                    str(run.summary.n),
                    milliseconds(run.summary.median_ns),
                    milliseconds(run.summary.min_ns),
                    milliseconds(run.summary.p90_ns),
                    milliseconds(run.summary.p99_ns),
                    f"{run.preheat.seconds:.1f}",
                    _per_iteration(run.involuntary_switches_per_iteration),
                )
                for run in record.runs
            )
        ),
    )
    yield _table(state.clocks(record, of)).filled()
    yield Table(
        f"Flags{of}",
        ("run", "flag", "what"),
        _rows(*((run.id, flag.code, flag.detail) for run in record.runs for flag in run.flags)),
    )
    yield Table(
        f"Builds{of}",
        ("build", "seconds", "structure", "output error", "allowed", "check"),
        _rows(
            *(
                (
                    build.id,
                    f"{build.seconds:.3f}",
                    f"{modes(record)[build.id]} {build.structure_hash[:12]}" if build.structure_hash else "–",
                    f"{build.check.error:.2e}" if build.check and build.check.error is not None else "–",
                    f"{build.check.tolerance:.1e}" if build.check else "–",
                    (", ".join(build.check.problems) or _method(build.check)) if build.check else "–",
                )
                for build in record.builds
            )
        ),
    )
    yield Table(
        f"Stages{of}",
        ("stage", "status", "error"),
        _rows(*((s.name, s.status, s.error.signature if s.error else "–") for s in record.stages)),
    )
    yield _place(record, of)
    yield Table(
        f"Machine{of}",
        ("fact", "value"),
        _rows(
            *(
                (fact.name, quantity(fact.value, fact.unit) if fact.state == "value" else fact.state)
                for fact in record.telemetry.facts
            ),
            *(
                (f"{counter.name}, change", quantity(counter.after - counter.before, counter.unit))
                for counter in record.telemetry.counters
            ),
            *(
                (
                    f"{change.name}, changed",
                    f"{quantity(change.before, None)} to {quantity(change.after, None)}",
                )
                for change in record.telemetry.state_changed
            ),
        ),
    )
    yield Table(
        f"Channels{of}",
        ("channel", "unit", "state", "readings", "missed", "longest gap s", "why"),
        _rows(
            *(
                (
                    f"{channel.probe}.{channel.name}",
                    channel.unit,
                    channel.state,
                    str(channel.coverage.n) if channel.coverage else "–",
                    str(channel.coverage.missed) if channel.coverage else "–",
                    f"{channel.coverage.longest_gap_ns / 1e9:.2f}"
                    if channel.coverage and channel.coverage.longest_gap_ns is not None
                    else "–",
                    channel.reason or "–",
                )
                for channel in record.telemetry.channels
            )
        ),
    )
    if record.layers:
        yield layers_table(record.layers, f"Layers{of}")
    yield Table(f"Not known{of}", ("field", "why"), _rows(*((m.what, m.reason) for m in record.missing)))


def _table(part: roofs.Part) -> Table:
    return Table(part.title, part.columns, _rows(*part.rows))


def _rows(*rows: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(safe(cell) for cell in row) for row in rows)
