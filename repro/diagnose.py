"""What a case or a bundle shows to be so, and what it only suggests: one rule after another.

All rules stand here, so that they can be read and judged in one place; what they share stands in `facts`.
A rule looks at the facts and gives findings. Each has a strength: `proven` (arithmetic, or read back from
what ran), `supported` (measured, with the alternatives that were excluded named), `possible`. Only what is
proven is said to be so. Each names its evidence, with where it stands, and the next experiment that would
confirm or exclude it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from repro import attained, boards, cases, clocks
from repro.facts import Facts, boards_of, channels_of, enqueue_share, gap_between, pass_bytes, time_share
from repro.measure import AHEAD
from repro.observed import build_values
from repro.report import content
from repro.report.text import milliseconds
from repro.roofline import Traffic
from repro.schema import Layer, Record, StatedEfficiency

Strength: TypeAlias = Literal["proven", "supported", "possible"]

ROUNDING = 0.01
"""A stated percentage this far, relatively, from its own formula isn't rounding any more."""
CLOCK_SHARE = 1 - clocks.STEADY_SHARE
MOST = 0.6
"""From this share of a measured roof on, the roof may be what holds a record."""
ENQUEUE_SHARE = 0.9
SPREAD = 1.05
"""90th percentile over median, above which times within a run are called unsteady."""
GAIN = 0.03

_CALCULATES = re.compile(r"conv|fprop|gemm|winograd|matmul", re.IGNORECASE)
_PASS = re.compile(r"elementwise|(?:^|[^a-z])(?:bias|relu|add)(?:[^a-z]|$)", re.IGNORECASE)


class Evidence(msgspec.Struct, frozen=True):
    """A number, and where it stands."""

    what: str
    value: str
    where: str


class Finding(msgspec.Struct, frozen=True):
    """One diagnosed fact."""

    rule: str
    strength: Strength
    says: str
    evidence: tuple[Evidence, ...]
    next: str
    """What would confirm or exclude it: a command, or what to change before running one again."""


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Return what all rules find, the strongest first."""
    order: tuple[Strength, ...] = ("proven", "supported", "possible")
    found = [finding for rule in RULES.values() for finding in rule(facts)]
    return tuple(sorted(found, key=lambda finding: order.index(finding.strength)))


Rule: TypeAlias = Callable[[Facts], Iterable[Finding]]
RULES: dict[str, Rule] = {}
"""By id, in the order in which they are asked."""


def rule(function: Rule) -> Rule:
    """Register a rule; its id is the function's name."""
    RULES[function.__name__] = function
    return function


# --- on claims ----------------------------------------------------------------------------------


@rule
def sparse_peak(facts: Facts) -> Iterator[Finding]:
    """Find a stated efficiency with the peak for 2:4 sparse weights, while sparsity is off."""
    for claim in _stated(facts):
        named = next((record for record in facts.records if record.record_name == claim.record), None)
        sparsity = named.settings.requested.sparsity if named else facts.sparsity
        if claim.peak_is_sparse and sparsity is False:
            own = content.efficiency(claim)
            yield Finding(
                "sparse_peak",
                "proven",
                f"the peak in the claim on {claim.record} is for 2:4 sparse weights, and sparsity is off: "
                "dense weights can reach half of it",
                (
                    Evidence(
                        "peak", f"{claim.peak_flops / 1e12:g} TFLOPS, sparse", f"claim on {claim.record}"
                    ),
                    Evidence("sparsity", "no", f"settings of {facts.case}"),
                    Evidence("with half the peak", f"{2 * (own or 0):.2f} %", "calculated"),
                ),
                facts.command("sparse,dense24", "run it with 2:4 sparse weights, sparsity on and off"),
            )


