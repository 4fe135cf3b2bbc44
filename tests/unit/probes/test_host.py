"""The host probe over made-up machines, and over this one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from repro.probes import Absent, Reading
from repro.probes.host import Host, limits, usable_cores, virtualisation
from repro.proc import Child
from repro.schema import Fact, Limits

TICK = 1 / os.sysconf("SC_CLK_TCK")
GONE = Absent("unsupported", "not on this machine")
PID = 100


def stat(pid: int, utime: int, stime: int, cutime: int, cstime: int, name: str = "python3") -> str:
    return f"{pid} ({name}) S 1 1 1 0 -1 4194560 1 2 3 4 {utime} {stime} {cutime} {cstime} 20 0 1 0 99 1 1"


def status(switches: int) -> str:
    return f"Name:\tpython3\nvoluntary_ctxt_switches:\t12345\nnonvoluntary_ctxt_switches:\t{switches}\n"


MACHINE = {
    "proc/stat": "cpu  1000 200 300 9000 500 50 60 70 8 9\ncpu0 1 2 3 4 5 6 7 8 0 0\nintr 5\n",
    "proc/loadavg": "1.25 0.50 0.10 2/345 6789\n",
    "proc/meminfo": "MemTotal:       16000 kB\nMemFree:  100 kB\nMemAvailable:   8000 kB\n",
    "proc/pressure/cpu": "some avg10=0.10 avg60=0.20 avg300=0.30 total=4711\nfull avg10=0 total=99\n",
    "proc/vmstat": "nr_free_pages 5\npswpout 17\noom_kill 2\n",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Made-up CPU @ 3 GHz\nflags\t\t: fpu sse avx\n",
    "proc/sys/kernel/random/boot_id": "aaaa-bbbb\n",
    "proc/self/cgroup": "0::/\n",
    f"proc/{PID}/stat": stat(PID, 30, 10, 5, 5, "a (strange) name"),
    f"proc/{PID}/task/{PID}/children": "101 102 ",
    f"proc/{PID}/task/{PID}/status": status(3),
    f"proc/{PID}/task/109/children": "103 ",
    f"proc/{PID}/task/109/status": status(4),
    "proc/101/stat": stat(101, 100, 0, 0, 0),
    "proc/101/task/101/children": "",
    "proc/101/task/101/status": status(10),
    "proc/102/stat": stat(102, 0, 50, 0, 0),
    "proc/102/task/102/children": "104 ",
    "proc/102/task/102/status": status(20),
    "proc/103/stat": stat(103, 7, 0, 0, 0),
    "proc/103/task/103/children": "",
    "proc/103/task/103/status": status(0),
    "proc/104/stat": stat(104, 3, 0, 0, 0),
    "proc/104/task/104/children": "",
    "proc/104/task/104/status": status(100),
    "proc/999/stat": stat(999, 5000, 0, 0, 0),
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1200000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3600000\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "6\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 123\nnr_throttled 4\nthrottled_usec 5678\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/fs/cgroup/memory.max": "max\n",
    "etc/os-release": 'NAME="Made-up"\nPRETTY_NAME="Made-up Linux 7 (lucky)"\n',
}


def lay(root: Path, files: Mapping[str, str | None]) -> Path:
    """Write files under `root`; `None` takes one away."""
    for name, text in files.items():
        path = root / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return lay(tmp_path / "root", MACHINE)


def facts(root: Path) -> dict[str, Fact]:
    return {fact.name: fact for fact in Host(PID, root).facts()}


def told(fact: Fact) -> tuple[str, object, str | None]:
    return fact.state, fact.value, fact.reason


# --- a whole machine ----------------------------------------------------------------------------


def test_every_channel_of_a_whole_machine_by_hand(root: Path) -> None:
    # own: 30 + 10 + 5 + 5 of the worker, 100 + 50 + 7 + 3 of its descendants, one by another thread.
    readings = Host(PID, root).read()
    assert readings == {
        "cpu_frequency": 1800.0,
        "load_1min": 1.25,
        "own_cpu": pytest.approx(210 * TICK),
        "foreign_cpu": 0.0,
        "stolen_cpu": pytest.approx(70 * TICK),
        "involuntary_switches": 3 + 4 + 10 + 20 + 0 + 100,
        "memory_available": 8000 * 1024.0,
        "cpu_pressure": 4711.0,
        "cgroup_throttled": 5678.0,
    }
    assert list(readings) == [spec.name for spec in Host.channels]


def test_foreign_time_is_busy_time_that_is_not_our_own_from_the_first_reading_on(root: Path) -> None:
    host = Host(PID, root)
    host.read()
    # Everybody: user + 90, nice + 5, system + 20, irq + 3, softirq + 2, and idle, iowait, steal too.
    # Of that the worker's child took 100.
    lay(
        root,
        {
            "proc/stat": "cpu  1090 205 320 9999 999 53 62 700 0 0\n",
            "proc/101/stat": stat(101, 160, 40, 0, 0),
        },
    )
    readings = host.read()
    assert readings["own_cpu"] == pytest.approx(310 * TICK)
    assert readings["foreign_cpu"] == pytest.approx(20 * TICK)


def test_a_child_that_ended_moves_its_time_to_its_parent_and_is_not_lost(root: Path) -> None:
    host = Host(PID, root)
    before = host.read()
    lay(
        root,
        {
            f"proc/{PID}/stat": stat(PID, 30, 10, 5 + 100, 5),
            f"proc/{PID}/task/{PID}/children": "102 ",
            "proc/101/stat": None,
            "proc/101/task/101/children": None,
            "proc/101/task/101/status": None,
        },
    )
    after = host.read()
    assert after["own_cpu"] == before["own_cpu"]
    assert after["foreign_cpu"] == pytest.approx(0.0)
    assert after["involuntary_switches"] == before["involuntary_switches"]


def test_a_thread_that_ended_takes_no_switches_away(root: Path) -> None:
    host = Host(PID, root)
    before = host.read()["involuntary_switches"]
    lay(root, {f"proc/{PID}/task/109/children": None, f"proc/{PID}/task/109/status": None})
    assert host.read()["involuntary_switches"] == before


def test_a_child_that_ends_while_it_is_read_costs_no_channel(root: Path) -> None:
    lay(root, {"proc/101/stat": None, f"proc/{PID}/task/109/children": None})
    readings = Host(PID, root).read()
    assert readings["own_cpu"] == pytest.approx((210 - 100 - 7) * TICK)


def test_the_facts_of_a_whole_machine(root: Path) -> None:
    seen = facts(root)
    values = {name: fact.value for name, fact in seen.items()}
    assert {
        "cpu_model": "Made-up CPU @ 3 GHz",
        "system": "Made-up Linux 7 (lucky)",
        "cores_usable": len(os.sched_getaffinity(0)),
        "governor": "performance,powersave",
        "cpu_frequency_max": 3600.0,
        "memory_total": 16000 * 1024,
        "virtualisation": "none",
        "boot_id": "aaaa-bbbb",
    }.items() <= values.items()
    assert {fact.state for fact in seen.values()} == {"value"}
    assert None not in values.values()


def test_only_the_name_of_the_boot_is_private(root: Path) -> None:
    assert [fact.name for fact in facts(root).values() if fact.private] == ["boot_id"]


def test_the_counters_of_a_whole_machine(root: Path) -> None:
    assert Host(PID, root).counters() == {
        "oom_kill": ("1", 2),
        "pswpout": ("1", 17),
        "core_throttle_count": ("1", 10),
    }


# --- what is missing ----------------------------------------------------------------------------


def test_a_machine_without_proc_and_sys_has_no_channel_and_no_zero(tmp_path: Path) -> None:
    host = Host(PID, tmp_path)
    readings = host.read()
    assert list(readings) == [spec.name for spec in Host.channels]
    assert {reading.state for reading in readings.values() if isinstance(reading, Absent)} == {"unsupported"}
    assert [name for name, reading in readings.items() if not isinstance(reading, Absent)] == []
    assert host.counters() == {}


def test_a_machine_without_proc_and_sys_knows_only_what_python_knows(tmp_path: Path) -> None:
    known = {name for name, fact in facts(tmp_path).items() if fact.state == "value"}
    assert known == {"architecture", "kernel", "python", "cores_online", "cores_usable"}
    for name, fact in facts(tmp_path).items():
        if name not in known:
            assert told(fact) == ("unsupported", None, "not on this machine")


CHANNEL_FILES = {
    "proc/loadavg": {"load_1min"},
    "proc/meminfo": {"memory_available"},
    "proc/pressure/cpu": {"cpu_pressure"},
    "proc/stat": {"foreign_cpu", "stolen_cpu"},
    "sys/fs/cgroup/cpu.stat": {"cgroup_throttled"},
    f"proc/{PID}/stat": set(),
}


@pytest.mark.parametrize("name", CHANNEL_FILES)
def test_a_missing_file_costs_only_its_channels(root: Path, name: str) -> None:
    lay(root, {name: None})
    readings = Host(PID, root).read()
    assert {each for each, reading in readings.items() if reading == GONE} == CHANNEL_FILES[name]
    assert [r for r in readings.values() if isinstance(r, Absent) and r != GONE] == []


@pytest.mark.parametrize(
    ("name", "text", "channel", "expected"),
    [
        ("proc/loadavg", "not a number", "load_1min", Absent("missed", "ValueError")),
        ("proc/meminfo", "MemTotal: 5 kB\n", "memory_available", GONE),
        ("proc/pressure/cpu", "some avg10=0.00\n", "cpu_pressure", GONE),
        ("proc/stat", "cpu  1 2 3 4 5 6 7\n", "stolen_cpu", GONE),
        ("proc/stat", "cpu  1 2 3\n", "foreign_cpu", Absent("missed", "ValueError")),
        # The top group of version 2 counts no throttling.
        ("sys/fs/cgroup/cpu.stat", "usage_usec 1\n", "cgroup_throttled", GONE),
        (
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq",
            "<unknown>\n",
            "cpu_frequency",
            Absent("missed", "ValueError"),
        ),
    ],
)
def test_a_file_without_the_line_is_told_apart_from_one_that_makes_no_sense(
    root: Path, name: str, text: str, channel: str, expected: Absent
) -> None:
    lay(root, {name: text})
    assert Host(PID, root).read()[channel] == expected


def test_a_directory_in_place_of_a_file_is_missed(root: Path) -> None:
    lay(root, {"proc/loadavg": None})
    (root / "proc/loadavg").mkdir()
    assert Host(PID, root).read()["load_1min"] == Absent("missed", "IsADirectoryError")


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function that forbids reading a file, for root too."""
    denied: set[Path] = set()
    read_text = Path.read_text

    def guarded(self: Path, encoding: str | None = None) -> str:
        if self in denied:
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, encoding)

    monkeypatch.setattr(Path, "read_text", guarded)
    return denied.add


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("proc/loadavg", {"load_1min"}),
        ("proc/stat", {"foreign_cpu", "stolen_cpu"}),
        (f"proc/{PID}/stat", {"own_cpu", "foreign_cpu"}),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", {"cpu_frequency"}),
    ],
)
def test_a_file_without_permission_is_denied(
    root: Path, deny: Callable[[Path], None], name: str, channels: set[str]
) -> None:
    deny(root / name)
    readings = Host(PID, root).read()
    assert {each for each, r in readings.items() if r == Absent("denied", "no permission")} == channels


