"""Made-up Jetson boards as trees of files: what the kit and a real jtop service find on a board.

Layouts and values follow public output of such boards, or are typed in; none was copied from a board.
`python -m tests.boards.trees NAME ROOT` lays one. Nothing reacts to a write: no governor moves a clock.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple


class Mode(NamedTuple):
    """A power mode: cores, caps of CPU (kHz), GPU and EMC (Hz; -1 and 0 are none), and TPCs that are off."""

    name: str
    cores: int
    cpu: int
    gpu: int
    tpc_mask: int
    emc: int


Input = tuple[str, int, int]


class Board(NamedTuple):
    """A made-up board in one power mode."""

    jetpack: int
    model: str
    compatible: tuple[str, ...]
    release: str
    config: str
    modes: tuple[Mode, ...]
    default: int
    mode: int
    cores: int
    gpu_clocks: tuple[int, ...]
    """What the GPU can be clocked at, in Hz; the cap is the mode's."""
    rails: dict[str, tuple[Input, ...]]
    """By address on the bus: label, mV and mA of each input."""
    zones: tuple[tuple[str, int], ...]
    debugfs: bool = True


AGX_64_MODES = (
    Mode("MAXN", 12, -1, -1, 0, 0),
    Mode("MODE_15W", 4, 1113600, 408000000, 248, 2133000000),
    Mode("MODE_30W", 8, 1728000, 612000000, 240, 0),
    Mode("MODE_50W", 12, 1497600, 816000000, 0, 0),
)
AGX_32_MODES = (
    Mode("MAXN", 8, -1, -1, 128, 0),
    Mode("MODE_15W", 4, 1113600, 408000000, 248, 2133000000),
    Mode("MODE_30W", 8, 1728000, 612000000, 240, 0),
    Mode("MODE_40W", 8, 1497600, 816000000, 128, 0),
)
NANO_MODES = (
    Mode("15W", 6, -1, -1, 240, 2133000000),
    Mode("7W", 4, 960000, 408000000, 240, 2133000000),
)
AGX_CLOCKS = (
    306000000,
    408000000,
    510000000,
    612000000,
    714000000,
    816000000,
    918000000,
    1020000000,
    1122000000,
    1224000000,
    1300500000,
)
AGX_RAILS: dict[str, tuple[Input, ...]] = {
    "1-0040": (("VDD_GPU_SOC", 19904, 160), ("VDD_CPU_CV", 19904, 40), ("VIN_SYS_5V0", 5016, 704)),
    "1-0041": (("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5016, 96), ("NC", 0, 0)),
}
ZONES_JP5 = (
    ("CPU-therm", 48156),
    ("GPU-therm", 44437),
    ("CV0-therm", -256000),
    ("SOC0-therm", 46000),
    ("tj-therm", 48156),
    ("Tboard_tegra", 35000),
)
ZONES_JP6 = (
    ("cpu-thermal", 52562),
    ("gpu-thermal", 49000),
    ("cv0-thermal", -256000),
    ("soc0-thermal", 49093),
    ("tj-thermal", 52562),
)
JP5 = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 2023"
JP6 = "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64, DATE: made up"
JP7 = "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: made up"

_AGX = Board(
    jetpack=5,
    model="Jetson AGX Orin Developer Kit",
    compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
    release=JP5,
    config="nvpmodel_p3701_0000.conf",
    modes=AGX_64_MODES,
    default=2,
    mode=2,
    cores=12,
    gpu_clocks=AGX_CLOCKS,
    rails=AGX_RAILS,
    zones=ZONES_JP5,
)
_THREAD = _AGX._replace(
    model="Jetson AGX Orin",
    compatible=("nvidia,p3737-0000+p3701-0000-as-p3701-0004", "nvidia,tegra234"),
    config="nvpmodel_p3701_0004.conf",
    modes=AGX_32_MODES,
    mode=3,
    cores=8,
    gpu_clocks=(*(clock for clock in AGX_CLOCKS if clock <= 918000000), 930750000),
)
BOARDS = {
    "agx_orin_jp5": _AGX,
    "agx_orin_jp6": _AGX._replace(
        jetpack=6, model="NVIDIA Jetson AGX Orin Developer Kit", release=JP6, zones=ZONES_JP6
    ),
    "agx_orin_jp7": _AGX._replace(
        jetpack=7, model="NVIDIA Jetson AGX Orin Developer Kit", release=JP7, zones=ZONES_JP6
    ),
    # These two are written from descriptions alone; not even a public output of such a board was at hand.
    "orin_nano_jp6": Board(
        jetpack=6,
        model="NVIDIA Jetson Orin Nano Developer Kit",
        compatible=("nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"),
        release=JP6,
        config="nvpmodel_p3767_0003.conf",
        modes=NANO_MODES,
        default=0,
        mode=0,
        cores=6,
        gpu_clocks=(306000000, 408000000, 510000000, 624750000),
        rails={
            "1-0040": (("VDD_IN", 4952, 968), ("VDD_CPU_GPU_CV", 4952, 104), ("VDD_SOC", 4952, 296)),
        },
        zones=ZONES_JP6,
    ),
    "thread": _THREAD,
    # The same with a device tree that keeps the module's own id: only the table of modes tells.
    "thread_by_table": _THREAD._replace(
        model="Jetson AGX Orin Developer Kit",
        compatible=("nvidia,p3737-0000+p3701-0000", "nvidia,p3701-0000", "nvidia,tegra234"),
    ),
}


class Tree:
    """A tree under `root`, with the places that a script of events writes to."""

    def __init__(self, root: Path, board: Board) -> None:
        self.root = root
        self.board = board
        self.sys = root / "sys"
        name = "17000000.ga10b" if board.jetpack == 5 else "17000000.gpu"
        home = self.sys / "devices" / ("" if board.jetpack == 5 else "platform/bus@0")
        self.gpu = home / name
        self.devfreq = self.gpu / "devfreq" / name
        self.clk = self.sys / "kernel/debug/bpmp/debug/clk"
        self.emc_cap = self.sys / (
            "kernel/nvpmodel_emc_cap/emc_iso_cap" if board.jetpack == 5 else "kernel/nvpmodel_clk_cap/emc"
        )
        self.thermal = self.sys / "devices/virtual/thermal"

    def rail(self, address: str) -> Path:
        """Return the folder of a power monitor."""
        return next((self.sys / f"bus/i2c/devices/{address}/hwmon").iterdir())

    def lay(self) -> Tree:
        """Write all files."""
        (self.root / ".made-up-board").parent.mkdir(parents=True, exist_ok=True)
        (self.root / ".made-up-board").touch()
        self._cpus()
        self._gpu()
        self._emc()
        self._engines()
        self._thermal()
        self._hwmon()
        self._identity()
        return self

    def gpu_clock(self, hz: int) -> None:
        """Clock the GPU at `hz`."""
        write(self.devfreq / "cur_freq", hz)
        for gpc in self.clk.glob("nafll_gpc*/pto_counter"):
            write(gpc, hz)

    def alert(self, name: str, state: int) -> None:
        """Set a throttling alert."""
        for device in self.thermal.glob("cooling_device*"):
            if (device / "type").read_text().strip() == f"{name}-throttle-alert":
                write(device / "cur_state", state)

    @property
    def current(self) -> Mode:
        """The power mode."""
        return self.board.modes[self.board.mode]

    def _cpus(self) -> None:
        home = self.sys / "devices/system/cpu"
        on = self.current.cores
        highest = 2201600 if self.current.cpu < 0 else self.current.cpu
        for core in range(self.board.cores):
            write(home / f"cpu{core}/online", int(core < on))
            first = core // 4 * 4
            policy = home / f"cpufreq/policy{first}"
            if core == first:
                last = min(first + 4, self.board.cores)
                write(policy / "related_cpus", " ".join(map(str, range(first, last))))
                for kind in ("scaling", "cpuinfo"):
                    write(policy / f"{kind}_min_freq", 115200)
                    write(policy / f"{kind}_max_freq", highest if kind == "scaling" else 2201600)
                    # A kernel says as much of cores that are off.
                    write(policy / f"{kind}_cur_freq", 729600 + core * 100 if core < on else "<unknown>")
                write(policy / "scaling_governor", "schedutil")
            (home / f"cpu{core}/cpufreq").symlink_to(f"../cpufreq/policy{first}")
            for state, name in enumerate(("WFI", "c7")):
                write(home / f"cpu{core}/cpuidle/state{state}/name", name)
                write(home / f"cpu{core}/cpuidle/state{state}/disable", 0)
        write(home / "online", f"0-{on - 1}")
        write(home / "present", f"0-{self.board.cores - 1}")

    def _gpu(self) -> None:
        clocks = self.board.gpu_clocks
        write(self.devfreq / "governor", "nvhost_podgov")
        write(self.devfreq / "available_frequencies", " ".join(map(str, clocks)))
        write(self.devfreq / "min_freq", clocks[0])
        write(self.devfreq / "max_freq", clocks[-1] if self.current.gpu < 0 else self.current.gpu)
        write(self.gpu / "of_node/name", "ga10b\0" if self.board.jetpack == 5 else "gpu\0", "")
        (self.devfreq / "device").symlink_to(f"../../../{self.gpu.name}")
        write(self.gpu / "load", 250)
        write(self.gpu / "railgate_enable", 1)
        write(self.gpu / "tpc_pg_mask", self.current.tpc_mask)
        if self.board.jetpack < 7:
            write(self.gpu / "enable_3d_scaling", 1)
        write(self.gpu / "power/control", "auto")
        listed = self.sys / "class/devfreq"
        listed.mkdir(parents=True)
        (listed / self.devfreq.name).symlink_to(Path("../..") / self.devfreq.relative_to(self.sys))
        if self.board.debugfs:
            for gpc in range(2):
                write(self.clk / f"nafll_gpc{gpc}/pto_counter", 0)
        self.gpu_clock(clocks[0])

    def _emc(self) -> None:
        write(self.emc_cap, self.current.emc)
        write(self.sys / "kernel/actmon_avg_activity/mc_all", 21330000)
        if not self.board.debugfs:
            return
        emc = self.clk / "emc"
        highest = 3199000000 if self.board.cores > 6 else 2133000000
        for name, value in {
            "rate": 2133000000,
            "max_rate": highest,
            "min_rate": 204000000,
            "mrq_rate_locked": 0,
            "state": 1,
        }.items():
            write(emc / name, value)
        write(self.sys / "kernel/debug/cactmon/mc_all", 21330000)

    def _engines(self) -> None:
        # The kit reads none of these; the jtop service does.
        names = "ape dla0_core dla0_falcon dla1_core dla1_falcon nvdec nvenc nvjpg nvjpg1 vic se ofa pva0_axi"
        for name in names.split():
            for key, value in {"enable_count": 0, "rate": 0, "max_rate": 1164800000, "min_rate": 0}.items():
                write(self.sys / f"kernel/debug/clk/{name}/clk_{key}", value)
        write(
            self.sys / "kernel/debug/nvmap/iovmm/maps",
            "CLIENT PROCESS PID SIZE\nuser trtexec 4242 124160K\ntotal 124160K",
        )
        for folder in ("devices/virtual/dmi/id", "class/power_supply", "block"):
            (self.sys / folder).mkdir(parents=True)

    def _thermal(self) -> None:
        for i, (name, temperature) in enumerate(self.board.zones):
            write(self.thermal / f"thermal_zone{i}/type", name)
            write(self.thermal / f"thermal_zone{i}/temp", temperature)
        for i, name in enumerate(
            ("pwm-fan", "cpu-throttle-alert", "gpu-throttle-alert", "hot-surface-alert")
        ):
            write(self.thermal / f"cooling_device{i}/type", name)
            write(self.thermal / f"cooling_device{i}/cur_state", 3 if i == 0 else 0)
            write(self.thermal / f"cooling_device{i}/max_state", 4)
        listed = self.sys / "class/thermal"
        listed.mkdir(parents=True)
        for folder in self.thermal.iterdir():
            (listed / folder.name).symlink_to(Path("../..") / folder.relative_to(self.sys))

    def _hwmon(self) -> None:
        for number, (address, inputs) in enumerate(self.board.rails.items(), start=3):
            chip = self.sys / f"bus/i2c/devices/{address}"
            write(chip / "name", "ina3221")
            home = chip / f"hwmon/hwmon{number}"
            write(home / "name", "ina3221")
            write(home / "samples", 512)
            write(home / "update_interval", 430)
            for k, (label, millivolts, milliamperes) in enumerate(inputs, start=1):
                write(home / f"in{k}_label", label)
                write(home / f"in{k}_input", millivolts)
                write(home / f"curr{k}_input", milliamperes)
                for kind in ("max", "crit"):
                    write(home / f"curr{k}_{kind}", 32760)
                    write(home / f"curr{k}_{kind}_alarm", 0)
        fan = self.sys / "class/hwmon/hwmon1"
        write(fan / "name", "pwmfan")
        write(fan / "pwm1", 64)
        speed = self.sys / "class/hwmon/hwmon0"
        write(speed / "name", "pwm_tach")
        write(speed / "rpm", 1150)
        events = self.sys / "class/hwmon/hwmon2"
        write(events / "name", "soctherm_oc")
        for k in (1, 2, 3):
            write(events / f"oc{k}_event_cnt", 0)
            write(events / f"oc{k}_throt_en", 1)

    def _identity(self) -> None:
        base = self.sys / "firmware/devicetree/base"
        write(base / "model", f"{self.board.model}\0", "")
        write(base / "compatible", "".join(f"{name}\0" for name in self.board.compatible), "")
        write(base / "serial-number", "1421422000000\0", "")
        write(self.root / "etc/nv_tegra_release", self.board.release)
        write(self.root / "etc/nvpmodel" / self.board.config, config(self.board))
        (self.root / "etc/nvpmodel.conf").symlink_to(f"/etc/nvpmodel/{self.board.config}")
        write(self.root / "var/lib/nvpmodel/status", f"pmode:{self.board.mode:04} fmode:fan_mode_quiet")


def config(board: Board) -> str:
    """Return a table of power modes in the form of nvpmodel.conf, in words of our own."""
    lines = [
        "# made up",
        "< PARAM TYPE=CLOCK NAME=GPU >",
        "MAX_FREQ /sys/devices/17000000.ga10b/devfreq/17000000.ga10b/max_freq",
        "",
    ]
    for i, mode in enumerate(board.modes):
        lines.append(f"< POWER_MODEL ID={i} NAME={mode.name} >")
        lines += [f"CPU_ONLINE CORE_{core} {int(core < mode.cores)}" for core in range(board.cores)]
        lines.append(f"TPC_POWER_GATING TPC_PG_MASK {mode.tpc_mask}")
        for cluster in range(-(-mode.cores // 4)):
            lines += [f"CPU_A78_{cluster} MIN_FREQ 0", f"CPU_A78_{cluster} MAX_FREQ {mode.cpu}"]
        lines += ["GPU MIN_FREQ 0", f"GPU MAX_FREQ {mode.gpu}", f"EMC MAX_FREQ {mode.emc}", ""]
    return "\n".join([*lines, f"< PM_CONFIG DEFAULT={board.default} >"])


def write(path: Path, value: object, end: str = "\n") -> None:
    """Write a file of the tree as one; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(f"{value}{end}")
    part.replace(path)


def lay(name: str, root: Path) -> Tree:
    """Lay the board `name` under `root`, a new folder."""
    return Tree(root, BOARDS[name]).lay()


if __name__ == "__main__":
    lay(sys.argv[1], Path(sys.argv[2]))