@rule
def arithmetic(facts: Facts) -> Iterator[Finding]:
    """Find a stated percentage that does not follow from the figures beside it."""
    for claim in _stated(facts):
        own = content.efficiency(claim)
        if own is None or claim.percent <= 0 or abs(own / claim.percent - 1) <= ROUNDING:
            continue
        fits_ms = claim.flop / claim.peak_flops / claim.percent * 1e5
        yield Finding(
            "arithmetic",
            "proven",
            f"the claim on {claim.record} does not close: its figures give {own:.2f} %, and it says "
            f"{claim.percent:g} %",
            (
                Evidence(
                    "operations / (peak × time)",
                    f"{claim.flop:g} / ({claim.peak_flops:g} × {claim.time_ms / 1e3:g} s) = {own:.2f} %",
                    f"claim on {claim.record}",
                ),
                Evidence("stated", f"{claim.percent:g} %", f"claim on {claim.record}"),
                Evidence("time that it belongs to", f"{fits_ms:.2f} ms", "calculated"),
            ),
            f"python3 -c 'print(100 * {claim.flop:g} / ({claim.peak_flops:g} * {claim.time_ms / 1e3:g}))'",
        )


@rule
def accumulator_mismatch(facts: Facts) -> Iterator[Finding]:
    """Find boards side by side of which one multiplies at half the rate where sums are kept in FP32."""
    rows = boards_of(facts)
    ratios = {
        name: row.tensor_ops_per_sm_clock["fp16_acc32"] / row.tensor_ops_per_sm_clock["fp16_acc16"]
        for name, row in rows.items()
        if {"fp16_acc16", "fp16_acc32"} <= row.tensor_ops_per_sm_clock.keys()
    }
    if len(set(ratios.values())) > 1:
        yield Finding(
            "accumulator_mismatch",
            "proven",
            "the boards differ in what sums in FP32 cost, so that peaks without the type of the sums don't "
            "compare",
            tuple(
                Evidence(
                    "dense FP16 rate with sums in FP32, over that in FP16", f"{ratio:g}", f"board of {name}"
                )
                for name, ratio in ratios.items()
            ),
            "compare the types in the kernels' names: `repro show` lists them under Layers",
        )


@rule
def different_releases(facts: Facts) -> Iterator[Finding]:
    """Find figures from different releases beside each other."""
    named = [(each.release, each.id) for each in facts.references]
    named += [(each.runtime.release.name, each.record_name) for each in facts.records]
    seen = dict(reversed(named))  # Each release with the first that has it.
    if len(seen) > 1:
        yield Finding(
            "different_releases",
            "proven",
            "the figures are from different releases, which choose from different kernels",
            tuple(Evidence("release", release, name) for release, name in sorted(seen.items())),
            f"repro run {facts.case} --release RELEASE (the same release on both devices)",
        )


@rule
def emulated_module(facts: Facts) -> Iterator[Finding]:
    """Find a board that was made to behave as another module."""
    seen = {each.id: each.board for each in facts.references if "emulat" in each.board.lower()}
    seen |= {
        each.record_name: each.board.emulated for each in facts.records if each.board.emulated is not None
    }
    for name, board in seen.items():
        yield Finding(
            "emulated_module",
            "proven",
            f"the board of {name} emulates another module: SMs and clocks are that one's, its memory need "
            "not be",
            (Evidence("board", board, name),),
            f"repro run {facts.case} (on the module itself, or without emulation)",
        )


# --- on what holds a record ---------------------------------------------------------------------


@rule
def memory_bound(facts: Facts) -> Iterator[Finding]:
    """Find a record that attains most of a measured memory roof, and little of the operations' peak."""
    for name, each in facts.attained.items():
        compute = each.share(None) if each.share(None) is not None else each.share(None, "attainable")
        kinds: tuple[Traffic, ...] = ("reformats", "unfused", "fused")
        rated = [
            (traffic, share) for traffic in kinds if (share := each.share(traffic, "attainable")) is not None
        ]
        if not rated or compute is None:
            continue
        traffic, share = rated[0]
        if share < MOST or compute > share / 2:
            continue
        launched = enqueue_share(each.record)
        excluded = f"operations ({compute:.0%} of their roof)"
        if launched is not None and launched < ENQUEUE_SHARE:
            excluded += f", launching ({launched:.0%} of the time)"
        yield Finding(
            "memory_bound",
            "supported",
            f"memory may hold {name}: {share:.0%} of the roof '{traffic} at attainable' were attained; "
            f"excluded: {excluded}",
            (
                Evidence("time", f"{milliseconds(each.seconds * 1e9)} ms", f"runs of {name}"),
                *(
                    Evidence(f"attained of {t} at attainable", f"{s:.1%}", f"Roofs of {name}")
                    for t, s in rated
                ),
                Evidence("attained of compute", f"{compute:.1%}", f"Roofs of {name}"),
                Evidence("operations per byte", f"{each.flop_byte:.1f}", f"Work of {name}"),
            ),
            facts.command("k1,k5", "run it with more operations on the same bytes")
            + " (the same bytes, other operations: equal times confirm it)",
        )