def test_a_fact_without_permission_is_denied(root: Path, deny: Callable[[Path], None]) -> None:
    deny(root / "proc/meminfo")
    assert told(facts(root)["memory_total"]) == ("denied", None, "no permission")


def test_the_time_of_a_process_that_is_gone_is_missed_and_not_zero(root: Path) -> None:
    readings = Host(4242, root).read()
    assert {name: r for name, r in readings.items() if isinstance(r, Absent)} == {
        "own_cpu": Absent("missed", "ProcessLookupError"),
        "foreign_cpu": Absent("missed", "ProcessLookupError"),
        "involuntary_switches": Absent("missed", "ProcessLookupError"),
    }


def test_a_kernel_that_lists_no_children_can_not_tell_own_from_foreign(root: Path) -> None:
    for path in root.glob("proc/*/task/*/children"):
        path.unlink()
    readings = Host(PID, root).read()
    for name in ("own_cpu", "foreign_cpu", "involuntary_switches"):
        assert readings[name] == GONE


def test_a_machine_without_cpufreq_says_so(root: Path) -> None:
    for path in root.glob("sys/devices/system/cpu/cpu*/cpufreq/*"):
        path.unlink()
    assert Host(PID, root).read()["cpu_frequency"] == Absent("unsupported", "no cpufreq here")
    assert told(facts(root)["governor"]) == ("unsupported", None, "not on this machine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: Some CPU\n", ("value", "Some CPU", None)),
        ("processor: 0\nModel\t\t: Raspberry Pi\n", ("value", "Raspberry Pi", None)),
        ("processor: 0\nCPU part: 0xd42\n", ("unsupported", None, "not on this machine")),
    ],
)
def test_the_processor_is_named_or_unknown(
    root: Path, text: str, expected: tuple[str, object, str | None]
) -> None:
    lay(root, {"proc/cpuinfo": text})
    assert told(facts(root)["cpu_model"]) == expected


