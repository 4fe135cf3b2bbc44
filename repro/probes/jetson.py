"""The probes `jetson` and `jetson_power`: the state of a Jetson board as its kernel tells it, without jtop.

JetPack 5, 6 and 7 name and place things differently; nothing is taken for granted that can be found.
Clocks, caps and throttling alerts are cheap and read at 10 Hz. Power monitors average in hardware over
hundreds of milliseconds, and they and the thermal zones are reached through other chips: they are a
probe of their own at 2 Hz, so that a sensor which is slow or blocks costs no reading of a clock.

What a board can't have told (0 Hz, a negative power, -256 °C for a sensor that is off) is a missed
reading with its reason and never a number. Needs root for the memory clock and the clock that the GPU
itself counts; without, they are `denied`. `root` is where the board's /sys and /etc are.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from repro.probes import NOT_HERE, Absent, ChannelSpec, nvpmodel
from repro.probes.sysfs import (
    HIGHEST_HZ,
    Source,
    Sysfs,
    by_number,
    counted,
    khz,
    load_of,
    matching,
    mhz,
    number,
    permille,
    word,
)
from repro.schema import Fact

BOARD = Path("/board")
"""Where a container finds the board's paths; mounted there read-only."""
BOARD_VARIABLE = "TRT_REPRO_BOARD"
"""Names the folder that holds the board's paths, where it is neither / nor /board."""

JETPACKS = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
}
"""JetPack by L4T, from jetson-stats' table of both (`jetson_variables.py`)."""

_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")
_GPU_NODE = re.compile(r"gpu|ga10b|gv11b|gp10b")
_DEBUG_CLOCKS = "sys/kernel/debug/bpmp/debug/clk"
_CPUS = "sys/devices/system/cpu"

ELSEWHERE = "another folder"
"""Told in place of the path of a board's files that are neither this machine's nor a container's."""
MODE_CONTENT = "mode_"
"""Begins the names of the facts that say what the power mode sets."""

_NO_GPU = Absent("unsupported", "no GPU among the devfreq nodes")
_NO_CAP = Absent("unsupported", "this mode sets none")


def root() -> Path:
    """Return where the board's paths are: below a named folder, below /board, or as they are."""
    if named := os.environ.get(BOARD_VARIABLE):
        return Path(named).absolute()
    return BOARD if os.path.isdir(BOARD / "sys/class") else Path("/")


def present(root: Path) -> bool:
    """Tell whether this is a Jetson."""
    if os.path.isfile(root / "etc/nv_tegra_release"):
        return True
    return "nvidia,tegra" in _plain(root / "sys/firmware/devicetree/base/compatible")


