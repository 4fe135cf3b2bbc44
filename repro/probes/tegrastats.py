"""The probe `tegrastats`: NVIDIA's own tool, as a second source beside the kernel's files.

Its line has another layout in every JetPack, and fewer fields without root. What is known is taken out
of a line piece by piece; a layout that is new loses only what it changed. Names of channels are those
of the probes `jetson` and `jetson_power`, so that the two can be held against each other.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from repro.probes import Absent, ChannelSpec, Reading
from repro.probes.stream import Stream
from repro.probes.sysfs import celsius, mhz, watts, word
from repro.schema import Fact

INTERVAL_MS = 1000
START_S = 5.0
MAX_LINE = 1 << 14
MAX_CORES = 64

_TIME = re.compile(r"^\s*\d\d-\d\d-\d{4} \d\d:\d\d:\d\d\s+")
_MEMORY = re.compile(
    r"\b(?:RAM|SWAP|IRAM) \d+/\d+[kM]B(?: ?\((?:lfb (?:\d+x)?\d+[kM]B|cached \d+[kM]B)\))?", re.ASCII
)
_CPUS = re.compile(r"\bCPU \[([^\]]*)\](?:@(\d+))?", re.ASCII)
_CORE = re.compile(r"(\d+)%(?:@(\d+))?", re.ASCII)
_MTS = re.compile(r"\bMTS fg \d+% bg \d+%", re.ASCII)
_TEMPERATURE = re.compile(
    r"(?<!\S)([A-Za-z][\w.-]*)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)?(?=\s|$)", re.ASCII
)
_RAIL = re.compile(
    r"(?<!\S)([A-Za-z]\w*) (-?\d+)(?:mW(?=\s|$)|(?:mW)?/-?\d+(?:mW)?(?:/-?\d+(?:mW)?)?)(?=\s|$)", re.ASCII
)
_ENGINE = re.compile(
    r"(?<!\S)([A-Z][A-Z0-9_]*?)(?:_FREQ|_LOAD)? "
    r"(?:off|(?:(\d+)%)?@\[([^\]]*)\]|(\d+)%(?:@(\d+))?|@(\d+)|(\d+))(?=\s|$)",
    re.ASCII,
)
_GPU, _MEMORY_CLOCK = "GR3D", "EMC"

_OFF = Absent("missed", "off")
_NOT_SAID = Absent("missed", "not in this line")


class Engine(NamedTuple):
    """An engine or clock of a line: its load in %, and its clocks in MHz, each `None` where not told."""

    load: int | None
    clocks: tuple[int | None, ...]


class Line(NamedTuple):
    """What a line says. Loads are relative to the clock of the moment (DRIVE OS, Reported Statistics)."""

    cores: tuple[tuple[int | None, int | None] | None, ...]
    """Load in % and clock in MHz of each core; `None`: the core is off."""
    engines: dict[str, Engine | None]
    """`None`: it is off."""
    temperatures: dict[str, float]
    rails: tuple[tuple[str, int], ...]
    """Power in mW as of now; the label NC may come twice."""
    rest: str
    """What no rule knows."""


def parse(text: str) -> Line:
    """Read a line of any JetPack; what isn't known stays in `rest`."""
    cores: list[tuple[int | None, int | None] | None] = []
    engines: dict[str, Engine | None] = {}
    temperatures: dict[str, float] = {}
    rails: list[tuple[str, int]] = []

    def cpus(found: re.Match[str]) -> str:
        for part in found[1].split(",")[:MAX_CORES]:
            core = _CORE.fullmatch(part.strip())
            clock = core and (core[2] or found[2])
            cores.append((int(core[1]), int(clock) if clock else None) if core else None)
        return " "

    def temperature(found: re.Match[str]) -> str:
        temperatures.setdefault(found[1], float(found[2]))
        return " "

    def rail(found: re.Match[str]) -> str:
        rails.append((found[1], int(found[2])))
        return " "

    def engine(found: re.Match[str]) -> str:
        name, load, several, plain_load, clock, bare, alone = found.groups()
        if several is not None:
            clocks = tuple(int(c) if c.strip().isdecimal() else None for c in several.split(","))
        else:
            one = clock or bare or alone
            clocks = (int(one),) if one else ()
        told = load or plain_load
        said_off = found[0].endswith(" off")
        engines.setdefault(name, None if said_off else Engine(int(told) if told else None, clocks))
        return " "

    rest = _TIME.sub(" ", text[:MAX_LINE].strip("\r\n"))
    for pattern, take in (
        (_MEMORY, " "),
        (_CPUS, cpus),
        (_MTS, " "),
        (_TEMPERATURE, temperature),
        (_RAIL, rail),
        (_ENGINE, engine),
    ):
        rest = pattern.sub(take, rest)
    return Line(tuple(cores), engines, temperatures, tuple(rails), " ".join(rest.split()))