def test_a_fact_that_the_system_does_not_tell_is_no_value(root: Path) -> None:
    lay(root, {"proc/cpuinfo": "processor: 0\n"})
    assert told(facts(root)["virtualisation"]) == ("unsupported", None, "not on this machine")


def test_counters_that_are_not_numbers_are_left_out(root: Path) -> None:
    lay(
        root,
        {
            "proc/vmstat": "oom_kill many\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "?",
        },
    )
    assert Host(PID, root).counters() == {"core_throttle_count": ("1", 6)}


# --- control groups -----------------------------------------------------------------------------

V2 = "0::/user.slice/mine\n"
V1 = "9:name=systemd:/x\n4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n"
NO_LIMIT_V1 = "9223372036854771712\n"

GROUPS: dict[str, tuple[dict[str, str], Limits]] = {
    "nothing at all": ({}, Limits(None, None)),
    "version 2 without limits": (
        {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"},
        Limits(None, None),
    ),
    "version 2 in a container": (
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": "1073741824\n",
        },
        Limits(1.5, 2**30),
    ),
    "version 2 on a host, in a group of its own": (
        {
            "proc/self/cgroup": V2,
            "sys/fs/cgroup/user.slice/mine/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/user.slice/mine/memory.max": "1000\n",
        },
        Limits(0.5, 1000),
    ),
    "version 2, the group above being tighter": (
        {
            "proc/self/cgroup": V2,
            "sys/fs/cgroup/user.slice/mine/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/user.slice/mine/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/memory.max": "5000\n",
        },
        Limits(2.0, 5000),
    ),
    "version 2 outside the folder that is seen": (
        {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"},
        Limits(1.0, None),
    ),
    "version 1 in a container": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "2048\n",
        },
        Limits(2.5, 2048),
    ),
    "version 1 on a host, in a group of its own": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "4096\n",
        },
        Limits(0.5, 4096),
    ),
    "version 1 without limits": (
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
        },
        Limits(None, None),
    ),
    "files that make no sense": (
        {
            "proc/self/cgroup": "what\n",
            "sys/fs/cgroup/cpu.max": "1\n",
            "sys/fs/cgroup/memory.max": "much\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "some\n",
        },
        Limits(None, None),
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_limits_are_those_of_the_tightest_group(tmp_path: Path, name: str) -> None:
    files, expected = GROUPS[name]
    assert limits(lay(tmp_path, files)) == expected


@pytest.mark.parametrize(("quota", "expected"), [("50000", 1), ("100000", 1), ("199000", 1)])
def test_a_quota_limits_the_usable_cores_but_never_to_none(tmp_path: Path, quota: str, expected: int) -> None:
    lay(tmp_path, {"sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert usable_cores(tmp_path) == expected


def test_a_quota_above_the_affinity_changes_nothing(tmp_path: Path) -> None:
    lay(tmp_path, {"sys/fs/cgroup/cpu.max": "102400000 100000\n"})
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_affinity_limits_the_usable_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    assert usable_cores(tmp_path) == 7
    lay(tmp_path, {"sys/fs/cgroup/cpu.max": "350000 100000\n"})
    assert usable_cores(tmp_path) == 3


def test_throttling_is_that_of_the_own_group(root: Path) -> None:
    lay(
        root,
        {
            "proc/self/cgroup": V2,
            "sys/fs/cgroup/user.slice/mine/cpu.stat": "usage_usec 1\nthrottled_usec 42\n",
        },
    )
    assert Host(PID, root).read()["cgroup_throttled"] == 42.0


# --- bare metal or not --------------------------------------------------------------------------

BARE = "processor: 0\nflags\t\t: fpu sse\n"
GUEST = "processor: 0\nflags\t\t: fpu sse hypervisor\n"
ARM = "processor: 0\nBogoMIPS: 62.50\nFeatures\t: fp asimd\n"
VENDOR, PRODUCT = "sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"proc/cpuinfo": BARE}, "none", id="bare metal"),
        pytest.param({"proc/cpuinfo": BARE, VENDOR: "Dell Inc.\n"}, "none", id="bare metal of a maker"),
        pytest.param({"proc/cpuinfo": GUEST}, "unnamed", id="a guest without a name"),
        pytest.param({"proc/cpuinfo": GUEST, VENDOR: "QEMU\n"}, "qemu", id="qemu"),
        pytest.param({"proc/cpuinfo": GUEST, VENDOR: "x", PRODUCT: "KVM\n"}, "kvm", id="kvm"),
        pytest.param({"proc/cpuinfo": GUEST, VENDOR: "VMware, Inc.\n"}, "vmware", id="vmware"),
        pytest.param({"proc/cpuinfo": GUEST, VENDOR: "innotek GmbH\n"}, "virtualbox", id="virtualbox"),
        pytest.param(
            {"proc/cpuinfo": GUEST, VENDOR: "Microsoft Corporation\n"}, "hyper-v", id="a hyper-v guest"
        ),
        pytest.param({"proc/cpuinfo": BARE, VENDOR: "Microsoft Corporation\n"}, "none", id="a Surface"),
        pytest.param({"proc/cpuinfo": GUEST, VENDOR: "Amazon EC2\n"}, "amazon", id="a cloud guest"),
        pytest.param({"proc/cpuinfo": BARE, VENDOR: "Amazon EC2\n"}, "none", id="a cloud's bare metal"),
        pytest.param({"proc/cpuinfo": BARE, "sys/hypervisor/type": "xen\n"}, "xen", id="xen"),
        pytest.param({"proc/cpuinfo": ARM}, None, id="ARM without a word"),
        pytest.param({"proc/cpuinfo": ARM, VENDOR: "Amazon EC2\n"}, None, id="an ARM cloud machine"),
        pytest.param({"proc/cpuinfo": ARM, VENDOR: "QEMU\n"}, "qemu", id="an ARM guest"),
        pytest.param(
            {"proc/cpuinfo": ARM, "proc/device-tree/model": "NVIDIA Jetson AGX Orin\0"}, "none", id="a board"
        ),
        pytest.param(
            {
                "proc/cpuinfo": ARM,
                "proc/device-tree/model": "linux,dummy-virt\0",
                "proc/device-tree/hypervisor/compatible": "linux,kvm\0",
            },
            "unnamed",
            id="a guest with a device tree",
        ),
    ],
)
def test_a_virtual_machine_is_told_from_bare_metal(
    tmp_path: Path, files: dict[str, str], expected: str | None
) -> None:
    assert virtualisation(lay(tmp_path, files)) == expected


# --- this machine -------------------------------------------------------------------------------

# Takes 0.3 s of processor time, says so, and stays until it is let go.
BURN = """
import os, time, sys
while time.process_time() < 0.3: pass
os.write(1, b"burnt\\n")
os.read(0, 1)
"""
IDLE = "import os; os.write(1, b'up\\n'); os.read(0, 1)"


def python(code: str) -> Child:
    return Child([sys.executable, "-I", "-S", "-c", code], stdout=Child.PIPE)


def number(readings: Mapping[str, Reading], name: str) -> float:
    reading = readings[name]
    assert not isinstance(reading, Absent), (name, reading)
    return reading


@pytest.mark.needs("linux")
def test_this_machine_is_read_without_a_zero_by_default() -> None:
    readings = Host(os.getpid()).read()
    assert list(readings) == [spec.name for spec in Host.channels]
    assert number(readings, "memory_available") > 2**20
    assert number(readings, "own_cpu") > 0
    assert number(readings, "load_1min") >= 0
    for name, reading in readings.items():
        if isinstance(reading, Absent):
            assert reading.state in ("unsupported", "denied"), (name, reading)


@pytest.mark.needs("linux")
def test_the_facts_of_this_machine_are_values_or_say_why() -> None:
    for fact in Host(os.getpid()).facts():
        assert (fact.value is None) == (fact.state != "value") == (fact.reason is not None), fact


@pytest.mark.needs("linux")
def test_a_busy_stranger_is_foreign_time_and_not_our_own() -> None:
    with python(IDLE) as watched:
        assert next(watched.lines()) == b"up\n"
        host = Host(watched.pid)
        before = host.read()
        with python(BURN) as stranger:
            assert next(stranger.lines()) == b"burnt\n"
            after = host.read()
    assert number(after, "foreign_cpu") - number(before, "foreign_cpu") > 0.2
    assert number(after, "own_cpu") - number(before, "own_cpu") < 0.1


@pytest.mark.needs("linux")
def test_a_busy_child_is_our_own_time_while_it_runs_and_after_it_ended() -> None:
    host = Host(os.getpid())
    before = number(host.read(), "own_cpu")
    with python(BURN) as child:
        assert next(child.lines()) == b"burnt\n"
        running = number(host.read(), "own_cpu")
        child.let_go()
        assert child.wait(30) == 0
    ended = number(host.read(), "own_cpu")
    assert running - before > 0.2
    assert ended >= running - 2 * TICK


@pytest.mark.needs("linux")
def test_a_grandchild_is_our_own_too() -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {BURN!r}])"
    with python(code) as child:
        host = Host(child.pid)
        deadline = time.monotonic() + 60
        seen = 0.0
        while seen < 0.25 and time.monotonic() < deadline:
            seen = number(host.read(), "own_cpu")
        assert seen >= 0.25
        child.let_go()


@pytest.mark.needs("linux")
def test_involuntary_switches_of_this_process_never_fall() -> None:
    host = Host(os.getpid())
    counts = [number(host.read(), "involuntary_switches") for _ in range(20)]
    assert counts == sorted(counts)
