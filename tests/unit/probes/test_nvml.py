"""The NVML probe over a made-up driver: a library in C that each scenario loads in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from repro.probes import Absent, nvml
from repro.probes.nvml import EVENT_REASONS, Nvml, reasons

ROOT = Path(__file__).parents[3]
STUB = Path(__file__).with_name("nvml_stub.c")
WORKER = 100
needs_stub = pytest.mark.needs("cc", "linux")

PRELUDE = """
import ctypes, json, sys
from pathlib import Path
import msgspec
from repro.probes.nvml import Nvml

stub = ctypes.CDLL("libnvidia-ml.so.1")
stub.stub_name.restype = ctypes.c_char_p
stub.stub_process.argtypes = [ctypes.c_uint, ctypes.c_ulonglong]
root = Path(sys.argv[1])

def probe(uuid="GPU-0"):
    return Nvml(100, uuid, root)

def reset():
    stub.stub_reset()
    stub.stub_process(100, 1000)
    stub.stub_process(999, 300)

def facts(of):
    return {fact.name: fact for fact in of.facts()}

def names():
    found = []
    while (name := stub.stub_name(len(found))) is not None:
        found.append(name)
    return found

def tell(what):
    print(msgspec.json.encode(what).decode())

reset()
"""

WHOLE = {
    "sm_clock": 1500.0,
    "memory_clock": 2600.0,
    "event_reasons": float(0x24),
    "power": 250.5,
    "energy": 1083.0,
    "temperature": 40.0,
    "memory_temperature": 55.0,
    "gpu_utilisation": 97.0,
    "memory_utilisation": 31.0,
    "memory_used": 3000.0,
    "performance_state": 2.0,
    "other_processes": 1.0,
    "other_memory": 300.0,
}


def gone(state: str, reason: str) -> dict[str, str]:
    return {"state": state, "reason": reason}


UNSUPPORTED = gone("unsupported", "not supported by this GPU or driver")
LOST = gone("missed", "GpuIsLost")


def stat(pid: int, parent: int, name: str = "python3") -> str:
    return f"{pid} ({name}) S {parent} 1 1 0 -1 4194560 1 2 3 4 0 0 0 0 20 0 1 0 99 1 1"


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the made-up driver, a new and an old one; return the folder of both."""
    folder = tmp_path_factory.mktemp("nvml")
    for name, flags in (("new", []), ("old", ["-DOLD"])):
        (folder / name).mkdir()
        library = folder / name / "libnvidia-ml.so.1"
        argv = ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags]
        subprocess.run([*argv, f"-Wl,-soname,{library.name}", "-o", library, STUB], check=True, timeout=60)
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Lay a /proc: the worker, its child and grandchild, and somebody else."""
    root = tmp_path / "root"
    (root / "proc/self/ns").mkdir(parents=True)
    (root / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    for pid, parent, name in (
        (WORKER, 1, "a (strange) name"),
        (101, WORKER, "b"),
        (102, 101, "c d"),
        (999, 1, "e"),
    ):
        (root / f"proc/{pid}").mkdir()
        (root / f"proc/{pid}/stat").write_text(stat(pid, parent, name))
    return root


def run(library: Path, machine: Path, script: str, prelude: str = PRELUDE) -> Any:
    """Run a scenario with the driver in `library`; return what it tells."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(script), str(machine)],
        env={**os.environ, "LD_LIBRARY_PATH": str(library), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def play(drivers: Path, machine: Path, script: str, driver: str = "new") -> Any:
    return run(drivers / driver, machine, script)


def changed(seen: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    assert list(seen) == list(whole)
    return {name: value for name, value in seen.items() if value != whole[name]}


# --- a driver that tells everything -------------------------------------------------------------


@needs_stub
def test_every_channel_has_its_number_in_its_unit(drivers: Path, machine: Path) -> None:
    seen = play(drivers, machine, "tell(probe().read())")
    assert seen == pytest.approx(WHOLE)
    assert list(seen) == [spec.name for spec in Nvml.channels]


@needs_stub
def test_every_fact_has_its_value_in_its_unit(drivers: Path, machine: Path) -> None:
    told = play(drivers, machine, "tell(facts(probe()))")
    assert {fact["state"] for fact in told.values()} == {"value"}
    assert {name: (fact["value"], fact["unit"]) for name, fact in told.items()} == {
        "gpu_name": ("NVIDIA Made-up GPU", None),
        "driver_version": ("580.65.06", None),
        "cuda_driver_version": ("13.0", None),
        "nvml_version": ("13.580.65.06", None),
        "architecture": ("Hopper", None),
        "compute_capability": ("9.1", None),
        "gpu_cores": (16896, "1"),
        "memory_bus_width": (6144, "bits"),
        "vbios_version": ("96.00.74", None),
        "inforom_version": ("G520.0200", None),
        "board_part_number": ("692-2G520", None),
        "memory_total": (80000, "bytes"),
        "memory_reserved": (500, "bytes"),
        "ecc_mode": ("on", None),
        "mig_mode": ("on", None),
        "mig_instance": (False, None),
        "persistence_mode": ("on", None),
        "compute_mode": ("exclusive_process", None),
        "sm_clock_max": (1981, "MHz"),
        "sm_clock_application": (1756, "MHz"),
        "memory_clock_max": (1982, "MHz"),
        "memory_clock_application": (1757, "MHz"),
        "power_limit": (650.0, "W"),
        "power_limit_default": (700.0, "W"),
        "power_limit_min": (200.0, "W"),
        "power_limit_max": (700.5, "W"),
        "power_source": ("instant", None),
        "temperature_slowdown": (91, "C"),
        "temperature_shutdown": (90, "C"),
        "pcie_generation": (4, "1"),
        "pcie_generation_max": (5, "1"),
        "pcie_width": (8, "1"),
        "pcie_width_max": (16, "1"),
        "gpu_uuid": ("GPU-0", None),
        "gpu_serial": ("1650000000000", None),
        "pci_bus_id": ("00000000:01:00.0", None),
        "board_id": ("0x1a00", None),
    }


@needs_stub
@pytest.mark.parametrize("failing", [0, 3, 15])
def test_what_names_this_one_gpu_is_private_whether_it_is_told_or_not(
    drivers: Path, machine: Path, failing: int
) -> None:
    told = play(drivers, machine, f"stub.stub_fail_all({failing}); tell(facts(probe()))")
    private = [name for name, fact in told.items() if fact["private"]]
    assert private == ["gpu_uuid", "gpu_serial", "pci_bus_id", "board_id"]


@needs_stub
def test_the_counters_are_whole_numbers_in_the_units_of_the_driver(drivers: Path, machine: Path) -> None:
    assert play(drivers, machine, "tell(probe().counters())") == {
        "energy": ["mJ", 1083000],
        "throttled_sw_power_cap": ["ns", 1074000],
        "throttled_thermal_policy": ["ns", 1075000],
        "throttled_sync_boost": ["ns", 1076000],
        "throttled_board_limit": ["ns", 1077000],
        "throttled_low_utilisation": ["ns", 1078000],
        "throttled_reliability": ["ns", 1079000],
        "throttled_below_application_clocks": ["ns", 1080000],
        "throttled_below_base_clocks": ["ns", 1081000],
        "throttled_sw_thermal": ["ns", 1269000],
        "throttled_hw_thermal": ["ns", 1270000],
        "throttled_hw_power_brake": ["ns", 1271000],
        "ecc_corrected": ["1", 7],
        "ecc_uncorrected": ["1", 8],
        "pcie_replays": ["1", 13],
    }


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, ()),
        (0x24, ("sw_power_cap", "sw_thermal")),
        (0x401, ("idle", "reliability")),
        (0x10008, ("hw_slowdown", "0x10000")),
    ],
)
def test_the_bits_of_the_event_reasons_have_names(bits: int, names: tuple[str, ...]) -> None:
    assert reasons(bits) == names