def _plain(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


class Jetson(Sysfs):
    """Clocks, caps and throttling alerts of the board, and what the board is."""

    name = "jetson"
    rate_hz = 10.0

    def find(self) -> Iterator[Source]:
        """Find GPU, memory and CPU clusters, and what may throttle them."""
        self._node = _gpu_node(self._root)
        self._device = self._node and Path(os.path.realpath(self._node / "device"))
        aliases = (self._root / "sys/devices/gpu.0", self._root / "sys/devices/platform/gpu.0")
        self._gpu_folders = [*([self._device] if self._device else []), *aliases]
        node = self._node
        yield self.source("gpu_clock", "MHz", node and node / "cur_freq", mhz, _NO_GPU)
        yield self.source("gpu_clock_cap", "MHz", node and node / "max_freq", mhz, _NO_GPU)
        yield self.source("gpu_load", "%", self._of_gpu("load"), permille, _NO_GPU)
        clocks = self._root / _DEBUG_CLOCKS
        gpcs = matching(clocks, "nafll_gpc*/pto_counter") or [clocks / "nafll_gpc0/pto_counter"]
        for path in gpcs:
            yield self.source(f"gpu_{path.parent.name.removeprefix('nafll_')}_clock", "MHz", path, mhz)
        rate = self._emc("rate", "cur_freq")
        yield self.source("emc_clock", "MHz", rate, mhz)
        activity = self._first("sys/kernel/actmon_avg_activity/mc_all", "sys/kernel/debug/cactmon/mc_all")
        if activity is None:
            yield self.source("emc_load", "%", None, mhz)
        else:
            told = f"{os.path.relpath(activity, self._root)} over the EMC's rate in kHz"
            yield Source(ChannelSpec("emc_load", "%", told), (activity, rate), load_of)
        self._clusters = _clusters(self._root)
        for first, folder in self._clusters.items():
            yield self.source(f"cpu{first}_clock", "MHz", folder / "scaling_cur_freq", khz)
        for device in matching(self._root / "sys/class/thermal", "cooling_device*"):
            kind = self.label(device / "type")
            if kind.endswith("-throttle-alert"):
                name = word(kind.removesuffix("-throttle-alert"))
                yield self.source(f"throttle_{name}", "1", device / "cur_state", counted)
            elif kind.endswith("-alert"):  # Of a hot surface, say: it warns, and holds nothing down.
                name = word(kind.removesuffix("-alert"))
                yield self.source(f"alert_{name}", "1", device / "cur_state", counted)

    def facts(self) -> Sequence[Fact]:
        """Read what the board is, its power mode, and everything that was set on it."""
        base = self._root / "sys/firmware/devicetree/base"
        compatible = self.text(base / "compatible")
        names = "" if isinstance(compatible, Absent) else " ".join(compatible.split("\0"))
        release = self.text(self._root / "etc/nv_tegra_release")
        fact = self.fact
        found = [
            fact("read_below", str(self._root) if self._root in (Path("/"), BOARD) else ELSEWHERE),
            fact("model", self.text(base / "model")),
            fact("compatible", compatible if isinstance(compatible, Absent) else names),
            *self._release(release),
            *self._modes(names),
            fact("gpu_node", self._node.name if self._node else _NO_GPU),
            fact("gpu_governor", self.text(self._node and self._node / "governor")),
            fact("gpu_clock_min", self._clock(self._node and self._node / "min_freq"), "MHz"),
            fact("gpu_clock_max", self._clock(self._node and self._node / "max_freq"), "MHz"),
            fact("gpu_clock_highest", self._gpu_highest(), "MHz"),
            fact("gpu_railgating", self._switch(self._of_gpu("railgate_enable"))),
            fact("gpu_3d_scaling", self._switch(self._of_gpu("enable_3d_scaling"))),
            fact("emc_clock_max", self._clock(self._emc("max_rate", "max_freq")), "MHz"),
            fact("emc_clock_cap", self._emc_cap(), "MHz"),
            fact("emc_locked", self._switch(self._emc("mrq_rate_locked", "mrq_rate_locked"))),
            fact("cores_online", self.text(self._root / _CPUS / "online")),
        ]
        for first, folder in self._clusters.items():
            found.append(fact(f"cpu{first}_governor", self.text(folder / "scaling_governor")))
            found.append(fact(f"cpu{first}_clock_max", self._clock(folder / "scaling_max_freq", 1e3), "MHz"))
        found.append(self._jetson_clocks())
        return found

    def counters(self) -> Mapping[str, tuple[str, int]]:
        """Read nothing: `jetson_power` reads what the board counts."""
        return {}

    def _release(self, told: str | Absent) -> Iterator[Fact]:
        first = told if isinstance(told, Absent) else told.partition("\n")[0]
        yield self.fact("nv_tegra_release", first)
        found = None if isinstance(first, Absent) else _RELEASE.match(first)
        if not found:
            why = first if isinstance(first, Absent) else Absent("missed", "not in the known form")
            yield self.fact("l4t", why)
            yield self.fact("jetpack", why)
            return
        l4t = f"{found[1]}.{found[2]}"
        yield self.fact("l4t", l4t)
        yield self.fact("jetpack", JETPACKS.get(l4t, Absent("unsupported", "not in the kit's table")))

    def _modes(self, compatible: str) -> Iterator[Fact]:
        """Yield the power mode by name and content, what it leaves of the GPU, and which module this is."""
        config, text = self._config()
        table = None if isinstance(text, Absent) else nvpmodel.parse(text)
        status = self.text(self._root / "var/lib/nvpmodel/status")
        number = None if isinstance(status, Absent) else nvpmodel.current(status)
        mode: nvpmodel.Mode | Absent
        if isinstance(status, Absent):
            mode = status
        elif number is None:
            mode = Absent("missed", "the status file names no mode")
        elif table is None or number not in table.modes:
            mode = Absent("missed", f"the status names mode {number}, which is not in the table")
        else:
            mode = table.modes[number]
        yield self.fact("power_mode", mode if isinstance(mode, Absent) else mode.name)
        yield self.fact("power_mode_number", Absent("missed", "not read") if number is None else number)
        default = table.modes.get(table.default) if table and table.default is not None else None
        yield self.fact("power_mode_default", default.name if default else _NO_CAP)
        yield self.fact("power_modes", _listed(table) if table and table.modes else _unread(text))
        yield self.fact("power_mode_table", config or _unread(text))
        content = {
            "cores": ("1", None if isinstance(mode, Absent) else mode.cores, 1),
            "cpu_clock_max": ("MHz", None if isinstance(mode, Absent) else mode.cpu_clock_max_khz, 1e3),
            "gpu_clock_max": ("MHz", None if isinstance(mode, Absent) else mode.gpu_clock_max_hz, 1e6),
            "emc_clock_max": ("MHz", None if isinstance(mode, Absent) else mode.emc_clock_max_hz, 1e6),
            "tpc_mask": ("1", None if isinstance(mode, Absent) else mode.tpc_mask, 1),
        }
        for name, (unit, value, divisor) in content.items():
            why = mode if isinstance(mode, Absent) else _NO_CAP
            told = why if value is None else value if divisor == 1 else value / divisor
            yield self.fact(f"{MODE_CONTENT}{name}", told, unit)
        yield self._sm_count(compatible, mode)
        own = nvpmodel.module(compatible)
        yield self.fact("module", own or Absent("unsupported", "the device tree names no known module"))
        named = nvpmodel.MODULES[own][0] if own in nvpmodel.MODULES else None
        yield self.fact("module_name", named or Absent("unsupported", "not in the kit's table"))
        emulated = nvpmodel.emulation(compatible, config, table)
        if emulated is None:
            yield self.fact(
                "emulated", Absent("unsupported", "nothing says that this module emulates another")
            )
        else:
            name = nvpmodel.MODULES.get(emulated.module, (emulated.module, 0))[0]
            yield self.fact("emulated", f"{name} ({emulated.module})", reason="; ".join(emulated.evidence))

    def _sm_count(self, compatible: str, mode: nvpmodel.Mode | Absent) -> Fact:
        if "tegra234" not in compatible:
            why = Absent("unsupported", "known of tegra234 (Orin) only")
            return self.fact("sm_count", why, "1")
        mask = number(self.text(self._of_gpu("tpc_pg_mask")))
        source = "derived from tpc_pg_mask"
        if isinstance(mask, Absent) and not isinstance(mode, Absent) and mode.tpc_mask is not None:
            mask, source = float(mode.tpc_mask), "derived from the power mode's mask of TPCs"
        if isinstance(mask, Absent):
            return self.fact("sm_count", mask, "1")
        count = nvpmodel.sm_count(int(mask))
        return self.fact("sm_count", count or Absent("missed", f"a mask of {mask:g}"), "1", source)

    def _config(self) -> tuple[str | None, str | Absent]:
        """Return name and text of the table of modes; the name is the link's target, or its like's."""
        link = self._root / "etc/nvpmodel.conf"
        name: str | None = None
        with contextlib.suppress(OSError):
            name = link.readlink().name
        folder = self._root / "etc/nvpmodel"
        # The link is absolute: below another root it would lead out of it.
        text = self.text(folder / name if name else link)
        if name is None and not isinstance(text, Absent):
            # A container sees the file, not the link; the one that it was made from has the same text.
            same = [path.name for path in matching(folder, "*.conf") if self.label(path) == text]
            name = same[0] if len(same) == 1 else None
        return name, text

    def _jetson_clocks(self) -> Fact:
        """Say whether clocks are held; there is no such state to read, only what it does."""
        pairs = [(self._node / "min_freq", self._node / "max_freq")] if self._node else []
        pairs += [(f / "scaling_min_freq", f / "scaling_max_freq") for f in self._clusters.values()]
        texts = self._files.read([path for pair in pairs for path in pair])
        held = []
        for low, high in pairs:
            least, most = number(texts[low]), number(texts[high])
            if isinstance(least, Absent) or isinstance(most, Absent):
                return self.fact("jetson_clocks", least if isinstance(least, Absent) else most)
            held.append(least == most)
        if not held:
            return self.fact("jetson_clocks", _NO_GPU)
        value = "on" if all(held) else "in part" if any(held) else "off"
        return self.fact(
            "jetson_clocks", value, reason="derived: lowest equals highest clock of GPU and CPU clusters"
        )

    def _gpu_highest(self) -> float | Absent:
        told = self.text(self._node and self._node / "available_frequencies")
        if isinstance(told, Absent):
            return told
        clocks = [mhz(number(word)) for word in told.split()]
        return max((clock for clock in clocks if not isinstance(clock, Absent)), default=NOT_HERE)

    def _emc_cap(self) -> float | Absent:
        cap = self._first("sys/kernel/nvpmodel_clk_cap/emc", "sys/kernel/nvpmodel_emc_cap/emc_iso_cap")
        value = number(self.text(cap))
        return _NO_CAP if value == 0 or (not isinstance(value, Absent) and value > HIGHEST_HZ) else mhz(value)

    def _clock(self, path: Path | None, divisor: float = 1e6) -> float | Absent:
        return mhz(number(self.text(path)), divisor)

    def _switch(self, path: Path | None) -> str | Absent:
        value = number(self.text(path))
        return value if isinstance(value, Absent) else "on" if value else "off"

    def _emc(self, orin: str, thor: str) -> Path:
        """Return a file of the memory's clock: the BPMP's, or a devfreq node's where there is one."""
        node = self._root / "sys/class/devfreq/bwmgr"
        return node / thor if os.path.exists(node) else self._root / _DEBUG_CLOCKS / "emc" / orin

    def _of_gpu(self, name: str) -> Path | None:
        paths = [folder / name for folder in self._gpu_folders]
        return next((path for path in paths if os.path.exists(path)), None)

    def _first(self, *names: str) -> Path | None:
        paths = [self._root / name for name in names]
        return next((path for path in paths if os.path.exists(path)), None)


def _gpu_node(root: Path) -> Path | None:
    """Return the GPU's devfreq node: by its own name, or by its device's in the device tree."""
    nodes = matching(root / "sys/class/devfreq", "*")
    named = [node for node in nodes if _GPU_NODE.search(node.name)]
    if not named:
        named = [n for n in nodes if _GPU_NODE.search(_plain(n / "device/of_node/name"))]
    return named[0] if named else None


def _clusters(root: Path) -> dict[int, Path]:
    """Return the folder of each group of cores that share a clock, by its first core."""
    policies = {by_number(p): p for p in matching(root / _CPUS / "cpufreq", "policy*")}
    folders = policies or {by_number(p.parent): p for p in matching(root / _CPUS, "cpu[0-9]*/cpufreq")}
    return dict(sorted(folders.items()))


def _listed(table: nvpmodel.Table) -> str:
    return ", ".join(f"{mode.number} {mode.name}" for mode in table.modes.values())


def _unread(text: str | Absent) -> Absent:
    return text if isinstance(text, Absent) else Absent("missed", "not in the known form")
