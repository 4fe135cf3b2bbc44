"""Power modes of a Jetson: the board's table (`nvpmodel.conf`), and which module it is a table of.

A mode's number means nothing elsewhere (0 is MAXN on an AGX Orin and 15 W on an Orin Nano), so a mode
is its name and what it sets. Of tegra234 (Orin) it is known how many multiprocessors a mode leaves on.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)\s*>")
_DEFAULT = re.compile(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>")
_STATUS = re.compile(r"\bpmode:(\d+)")
_CONFIG_MODULE = re.compile(r"(p\d{4})[_-](\d{4})")
_MODULE = re.compile(r"p\d{4}-\d{4}")
_AS = re.compile(r"(p\d{4}-\d{4})-as-(p\d{4}-\d{4})")

ORIN_TPCS = 8
SMS_PER_TPC = 2
"""Multiprocessors of tegra234: 8 TPCs of 2 (2048 cores of the AGX Orin 64GB at 128 to one)."""

MODULES = {
    "p3701-0000": ("AGX Orin", 16),
    "p3701-0004": ("AGX Orin 32GB", 14),
    "p3701-0005": ("AGX Orin 64GB", 16),
    "p3701-0008": ("AGX Orin Industrial", 16),
    "p3767-0000": ("Orin NX 16GB", 8),
    "p3767-0001": ("Orin NX 8GB", 8),
    "p3767-0003": ("Orin Nano 8GB", 8),
    "p3767-0004": ("Orin Nano 4GB", 4),
    "p3767-0005": ("Orin Nano 8GB", 8),
}
"""Modules by part number: name, and multiprocessors that its data sheet names."""

_SERVES = {"p3701-0005": "p3701-0000", "p3701-0008": "p3701-0000", "p3767-0005": "p3767-0003"}
"""Modules that share the table of another one."""
_ONLY_IN = {"MODE_40W": "p3701-0004"}
"""A mode of the AGX family that one module's table has and no other."""


class Mode(NamedTuple):
    """A power mode; what it leaves as it is stands as `None`."""

    number: int
    name: str
    cores: int | None = None
    cpu_clock_max_khz: int | None = None
    gpu_clock_max_hz: int | None = None
    emc_clock_max_hz: int | None = None
    tpc_mask: int | None = None

    @property
    def sm_count(self) -> int | None:
        """Multiprocessors of tegra234 that this mode leaves on."""
        return None if self.tpc_mask is None else sm_count(self.tpc_mask)


class Table(NamedTuple):
    """The power modes of a board by number, and the one that it boots with."""

    modes: dict[int, Mode]
    default: int | None


class Emulation(NamedTuple):
    """That a module was flashed to behave like another one, and what says so."""

    module: str
    evidence: tuple[str, ...]


def parse(text: str) -> Table:
    """Read a table; lines that it does not know are passed over, and so is a mode named twice."""
    modes: dict[int, Mode] = {}
    current: Mode | None = None
    for line in text.splitlines():
        if "<" in line:
            found = _MODE.search(line)
            current = Mode(int(found[1]), found[2]) if found and int(found[1]) not in modes else None
        elif current is not None:
            current = _with(current, line.split())
        if current is not None:
            modes[current.number] = current
    default = _DEFAULT.search(text)
    return Table(modes, int(default[1]) if default else None)


def _with(mode: Mode, words: list[str]) -> Mode:
    """Return `mode` with one line of its body; a cap of 0 or -1 is none."""
    try:
        what, argument, value = words[0], words[1], int(words[2], 0)
    except (IndexError, ValueError):
        return mode
    if what == "CPU_ONLINE":
        return mode._replace(cores=(mode.cores or 0) + (value == 1))
    if argument == "TPC_PG_MASK" and value >= 0:
        return mode._replace(tpc_mask=value)
    if argument == "MAX_FREQ" and value > 0:
        if what.startswith("CPU"):
            return mode._replace(cpu_clock_max_khz=max(value, mode.cpu_clock_max_khz or 0))
        if what == "GPU":
            return mode._replace(gpu_clock_max_hz=value)
        if what == "EMC":
            return mode._replace(emc_clock_max_hz=value)
    return mode


def current(status: str) -> int | None:
    """Return the number of the mode in /var/lib/nvpmodel/status."""
    found = _STATUS.search(status)
    return int(found[1]) if found else None


def sm_count(tpc_mask: int) -> int | None:
    """Return the multiprocessors of tegra234 that are left by a mask of TPCs that are off."""
    if not 0 <= tpc_mask < 1 << ORIN_TPCS:
        return None
    return SMS_PER_TPC * (ORIN_TPCS - tpc_mask.bit_count())


def module(compatible: str) -> str | None:
    """Return the part number of the module that the device tree names, the physical one."""
    if found := _AS.search(compatible):
        return found[1]
    # "p3737-0000+p3701-0005": the carrier board stands before the module.
    names = _MODULE.findall(compatible)
    return next((name for name in reversed(names) if name in MODULES), None)


def emulation(compatible: str, config: str | None, table: Table | None) -> Emulation | None:
    """Return which other module this one emulates, as the device tree or the table of modes says.

    L4T's own test is "-as-" in `compatible`. A board may carry another module's table without it. That
    table's widest mode then leaves fewer multiprocessors on than the module has.
    """
    own = module(compatible)
    found: dict[str, list[str]] = {}
    if said := _AS.search(compatible):
        found.setdefault(said[2], []).append(f"the device tree says {said[0]}")
    table_of = _CONFIG_MODULE.search(config or "")
    by_name = f"{table_of[1]}-{table_of[2]}" if table_of else None
    if by_name and own and by_name != _SERVES.get(own, own):
        found.setdefault(by_name, []).append(f"the table of power modes is {config}")
    modes = table.modes.values() if table else ()
    for mode in modes:
        only = _ONLY_IN.get(mode.name)
        if only and own and own != only and own.startswith("p3701"):
            found.setdefault(only, []).append(f"its table has {mode.name}, which is of {only} only")
    if not found:
        return None
    target, evidence = next(iter(found.items()))
    widest = max((mode.sm_count or 0 for mode in modes), default=0)
    if own in MODULES and 0 < widest < MODULES[own][1]:
        evidence.append(f"its table leaves on at most {widest} of the {MODULES[own][1]} SMs of {own}")
    return Emulation(target, tuple(evidence))
