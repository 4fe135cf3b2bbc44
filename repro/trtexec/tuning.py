"""The timed candidates of a verbose build, kept to the best five of each layer however long the log is."""

from __future__ import annotations

import bisect
import math
import re

import msgspec

from repro.schema import Layer

BEST = 5
MAX_LAYERS = 10_000
"""Layers whose candidates are kept; those of further ones are only counted."""
MAX_NAME_BYTES = 500
MAX_TACTIC_BYTES = 64
MAX_CHOSEN = 20
"""Of a layer: the best of a combination of formats, of which few are tried."""

TEXT_AT = 32
"""Where a line's text begins, behind `[10/21/2025-16:07:42] [V] [TRT] `."""
_TACTIC = re.compile(rb"(?:Tactic Name: (\S+) )?Tactic: (\S+) Time:")
_RUNNER = re.compile(rb"-+ Timing Runner: (.*) \((\w+)[^()]*\)")
_CHOSE = re.compile(rb">+ Chose Runner Type: (\w+) Tactic: (\S+)")
_FASTEST = re.compile(rb"Fastest Tactic: (\S+) Time: (\S+)")
_COMBINATION = re.compile(rb"\*+ Autotuning format combination: (.*?) \*")
SET_NAME = b" Set Tactic Name: "


class Candidate(msgspec.Struct, frozen=True):
    """A kernel that the builder timed for a layer."""

    runner: str
    tactic: str
    """As printed: hexadecimal, up to 8.4 decimal."""
    name: str | None
    """The kernel's name, where the log gives it."""
    formats: str | None
    """The format combination, in the log's words: strides of inputs and outputs."""
    time_ms: float | None


class LayerTuning(msgspec.Struct, frozen=True):
    """What the builder tried for one layer."""

    layer: str
    timed: int
    best: tuple[Candidate, ...]
    """At most five, the fastest first, over all formats."""
    chosen: Candidate | None
    """What the engine has; `None` where the log doesn't list the engine's layers."""


class _Layer:
    """The candidates of a layer while the log is read."""

    __slots__ = ("best", "chosen", "timed", "worst")

    def __init__(self) -> None:
        self.best: list[tuple[float, Candidate]] = []
        self.chosen: dict[str, Candidate] = {}
        self.timed = 0
        self.worst = math.inf