@rule
def reformats(facts: Facts) -> Iterator[Finding]:
    """Find layers that only change a layout."""
    for record in facts.records:
        changing = [layer for layer in record.layers or () if layer.is_reformat]
        if not changing:
            continue
        evidence = [
            Evidence(
                "layers", f"{len(changing)} of {len(record.layers or ())}", f"Layers of {record.record_name}"
            )
        ]
        if share := time_share(record.layers or (), changing):
            evidence.append(
                Evidence("of the layers' time", f"{share:.1%}", f"Layers of {record.record_name}")
            )
        counted = record.work
        if counted and counted.bytes_reformats:
            moved = counted.bytes_reformats / (counted.bytes_high + counted.bytes_reformats)
            evidence.append(Evidence("of the bytes", f"{moved:.1%}", f"Work of {record.record_name}"))
        elif counted and counted.bytes_ends:
            evidence.append(
                Evidence(
                    "bytes of a change at either end, read and written",
                    f"{2 * counted.bytes_ends:,} beside {counted.bytes_high:,}",
                    f"Work of {record.record_name}",
                )
            )
        evidence += _against(facts, record, "hwc8")
        yield Finding(
            "reformats",
            "proven",
            f"{len(changing)} layers of {record.record_name} only change a layout: they move bytes and "
            "calculate nothing",
            tuple(evidence),
            facts.command("base,hwc8", "run it with inputs and outputs in the kernels' own layout (hwc8)"),
        )


@rule
def launch_bound(facts: Facts) -> Iterator[Finding]:
    """Find enqueueing that takes about as long as the inference, or a CUDA graph that is faster."""
    for record in facts.records:
        share = enqueue_share(record)
        graph = _against(facts, record, "graph", least=GAIN)
        if (share is None or share < ENQUEUE_SHARE) and not graph:
            continue
        shown = "–" if share is None else f"{share:.0%}"
        excluded = (
            "other kernels, as the CUDA graph runs the same network"
            if graph
            else f"a full queue (at most {AHEAD} inferences wait)"
        )
        yield Finding(
            "launch_bound",
            "supported",
            f"launching kernels one by one may hold {record.record_name}; excluded: {excluded}",
            (
                Evidence("host time to enqueue, of an inference", shown, f"runs of {record.record_name}"),
                *graph,
            ),
            facts.command("base,graph", "run it with cuda_graph = true"),
        )


@rule
def unfused_pass(facts: Facts) -> Iterator[Finding]:
    """Find bias or activation in a pass of its own, which reads and writes its tensor once more."""
    for record in facts.records:
        layers = record.layers or ()
        passes = [
            layer for layer in layers if _PASS.search(_names(layer)) and not _CALCULATES.search(_names(layer))
        ]
        if not passes or not any(_CALCULATES.search(_names(layer)) for layer in layers):
            continue
        evidence = [
            Evidence("passes", f"{len(passes)} of {len(layers)} layers", f"Layers of {record.record_name}")
        ]
        if (moved := pass_bytes(record, len(passes))) is not None and record.work:
            evidence.append(
                Evidence(
                    "bytes on top, each output read and written",
                    f"{moved:,} beside {record.work.bytes_high:,}",
                    f"Work of {record.record_name}",
                )
            )
        same = "hwc8-nobias" if record.case.variant == "hwc8" else "nobias"
        evidence += _against(facts, record, same)
        yield Finding(
            "unfused_pass",
            "proven",
            f"{len(passes)} passes of {record.record_name} only add or clip: they were not fused into the "
            "layers before them",
            tuple(evidence),
            facts.command(
                f"{record.case.variant or cases.BASE},{same}", "run it without bias and activation"
            ),
        )