def test_each_event_reason_is_one_bit() -> None:
    assert list(EVENT_REASONS) == [1 << i for i in range(len(EVENT_REASONS))]


# --- which GPU ----------------------------------------------------------------------------------


@needs_stub
def test_the_gpu_is_found_by_its_uuid_among_three_whatever_cuda_shows(
    drivers: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    seen = play(drivers, machine, "tell([probe(f'GPU-{i}').read() for i in range(3)])")
    assert [each["sm_clock"] for each in seen] == [1500.0, 1501.0, 1502.0]
    assert [each["temperature"] for each in seen] == [40.0, 41.0, 42.0]


@needs_stub
def test_a_gpu_that_is_not_here_is_no_other_gpu_and_is_not_named(drivers: Path, machine: Path) -> None:
    script = "p = probe('GPU-77'); tell([p.read(), facts(p), p.counters()])"
    readings, told, counters = play(drivers, machine, script)
    reason = gone("unsupported", "no GPU with the UUID of the device under test")
    assert readings == dict.fromkeys(WHOLE, reason)
    known = {name for name, fact in told.items() if fact["state"] == "value"}
    assert known == {"driver_version", "cuda_driver_version", "nvml_version"}
    assert counters == {}
    assert "77" not in json.dumps([readings, told])


@needs_stub
@pytest.mark.parametrize(("gpus", "known"), [(0, False), (1, True), (2, False), (3, False)])
def test_without_a_uuid_only_the_only_gpu_is_taken(
    drivers: Path, machine: Path, gpus: int, known: bool
) -> None:
    seen = play(drivers, machine, f"stub.stub_gpus({gpus}); tell(probe(None).read())")
    unknown = gone("unsupported", "which GPU is under test is not known")
    assert seen == (WHOLE if known else dict.fromkeys(WHOLE, unknown))


@needs_stub
@pytest.mark.parametrize("uuid", ["MIG-of-2", "GPU-of-2"], ids=["by its own name", "as CUDA calls it"])
def test_a_mig_instance_has_its_own_memory_and_the_clocks_of_its_gpu(
    drivers: Path, machine: Path, uuid: str
) -> None:
    script = f"p = probe('{uuid}'); tell([p.read(), facts(p)])"
    readings, told = play(drivers, machine, script)
    assert {"memory_used": 3009.0, "sm_clock": 1502.0, "power": 250.502}.items() <= readings.items()
    assert told["mig_instance"]["value"] is True
    assert (told["gpu_uuid"]["value"], told["gpu_uuid"]["private"]) == ("MIG-of-2", True)


@needs_stub
def test_a_mig_instance_without_its_gpu_still_has_its_memory(drivers: Path, machine: Path) -> None:
    script = """
        stub.stub_fail(b"nvmlDeviceGetDeviceHandleFromMigDeviceHandle", 13)
        tell(probe("MIG-of-2").read())
    """
    seen = play(drivers, machine, script)
    there = {name for name, reading in seen.items() if not isinstance(reading, dict)}
    assert there == {"memory_used", "other_processes", "other_memory"}
    assert seen["power"] == gone("unsupported", "the driver has no such function")


# --- no driver ----------------------------------------------------------------------------------


def test_without_the_package_everything_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    probe = Nvml(WORKER, "GPU-0")
    why = Absent("unsupported", "nvidia-ml-py is not installed")
    assert probe.read() == {spec.name: why for spec in Nvml.channels}
    assert {(fact.state, fact.value, fact.reason) for fact in probe.facts()} == {
        (why.state, None, why.reason)
    }
    assert probe.counters() == {}


@pytest.mark.needs("linux")
@pytest.mark.parametrize("uuid", ["GPU-0", None])
def test_without_a_library_everything_is_unsupported(machine: Path, tmp_path: Path, uuid: str | None) -> None:
    # A library that can't be loaded hides one that this machine may have.
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library, but long enough to be looked at" * 9)
    prelude = PRELUDE.replace("\nstub", "\n# stub").replace("\nreset()", "")
    script = f"p = probe({uuid!r}); tell([p.read(), facts(p), p.counters()])"
    readings, told, counters = run(tmp_path, machine, script, prelude)
    assert readings == dict.fromkeys(WHOLE, gone("unsupported", "no NVML library here"))
    assert {(fact["state"], fact["reason"]) for fact in told.values()} == {
        ("unsupported", "no NVML library here")
    }
    assert counters == {}


@needs_stub
@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        (9, "unsupported", "the driver is not loaded"),
        (18, "unsupported", "the NVML library and the driver do not match"),
        (4, "denied", "no permission"),
        (15, "missed", "GpuIsLost"),
        (999, "missed", "Unknown"),
        (12345, "missed", "NVML error 12345"),
    ],
)
def test_a_driver_that_does_not_start_is_the_reason_for_everything_and_is_tried_once(
    drivers: Path, machine: Path, code: int, state: str, reason: str
) -> None:
    script = f"""
        stub.stub_fail(b"nvmlInitWithFlags", {code})
        p = probe()
        tell([p.read(), facts(p), p.counters(), p.read(), stub.stub_calls()])
    """
    readings, told, counters, again, calls = play(drivers, machine, script)
    assert readings == again == dict.fromkeys(WHOLE, gone(state, reason))
    assert {(fact["state"], fact["reason"]) for fact in told.values()} == {(state, reason)}
    assert (counters, calls) == ({}, 1)