class Tuning:
    """Collects candidates; `worst` is the time from which on a candidate of the current layer is no news."""

    def __init__(self) -> None:
        self._layers: dict[bytes, _Layer] = {}
        self._current: _Layer | None = None
        self._runner = ""
        self._formats: str | None = None
        self._fastest: dict[bytes, float] = {}
        self._named = b""
        self.worst = -math.inf
        self.not_kept = 0
        """Layers beyond the limit."""

    def said(self, text: str) -> bool:
        """Take a line whose prefix is not where it was; return whether it is of a verbose build."""
        line = b" " * TEXT_AT + text.encode("utf-8", "replace")
        kind = text[:6]
        if kind == "Tactic":
            try:
                time_ms = float(line[line.rfind(b" ") + 1 :])
            except ValueError:
                return False
            self.count(1)
            if time_ms < self.worst:
                self.add(line, time_ms, self._named)
        elif kind in BY_LETTERS:
            BY_LETTERS[kind](self, line)
        elif SET_NAME in line:
            self._named = line
        else:
            return False
        return True

    def begin_formats(self, line: bytes) -> None:
        """Take `Autotuning …`: another combination of formats begins."""
        match = _COMBINATION.match(line, TEXT_AT)
        self._formats = _text(match[1][:MAX_NAME_BYTES]) if match else None
        self._fastest = {}
        self._current, self.worst = None, -math.inf

    def begin_runner(self, line: bytes) -> None:
        """Take `Timing Runner: LAYER (RUNNER)`: its candidates follow."""
        match = _RUNNER.match(line, TEXT_AT)
        self._current, self.worst = None, -math.inf
        if not match or match[1].startswith(b"Optimizer Reformat("):
            return
        name = match[1][:MAX_NAME_BYTES]
        layer = self._layers.get(name)
        if layer is None:
            if len(self._layers) >= MAX_LAYERS:
                self.not_kept += 1
                return
            layer = self._layers[name] = _Layer()
        self._current, self._runner, self.worst = layer, _text(match[2]), layer.worst

    def count(self, timed: int) -> None:
        """Count candidates of the current layer that were seen and were no news."""
        if self._current is not None:
            self._current.timed += timed

    def add(self, line: bytes, time_ms: float, named: bytes) -> None:
        """Take `Tactic: T Time: t` below `worst`; `named` the last `Set Tactic Name: N Tactic: T`."""
        match, layer = _TACTIC.match(line, TEXT_AT), self._current
        if not match or layer is None:
            return
        name = match[1]
        if name is None and named.endswith(b" Tactic: " + match[2]):
            name = named.rpartition(SET_NAME)[2].partition(b" ")[0]
        bisect.insort(layer.best, (time_ms, self._candidate(match[2], time_ms, name)), key=_time)
        del layer.best[BEST:]
        if len(layer.best) == BEST:
            layer.worst = self.worst = layer.best[-1][0]

    def fastest(self, line: bytes) -> None:
        """Take `Fastest Tactic: T Time: t`: the best of a runner."""
        if match := _FASTEST.match(line, TEXT_AT):
            try:
                self._fastest[match[1]] = float(match[2])
            except ValueError:
                return

    def chose(self, line: bytes) -> None:
        """Take `Chose Runner Type: R Tactic: T`: the best of a combination of formats."""
        match, layer = _CHOSE.match(line, TEXT_AT), self._current
        if match and layer is not None and len(layer.chosen) < MAX_CHOSEN:
            time_ms = self._fastest.get(match[2])
            self._runner = _text(match[1][:MAX_TACTIC_BYTES])
            candidate = self._candidate(match[2], time_ms, None)
            before = layer.chosen.get(candidate.tactic)
            if before is None or _shorter(candidate, before):
                layer.chosen[candidate.tactic] = candidate

    def _candidate(self, tactic: bytes, time_ms: float | None, name: bytes | None) -> Candidate:
        return Candidate(
            runner=self._runner,
            tactic=_text(tactic[:MAX_TACTIC_BYTES]),
            name=_text(name[:MAX_NAME_BYTES]) if name else None,
            formats=self._formats,
            time_ms=time_ms if time_ms is not None and math.isfinite(time_ms) else None,
        )

    def found(self, layers: tuple[Layer, ...], tactics: dict[str, str]) -> tuple[LayerTuning, ...]:
        """Return what was tried; `tactics` tells the engine's own tactic of each layer by name."""
        kinds = {layer.name: layer.type for layer in layers}
        result = []
        for raw, layer in self._layers.items():
            name = _text(raw)
            best = tuple(candidate for _, candidate in layer.best)
            chosen = None
            if tactic := tactics.get(name):
                chosen = layer.chosen.get(tactic) or next(
                    (candidate for candidate in best if candidate.tactic == tactic),
                    Candidate(kinds.get(name) or "", tactic, None, None, None),
                )
                if chosen.name is None:
                    named = next((c.name for c in best if c.tactic == chosen.tactic and c.name), None)
                    chosen = msgspec.structs.replace(chosen, name=named)
            result.append(LayerTuning(name, layer.timed, best, chosen))
        return tuple(result)


BY_LETTERS = {
    "------": Tuning.begin_runner,
    "******": Tuning.begin_formats,
    "Fastes": Tuning.fastest,
    ">>>>>>": Tuning.chose,
}
"""What takes a line, by its first letters."""


def _time(entry: tuple[float, Candidate]) -> float:
    return entry[0]


def _shorter(one: Candidate, other: Candidate) -> bool:
    return one.time_ms is not None and (other.time_ms is None or one.time_ms < other.time_ms)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
