"""The probe `jtop`: what the service of jetson-stats says, through a process of its own.

jetson-stats is licensed under the AGPL-3.0, changes how the whole process starts others, and hands root
on the board to whoever can write to its socket. So the kit never imports it: `jtop_client.py` does, in a
process apart, where it is installed (extra `jtop`). Socket and group are looked at before that starts,
and the version before it connects. The service forks nvpmodel on every tick, so one tick a second is
asked for; a client that came first has its way, and the rate is what the service says it is.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.probes import Absent, ChannelSpec, Reading, absent
from repro.probes.stream import Stream
from repro.probes.sysfs import celsius, khz, watts, word
from repro.schema import Fact, Scalar

SOCKET = "run/jtop.sock"
CLIENT = Path(__file__).with_name("jtop_client.py")
PYTHON_VARIABLE = "TRT_REPRO_JTOP_PYTHON"
"""Names the Python that has jetson-stats, where it isn't the kit's own."""
CONNECT_S = 10.0

_STATES = ("unsupported", "denied", "missed")
_NOT_SAID = Absent("missed", "the service did not say")
_ON_OFF = {"True": "on", "False": "off"}
_OFFLINE = Absent("missed", "the sensor is off")


def problem(path: Path) -> Absent | None:
    """Return why nobody need try to connect to the socket `path`."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        found = absent(error)
        return Absent("unsupported", "no jtop service here") if found.state == "unsupported" else found
    if not stat.S_ISSOCK(mode):
        # Docker makes a folder of what it is to mount and doesn't find.
        return Absent("unsupported", "there is no service behind /run/jtop.sock: it is no socket")
    if not os.access(path, os.R_OK | os.W_OK):
        return Absent("denied", "no permission for the jtop service (not in its group)")
    return None


class Jtop:
    """Listens to the jtop service; the first sample decides which channels there are."""

    name = "jtop"

    def __init__(self, root: Path = Path("/"), python: str | None = None) -> None:
        self.rate_hz = 1.0
        self.channels: tuple[ChannelSpec, ...] = (_spec("gpu_clock", "MHz"),)
        self._socket = root / SOCKET
        self._python = python or os.environ.get(PYTHON_VARIABLE) or sys.executable
        self._stream: Stream | None = None
        self._ended: Absent | None = None
        self._said: dict[str, Any] = {}
        self._hello: dict[str, Any] = {}

    def read(self) -> Mapping[str, Reading]:
        """Wait for the service's next sample and return it."""
        told = self._next()
        if isinstance(told, Absent):
            return {spec.name: told for spec in self.channels}
        self._said = told
        values = dict(_readings(told))
        if len(self.channels) < 2:
            self.channels = tuple(_spec(name, unit) for name, (unit, _) in values.items())
        return {
            spec.name: values[spec.name][1] if spec.name in values else _NOT_SAID for spec in self.channels
        }

    def facts(self) -> Sequence[Fact]:
        """Tell which service it was and what it says of the board."""
        hardware = self._hello.get("hardware", {})
        told: dict[str, Scalar | None] = {
            "version": self._hello.get("version"),
            "interval": self._hello.get("interval"),
            "power_mode": self._said.get("power_mode"),
            "jetson_clocks": _ON_OFF.get(str(self._said.get("jetson_clocks"))),
            **{word(key): hardware.get(key) for key in ("Model", "Module", "SoC", "L4T", "Jetpack")},
        }
        why = self._ended or _NOT_SAID
        return [
            Fact(self.name, name, "s" if name == "interval" else None, "value", value)
            if isinstance(value, (str, int, float))
            else Fact(self.name, name, None, why.state, None, why.reason)
            for name, value in told.items()
        ]

    def counters(self) -> Mapping[str, tuple[str, int]]:
        """Read nothing: the service counts nothing."""
        return {}

    def close(self) -> None:
        """End the process that listens."""
        if self._stream is not None:
            self._stream.close()

    def _next(self) -> dict[str, Any] | Absent:
        """Return the next sample, starting the client for the first one."""
        if self._ended is None and self._stream is None:
            self._ended = problem(self._socket)
        if self._ended is not None:
            # Answering at once would have the sampler ask again at once.
            if self._stream is not None:
                self._stream.line(1 / self.rate_hz)
            return self._ended
        if self._stream is None:
            self._stream = Stream([self._python, str(CLIENT)])
            hello = self._told(self._stream.line(CONNECT_S))
            if isinstance(hello, Absent):
                return hello
            self._hello = _dict(hello.get("hello"))
            interval = self._hello.get("interval")
            if isinstance(interval, (int, float)) and 0 < interval < 60:
                self.rate_hz = 1 / interval
        message = self._told(self._stream.newest(3 / self.rate_hz + 1))
        if isinstance(message, Absent):
            return message
        sample = message.get("sample")
        return sample if isinstance(sample, dict) else _NOT_SAID

    def _told(self, line: bytes | Absent) -> dict[str, Any] | Absent:
        """Return a message of the client; one that ends the conversation is remembered."""
        if isinstance(line, Absent):
            return line
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            return Absent("missed", "a garbled line")
        if "absent" in message:
            state, reason = message["absent"]
            self._ended = Absent(state if state in _STATES else "missed", str(reason))
            return self._ended
        return message