@needs_stub
def test_nothing_is_loaded_before_the_first_reading(drivers: Path, machine: Path) -> None:
    script = "p = probe(); tell([stub.stub_calls(), 'pynvml' in sys.modules])"
    assert play(drivers, machine, script) == [0, False]


# --- a driver that fails ------------------------------------------------------------------------

CHANNELS_OF = {
    "nvmlDeviceGetFieldValues": {"power", "energy", "memory_temperature"},
    "nvmlDeviceGetClockInfo": {"sm_clock", "memory_clock"},
    "nvmlDeviceGetCurrentClocksEventReasons": {"event_reasons"},
    "nvmlDeviceGetTemperatureV": {"temperature"},
    "nvmlDeviceGetUtilizationRates": {"gpu_utilisation", "memory_utilisation"},
    "nvmlDeviceGetMemoryInfo_v2": {"memory_used"},
    "nvmlDeviceGetPerformanceState": {"performance_state"},
    "nvmlDeviceGetComputeRunningProcesses_v3": {"other_processes", "other_memory"},
    "nvmlInitWithFlags": set(WHOLE),
    "nvmlDeviceGetHandleByUUID": set(WHOLE),
}
# What older functions tell where the newer ones are unsupported.
INSTEAD: dict[str, dict[str, Any]] = {
    "nvmlDeviceGetFieldValues": {"power": 230.125, "energy": 777.0, "power_source": "usage"},
    "nvmlDeviceGetMemoryInfo_v2": {"memory_used": 3500.0, "memory_reserved": None},
    "nvmlSystemGetCudaDriverVersion_v2": {"cuda_driver_version": "12.8"},
    "nvmlDeviceGetCurrentClocksEventReasons": {"event_reasons": WHOLE["event_reasons"]},
    "nvmlDeviceGetTemperatureV": {"temperature": WHOLE["temperature"]},
    "nvmlDeviceGetComputeRunningProcesses_v3": {"other_processes": 1.0, "other_memory": 300.0},
}


