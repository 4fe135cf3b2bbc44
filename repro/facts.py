"""What rules look at: a case, or a bundle with its records set against their roofs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from repro import attained, boards, cases
from repro.attained import Attained
from repro.bundle import Bundle
from repro.errors import ReproError, Unavailable
from repro.report import content
from repro.schema import AnyClaim, ConvStack, Layer, ModelSpec, Record, Reference

MODE_GAP = 0.01
"""Builds of one kind never lie further apart, in the logarithm, with nothing between them."""


class Facts(NamedTuple):
    """All that rules look at; a case alone has no records."""

    case: str
    sparsity: bool | None
    """As the case asks for it, where a claim is on figures from elsewhere."""
    claims: tuple[AnyClaim, ...]
    references: tuple[Reference, ...]
    records: tuple[Record, ...] = ()
    """Subjects only."""
    attained: Mapping[str, Attained] = {}
    networks: Mapping[str, ModelSpec] = {}
    variants: tuple[str, ...] = ()
    """What the case can be run in, as far as it is known here."""

    def command(self, variants: str, otherwise: str) -> str:
        """Return how to run these variants of the case, or `otherwise` where it hasn't got them."""
        names = variants.split(",")
        if not set(names) - {cases.BASE} <= set(self.variants):
            return otherwise
        devices = {record.runtime.device for record in self.records}
        more = f" --device {devices.pop()}" if len(devices) == 1 else ""
        return f"repro run {self.case}:{variants}{more}"

    def variant(self, like: Record, name: str) -> Attained | None:
        """Return what variant `name` gave beside this record, if they differ in what it is about alone."""
        found = (
            each
            for each in self.attained.values()
            if each.record.case.variant == name
            and each.record.case.id == like.case.id
            and each.record.runtime.release.name == like.runtime.release.name
            and self._same_network(each.record, like)
            and _differing(each.record, like) <= {_ABOUT.get(name, "")}
        )
        return next(found, None)

    def _same_network(self, a: Record, b: Record) -> bool:
        first, second = (self.networks.get(each.record_name) for each in (a, b))
        if isinstance(first, ConvStack) and isinstance(second, ConvStack):
            second = msgspec.structs.replace(second, bias=first.bias)
        return first == second


_ABOUT = {"hwc8": "io_layout", "graph": "cuda_graph"}
"""The setting that a variant is about, where it is about one."""


def _differing(a: Record, b: Record) -> set[str]:
    first, second = a.settings.planned, b.settings.planned
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


def of_case(case: cases.Case) -> Facts:
    """Return the facts that a case has before anything was run."""
    # As it stands in the file: making the models would take what the base of the kit does without.
    sparsity = case.settings.get("sparsity")
    return Facts(
        case.id,
        sparsity if isinstance(sparsity, bool) else None,
        case.claims,
        case.references,
        variants=tuple(case.variants),
    )


def of_bundle(bundle: Bundle) -> Facts:
    """Return the facts of a bundle."""
    predicate = bundle.statement.predicate
    subjects = tuple(record for record in bundle.records.values() if record.role == "subject")
    first = next(iter(subjects or bundle.records.values()), None)
    if first is None:
        raise Unavailable(f"{bundle.path.name} holds no record", "name another bundle")
    try:
        variants = tuple(cases.load(first.case.id).variants)
    except ReproError:
        variants = ()
    return Facts(
        first.case.id,
        first.settings.requested.sparsity,
        predicate.claims,
        predicate.references,
        subjects,
        {each.record.record_name: each for each in content.attained_by(bundle)},
        {name: resolved.model for name, resolved in bundle.cases.items()},
        variants,
    )


# --- what rules ask of them ---------------------------------------------------------------------


def boards_of(facts: Facts) -> dict[str, boards.Row]:
    """Return the rows of the boards that figures are from, by reference or record."""
    found = {each.id: boards.match(each.board, None, None) for each in facts.references}
    found |= {each.record_name: boards.table().get(each.board.matched_id or "") for each in facts.records}
    return {name: row for name, row in found.items() if row is not None}


def enqueue_share(record: Record) -> float | None:
    """Return the host's time to enqueue an inference over the inference's own, of the worst run."""
    shares = [
        run.enqueue_median_ns / run.summary.median_ns
        for run in record.runs
        if run.enqueue_median_ns and run.summary.median_ns > 0
    ]
    return max(shares) if shares else None


def time_share(layers: Sequence[Layer], some: Sequence[Layer]) -> float | None:
    """Return the share of the layers' time that some of them take, `None` where any has no time."""
    if any(layer.time_ns is None for layer in layers):
        return None
    total = sum(layer.time_ns or 0 for layer in layers)
    return sum(layer.time_ns or 0 for layer in some) / total if total else None


def pass_bytes(record: Record, passes: int) -> int | None:
    """Return what `passes` over outputs read and write: of as many layers as there are passes, on average."""
    counted = record.work
    if counted is None or not counted.layers or not record.model.outputs:
        return None
    bits = {"fp32": 32, "fp16": 16}.get(str(attained.precision(record)))
    if bits is None:
        return None
    last = math.prod(record.model.outputs[0].shape) * bits // 8
    written = sum(layer.passed_bytes for layer in counted.layers) + last
    return round(2 * written * min(1.0, passes / len(counted.layers)))


def channels_of(facts: Facts, record: Record, layer: Layer) -> int | None:
    """Return the output channels of a layer, by its tensor, else by a network that has but one number."""
    for tensor in layer.outputs:
        if tensor.dims and len(tensor.dims) == 4 and 0 < tensor.dims[1] < attained.MOST:
            return tensor.dims[1]
    spec = facts.networks.get(record.record_name)
    if isinstance(spec, ConvStack) and len(set(spec.channels[1:])) == 1 and spec.channels[1] > 0:
        return spec.channels[1]
    return None


def gap_between(values: Sequence[float]) -> float | None:
    """Return the widest gap between builds, where it is far wider than what lies on either side of it."""
    ordered = sorted(values)
    if len(ordered) < 4:
        return None
    gap, at = max((b - a, i + 1) for i, (a, b) in enumerate(pairwise(ordered)))
    inside = max(ordered[at - 1] - ordered[0], ordered[-1] - ordered[at])
    return (
        math.expm1(min(gap, 50.0))
        if gap > MODE_GAP and gap > 3 * inside and 1 < at < len(ordered) - 1
        else None
    )
