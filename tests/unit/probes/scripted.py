"""Probes that behave badly in known ways, and a sampler of its own process for them.

Not a test: `python -c 'from tests.unit.probes.scripted import main; main()' FOLDER NAME…` samples the
named probes, and says `ready` once `good` was read five times and all that hang do.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repro import sampling
from repro.probes import Absent, ChannelSpec, Probe, Reading
from repro.schema import Fact

CHANNELS = (ChannelSpec("count", "1", "made up"), ChannelSpec("other", "s", "made up"))


def fact(value: str) -> Fact:
    return Fact("made-up", "mood", None, "value", value)


hung: list[int] = []
ready: list[int] = []


def hang() -> None:
    hung.append(1)
    threading.Event().wait()


class Scripted:
    """A probe whose every answer is the next of a script."""

    rate_hz = 1000.0
    channels: tuple[ChannelSpec, ...] = CHANNELS

    def __init__(
        self,
        name: str,
        read: Callable[[int], Mapping[str, Reading]],
        facts: Callable[[int], Sequence[Fact]] = lambda n: [fact("calm")],
        counters: Callable[[int], Mapping[str, tuple[str, int]]] = lambda n: {"faults": ("1", 10 + n)},
    ) -> None:
        self.name = name
        self._read, self._facts, self._counters = read, facts, counters
        self._calls = {what: itertools.count() for what in ("read", "facts", "counters")}

    def read(self) -> Mapping[str, Reading]:
        return self._read(next(self._calls["read"]))

    def facts(self) -> Sequence[Fact]:
        return self._facts(next(self._calls["facts"]))

    def counters(self) -> Mapping[str, tuple[str, int]]:
        return self._counters(next(self._calls["counters"]))


def good(n: int) -> Mapping[str, Reading]:
    if n >= 5 and len(hung) == sum(name.startswith("hangs") for name in sys.argv) and not ready:
        ready.append(n)
        os.write(1, b"ready\n")
    return {"count": float(n), "other": 0.5}


def raises(n: int) -> Mapping[str, Reading]:
    raise RuntimeError("no such luck")


def hangs(n: int) -> Mapping[str, Reading]:
    if n == 3:
        hang()
    return {"count": float(n), "other": 0.5}


def hangs_at_once(n: int) -> Mapping[str, Reading]:
    hang()
    return {}


def hangs_in_facts(n: int) -> Sequence[Fact]:
    hang()
    return []


def steady(n: int) -> Mapping[str, Reading]:
    return {"count": 1.0, "other": 1.0}


def absent(n: int) -> Mapping[str, Reading]:
    return {"count": Absent("denied", "no permission"), "other": Absent("unsupported", "not on this machine")}


SCRIPTS: dict[str, Callable[[], Probe]] = {
    "good": lambda: Scripted("good", good),
    "raises": lambda: Scripted("raises", raises),
    "absent": lambda: Scripted("absent", absent),
    "hangs": lambda: Scripted("hangs", hangs),
    "hangs_at_once": lambda: Scripted("hangs_at_once", hangs_at_once),
    "hangs_in_facts": lambda: Scripted("hangs_in_facts", steady, hangs_in_facts),
}


def main() -> None:
    sampling.sample(Path(sys.argv[1]), [SCRIPTS[name]() for name in sys.argv[2:]])