@needs_stub
@pytest.mark.parametrize(
    ("code", "state"),
    [(3, "unsupported"), (13, "unsupported"), (4, "denied"), (15, "missed"), (10, "missed"), (999, "missed")],
)
def test_each_function_that_fails_costs_only_what_it_tells(
    drivers: Path, machine: Path, code: int, state: str
) -> None:
    script = f"""
        def all_of(p):
            return [p.read(), facts(p), p.counters()]
        whole = all_of(probe())
        seen = {{}}
        for name in names():
            reset()
            stub.stub_fail(name, {code})
            seen[name.decode()] = all_of(probe())
        tell([whole, seen])
    """
    (readings, told, counters), failed = play(drivers, machine, script)
    assert set(CHANNELS_OF) < set(failed)
    assert len(failed) > 40
    for function, (seen, seen_told, seen_counters) in failed.items():
        instead = INSTEAD.get(function, {}) if state == "unsupported" else {}
        lost = CHANNELS_OF.get(function, set())
        for name, reading in seen.items():
            if name in instead or name not in lost:
                assert reading == instead.get(name, readings[name]), (function, name)
            else:
                assert isinstance(reading, dict), (function, name)
                assert reading["state"] == state, (function, name)
        lost_told = changed(seen_told, told)
        for name, fact in lost_told.items():
            if name in instead:
                assert fact["value"] == instead[name], (function, name)
            else:
                assert (fact["state"], fact["value"]) == (state, None), (function, name)
        for name, counter in seen_counters.items():
            assert counter == (["mJ", 777000] if name in instead else counters[name]), (function, name)
        # Everything that is asked serves something.
        assert lost or lost_told or seen_counters != counters, function


