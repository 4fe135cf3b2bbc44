"""What a board's power and clocks are before a run, and the commands that would hold and restore them.

The kit never runs one of these commands: they are printed for whoever owns the board. `nvpmodel` sets a
power mode, `jetson_clocks` holds the clocks that the mode allows, and `nvidia-smi -lgc` locks the clock of
a GPU in a PC or server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from repro import clocks, identity
from repro.backends import cuda
from repro.errors import Unavailable
from repro.probes import Absent, Reading, jetson, jtop
from repro.probes.jetson import Jetson
from repro.probes.jetson_power import JetsonPower
from repro.probes.nvml import SLOWDOWNS, Nvml, reasons
from repro.probes.tegrastats import Tegrastats
from repro.schema import Fact
from repro.telemetry import fact_value

STORE = "~/clocks-before.conf"
"""Where `jetson_clocks` is told to keep what it changes."""
BELOW = "the commands that hold and restore them stand below"


class Said(NamedTuple):
    """A line of the doctor."""

    about: str
    state: Literal["ok", "warn"]
    text: str
    remedy: str = ""


def examine(root: Path) -> Iterator[Said]:
    """Look at the board whose paths are below `root`, and at this machine's GPU; change nothing."""
    board = jetson.root() if root == Path("/") else root
    if jetson.present(board):
        probe, power = Jetson(board), JetsonPower(board)
        facts = [*probe.facts(), *power.facts()]
        yield from of_jetson(facts, {**probe.read(), **power.read()})
        yield _others(root)
    elif root == Path("/"):
        try:
            gpu = cuda.look()
        except Unavailable:  # The doctor's lines on devices say why.
            return
        nvml = Nvml(os.getpid(), gpu.uuid)
        yield from of_gpu(nvml.facts(), nvml.read())


# --- a Jetson -----------------------------------------------------------------------------------


def of_jetson(facts: Sequence[Fact], readings: Mapping[str, Reading]) -> Iterator[Said]:
    """Say what a Jetson is set to, and which commands would hold and restore it."""
    names = [fact_value(facts, name) for name in ("model", "module", "l4t", "jetpack")]
    model, module, l4t, jetpack = ("unread" if name is None else name for name in names)
    yield Said("board", "ok", f"{model} (module {module}), L4T {l4t}, JetPack {jetpack}")
    if fact_value(facts, "read_below") == jetson.ELSEWHERE:
        text = "read from another folder, not from this machine"
        yield Said("board", "warn", text, f"unset {jetson.BOARD_VARIABLE}")
    emulated = next((fact for fact in facts if fact.name == "emulated"), None)
    if emulated is not None and emulated.value is not None:
        text = f"it emulates {emulated.value}: {emulated.reason}"
        yield Said("board", "warn", text, "compare it with boards that emulate the same module only")
    yield _power_mode(facts)
    yield from _clocks(facts, readings)
    yield _memory(facts, readings["emc_clock"])
    yield _throttling(readings)


def _power_mode(facts: Sequence[Fact]) -> Said:
    mode = identity.power_mode(facts)
    numbers = _numbers(facts)
    if mode is None:
        why = next((fact.reason for fact in facts if fact.name == "power_mode"), None)
        return Said("power mode", "warn", f"unread: {why}", "sudo nvpmodel -q")
    sms = fact_value(facts, "sm_count")
    parts = [f"{mode.content['cores']} cores"] if "cores" in mode.content else []
    parts += [f"{sms} SMs"] if sms is not None else []
    for unit in ("gpu", "cpu", "emc"):
        cap = mode.content.get(f"{unit}_clock_max_mhz")
        shown = f"≤ {cap:g} MHz" if isinstance(cap, float) else "without a cap"
        parts.append(f"{unit.upper()} {shown}")
    default = fact_value(facts, "power_mode_default")
    remedy = ""
    if default is not None and default != mode.name and {default, mode.name} <= numbers.keys():
        remedy = (
            f"its default is {default}: sudo nvpmodel -m {numbers[str(default)]} sets that, "
            f"sudo nvpmodel -m {numbers[mode.name]} this one again; some changes need a reboot"
        )
    return Said("power mode", "ok", f"{mode.name}: {', '.join(parts)}", remedy)


def _numbers(facts: Sequence[Fact]) -> dict[str, str]:
    """Return the number of each mode of this board by name: elsewhere it is another one."""
    listed = str(fact_value(facts, "power_modes") or "")
    pairs = (entry.split(" ", 1) for entry in listed.split(", ") if " " in entry)
    return {name: number for number, name in pairs}


