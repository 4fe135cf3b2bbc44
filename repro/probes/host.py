"""The `host` probe: what Linux tells about the machine and about who else uses it.

Readings stay light: where every core is busy, 28 light readings at 10 Hz moved the mean of a run by
2 %. On a system without /proc and /sys every channel is `unsupported`. `root` is where the machine's
/proc and /sys are found (a container sees the board's under another folder).
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repro.probes import NOT_HERE, Absent, ChannelSpec, Reading, absent
from repro.schema import Fact, Limits, Scalar

_TREE = "/proc/<pid>/stat of the worker and its children"


class Host:
    """Reads /proc and /sys, telling the worker `pid` and its children apart from everybody else."""

    name = "host"
    rate_hz = 10.0
    channels: tuple[ChannelSpec, ...] = (
        ChannelSpec("cpu_frequency", "MHz", "mean of cpufreq/scaling_cur_freq"),
        ChannelSpec("load_1min", "1", "/proc/loadavg"),
        ChannelSpec("own_cpu", "s", _TREE),
        ChannelSpec("foreign_cpu", "s", "/proc/stat without idle, steal and own_cpu"),
        ChannelSpec("stolen_cpu", "s", "/proc/stat, steal"),
        ChannelSpec("involuntary_switches", "1", "/proc/<pid>/task/*/status of the tree"),
        ChannelSpec("memory_available", "bytes", "/proc/meminfo, MemAvailable"),
        ChannelSpec("cpu_pressure", "us", "/proc/pressure/cpu, some, total"),
        ChannelSpec("cgroup_throttled", "us", "cpu.stat, throttled_usec"),
    )

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        self._pid = pid
        self._root = root
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
        self._frequencies = sorted(root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"))
        stats = [folder / "cpu.stat" for folder in _groups(root, "")]
        self._throttles = next((path for path in stats if path.exists()), stats[-1])
        self._switches: dict[int, int] = {}
        self._foreign_at_start: float | None = None

    def read(self) -> Mapping[str, Reading]:
        """Read all channels once; counting channels grow from the first reading on."""
        readings: dict[str, Reading] = {}

        def channel(name: str, read: Callable[[], float]) -> None:
            try:
                readings[name] = read()
            except (OSError, ValueError) as error:
                readings[name] = absent(error)
            except (IndexError, StopIteration):  # The file is there, but this kernel's has no such line.
                readings[name] = NOT_HERE

        if self._frequencies:
            channel("cpu_frequency", self._frequency_mhz)
        else:
            readings["cpu_frequency"] = Absent("unsupported", "no cpufreq here")
        channel("load_1min", lambda: float(self._text("proc/loadavg").split()[0]))
        channel("own_cpu", self._own_cpu_s)
        own = readings["own_cpu"]
        if isinstance(own, Absent):
            readings["foreign_cpu"] = own
        else:
            channel("foreign_cpu", lambda: self._foreign_cpu_s(own))
        channel("stolen_cpu", lambda: self._cpu_ticks()[7] * self._tick_s)
        channel("involuntary_switches", self._involuntary_switches)
        channel("memory_available", lambda: self._meminfo("MemAvailable"))
        channel(
            "cpu_pressure",
            lambda: float(self._text("proc/pressure/cpu").split("total=")[1].split()[0]),
        )
        channel("cgroup_throttled", self._throttled_us)
        return readings

    def facts(self) -> Sequence[Fact]:
        """Read the machine's description; `boot_id` is private and leaves only as a pseudonym."""
        found: list[Fact] = []

        def fact(
            name: str, read: Callable[[], Scalar | None], unit: str | None = None, *, private: bool = False
        ) -> None:
            value: Scalar | None = None
            why = NOT_HERE
            try:
                value = read()
            except (OSError, ValueError) as error:
                why = absent(error)
            except (IndexError, StopIteration):
                pass
            if value is None:
                found.append(Fact(self.name, name, unit, why.state, None, why.reason, private))
            else:
                found.append(Fact(self.name, name, unit, "value", value, None, private))

        fact("cpu_model", self._cpu_model)
        fact("architecture", platform.machine)
        fact("kernel", platform.release)
        fact("system", self._system)
        fact("python", platform.python_version)
        fact("cores_online", lambda: os.cpu_count())
        fact("cores_usable", lambda: usable_cores(self._root))
        fact("governor", self._governor)
        fact(
            "cpu_frequency_max",
            lambda: int(self._text("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")) / 1e3,
            "MHz",
        )
        fact("memory_total", lambda: int(self._meminfo("MemTotal")), "bytes")
        fact("virtualisation", lambda: virtualisation(self._root))
        fact("boot_id", lambda: boot_id(self._root), private=True)
        return found

    def counters(self) -> Mapping[str, tuple[str, int]]:
        """Read what only ever counts up on this machine."""
        found: dict[str, tuple[str, int]] = {}
        with contextlib.suppress(OSError, ValueError):
            vmstat = dict(line.split() for line in self._text("proc/vmstat").splitlines())
            for name in ("oom_kill", "pswpout"):
                if name in vmstat:
                    found[name] = ("1", int(vmstat[name]))
        throttles = self._root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
        counts = []
        for path in throttles:
            with contextlib.suppress(OSError, ValueError):
                counts.append(int(path.read_text()))
        if counts:
            found["core_throttle_count"] = ("1", sum(counts))
        return found

    def _text(self, path: str) -> str:
        return (self._root / path).read_text()

    def _frequency_mhz(self) -> float:
        values = [int(path.read_text()) for path in self._frequencies]
        return sum(values) / len(values) / 1e3

    def _cpu_ticks(self) -> list[int]:
        return [int(field) for field in self._text("proc/stat").split("\n", 1)[0].split()[1:]]

    def _tree(self) -> list[int]:
        own = self._root / f"proc/{self._pid}"
        if own.is_dir() and not (own / f"task/{self._pid}/children").exists():
            # Without the children their time would count as somebody else's.
            raise OSError(errno.ENOSYS, "this kernel lists no children")
        pids, queue = [], [self._pid]
        while queue:
            pid = queue.pop()
            pids.append(pid)
            for task in self._tasks(pid):
                with contextlib.suppress(OSError):  # A thread may end while it is looked at.
                    queue += map(int, (task / "children").read_text().split())
        return pids

    def _tasks(self, pid: int) -> list[Path]:
        with contextlib.suppress(OSError):
            return list((self._root / f"proc/{pid}/task").iterdir())
        return []

    def _own_cpu_s(self) -> float:
        ticks: list[int] = []
        for pid in self._tree():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The name, in parentheses, may hold spaces; 13 to 16 are utime, stime and the
                # same of children that ended and were waited for.
                fields = self._text(f"proc/{pid}/stat").rsplit(")", 1)[1].split()
                ticks += map(int, fields[11:15])
        if not ticks:
            raise self._gone()
        return sum(ticks) * self._tick_s

    def _gone(self) -> OSError:
        """Return why nothing of the tree could be read: it ended, or there is no /proc."""
        if (self._root / "proc/stat").exists():
            return ProcessLookupError(errno.ESRCH, "the process ended")
        return FileNotFoundError(errno.ENOENT, "no /proc")

    def _foreign_cpu_s(self, own: float) -> float:
        user, nice, system, _idle, _iowait, irq, softirq = self._cpu_ticks()[:7]
        foreign = (user + nice + system + irq + softirq) * self._tick_s - own
        if self._foreign_at_start is None:
            self._foreign_at_start = foreign
        return foreign - self._foreign_at_start

    def _involuntary_switches(self) -> float:
        for pid in self._tree():
            total = 0
            for task in self._tasks(pid):
                with contextlib.suppress(OSError):
                    text = (task / "status").read_text()
                    total += int(text.rsplit("nonvoluntary_ctxt_switches:", 1)[1].split()[0])
            # Ended processes and threads keep their last count, so that the sum never falls.
            if total or self._tasks(pid):
                self._switches[pid] = max(self._switches.get(pid, 0), total)
        if not self._switches:
            raise self._gone()
        return float(sum(self._switches.values()))

    def _meminfo(self, key: str) -> float:
        line = next(line for line in self._text("proc/meminfo").splitlines() if line.startswith(key + ":"))
        return float(line.split()[1]) * 1024

    def _throttled_us(self) -> float:
        text = self._throttles.read_text()
        return float(next(line for line in text.splitlines() if line.startswith("throttled_usec")).split()[1])

    def _cpu_model(self) -> str | None:
        for line in self._text("proc/cpuinfo").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
        return None

    def _system(self) -> str:
        for line in self._text("etc/os-release").splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip('"')
        return platform.system()

    def _governor(self) -> str:
        names = {path.with_name("scaling_governor").read_text().strip() for path in self._frequencies}
        if not names:
            raise FileNotFoundError
        return ",".join(sorted(names))