@needs_stub
@pytest.mark.parametrize(
    ("code", "state"), [(2, "unsupported"), (3, "unsupported"), (4, "denied"), (10, "missed"), (15, "missed")]
)
def test_each_field_that_fails_costs_only_its_channel(
    drivers: Path, machine: Path, code: int, state: str
) -> None:
    script = f"""
        seen = {{}}
        for field in (82, 83, 185, 186):
            reset()
            stub.stub_fail_field(field, {code})
            seen[field] = probe().read()
        tell(seen)
    """
    seen = {field: changed(each, WHOLE) for field, each in play(drivers, machine, script).items()}
    assert seen["82"]["memory_temperature"]["state"] == state
    assert [list(seen[field]) for field in ("82", "83", "185", "186")] == [
        ["memory_temperature"],
        ["energy"],
        [],
        ["power"],
    ]
    if state == "unsupported":
        assert (seen["186"]["power"], seen["83"]["energy"]) == (240.25, 777.0)
    else:
        assert seen["186"]["power"]["state"] == seen["83"]["energy"]["state"] == state


@needs_stub
def test_a_sensor_that_is_not_there_and_told_as_zero_is_no_zero(drivers: Path, machine: Path) -> None:
    script = """
        seen = []
        for field in (186, 82):
            stub.stub_zero_field(field)
            seen.append(probe().read())
        tell(seen)
    """
    power, memory = play(drivers, machine, script)
    assert changed(power, WHOLE) == {"power": 240.25}
    assert changed(memory, WHOLE) == {
        "memory_temperature": gone("unsupported", "the driver does not tell it")
    }


@needs_stub
def test_a_driver_that_supports_nothing_gives_no_number_and_is_not_asked_again(
    drivers: Path, machine: Path
) -> None:
    script = """
        stub.stub_fail_all(3)
        p = probe()
        first, counters, told = p.read(), p.counters(), facts(p)
        before = stub.stub_calls()
        again = [p.read() for _ in range(12)]
        tell([first, again, counters, told, stub.stub_calls() - before])
    """
    first, again, counters, told, calls = play(drivers, machine, script)
    assert first == dict.fromkeys(WHOLE, UNSUPPORTED)
    assert all(each == first for each in again)
    assert counters == {}
    assert {(fact["state"], fact["value"]) for name, fact in told.items() if name != "mig_instance"} == {
        ("unsupported", None)
    }
    assert calls == 0


@needs_stub
def test_a_gpu_that_is_lost_midway_is_missed_from_then_on(drivers: Path, machine: Path) -> None:
    script = """
        p = probe()
        before = [p.read(), p.read()]
        stub.stub_lost_after(4)
        during = p.read()
        after = [p.read() for _ in range(12)]
        tell([before, during, after, facts(p), p.counters()])
    """
    before, during, after, told, counters = play(drivers, machine, script)
    assert before == [WHOLE, WHOLE]
    lost = changed(during, WHOLE)
    assert 0 < len(lost) < len(WHOLE) - 2
    assert all(reading == LOST for reading in lost.values())
    assert after[-1] == dict.fromkeys(WHOLE, LOST)
    assert {(fact["state"], fact["reason"]) for name, fact in told.items() if name != "mig_instance"} == {
        ("missed", "GpuIsLost")
    }
    assert counters == {}


@needs_stub
@pytest.mark.parametrize(("code", "name"), [(9, "DriverNotLoaded"), (10, "Timeout"), (1, "Uninitialized")])
def test_a_failure_that_passes_is_a_missed_reading_and_no_end(
    drivers: Path, machine: Path, code: int, name: str
) -> None:
    script = f"""
        p = probe()
        p.read()
        stub.stub_fail_all({code})
        during = p.read()
        stub.stub_fail_all(0)
        tell([during, p.read()])
    """
    during, after = play(drivers, machine, script)
    missed = {key: reading for key, reading in during.items() if not key.startswith("other_")}
    assert missed == dict.fromkeys(missed, gone("missed", name))
    assert after == WHOLE