def _clocks(facts: Sequence[Fact], readings: Mapping[str, Reading]) -> Iterator[Said]:
    held = next((fact for fact in facts if fact.name == "jetson_clocks"), None)
    now, cap = _shown(readings["gpu_clock"]), fact_value(facts, "gpu_clock_max")
    most = "an unread cap" if cap is None else f"at most {cap:g} MHz"
    if held is None or held.value is None:
        why = "it is not told" if held is None else held.reason
        yield Said(
            "clocks", "warn", f"nothing tells whether they are held: {why}", "sudo jetson_clocks --show"
        )
        return
    derived = f"jetson_clocks is {held.value} ({held.reason})"
    if held.value == "on":
        yield Said("clocks", "ok", f"held: GPU {now}, {derived}")
        yield Said(
            "to restore",
            "ok",
            f"sudo jetson_clocks --restore {STORE}, where it was stored; else reboot",
        )
        return
    yield Said("clocks", "warn", f"they follow the load: GPU {now} of {most}, {derived}", BELOW)
    yield Said("to steady", "ok", f"sudo jetson_clocks --store {STORE} && sudo jetson_clocks")
    yield Said("to restore", "ok", f"sudo jetson_clocks --restore {STORE}")


def _memory(facts: Sequence[Fact], now: Reading) -> Said:
    if isinstance(now, Absent):
        text = f"unread ({now.reason}): memory roofs would stand on the rated clock"
        return Said("EMC", "warn", text, "run as root, or hold the clocks: then it is its cap")
    most = fact_value(facts, "emc_clock_cap") or fact_value(facts, "emc_clock_max")
    return Said("EMC", "ok", _shown(now) + (f" of at most {most:g} MHz" if most else ""))


def _throttling(readings: Mapping[str, Reading]) -> Said:
    alerts = [name for name, value in readings.items() if clocks.says_held(name) and _positive(value)]
    counted = [
        f"{name} {value:g}"
        for name, value in readings.items()
        if clocks.counts_held(name) and _positive(value)
    ]
    if alerts:
        return Said("throttling", "warn", f"now: {', '.join(alerts)}", "let it cool, or give it more power")
    since = f"; since the board started: {', '.join(counted)}" if counted else ""
    told = any(clocks.says_held(name) and not isinstance(value, Absent) for name, value in readings.items())
    if not told:
        return Said("throttling", "warn", "no alert or alarm can be read", "watch the clocks of the runs")
    return Said("throttling", "ok", f"nothing holds clocks down now{since}")


def _others(root: Path) -> Said:
    """Say which further sources there are on a Jetson."""
    why = jtop.problem(root / jtop.SOCKET)
    found = f"jtop: {why.reason}" if why else "the jtop service answers"
    tool = "tegrastats is here" if Tegrastats.present() else "tegrastats is not in the PATH"
    return Said("sources", "ok", f"the kernel's files; {found}; {tool}")


# --- a GPU in a PC or server --------------------------------------------------------------------


def of_gpu(facts: Sequence[Fact], readings: Mapping[str, Reading]) -> Iterator[Said]:
    """Say what a GPU is set to, and which commands would hold its clock and restore it."""
    now, most = readings["sm_clock"], fact_value(facts, "sm_clock_max")
    if isinstance(now, Absent):
        yield Said("gpu clock", "warn", f"unread: {now.reason}", "its driver tells no clock")
        return
    limit, memory = fact_value(facts, "power_limit"), _shown(readings["memory_clock"])
    of_most = f" of at most {most} MHz" if most is not None else ""
    text = f"{_shown(now)}{of_most}, memory {memory}"
    text += f", power limit {limit:g} W" if isinstance(limit, float) else ""
    # No driver tells whether a clock is locked.
    yield Said("gpu clock", "warn", f"{text}: it follows load and heat unless it is locked", BELOW)
    bits = readings["event_reasons"]
    held = sorted(SLOWDOWNS & set(reasons(int(bits)))) if not isinstance(bits, Absent) else []
    if held:
        yield Said("throttling", "warn", f"now: {', '.join(held)}", "let it cool, or raise the power limit")
    bus = fact_value(facts, "pci_bus_id")
    tool = f"sudo nvidia-smi -i {bus}" if bus else "sudo nvidia-smi"
    application = fact_value(facts, "sm_clock_application")
    clock = application if application is not None else most
    if clock is not None:
        off = fact_value(facts, "persistence_mode") == "off"
        yield Said(
            "to steady",
            "ok",
            (f"{tool} -pm 1 && " if off else "") + f"{tool} -lgc {clock},{clock}",
            "a lower clock, where heat or power don't let it hold this one",
        )
        yield Said("to restore", "ok", f"{tool} -rgc" + (f" && {tool} -pm 0" if off else ""))


def _positive(value: Reading) -> bool:
    return not isinstance(value, Absent) and value > 0


def _shown(value: Reading) -> str:
    return f"unread ({value.reason})" if isinstance(value, Absent) else f"{value:g} MHz"