def boot_id(root: Path = Path("/")) -> str | None:
    """Return what names this boot of the machine; private."""
    with contextlib.suppress(OSError):
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def usable_cores(root: Path = Path("/")) -> int:
    """Return the cores that this process may keep busy: by affinity and by the cgroup's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = limits(root).cpus
    return max(1, min(cores, int(quota))) if quota is not None else cores


def limits(root: Path = Path("/")) -> Limits:
    """Return what the control groups (version 2 or 1) of this process allow: the tightest of them."""
    cpus: list[float] = []
    memory: list[int] = []
    for group in _groups(root, ""):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            cpus.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            memory.append(int((group / "memory.max").read_text()))
    for group in _groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota_us = int((group / "cpu.cfs_quota_us").read_text())
            if quota_us > 0:
                cpus.append(quota_us / int((group / "cpu.cfs_period_us").read_text()))
    for group in _groups(root, "memory"):
        with contextlib.suppress(OSError, ValueError):
            limit = int((group / "memory.limit_in_bytes").read_text())
            # Version 1 says "no limit" as the largest page-aligned number.
            if limit < 2**62:
                memory.append(limit)
    pids: list[int] = []
    for group in (*_groups(root, ""), *_groups(root, "pids")):
        with contextlib.suppress(OSError, ValueError):
            pids.append(int((group / "pids.max").read_text()))
    return Limits(min(cpus, default=None), min(memory, default=None), min(pids, default=None))


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's control group and of those above it, the innermost first.

    `controller` "" is version 2. In a container the innermost may be the top folder under another name.
    """
    own = ""
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                own = path
    parts = [part for part in own.split("/") if part not in ("", "..")]
    top = root / "sys/fs/cgroup" / controller
    return [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def virtualisation(root: Path = Path("/")) -> str | None:
    """Return `none` on bare metal, the hypervisor's name in a virtual machine, `None` where unknown."""
    if sys.platform != "linux":
        return None
    vendors = {
        "qemu": "qemu",
        "kvm": "kvm",
        "vmware": "vmware",
        "innotek": "virtualbox",
        "microsoft": "hyper-v",
        "xen": "xen",
        "amazon": "amazon",
        "google": "google",
    }
    try:
        processor = (root / "proc/cpuinfo").read_text()
    except OSError:
        return None
    hypervisor = " hypervisor" in processor
    for path in ("sys/hypervisor/type", "sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name"):
        with contextlib.suppress(OSError):
            text = (root / path).read_text().strip().lower()
            for needle, vendor in vendors.items():
                # Cloud vendors sell bare metal under the same name; the CPU's bit decides there.
                if needle in text and (hypervisor or vendor not in ("amazon", "google", "hyper-v")):
                    return vendor
    if hypervisor or (root / "proc/device-tree/hypervisor").exists():
        return "unnamed"
    # Only x86 has that bit. A board is described by its device tree, which would name a hypervisor.
    knows = "\nflags" in f"\n{processor}" or (root / "proc/device-tree/model").exists()
    return "none" if knows else None