@rule
def tile_padding(facts: Facts) -> Iterator[Finding]:
    """Find a kernel whose tile is wider than its layer has output channels."""
    for record in facts.records:
        for layer in record.layers or ():
            made, channels = attained.tile(layer), channels_of(facts, record, layer)
            if made is None or channels is None:
                continue
            factor = math.ceil(channels / made.n) * made.n / channels
            if factor > 1:
                yield Finding(
                    "tile_padding",
                    "possible",
                    f"{record.record_name} may multiply {factor:g} times what it needs: its tile has "
                    f"{made.n} output channels, the layer {channels}",
                    (
                        Evidence("kernel", layer.tactic or layer.name, f"Layers of {record.record_name}"),
                        Evidence("tile", f"{made.m}x{made.n}x{made.k}", "the kernel's name"),
                        Evidence("output channels", str(channels), f"model of {record.record_name}"),
                    ),
                    facts.command("c16,c24,c32", "run it with as many channels as the tile")
                    + " (time that stays the same confirms it)",
                )
                break


@rule
def winograd(facts: Facts) -> Iterator[Finding]:
    """Find fewer multiplications than are counted, by a kernel's name or by more than 100 % of the peak."""
    for record in facts.records:
        name = record.record_name
        named = [layer for layer in record.layers or () if "winograd" in _names(layer).lower()]
        found = facts.attained.get(name)
        share = found.share(None) if found else None
        if named:
            yield Finding(
                "winograd",
                "proven",
                f"{name} ran Winograd's algorithm, which multiplies less than is counted",
                (Evidence("kernel", named[0].tactic or named[0].name, f"Layers of {name}"),),
                "read its fraction of compute as a speed, not as a use of the multipliers",
            )
        elif share is not None and share > 1:
            yield Finding(
                "winograd",
                "possible",
                f"{name} may have multiplied less than the count says: it attained more than the peak",
                (Evidence("attained of compute", f"{share:.1%}", f"Roofs of {name}"),),
                "look at the kernels' names: `repro show` lists them under Layers",
            )


# --- on the machine -----------------------------------------------------------------------------


@rule
def clock_low(facts: Facts) -> Iterator[Finding]:
    """Find an SM clock below the board's reference while it was measured."""
    for record in facts.records:
        row = boards.table().get(record.board.matched_id or "")
        read = [run.sm_clock_mhz for run in record.runs if run.sm_clock_mhz]
        if row and read and max(read) < CLOCK_SHARE * row.reference_mhz:
            yield Finding(
                "clock_low",
                "proven",
                f"the SM clock of {record.record_name} stood below the board's reference",
                (
                    Evidence(
                        "median", f"{min(read):g} to {max(read):g} MHz", f"runs of {record.record_name}"
                    ),
                    Evidence("reference", f"{row.reference_mhz:g} MHz", f"table of boards, {row.id}"),
                ),
                _again(facts, record, "after raising the power mode or limit"),
            )


@rule
def throttled(facts: Facts) -> Iterator[Finding]:
    """Find clocks that were held down while it was measured."""
    yield from _flagged(
        facts,
        "throttled",
        ("slowed", "throttled"),
        "clocks of {} were held down",
        "with more cooling or a higher power limit",
    )


@rule
def clock_moved(facts: Facts) -> Iterator[Finding]:
    """Find an SM clock that did not stand while it was measured, whatever moved it."""
    yield from _flagged(
        facts,
        "clock_moved",
        ("clock_moved",),
        "the SM clock of {} did not stand while it was measured",
        "with clocks held: `repro doctor` prints how",
    )


@rule
def settings_changed(facts: Facts) -> Iterator[Finding]:
    """Find a power mode or another setting of the board that changed during the session."""
    for record in facts.records:
        if (changed := clocks.settings_changed(record.telemetry)) is not None:
            yield Finding(
                "settings_changed",
                "proven",
                f"the board of {record.record_name} was set differently after the session than before",
                (Evidence("setting", changed, f"Machine of {record.record_name}"),),
                _again(facts, record, "and leave the board as it is"),
            )