@needs_stub
def test_what_was_told_once_is_not_given_up_nor_told_in_another_way(drivers: Path, machine: Path) -> None:
    script = """
        p = probe()
        p.read()
        stub.stub_fail(b"nvmlDeviceGetMemoryInfo_v2", 3)
        during = p.read()["memory_used"]
        stub.stub_fail(b"nvmlDeviceGetMemoryInfo_v2", 0)
        tell([during, p.read()["memory_used"], stub.stub_count(b"nvmlDeviceGetMemoryInfo")])
    """
    assert play(drivers, machine, script) == [UNSUPPORTED, 3000.0, 0]


@needs_stub
def test_power_does_not_change_its_kind_midway(drivers: Path, machine: Path) -> None:
    script = """
        p = probe()
        p.read()
        stub.stub_fail_field(186, 3)
        during = p.read()["power"]
        stub.stub_fail_field(186, 0)
        tell([during, p.read()["power"]])
    """
    assert play(drivers, machine, script) == [UNSUPPORTED, 250.5]


@needs_stub
def test_a_denied_function_is_denied_where_there_is_no_older_one(drivers: Path, machine: Path) -> None:
    script = """
        import pynvml
        del pynvml.nvmlDeviceGetComputeRunningProcesses_v2
        stub.stub_fail(b"nvmlDeviceGetComputeRunningProcesses_v3", 4)
        tell(probe().read())
    """
    denied = gone("denied", "no permission")
    seen = changed(play(drivers, machine, script), WHOLE)
    assert seen == {"other_processes": denied, "other_memory": denied}


@needs_stub
def test_slow_calls_are_only_slow(drivers: Path, machine: Path) -> None:
    script = "stub.stub_slow(20); p = probe(); tell([p.read(), p.counters() == probe().counters()])"
    assert play(drivers, machine, script) == [WHOLE, True]


# --- other drivers ------------------------------------------------------------------------------


@needs_stub
def test_an_old_driver_is_asked_by_the_old_names(drivers: Path, machine: Path) -> None:
    script = "p = probe(); tell([p.read(), facts(p), p.counters()])"
    readings, told, counters = play(drivers, machine, script, driver="old")
    # Its memory contains what the driver holds back, and its power is the average.
    assert changed(readings, WHOLE) == {"power": 230.125, "memory_used": 3500.0}
    assert told["cuda_driver_version"]["value"] == "12.8"
    assert {name: fact["reason"] for name, fact in told.items() if fact["state"] != "value"} == {
        "memory_reserved": "the driver does not tell it"
    }
    assert "throttled_sw_power_cap" in counters
    assert "throttled_sw_thermal" not in counters


@needs_stub
def test_a_package_without_the_new_names_falls_back_as_well(drivers: Path, machine: Path) -> None:
    script = """
        import pynvml
        for name in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons",
                     "nvmlDeviceGetPerformanceState"):
            delattr(pynvml, name)
        tell(probe().read())
    """
    assert changed(play(drivers, machine, script), WHOLE) == {
        "performance_state": gone("unsupported", "nvidia-ml-py has no such function")
    }


@needs_stub
def test_the_types_of_the_fields_may_change_between_drivers(drivers: Path, machine: Path) -> None:
    # Double, unsigned int, long and long long, signed long long and int: all give the same numbers.
    script = """
        seen = []
        for kind in range(6):
            reset()
            stub.stub_types(1 + kind)
            p = probe()
            seen.append([p.read(), p.counters()])
        tell(seen)
    """
    seen = play(drivers, machine, script)
    assert all(each == seen[0] for each in seen)
    assert seen[0][0] == pytest.approx(WHOLE)
    assert seen[0][1]["throttled_hw_power_brake"] == ["ns", 1271000]


