"""What this machine can run, what would spoil a measurement on it, and what is missing.

Each line has its remedy. `red`: nothing can be measured or sealed; `warn`: it can, but the times will
be noisier or mean less; `ok`. Nothing is changed and no key is made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from repro import devices, steady
from repro.bundle import sign
from repro.errors import ReproError
from repro.launch import lock
from repro.probes import Absent, jetson
from repro.probes.host import Host, limits, usable_cores, virtualisation

FOREIGN_SHARE = 0.05
"""Share of one core beyond which other processes are named; the runs' own flag has the same limit."""
WATCHED_S = 1.0
FREE_DISK_BYTES = 500 * 2**20
FREE_MEMORY_BYTES = 2 * 2**30
HOT_MARGIN_MC = 10_000
"""A zone this near (in thousandths of a degree) to its first trip point is about to be throttled."""


class Line(msgspec.Struct, frozen=True):
    """One finding of the doctor."""

    about: str
    state: Literal["ok", "warn", "red"]
    text: str
    remedy: str = ""


def examine(work: Path, root: Path = Path("/"), watched_s: float = WATCHED_S) -> list[Line]:
    """Return all findings; `work` is where runs would be kept, `root` where /proc and /sys are."""
    return [
        *_devices(),
        *_signing(),
        _disk(work),
        _lock(),
        *_others(root, watched_s),
        *(Line(*each) for each in steady.examine(root)),
        *_frequency(root),
        *_heat(root),
        *_limits(root),
        _memory(root),
        _virtual(root),
    ]


def _devices() -> Iterator[Line]:
    ready = False
    for device in devices.DEVICES.values():
        chosen, why_not = devices.standing(device)
        ready = ready or chosen is not None
        if chosen:
            passed_over = f" ({why_not})" if why_not else ""
            yield Line(f"device {device.name}", "ok", f"ready, with {chosen}{passed_over}")
        else:
            yield Line(f"device {device.name}", "warn", why_not, "DEVICE=cpu runs the same cases")
    if not ready:
        yield Line(
            "devices", "red", "nothing can be measured here", "make repro, or pip install 'trt-repro[run]'"
        )


def _signing() -> Iterator[Line]:
    if shutil.which("ssh-keygen") is None:
        yield Line("signing", "red", "ssh-keygen is missing", "apt install openssh-client, or use --unsigned")
        return
    try:
        key = sign.config_folder() / "signing_key"
    except ReproError as error:
        yield Line("signing", "red", error.what, error.hint)
        return
    if not key.exists():
        yield Line("signing", "ok", "a key is made on first use")
        return
    try:
        sign.ensure_key(None)
    except ReproError as error:
        yield Line("signing", "red", error.what, error.hint)
        return
    yield Line("signing", "ok", "the key is usable")


def _disk(work: Path) -> Line:
    folder = work.absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Line("disk", "red", f"{folder} can't be written", "name another folder with --work")
    free = shutil.disk_usage(folder).free
    if free < FREE_DISK_BYTES:
        return Line("disk", "red", f"{free / 2**20:.0f} MiB are free in {folder}", "make room, or use --work")
    return Line("disk", "ok", f"{free / 2**30:.1f} GiB free")


def _lock() -> Line:
    try:
        with lock.held("doctor", "doctor"):
            return Line("lock", "ok", "no other run is going on")
    except ReproError as error:
        return Line("lock", "warn", error.what, error.hint)


def _others(root: Path, watched_s: float) -> Iterator[Line]:
    """Watch for a moment what other processes use, and what the hypervisor takes."""
    probe = Host(os.getpid(), root)
    before = probe.read()
    time.sleep(watched_s)
    after = probe.read()
    for name, who, remedy in (
        ("foreign_cpu", "other processes use", "stop them (top shows which)"),
        ("stolen_cpu", "the hypervisor keeps back", "use a machine of your own"),
    ):
        first, second = before[name], after[name]
        if isinstance(first, Absent) or isinstance(second, Absent):
            yield Line("load", "warn", f"{name} can't be read here", "watch the load by other means")
            continue
        share = (second - first) / watched_s if watched_s else 0.0
        state: Literal["ok", "warn"] = "warn" if share > FOREIGN_SHARE else "ok"
        yield Line("load", state, f"{who} {share:.0%} of a core", remedy if state == "warn" else "")


def _frequency(root: Path) -> Iterator[Line]:
    governors = {
        path.read_text().strip() for path in root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    }
    if not governors:
        yield Line("frequency", "warn", "frequencies can't be read here", "times may move with them unseen")
    elif governors != {"performance"}:
        found = ", ".join(sorted(governors))
        remedy = "sudo cpupower frequency-set -g performance"
        if jetson.present(root):
            remedy = "jetson_clocks holds them too, with the GPU's"
        yield Line("frequency", "warn", f"the governor is {found}: clocks follow the load", remedy)
    else:
        yield Line("frequency", "ok", "the governor is performance")
    for path in ("sys/devices/system/cpu/cpufreq/boost", "sys/devices/system/cpu/intel_pstate/no_turbo"):
        with contextlib.suppress(OSError):
            on = (root / path).read_text().strip() == ("1" if path.endswith("boost") else "0")
            if on:
                yield Line(
                    "frequency", "warn", "boost is on: clocks depend on heat", "compare runs of one sitting"
                )


def _heat(root: Path) -> Iterator[Line]:
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        with contextlib.suppress(OSError, ValueError):
            temperature = int((zone / "temp").read_text())
            trips = [int(path.read_text()) for path in zone.glob("trip_point_*_temp")]
            reachable = [trip for trip in trips if trip > 0]
            if reachable and temperature > min(reachable) - HOT_MARGIN_MC:
                name = (zone / "type").read_text().strip()
                text = (
                    f"{name} is at {temperature / 1e3:.0f} °C, and {min(reachable) / 1e3:.0f} °C throttles it"
                )
                yield Line("heat", "warn", text, "let it cool down")


def _limits(root: Path) -> Iterator[Line]:
    cores = usable_cores(root)
    if cores == 1:
        yield Line("cores", "warn", "one core only: watching disturbs measuring", "use a machine with two")
    else:
        yield Line("cores", "ok", f"{cores} usable, {cores - 1} to measure with")
    found = limits(root)
    if found.cpus is not None and found.cpus < (os.cpu_count() or 1):
        text = f"the control group allows {found.cpus:g} processors: runs will be throttled in bursts"
        yield Line("cores", "warn", text, "raise its quota, or set --threads below it")


def _memory(root: Path) -> Line:
    available = Host(os.getpid(), root).read()["memory_available"]
    if isinstance(available, Absent):
        return Line("memory", "warn", "what is available can't be read here", "")
    allowed = limits(root).memory_bytes
    free = min(available, allowed) if allowed is not None else available
    if free < FREE_MEMORY_BYTES:
        return Line("memory", "warn", f"{free / 2**30:.1f} GiB are available", "stop other programs")
    return Line("memory", "ok", f"{free / 2**30:.1f} GiB available")


def _virtual(root: Path) -> Line:
    machine = virtualisation(root) if sys.platform == "linux" else None
    if machine is None:
        return Line("machine", "warn", "can't tell whether it is virtual", "")
    if machine == "none":
        return Line("machine", "ok", "bare metal, as far as it says")
    return Line(
        "machine", "warn", f"a virtual machine ({machine})", "neighbours may take its time: compare with care"
    )