@rule
def clock_unread(facts: Facts) -> Iterator[Finding]:
    """Find a GPU whose SM clock was not read, so that its roofs stand on an assumption."""
    for record in facts.records:
        if record.board.compute_capability and record.runs and not _clock_read(record):
            yield Finding(
                "clock_unread",
                "proven",
                f"the SM clock of {record.record_name} was not read: its roofs assume a clock",
                (Evidence("SM clock", "not read", f"runs of {record.record_name}"),),
                "repro doctor (it says which probe can't read it, and why)",
            )


def _clock_read(record: Record) -> bool:
    # Records of an early kit have the channel only, and no figure of each run.
    names = {name for _, name in clocks.SM_CLOCKS}
    channels = (each for each in record.telemetry.channels if each.name in names)
    return any(run.sm_clock_mhz for run in record.runs) or any(each.state == "value" for each in channels)


@rule
def emc_unread(facts: Facts) -> Iterator[Finding]:
    """Find a memory clock that follows the load and was not read."""
    for record in facts.records:
        if record.board.integrated and record.runs and not any(r.memory_clock_mhz for r in record.runs):
            yield Finding(
                "emc_unread",
                "proven",
                f"the memory clock (EMC) of {record.record_name} was not read: its memory roofs stand on the "
                "rated one",
                (Evidence("memory clock", "not read", f"runs of {record.record_name}"),),
                _again(facts, record, "as root, or where EMC can be read, after `jetson_clocks`"),
            )
    for reference in facts.references:
        row = boards.match(reference.board, None, None)
        if row and row.integrated and "emc" not in reference.board.lower():
            yield Finding(
                "emc_unread",
                "proven",
                f"{reference.id} names no memory clock (EMC), and on this board it follows the load",
                (Evidence("board", reference.board, reference.source),),
                f"repro run {facts.case} --device {reference.device}",
            )


@rule
def unsteady(facts: Facts) -> Iterator[Finding]:
    """Find times that moved or scattered within a run."""
    yield from _flagged(
        facts,
        "unsteady",
        ("trend", "not_flat", "foreign_load"),
        "times of {} were not steady",
        "on a machine at rest, with a longer --duration",
    )
    for record in facts.records:
        wide = [run for run in record.runs if run.summary.p90_ns > SPREAD * run.summary.median_ns > 0]
        if wide:
            yield Finding(
                "unsteady",
                "proven",
                f"a tenth of the times of {record.record_name} lies more than "
                f"{SPREAD - 1:.0%} above the median",
                tuple(
                    Evidence(
                        "90th percentile over median",
                        f"{run.summary.p90_ns / run.summary.median_ns:.3f}",
                        f"{run.id} of {record.record_name}",
                    )
                    for run in wide
                ),
                _again(facts, record, "on a machine at rest, with a longer --duration"),
            )


@rule
def modes(facts: Facts) -> Iterator[Finding]:
    """Find builds of more than one kind, by their structure or by a gap between their times."""
    for record in facts.records:
        name = record.record_name
        structures = {build.structure_hash for build in record.builds if build.structure_hash}
        more = _again(facts, record, "--builds 10")
        if len(structures) > 1:
            yield Finding(
                "modes",
                "proven",
                f"the builds of {name} are not all of one structure",
                tuple(
                    Evidence("structure", (build.structure_hash or "–")[:12], f"{build.id} of {name}")
                    for build in record.builds
                ),
                more,
            )
        elif gap := gap_between(build_values(record)):
            yield Finding(
                "modes",
                "possible",
                f"the builds of {name} may be of two kinds: two narrow groups of them lie {gap:.1%} apart",
                (Evidence("gap", f"{gap:.2%}", f"builds of {name}"),),
                more,
            )


# --- on right and wrong -------------------------------------------------------------------------