def readings(line: Line) -> dict[str, tuple[str, Reading]]:
    """Return the channels of a line, as name → (unit, reading)."""
    found: dict[str, tuple[str, Reading]] = {}
    for name, prefix in ((_GPU, "gpu"), (_MEMORY_CLOCK, "emc")):
        if name not in line.engines:
            continue
        engine = line.engines[name] or Engine(None, ())
        if engine.load is not None:
            found[f"{prefix}_load"] = ("%", float(engine.load))
        told = [clock for clock in engine.clocks if clock is not None]
        if told:
            # A GPU's several clocks are one per cluster of multiprocessors; a gated cluster says 0.
            found[f"{prefix}_clock"] = ("MHz", mhz(max(told) * 1e6))
    for i, core in enumerate(line.cores):
        if core is None:
            found[f"cpu{i}_clock"] = ("MHz", _OFF)
        elif core[1] is not None:
            found[f"cpu{i}_clock"] = ("MHz", mhz(core[1] * 1e6))
    for label, degrees in line.temperatures.items():
        found.setdefault(f"temperature_{word(label)}", ("C", celsius(degrees * 1e3)))
    for label, milliwatts in line.rails:
        if label != "NC":
            found.setdefault(f"power_{word(label)}", ("W", watts(milliwatts * 1e3)))
    return found


class Tegrastats:
    """Listens to `tegrastats`; the first line decides which channels there are."""

    name = "tegrastats"
    rate_hz = 1e3 / INTERVAL_MS

    def __init__(self, argv: Sequence[str] = ("tegrastats", "--interval", str(INTERVAL_MS))) -> None:
        self._argv = argv
        self._stream: Stream | None = None
        self._unknown: str | None = None
        self.channels: tuple[ChannelSpec, ...] = ()

    @staticmethod
    def present() -> bool:
        """Tell whether the tool is here."""
        return shutil.which("tegrastats") is not None

    def read(self) -> Mapping[str, Reading]:
        """Wait for a line and return what it says."""
        first = self._stream is None
        if self._stream is None:
            self._stream = Stream(self._argv)
        said = self._stream.newest(START_S if first else 3 / self.rate_hz)
        if isinstance(said, Absent):
            return {spec.name: said for spec in self.channels}
        line = parse(said.decode(errors="replace"))
        told = readings(line)
        if first or not self.channels:
            self._unknown = line.rest
            self.channels = tuple(
                ChannelSpec(name, unit, f"tegrastats --interval {INTERVAL_MS}")
                for name, (unit, _) in told.items()
            )
        return {spec.name: told[spec.name][1] if spec.name in told else _NOT_SAID for spec in self.channels}

    def facts(self) -> Sequence[Fact]:
        """Tell what of its line no rule knew, as a number of words; a line may name anything."""
        if self._unknown is None:
            return [Fact(self.name, "unknown_words", "1", "missed", None, "no line was read")]
        return [Fact(self.name, "unknown_words", "1", "value", len(self._unknown.split()))]

    def counters(self) -> Mapping[str, tuple[str, int]]:
        """Read nothing: it counts nothing."""
        return {}

    def close(self) -> None:
        """End the tool."""
        if self._stream is not None:
            self._stream.close()
