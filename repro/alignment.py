"""Layers of two engines set side by side: the same, changed, fused, split, gone or come.

A runtime names a fused layer after its parts ("conv1 + relu1"). Layers that share a part do the same
work; what shares none is matched by type and order, as another release may name everything anew.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from repro.schema import Layer, LayerChange, LayerTensor

Kind: TypeAlias = Literal["same", "changed", "fused", "split", "regrouped", "gone", "come"]
_PARTS = re.compile(r"\s*\+\s*|\s*,\s*")


def align(a: Sequence[Layer], b: Sequence[Layer]) -> tuple[LayerChange, ...]:
    """Return the layers of both engines in the order of the first, each exactly once."""
    groups = _groups(a, b)
    grouped = {each for group in groups for each in group}
    alone = [[i for i in range(len(side)) if (which, i) not in grouped] for which, side in enumerate((a, b))]
    matcher = difflib.SequenceMatcher(
        a=[_kind(a[i]) for i in alone[0]], b=[_kind(b[i]) for i in alone[1]], autojunk=False
    )
    matched: set[tuple[int, int]] = set()
    for block in matcher.get_matching_blocks():
        for k in range(block.size):
            pair = {(0, alone[0][block.a + k]), (1, alone[1][block.b + k])}
            groups.append(pair)
            matched |= pair
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
