"""Layers of two engines set side by side: the same, changed, fused, split, gone or come.

A runtime names a fused layer after its parts ("conv1 + relu1"). Layers that share a part do the same
work; what shares none is matched by type and order, as another release may name everything anew. Kernels
that a profiler saw have no names but their numbers: they are matched by tactic and order.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from repro.schema import KERNEL, Layer, LayerChange, LayerTensor

Kind: TypeAlias = Literal["same", "changed", "fused", "split", "regrouped", "gone", "come"]
_PARTS = re.compile(r"\s*\+\s*|\s*,\s*")


def align(a: Sequence[Layer], b: Sequence[Layer]) -> tuple[LayerChange, ...]:
    """Return the layers of both engines in the order of the first, each exactly once."""
    groups = _groups(a, b)
    grouped = {each for group in groups for each in group}
    alone = [[i for i in range(len(side)) if (which, i) not in grouped] for which, side in enumerate((a, b))]
    pairs = list(_in_order(a, alone[0], b, alone[1]))
    groups += [{(0, i), (1, j)} for i, j in pairs]
    matched = {each for i, j in pairs for each in ((0, i), (1, j))}
    groups += [{(0, i)} for i in alone[0] if (0, i) not in matched]
    groups += [{(1, i)} for i in alone[1] if (1, i) not in matched]
    place = {each: n for n, group in enumerate(groups) for each in group}
    # What only the second engine has stands where the layer before it stands.
    keys: dict[int, tuple[float, float]] = {}
    last = -1.0
    for i in range(len(b)):
        group = place[(1, i)]
        firsts = [j for which, j in groups[group] if which == 0]
        last = float(min(firsts)) if firsts else last
        keys.setdefault(group, (last, 0.0 if firsts else i + 1.0))
    for i in range(len(a)):
        keys.setdefault(place[(0, i)], (float(i), 0.0))
    ordered = sorted(range(len(groups)), key=lambda n: keys[n])
    return tuple(
        _change(
            [a[i] for which, i in sorted(groups[n]) if which == 0],
            [b[i] for which, i in sorted(groups[n]) if which == 1],
        )
        for n in ordered
    )


def _groups(a: Sequence[Layer], b: Sequence[Layer]) -> list[set[tuple[int, int]]]:
    """Return the layers that share parts, as sets of (side, index) with both sides in each."""
    holders: dict[str, set[tuple[int, int]]] = {}
    for which, side in enumerate((a, b)):
        for i, layer in enumerate(side):
            if layer.type == KERNEL:
                continue  # Its name is its number.
            if not layer.is_reformat:
                for part in filter(None, _PARTS.split(layer.name.strip("{} "))):
                    holders.setdefault(part, set()).add((which, i))
            else:
                # A copy is named after what it serves; only the very same name is the same copy.
                holders.setdefault(layer.name, set()).add((which, i))
    groups: list[set[tuple[int, int]]] = []
    for members in holders.values():
        joined = set(members)
        rest = []
        for group in groups:
            if group & joined:
                joined |= group
            else:
                rest.append(group)
        groups = [*rest, joined]
    return [group for group in groups if {which for which, _ in group} == {0, 1}]


def _in_order(
    a: Sequence[Layer], of_a: Sequence[int], b: Sequence[Layer], of_b: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Give the pairs of one identity; what stands between them is paired by its type."""
    outer = _matcher([_identity(a[i]) for i in of_a], [_identity(b[j]) for j in of_b])
    for tag, a0, a1, b0, b1 in outer.get_opcodes():
        if tag == "equal":
            yield from zip(of_a[a0:a1], of_b[b0:b1], strict=True)
        elif tag == "replace":
            between = _matcher([_kind(a[i]) for i in of_a[a0:a1]], [_kind(b[j]) for j in of_b[b0:b1]])
            for block in between.get_matching_blocks():
                for k in range(block.size):
                    yield of_a[a0 + block.a + k], of_b[b0 + block.b + k]


def _matcher(a: Sequence[str], b: Sequence[str]) -> difflib.SequenceMatcher[str]:
    return difflib.SequenceMatcher(a=a, b=b, autojunk=False)


def _identity(layer: Layer) -> str:
    return f"{_kind(layer)}/{layer.tactic}" if layer.type == KERNEL else _kind(layer)


def _kind(layer: Layer) -> str:
    return f"{layer.type}/{bool(layer.is_reformat)}"


def _change(a: Sequence[Layer], b: Sequence[Layer]) -> LayerChange:
    tactics = (_joined(layer.tactic for layer in a), _joined(layer.tactic for layer in b))
    formats = (_joined(map(_formats, a)), _joined(map(_formats, b)))
    first = (*a, *b)[0]
    kind: Kind
    if not b:
        kind = "gone"
    elif not a:
        kind = "come"
    elif len(a) > 1 and len(b) > 1:
        kind = "regrouped"
    elif len(a) > 1:
        kind = "fused"
    elif len(b) > 1:
        kind = "split"
    else:
        same = tactics[0] == tactics[1] and formats[0] == formats[1] and a[0].type == b[0].type
        kind = "same" if same else "changed"
    return LayerChange(
        kind,
        tuple(layer.name for layer in a),
        tuple(layer.name for layer in b),
        first.type,
        bool(first.is_reformat),
        _sum(a),
        _sum(b),
        tactics,
        formats,
    )


def _joined(parts: Iterable[str | None]) -> str | None:
    known = [part for part in parts if part]
    return "; ".join(known) or None


def _formats(layer: Layer) -> str | None:
    if not layer.inputs and not layer.outputs:
        return None
    return f"{_tensors(layer.inputs)} → {_tensors(layer.outputs)}"


def _tensors(tensors: Sequence[LayerTensor]) -> str:
    return ", ".join(" ".join(filter(None, (each.dtype, each.format))) or "?" for each in tensors) or "–"


def _sum(layers: Sequence[Layer]) -> int | None:
    times = [layer.time_ns for layer in layers]
    known = [time for time in times if time is not None]
    return sum(known) if known and len(known) == len(times) else None
