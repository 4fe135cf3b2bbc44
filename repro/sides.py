"""The two sides of a comparison: which bundles, or which arms, stand against which.

A side is the records of all bundles of one release, device or setting, or of one arm of alternating
sessions. Variants are matched by case and name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, get_args

from repro.errors import Unavailable, UsageError
from repro.observed import BuildSeen, Observed, Source
from repro.schema import Across

ACROSS: tuple[Across, ...] = get_args(Across)
Pair = tuple["Group", "Group"]
VariantKey = tuple[str, str, str | None]
"""Role, case and variant."""


class Group(NamedTuple):
    """One side: the records of all its bundles, or of one arm."""

    name: str
    observed: tuple[Observed, ...]

    @property
    def builds(self) -> list[BuildSeen]:
        """The builds of all its records."""
        return [build for seen in self.observed for build in seen.builds]


def distinct(sources: Sequence[Source], notes: list[str]) -> list[Source]:
    """Return the sources without repetitions; raise `Unavailable` where only one is left of several."""
    found: list[Source] = []
    for source in sources:
        # Sealed twice, a session is still one: its runs are the same runs.
        twin = next((one for one in found if one.id == source.id or _runs(one) & _runs(source)), None)
        if twin is None:
            found.append(source)
            continue
        what = "are the same bundle" if twin.id == source.id else "hold the same runs"
        name = twin.file if twin.file != source.file else f"{twin.file} (named twice)"
        notes.append(f"{name} and {source.file} {what}; it counts once")
    if len(found) < 2 <= len(sources):
        hint = "a bundle equals itself; name another"
        raise Unavailable(f"not comparable: {notes[0].partition(';')[0]}", hint)
    return found


def _runs(source: Source) -> set[tuple[str, str]]:
    return {(seen.record.run_id, seen.record.record_name) for seen in source.observed}


def subjects(source: Source) -> tuple[Observed, ...]:
    """Return the records that are no calibration, or all where there are only such."""
    return tuple(each for each in source.observed if each.record.role == "subject") or source.observed


def _key(seen: Observed, across: Across) -> str:
    """Return what makes a record one of its side."""
    record = seen.record
    if across == "release":
        return f"{record.runtime.product}/{record.runtime.release.name}"
    if across == "device":
        return str(record.board.matched_id or record.board.name or record.runtime.device)
    mode = record.board.power_mode.name if record.board.power_mode else None
    threads = record.board.threads
    return f"{sorted(record.settings.planned.items(), key=str)}/{record.runtime.backend}/{threads}/{mode}"


def guess(sources: Sequence[Source], *, alternating: bool) -> Across:
    """Return what differs between the sources, the first of release, device and setting that does."""
    firsts = [subjects(source)[0] for source in sources]
    if alternating:
        firsts = [
            next(o for o in subjects(source) if o.arm == arm)
            for source in sources
            for arm in sorted({o.arm or "" for o in subjects(source)})
        ]
    for across in ACROSS:
        # Arms that are two variants stand against each other, whatever else is the same.
        if across == "setting" and alternating and len({seen.record.case.variant for seen in firsts}) > 1:
            return across
        if len({_key(seen, across) for seen in firsts}) > 1:
            return across
    return "release"


def groups(sources: Sequence[Source], across: Across) -> list[Group]:
    """Return the sides in the order in which they were named, releases (three or more) by version."""
    by_key: dict[str, list[Source]] = {}
    for source in sources:
        by_key.setdefault(_key(subjects(source)[0], across), []).append(source)
    if len(by_key) == 1:  # Nothing of it differs: each bundle stands for itself.
        return [Group(source.file.removesuffix(".zip"), source.observed) for source in sources]
    found = [
        Group(_name(group, across), tuple(each for source in group for each in source.observed))
        for group in by_key.values()
    ]
    names = [group.name for group in found]
    if len(set(names)) < len(names):
        found = [
            Group(f"{group.name} ({group.observed[0].file.removesuffix('.zip')})", group.observed)
            for group in found
        ]
    in_order = across == "release" and len(found) > 2
    return sorted(found, key=lambda group: _version(group.name)) if in_order else found


def _name(sources: Sequence[Source], across: Across) -> str:
    record = subjects(sources[0])[0].record
    if across == "release":
        return record.runtime.release.name
    if across == "device":
        return record.board.name or record.runtime.device
    return record.case.variant or sources[0].file.removesuffix(".zip")


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def arms(sources: Sequence[Source]) -> list[Group]:
    """Return the two arms of alternating sessions as sides."""
    found = []
    for arm in ("A", "B"):
        seen = tuple(o for source in sources for o in source.observed if o.arm == arm)
        if not seen:
            raise UsageError(f"{sources[0].file} has no arm {arm}", "name a bundle with both arms")
        found.append(Group(seen[0].record.runtime.release.name, seen))
    variants = [group.observed[0].record.case.variant or "base" for group in found]
    tried = ([group.name for group in found], variants, ["arm A", "arm B"])
    chosen = next(names for names in tried if names[0] != names[1])
    return [group._replace(name=name) for group, name in zip(found, chosen, strict=True)]


def pairs(sides: Sequence[Group], across: Across, notes: list[str]) -> list[Pair]:
    """Return the variants that the first side shares with a later one, as sides of one variant each."""
    first = _variants(sides[0])
    found: list[Pair] = []
    lacking: list[str] = []
    for group in sides[1:]:
        other = _variants(group)
        common = [key for key in first if key in other]
        matched = [(first[key], other[key]) for key in common]
        left = [[key for key in side if key not in common and key[0] == "subject"] for side in (first, other)]
        if across == "setting" and [len(keys) for keys in left] == [1, 1] and left[0][0][1] == left[1][0][1]:
            matched.append((first[left[0][0]], other[left[1][0]]))
            left = [[], []]
        if not any(a[0].record.role == "subject" for a, _ in matched):
            lacking.append(f"{sides[0].name} and {group.name} have no variant in common")
        for side, keys in zip((sides[0], group), left, strict=True):
            notes += [f"{_label(key)} is in {side.name} only" for key in keys]
        found += [(Group(sides[0].name, a), Group(group.name, b)) for a, b in matched]
    if not any(a.observed[0].record.role == "subject" for a, _ in found):
        hint = "compare bundles of the same case and variant"
        raise Unavailable(f"not comparable: {'; '.join(lacking)}", hint)
    notes += lacking
    return found


def _variants(group: Group) -> dict[VariantKey, tuple[Observed, ...]]:
    found: dict[VariantKey, tuple[Observed, ...]] = {}
    for seen in group.observed:
        record = seen.record
        key = (record.role, record.case.id, record.case.variant)
        found[key] = (*found.get(key, ()), seen)
    return found


def _label(key: VariantKey) -> str:
    return f"{key[1]}:{key[2]}" if key[2] else key[1]