@needs_stub
def test_a_type_that_nobody_knows_is_missed(drivers: Path, machine: Path) -> None:
    script = """
        stub.stub_types(7)
        short = probe().read()["memory_temperature"]
        stub.stub_types(8)
        p = probe()
        tell([short, p.read(), p.counters()])
    """
    short, readings, counters = play(drivers, machine, script)
    assert short == 55.0
    missed = gone("missed", "a value of unknown type")
    assert changed(readings, WHOLE) == {"power": missed, "energy": missed, "memory_temperature": missed}
    assert set(counters) == {"ecc_corrected", "ecc_uncorrected", "pcie_replays"}


# --- who else uses the GPU ----------------------------------------------------------------------


@needs_stub
def test_the_worker_and_its_descendants_are_nobody_else(drivers: Path, machine: Path) -> None:
    script = """
        for pid, size in ((101, 10), (102, 20), (998, 40)):
            stub.stub_process(pid, size)
        tell(probe().read())
    """
    seen = play(drivers, machine, script)
    assert (seen["other_processes"], seen["other_memory"]) == (2.0, 340.0)


@needs_stub
def test_nobody_else_is_a_measured_zero(drivers: Path, machine: Path) -> None:
    script = """
        stub.stub_reset()
        idle = probe().read()
        stub.stub_process(101, 10)
        tell([idle, probe().read()])
    """
    for seen in play(drivers, machine, script):
        assert (seen["other_processes"], seen["other_memory"]) == (0.0, 0.0)


@needs_stub
def test_without_proc_all_but_the_worker_are_others(drivers: Path, tmp_path: Path) -> None:
    seen = play(drivers, tmp_path, "stub.stub_process(101, 10); tell(probe().read())")
    assert (seen["other_processes"], seen["other_memory"]) == (2.0, 310.0)


@needs_stub
def test_memory_that_is_not_told_is_no_zero(drivers: Path, machine: Path) -> None:
    seen = play(drivers, machine, "stub.stub_process(998, 2**64 - 1); tell(probe().read())")
    assert seen["other_processes"] == 2.0
    assert seen["other_memory"] == gone("unsupported", "the driver does not tell it")


@needs_stub
def test_in_a_container_nobody_can_be_told_from_anybody(drivers: Path, machine: Path) -> None:
    link = machine / "proc/self/ns/pid"
    link.unlink()
    link.symlink_to("pid:[4026532999]")
    why = gone("unsupported", "process ids of the driver mean nothing in this container")
    seen = changed(play(drivers, machine, "tell(probe().read())"), WHOLE)
    assert seen == {"other_processes": why, "other_memory": why}


@needs_stub
def test_no_process_leaves_the_probe(drivers: Path, machine: Path) -> None:
    script = """
        stub.stub_process(424242, 10)
        p = probe()
        tell([p.read(), facts(p), p.counters()])
    """
    assert "424242" not in json.dumps(play(drivers, machine, script))


# --- what it costs ------------------------------------------------------------------------------


@needs_stub
@pytest.mark.parametrize(("driver", "fields", "more"), [("new", (), 0), ("old", (), 1), ("old", (83,), 2)])
def test_a_tick_makes_as_many_calls_as_the_docstring_says(
    drivers: Path, machine: Path, driver: str, fields: tuple[int, ...], more: int
) -> None:
    script = f"""
        for field in {fields}:
            stub.stub_fail_field(field, 3)
        p = probe()
        calls, seen = [], []
        for i in range(22):
            before = stub.stub_calls()
            if i == 5:
                stub.stub_process(998, 1)
            seen.append(p.read()["other_processes"])
            calls.append(stub.stub_calls() - before)
        tell([calls[1:], seen])
    """
    calls, others = play(drivers, machine, script, driver)
    text = " ".join((nvml.__doc__ or "").split())
    tick = re.search(r"A tick makes (\d+) driver calls", text)
    tenth = re.search(r"Every tenth tick makes (\d+) more", text)
    assert tick is not None
    assert tenth is not None
    each, tens = int(tick[1]) + more, int(tenth[1])
    assert calls == [each + (tens if i % 10 == 0 else 0) for i in range(1, 22)]
    assert others == [1.0] * 10 + [2.0] * 12