@rule
def wrong_output(facts: Facts) -> Iterator[Finding]:
    """Find an output that is not what the graph gives."""
    for record in facts.records:
        for build in record.builds:
            if build.check and not build.check.ok:
                yield Finding(
                    "wrong_output",
                    "proven",
                    f"the output of {record.record_name} is wrong: {', '.join(build.check.problems)}",
                    (
                        Evidence("error", f"{build.check.error}", f"{build.id} of {record.record_name}"),
                        Evidence("allowed", f"{build.check.tolerance:g}", "tolerance of the case"),
                    ),
                    _again(facts, record, "with another --release or --backend"),
                )
                break


@rule
def not_as_asked(facts: Facts) -> Iterator[Finding]:
    """Find a precision, provider or other setting that is not the one asked for."""
    for record in facts.records:
        name = record.record_name
        found = [
            Evidence(each.setting, f"{each.effective}, planned was {each.planned}", f"mismatches of {name}")
            for each in record.mismatches
        ]
        found += [
            Evidence(each.setting, f"{each.planned}, asked for was {each.requested}", each.declared_by)
            for each in record.substitutions
        ]
        provider = record.runtime.provider or ""
        if record.runtime.device != "cpu" and provider.startswith("CPU"):
            found.append(Evidence("provider", provider, f"runtime of {name}"))
        if found:
            yield Finding(
                "not_as_asked",
                "proven",
                f"{name} is not what was asked for: {', '.join(each.what for each in found)}",
                tuple(found),
                _again(facts, record, "where the settings hold"),
            )


@rule
def failed(facts: Facts) -> Iterator[Finding]:
    """Find a record that failed."""
    for record in facts.records:
        for stage in record.stages:
            if stage.error:
                yield Finding(
                    "failed",
                    "proven",
                    f"{record.record_name} failed in {stage.name}: {stage.error.message}",
                    (Evidence("signature", stage.error.signature, f"stages of {record.record_name}"),),
                    _again(facts, record, "with another --release"),
                )


@rule
def not_counted(facts: Facts) -> Iterator[Finding]:
    """Find operators that are in no count of work."""
    for record in facts.records:
        if record.work and record.work.unknown_ops:
            yield Finding(
                "not_counted",
                "proven",
                f"the work of {record.record_name} is more than was counted: some operators have no rule",
                tuple(
                    Evidence("operator", each, f"Work of {record.record_name}")
                    for each in record.work.unknown_ops
                ),
                f"repro case check {facts.case}",
            )


# --- what rules share ---------------------------------------------------------------------------


def _stated(facts: Facts) -> list[StatedEfficiency]:
    return [claim for claim in facts.claims if isinstance(claim, StatedEfficiency)]


def _names(layer: Layer) -> str:
    return layer.tactic or f"{layer.name} {layer.type or ''}"


def _again(facts: Facts, record: Record, how: str) -> str:
    """Return how to run a record's variant again: `how` is an option, or words."""
    variant = f":{record.case.variant}" if record.case.variant else ""
    said = how if how.startswith("--") else f"({how})"
    return f"repro run {facts.case}{variant} --device {record.runtime.device} {said}"


def _flagged(facts: Facts, name: str, codes: tuple[str, ...], says: str, how: str) -> Iterator[Finding]:
    """Give a finding for each record whose runs carry one of these flags."""
    for record in facts.records:
        seen = [(run.id, flag) for run in record.runs for flag in run.flags if flag.code in codes]
        if seen:
            yield Finding(
                name,
                "proven",
                says.format(record.record_name),
                tuple(Evidence(f.code, f.detail, f"{run} of {record.record_name}") for run, f in seen),
                _again(facts, record, how),
            )


def _against(facts: Facts, record: Record, variant: str, least: float = 0.0) -> list[Evidence]:
    """Return what another variant took, where it was measured beside this one and gains at least `least`."""
    mine, other = facts.attained.get(record.record_name), facts.variant(record, variant)
    if mine is None or other is None or other.record is record:
        return []
    if 1 - other.seconds / mine.seconds < least:
        return []
    times = f"{milliseconds(other.seconds * 1e9)} ms beside {milliseconds(mine.seconds * 1e9)} ms"
    return [Evidence(f"time of {variant}", times, f"runs of {other.record.record_name}")]
