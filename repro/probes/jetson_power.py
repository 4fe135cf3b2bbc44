"""The probe `jetson_power`: power by rail, temperatures, fan and over-current events of a Jetson board.

Apart from `jetson`, because power monitors and thermal zones are slower: the monitors average in hardware
over hundreds of milliseconds (a fact says over how long), and both are reached through other chips. A
sensor that is slow or blocks so costs no reading of a clock.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from repro.probes import Absent, ChannelSpec
from repro.probes.sysfs import (
    Files,
    Source,
    Sysfs,
    any_set,
    celsius,
    counted,
    duty,
    matching,
    milli_product,
    number,
    watts,
    word,
)
from repro.schema import Fact

OVER_CURRENT = {1: "under_voltage", 2: "average_over_current", 3: "instantaneous_over_current"}
"""What the counters of `soctherm_oc` count on Orin (Jetson Linux Developer Guide)."""
_MONITORS = ("ina3221", "ina238")
_INPUTS = (1, 2, 3)


class JetsonPower(Sysfs):
    """Power by rail, temperatures, fan, and over-current events."""

    name = "jetson_power"
    rate_hz = 2.0

    def find(self) -> Iterator[Source]:
        """Find power monitors, thermal zones, fan and counters."""
        self._chips = list(self._monitors())
        for chip in self._chips:
            for k, label in self._inputs(chip):
                name = word(label)
                alarms = [
                    path
                    for kind in ("", "_max", "_crit")
                    if os.path.exists(path := chip / f"curr{k}{kind}_alarm")
                ]
                power = chip / f"power{k}_input"
                if os.path.exists(power):
                    yield self.source(f"power_{name}", "W", power, watts)
                else:
                    told = f"{os.path.relpath(chip, self._root)}: in{k}_input × curr{k}_input"
                    paths = (chip / f"in{k}_input", chip / f"curr{k}_input")
                    yield Source(ChannelSpec(f"power_{name}", "W", told), paths, milli_product)
                if alarms:
                    told = f"{os.path.relpath(chip, self._root)}: curr{k} alarms"
                    yield Source(ChannelSpec(f"over_current_{name}", "1", told), tuple(alarms), any_set)
        zones = matching(self._root / "sys/class/thermal", "thermal_zone*")
        zones = zones or matching(self._root / "sys/devices/virtual/thermal", "thermal_zone*")
        for zone in zones:
            kind = self.label(zone / "type")
            name = word(re.sub(r"[-_](therm|thermal|tegra)$", "", kind)) or zone.name
            yield self.source(f"temperature_{name}", "C", zone / "temp", celsius)
        fans = {name: folder for folder in self._hwmon() if (name := self.label(folder / "name"))}
        pwm, tach = fans.get("pwmfan"), fans.get("pwm_tach") or fans.get("pwmfan")
        yield self.source("fan_duty", "%", pwm and pwm / "pwm1", duty)
        speed = tach and next((tach / f for f in ("rpm", "fan1_input") if os.path.exists(tach / f)), None)
        yield self.source("fan_speed", "rpm", speed or None, counted)
        for k, path in _event_counters(self._root, self._files).items():
            yield self.source(f"{OVER_CURRENT[k]}_events", "1", path, counted)

    def facts(self) -> Sequence[Fact]:
        """Read over how long each power monitor averages, and where its alarms stand."""
        found = []
        for chip in self._chips:
            monitor = word(_address(chip))
            for name, unit in (("samples", "1"), ("update_interval", "ms")):
                value = counted(self._files.number(chip / name))
                found.append(self.fact(f"{monitor}_{name}", value, unit))
            for k, label in self._inputs(chip):
                for kind in ("max", "crit"):
                    value = counted(self._files.number(chip / f"curr{k}_{kind}"))
                    found.append(self.fact(f"current_{kind}_{word(label)}", value, "mA"))
        for k, path in _event_counters(self._root, self._files).items():
            value = number(self.text(path.with_name(f"oc{k}_throt_en")))
            told = value if isinstance(value, Absent) else "on" if value else "off"
            found.append(self.fact(f"{OVER_CURRENT[k]}_throttling", told))
        return found

    def counters(self) -> Mapping[str, tuple[str, int]]:
        """Read the kernel's counts of under-voltage and over-current events."""
        found = {}
        for k, path in _event_counters(self._root, self._files).items():
            value = counted(self._files.number(path))
            if not isinstance(value, Absent):
                found[f"{OVER_CURRENT[k]}_events"] = ("1", int(value))
        return found

    def _hwmon(self) -> list[Path]:
        return matching(self._root / "sys/class/hwmon", "hwmon*")

    def _monitors(self) -> Iterator[Path]:
        folders = matching(self._root / "sys/bus/i2c/devices", "*/hwmon/hwmon*")
        seen = set()
        for folder in [*folders, *self._hwmon()]:
            where = os.path.realpath(folder)
            if where not in seen and self.label(folder / "name") in _MONITORS:
                seen.add(where)
                yield folder

    def _inputs(self, chip: Path) -> Iterator[tuple[int, str]]:
        """Yield number and label of the inputs that something is connected to."""
        for k in _INPUTS:
            if not os.path.exists(chip / f"curr{k}_input"):
                continue
            label = self.label(chip / f"in{k}_label") or ("VIN" if k == 1 else "")
            if label and label != "NC":
                yield k, label


def _event_counters(root: Path, files: Files) -> dict[int, Path]:
    for folder in matching(root / "sys/class/hwmon", "hwmon*"):
        if files.text(folder / "name") == "soctherm_oc":
            paths = {k: folder / f"oc{k}_event_cnt" for k in OVER_CURRENT}
            return {k: path for k, path in paths.items() if os.path.exists(path)}
    return {}


def _address(chip: Path) -> str:
    """Return what tells a monitor from the others: its address on the bus, or its hwmon's number."""
    device = chip.parent.parent.name
    return f"monitor_{device}" if re.fullmatch(r"\d+-[0-9a-f]{4}", device) else f"monitor_{chip.name}"
