"""The doctor over made-up machines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro import doctor
from repro.bundle import sign
from repro.launch import lock

pytestmark = pytest.mark.needs("linux")

STAT = "cpu  {user} 0 100 1000 0 0 0 {steal} 0 0\n"


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that lays out a machine's /proc and /sys."""

    def lay(**files: str) -> Path:
        root = tmp_path / "machine"
        plain = {
            "proc/stat": STAT.format(user=100, steal=0),
            f"proc/{os.getpid()}/stat": f"1 (worker) S {' 0' * 40}",
            f"proc/{os.getpid()}/task/{os.getpid()}/children": "",
            "proc/loadavg": "0.00 0.00 0.00 1/100 1\n",
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
            "proc/cpuinfo": "model name : Made-up CPU\nflags : fpu\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2000000\n",
        }
        for name, text in {**plain, **{k.replace("__", "/"): v for k, v in files.items()}}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return lay


def lines(root: Path, about: str) -> list[doctor.Line]:
    found = doctor.examine(root, root, watched_s=0.0)
    return [line for line in found if line.about == about]


def test_a_good_machine_has_no_red_line(machine: Callable[..., Path]) -> None:
    found = doctor.examine(machine(), machine(), watched_s=0.0)
    assert [line for line in found if line.state == "red"] == []
    assert {"frequency", "memory", "machine", "disk", "lock", "signing"} <= {
        line.about for line in found if line.state == "ok"
    }


def test_every_warning_has_its_remedy() -> None:
    for line in doctor.examine(Path("/tmp"), watched_s=0.0):
        assert line.state == "ok" or line.remedy or line.about in ("memory", "machine"), line


def test_a_governor_that_follows_the_load_is_named(machine: Callable[..., Path]) -> None:
    root = machine()
    (root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").write_text("ondemand\n")
    (line,) = lines(root, "frequency")
    assert (line.state, line.remedy) == ("warn", "sudo cpupower frequency-set -g performance")
    assert "ondemand" in line.text


@pytest.mark.parametrize(("millidegrees", "warned"), [(60_000, False), (89_000, False), (91_000, True)])
def test_a_zone_near_its_trip_point_is_named(
    machine: Callable[..., Path], millidegrees: int, warned: bool
) -> None:
    zone = {
        "sys__class__thermal__thermal_zone0__temp": f"{millidegrees}\n",
        "sys__class__thermal__thermal_zone0__type": "cpu-thermal\n",
    }
    root = machine(**zone)
    (root / "sys/class/thermal/thermal_zone0/trip_point_0_temp").write_text("100000\n")
    assert bool(lines(root, "heat")) == warned


def test_a_quota_of_the_control_group_is_named(
    machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    root = machine()
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu.max").write_text("150000 100000\n")
    assert any("allows 1.5 processors" in line.text for line in lines(root, "cores"))


def test_a_virtual_machine_is_named(machine: Callable[..., Path]) -> None:
    root = machine()
    (root / "proc/cpuinfo").write_text("flags : fpu hypervisor\n")
    (root / "sys/class/dmi/id").mkdir(parents=True)
    (root / "sys/class/dmi/id/sys_vendor").write_text("QEMU\n")
    (line,) = lines(root, "machine")
    assert (line.state, line.text) == ("warn", "a virtual machine (qemu)")


def test_little_memory_is_named(machine: Callable[..., Path]) -> None:
    root = machine()
    (root / "proc/meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 500000 kB\n")
    (line,) = lines(root, "memory")
    assert (line.state, line.text) == ("warn", "0.5 GiB are available")


def test_a_load_of_others_is_measured(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine()

    def others_work(seconds: float) -> None:
        (root / "proc/stat").write_text(STAT.format(user=180, steal=30))

    monkeypatch.setattr(doctor, "time", SimpleNamespace(sleep=others_work))  # waits for children go on
    found = [line for line in doctor.examine(root, root, watched_s=1.0) if line.about == "load"]
    assert [(line.state, line.text) for line in found] == [
        ("warn", "other processes use 80% of a core"),
        ("warn", "the hypervisor keeps back 30% of a core"),
    ]


def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    found = [line for line in doctor.examine(tmp_path, tmp_path, watched_s=0.0) if line.about == "load"]
    assert ["can't be read" in line.text for line in found] == [True, True]


def test_another_run_is_named(machine: Callable[..., Path]) -> None:
    with lock.held("run-1", "conv16"):
        (line,) = lines(machine(), "lock")
    assert line.state == "warn"
    assert "conv16" in line.text


def test_missing_ssh_keygen_is_red(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (line,) = lines(machine(), "signing")
    assert (line.state, "apt install openssh-client" in line.remedy) == ("red", True)


@pytest.mark.needs("ssh-keygen")
def test_a_loose_key_is_red_and_none_is_made(machine: Callable[..., Path], config_home: Path) -> None:
    root = machine()
    (line,) = lines(root, "signing")
    assert line.state == "ok"
    assert not config_home.exists(), "looking makes no key"
    sign.ensure_key(None).chmod(0o644)
    (line,) = lines(root, "signing")
    assert (line.state, "chmod 600" in line.remedy) == ("red", True)


def test_a_full_disk_is_red(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine()
    usage = shutil.disk_usage(root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (line,) = lines(root, "disk")
    assert line.state == "red"
