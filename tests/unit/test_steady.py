"""What the doctor says of power and clocks: the board's state, and commands that are printed, never run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from repro import doctor, steady
from repro.probes import Absent, Reading, jetson
from repro.schema import Fact, Scalar
from repro.steady import Said
from tests.boards import trees
from tests.boards.trees import Tree, write

pytestmark = pytest.mark.needs("linux")

STEADY = "sudo jetson_clocks --store ~/clocks-before.conf && sudo jetson_clocks"
RESTORE = "sudo jetson_clocks --restore ~/clocks-before.conf"


@pytest.fixture
def thread(tmp_path: Path) -> Tree:
    """Lay the thread's board."""
    return trees.lay("thread", tmp_path / "board")


def said(tree: Tree) -> dict[str, Said]:
    return {each.about: each for each in steady.examine(tree.root)}


def test_the_board_of_the_thread(thread: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a command was run")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    found = list(steady.examine(thread.root))
    assert found[0].text == "Jetson AGX Orin (module p3701-0000), L4T 35.4.1, JetPack 5.1.2"
    emulated = next(each.text for each in found if "emulates" in each.text)
    assert emulated.startswith("it emulates AGX Orin 32GB (p3701-0004): the device tree says ")
    by_name = {each.about: each for each in found}
    assert by_name["power mode"] == (
        "power mode",
        "ok",
        "MODE_40W: 8 cores, 14 SMs, GPU ≤ 816 MHz, CPU ≤ 1497.6 MHz, EMC without a cap",
        "its default is MODE_30W: sudo nvpmodel -m 2 sets that, sudo nvpmodel -m 3 this one again; "
        "some changes need a reboot",
    )
    assert by_name["clocks"].state == "warn"
    assert "GPU 306 MHz of at most 816 MHz, jetson_clocks is off (derived: " in by_name["clocks"].text
    assert (by_name["to steady"].text, by_name["to restore"].text) == (STEADY, RESTORE)
    assert by_name["EMC"].text == "2133 MHz of at most 3199 MHz"
    assert by_name["throttling"].text == "nothing holds clocks down now"


def test_a_number_of_a_mode_is_this_boards_own(tmp_path: Path) -> None:
    nano = trees.lay("orin_nano_jp6", tmp_path / "nano")
    assert said(nano)["power mode"].remedy == "", "15W is its default"
    write(nano.root / "var/lib/nvpmodel/status", "pmode:0001 fmode:quiet")
    remedy = said(nano)["power mode"].remedy
    assert remedy.startswith("its default is 15W: sudo nvpmodel -m 0 sets that, sudo nvpmodel -m 1 this one")


def test_held_clocks_need_no_steadying(thread: Tree) -> None:
    write(thread.devfreq / "min_freq", 816000000)
    for policy in (thread.sys / "devices/system/cpu/cpufreq").iterdir():
        write(policy / "scaling_min_freq", 1497600)
    found = said(thread)
    assert (found["clocks"].state, "to steady" in found) == ("ok", False)
    assert found["to restore"].text.startswith(RESTORE)


def test_what_is_unread_is_said_with_its_reason(thread: Tree) -> None:
    write(thread.root / "var/lib/nvpmodel/status", "garbage")
    (thread.devfreq / "min_freq").unlink()
    (thread.clk / "emc/rate").unlink()
    found = said(thread)
    assert found["power mode"] == (
        "power mode",
        "warn",
        "unread: the status file names no mode",
        "sudo nvpmodel -q",
    )
    assert found["clocks"].text == "nothing tells whether they are held: not on this machine"
    assert (found["EMC"].state, "not on this machine" in found["EMC"].text) == ("warn", True)


def test_throttling_is_told_now_and_since_the_board_started(thread: Tree) -> None:
    write(thread.sys / "class/hwmon/hwmon2/oc1_event_cnt", 3)
    assert said(thread)["throttling"].text == (
        "nothing holds clocks down now; since the board started: under_voltage_events 3"
    )
    thread.alert("gpu", 1)
    assert said(thread)["throttling"] == (
        "throttling",
        "warn",
        "now: throttle_gpu",
        "let it cool, or give it more power",
    )
    for device in thread.thermal.glob("cooling_device*"):
        write(device / "cur_state", "garbage")
    for chip in thread.sys.glob("bus/i2c/devices/*/hwmon/hwmon*"):
        for alarm in chip.glob("*_alarm"):
            alarm.unlink()
    assert said(thread)["throttling"].text == "no alert or alarm can be read"


def test_a_board_from_another_folder_is_called_one(thread: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jetson.BOARD_VARIABLE, str(thread.root))
    found = [each.text for each in steady.examine(Path("/"))]
    assert "read from another folder, not from this machine" in found


def test_the_doctor_says_all_of_it(thread: Tree) -> None:
    lines = doctor.examine(thread.root, thread.root, watched_s=0.0)
    assert [line.text for line in lines if line.about == "to restore"] == [RESTORE]
    (governor,) = [line for line in lines if line.about == "frequency"]
    assert "cpupower" not in governor.remedy, "jetson_clocks holds the processor's clocks, too"


def test_a_machine_without_either_says_nothing(tmp_path: Path) -> None:
    assert list(steady.examine(tmp_path)) == []


# --- a GPU in a PC or server --------------------------------------------------------------------


def of_gpu(readings: Mapping[str, Reading] = {}, **facts: Scalar) -> dict[str, Said]:
    known = {"sm_clock_max": 1980, "power_limit": 700.0, "pci_bus_id": "0000:4:0.0", **facts}
    told = [Fact("nvml", name, None, "value", value) for name, value in known.items()]
    read: dict[str, Reading] = {"sm_clock": 345.0, "memory_clock": 2619.0, "event_reasons": 1.0, **readings}
    return {each.about: each for each in steady.of_gpu(told, read)}


def test_a_gpu_has_the_commands_of_nvidia_smi() -> None:
    found = of_gpu(persistence_mode="off")
    assert found["gpu clock"].text == (
        "345 MHz of at most 1980 MHz, memory 2619 MHz, power limit 700 W: "
        "it follows load and heat unless it is locked"
    )
    tool = "sudo nvidia-smi -i 0000:4:0.0"
    assert found["to steady"].text == f"{tool} -pm 1 && {tool} -lgc 1980,1980"
    assert found["to restore"].text == f"{tool} -rgc && {tool} -pm 0"
    assert "throttling" not in found, "idle is no throttling"


def test_what_is_on_already_is_not_turned_off_after() -> None:
    found = of_gpu(persistence_mode="on", sm_clock_application=1410)
    tool = "sudo nvidia-smi -i 0000:4:0.0"
    assert (found["to steady"].text, found["to restore"].text) == (f"{tool} -lgc 1410,1410", f"{tool} -rgc")


def test_a_gpu_that_is_held_down_now_is_named() -> None:
    assert of_gpu({"event_reasons": float(0x4 | 0x20)})["throttling"].text == "now: sw_power_cap, sw_thermal"


def test_a_driver_that_tells_no_clock_gets_no_command() -> None:
    found = of_gpu({"sm_clock": Absent("unsupported", "not supported by this GPU or driver")})
    assert list(found) == ["gpu clock"]
    assert "not supported" in found["gpu clock"].text


@pytest.mark.needs("root")
def test_a_user_without_permission_hears_so(thread: Tree) -> None:
    (thread.sys / "kernel/debug").chmod(0o700)
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            os.chroot(thread.root)
            os.setuid(65534)
            found = {each.about: each.text for each in steady.examine(Path("/"))}
            good = "unread (no permission)" in found["EMC"] and "GPU 306 MHz" in found["clocks"]
        finally:
            os._exit(not good)
    assert os.waitpid(pid, 0)[1] == 0