def _spec(name: str, unit: str) -> ChannelSpec:
    return ChannelSpec(name, unit, "the jtop service")


def _readings(sample: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, Reading]]]:
    """Yield the channels of a sample; the service's units are kHz, mW, °C and %."""
    for gpu in _dicts(sample.get("gpu")):
        clocks, status = _dict(gpu.get("freq")), _dict(gpu.get("status"))
        yield "gpu_clock", ("MHz", _number(clocks.get("cur"), khz))
        yield "gpu_clock_cap", ("MHz", _number(clocks.get("max"), khz))
        yield "gpu_load", ("%", _number(status.get("load")))
        for i, clock in enumerate(clocks.get("GPC") or ()):
            yield f"gpu_gpc{i}_clock", ("MHz", _number(clock, khz))
        break
    if emc := _dict(sample.get("emc")):
        yield "emc_clock", ("MHz", _number(emc.get("cur"), khz))
        yield "emc_load", ("%", _number(emc.get("val")))
    for i, core in enumerate(sample.get("cpu") or ()):
        off = not _dict(core).get("online")
        clock = _dict(_dict(core).get("freq")).get("cur")
        yield f"cpu{i}_clock", ("MHz", Absent("missed", "off") if off else _number(clock, khz))
    power = _dict(sample.get("power"))
    for label, rail in _dict(power.get("rail")).items():
        yield f"power_{word(label)}", ("W", _milliwatts(_dict(rail)))
    # The rail of the input, where the board has one; elsewhere the sum of all, which is no reading.
    if (total := _dict(power.get("tot"))) and "name" in total:
        yield f"power_{word(str(total['name']))}", ("W", _milliwatts(total))
    for label, sensor in _dict(sample.get("temperature")).items():
        told = _dict(sensor)
        degrees = _number(told.get("temp"), lambda value: celsius(value * 1e3))
        yield f"temperature_{word(label)}", ("C", degrees if told.get("online") else _OFFLINE)
    for fan in _dicts(sample.get("fan")):
        for key, name, unit in (("speed", "fan_duty", "%"), ("rpm", "fan_speed", "rpm")):
            for value in (fan.get(key) or ())[:1]:
                yield name, (unit, _number(value))
        break


def _milliwatts(rail: Mapping[str, Any]) -> Reading:
    return (
        _number(rail.get("power"), lambda value: watts(value * 1e3)) if rail.get("online", True) else _OFFLINE
    )


def _number(value: Any, make: Any = float) -> Reading:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _NOT_SAID
    reading: Reading = make(value)
    return reading


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in _dict(value).values() if isinstance(each, dict)]
