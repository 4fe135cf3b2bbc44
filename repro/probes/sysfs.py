"""Small files of a kernel, read with patience, and what their numbers may mean.

A sensor that blocks costs its own reading, not the others: reading happens on a thread of its own. Where
a file does not answer in time, the thread is left behind with it, and the file is not asked again before
it has answered. A number that can't be true is a missed reading with its reason.
"""

from __future__ import annotations

import glob
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro.probes import NOT_HERE, Absent, ChannelSpec, Reading, absent
from repro.schema import Fact, Scalar

PATIENCE_S = 0.25
MAX_BYTES = 1 << 16

HIGHEST_HZ, _HIGHEST_W, _COLDEST_C, _HOTTEST_C = 20e9, 1000.0, -60.0, 150.0
_SENSOR_OFF_C = -256.0

BLOCKED = Absent("missed", "the file blocks")
NO_NUMBER = Absent("missed", "not a number")

Texts = dict[Path, "str | Absent"]


class Files:
    """Reads files; each that blocks is waited for once, and passed over until it has answered."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._stuck: dict[Path, _Pass] = {}

    def read(self, paths: Iterable[Path]) -> Texts:
        """Return the text of each file without what surrounds it, or why there is none."""
        self._stuck = {path: reader for path, reader in self._stuck.items() if reader.at == path}
        wanted = [path for path in dict.fromkeys(paths) if path not in self._stuck]
        texts: Texts = dict.fromkeys(self._stuck, BLOCKED)
        while wanted:
            reader = _Pass(wanted)
            reader.start()
            reader.join(self._patience_s)
            at = reader.at
            # Whatever is being read keeps its thread; what stands behind it gets another.
            reader.left = True
            texts.update(reader.found.copy())
            if at is not None and at not in texts:
                texts[at] = BLOCKED
                self._stuck[at] = reader
            wanted = [path for path in wanted if path not in texts]
        return texts

    def text(self, path: Path) -> str | Absent:
        """Return the text of one file."""
        return self.read([path])[path]

    def number(self, path: Path) -> Reading:
        """Return the number that one file holds."""
        return number(self.text(path))


class _Pass(threading.Thread):
    """One pass over some files; `at` is the one being read, `None` before the first and after the last."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__(daemon=True)
        self.found: Texts = {}
        self.at: Path | None = paths[0]
        self.left = False
        self._paths = paths

    def run(self) -> None:
        for path in self._paths:
            if self.left:
                break
            self.at = path
            self.found[path] = _read(path)
        self.at = None


def _read(path: Path) -> str | Absent:
    try:
        with path.open("rb", buffering=0) as file:
            data = file.read(MAX_BYTES) or b""
    except OSError as error:
        return absent(error)
    return data.decode(errors="replace").strip("\0 \t\r\n")


def number(text: str | Absent) -> Reading:
    """Return the number that a text is, in decimal or as 0x…; anything else was missed."""
    if isinstance(text, Absent):
        return text
    try:
        value = float(int(text, 0)) if text[:2].lower() == "0x" else float(text)
    except (ValueError, OverflowError):
        return NO_NUMBER
    return value if math.isfinite(value) else NO_NUMBER


class Source(NamedTuple):
    """A channel, the files that it is made of, and how."""

    spec: ChannelSpec
    paths: tuple[Path, ...]
    make: Callable[..., Reading]
    """Given the number of each file; called only where all were read."""

    def reading(self, texts: Mapping[Path, str | Absent]) -> Reading:
        """Return the channel's reading."""
        numbers = []
        for path in self.paths:
            value = number(texts[path])
            if isinstance(value, Absent):
                return value
            numbers.append(value)
        return self.make(*numbers)


class Sysfs:
    """Reads the channels that were found when it was made."""

    name: str
    rate_hz: float

    def __init__(self, root: Path, files: Files | None = None) -> None:
        self._root = root
        self._files = files or Files()
        self._sources = tuple(_apart(self.find()))
        self._none = {source.spec.name: source.make() for source in self._sources if not source.paths}
        self._paths = [path for source in self._sources for path in source.paths]
        self.channels: tuple[ChannelSpec, ...] = tuple(source.spec for source in self._sources)

    def find(self) -> Iterator[Source]:
        """Yield what can be read here; a channel whose source isn't here is yielded with the reason."""
        raise NotImplementedError

    def read(self) -> Mapping[str, Reading]:
        """Read all channels once."""
        texts = self._files.read(self._paths)
        return self._none | {
            source.spec.name: source.reading(texts) for source in self._sources if source.paths
        }

    def source(
        self,
        name: str,
        unit: str,
        path: Path | None,
        make: Callable[..., Reading],
        otherwise: Absent = NOT_HERE,
    ) -> Source:
        """Return a channel made of one file; without one it is absent for the reason `otherwise`."""
        if path is None:
            return Source(ChannelSpec(name, unit, "none found"), (), lambda: otherwise)
        return Source(ChannelSpec(name, unit, os.path.relpath(path, self._root)), (path,), make)

    def text(self, path: Path | None) -> str | Absent:
        """Return the text of a file that was found, or that none was."""
        return NOT_HERE if path is None else self._files.text(path)

    def label(self, path: Path) -> str:
        """Return a text that names something, "" where it can't be read."""
        text = self._files.text(path)
        return "" if isinstance(text, Absent) else text

    def fact(
        self, name: str, value: Scalar | Absent, unit: str | None = None, reason: str | None = None
    ) -> Fact:
        """Return a fact, which may carry where it comes from as its reason."""
        if isinstance(value, Absent):
            return Fact(self.name, name, unit, value.state, None, value.reason)
        return Fact(self.name, name, unit, "value", value, reason)


def _apart(sources: Iterable[Source]) -> Iterator[Source]:
    """Give channels names of their own: a board may call two sensors the same."""
    seen: dict[str, int] = {}
    for source in sources:
        name = source.spec.name
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            spec = msgspec.structs.replace(source.spec, name=f"{name}_{seen[name]}")
            source = source._replace(spec=spec)
        yield source


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return what is there of a pattern, sorted by number; what may not be looked into is passed over."""
    found = glob.glob(os.path.join(glob.escape(str(folder)), pattern))
    return sorted(map(Path, found), key=lambda path: (by_number(path), path))


def by_number(path: Path) -> int:
    """Return the number that a name ends in, to sort by."""
    digits = re.search(r"\d+$", path.name)
    return int(digits[0]) if digits else 0


def word(label: str) -> str:
    """Return a label as a part of a channel's name."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


# --- what a number may mean ---------------------------------------------------------------------


def mhz(value: Reading, divisor: float = 1e6) -> Reading:
    """Return a clock in MHz; 0 Hz is a clock that is off or not told, and no frequency."""
    if isinstance(value, Absent):
        return value
    if value == 0:
        return Absent("missed", "0 Hz")
    if not 0 < value / divisor * 1e6 <= HIGHEST_HZ:
        return Absent("missed", "an absurd clock")
    return value / divisor


def khz(value: float) -> Reading:
    """Return a clock in MHz from kHz."""
    return mhz(value, 1e3)


def permille(value: float) -> Reading:
    """Return a share in percent from thousandths."""
    return value / 10 if 0 <= value <= 1000 else Absent("missed", "an absurd share")


def load_of(activity: float, rate_hz: float) -> Reading:
    """Return the memory's load in percent: activity over its clock in kHz, as jetson-stats has it."""
    if rate_hz <= 0:
        return Absent("missed", "0 Hz")
    share = activity / (rate_hz / 1e3)
    return share if 0 <= share <= 100 else Absent("missed", "an absurd share")


def celsius(value: float) -> Reading:
    """Return a temperature from thousandths of a degree; a sensor that is switched off says -256 °C."""
    degrees = value / 1e3
    if degrees == _SENSOR_OFF_C:
        return Absent("missed", "the sensor is off (-256 °C)")
    return degrees if _COLDEST_C < degrees < _HOTTEST_C else Absent("missed", "an absurd temperature")


def watts(microwatts: float) -> Reading:
    """Return a power in W from µW."""
    if microwatts < 0:
        return Absent("missed", "a negative power")
    return microwatts / 1e6 if microwatts / 1e6 < _HIGHEST_W else Absent("missed", "an absurd power")


def milli_product(millivolts: float, milliamperes: float) -> Reading:
    """Return a power in W from mV and mA."""
    if millivolts < 0 or milliamperes < 0:
        return Absent("missed", "a negative power")
    return watts(millivolts * milliamperes)


def duty(value: float) -> Reading:
    """Return a fan's duty in percent from its 8-bit setting."""
    return 100 * value / 255 if 0 <= value <= 255 else Absent("missed", "an absurd share")


def counted(value: Reading) -> Reading:
    """Return a count as it is."""
    if isinstance(value, Absent):
        return value
    return value if value >= 0 else Absent("missed", "a negative count")


def any_set(*alarms: float) -> Reading:
    """Return 1 where any of some alarms is set, else 0."""
    return float(any(alarms)) if min(alarms) >= 0 else Absent("missed", "a negative count")
