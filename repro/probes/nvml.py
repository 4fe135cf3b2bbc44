"""The `nvml` probe: what NVIDIA's driver tells about the GPU under test and about who else uses it.

A tick makes 8 driver calls: one for all field values (power, energy, memory temperature), two for the
clocks and one each for the event reasons, temperature, utilisation, memory and performance state. A
driver without the fields for power or energy is asked in one more call each. Every tenth tick makes
2 more for the processes, and their channels repeat that reading in between. What the driver never told
and does not support is not asked again.

On a MIG instance the memory and the processes are the instance's; all else is the whole GPU's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from repro.probes import Absent, ChannelSpec, Reading
from repro.schema import Fact, Scalar

Way: TypeAlias = tuple[Any, ...]
"""A function's name, and its arguments behind the handle."""

EVENT_REASONS: dict[int, str] = {
    0x1: "idle",
    0x2: "application_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Why the clocks are not higher: the bits of the channel `event_reasons`."""
SLOWDOWNS = frozenset(
    {"sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake", "sync_boost"}
)
"""Those of them that hold the clocks down under load."""

# Numbers of fields and enumerations never change, while the package's names for them come and go.
_MEMORY_TEMPERATURE, _ENERGY_MJ, _POWER_AVERAGE_MW, _POWER_INSTANT_MW = 82, 83, 185, 186
_TICK_FIELDS = (_POWER_INSTANT_MW, _POWER_AVERAGE_MW, _ENERGY_MJ, _MEMORY_TEMPERATURE)
_THROTTLED_NS = {
    74: "throttled_sw_power_cap",
    75: "throttled_thermal_policy",
    76: "throttled_sync_boost",
    77: "throttled_board_limit",
    78: "throttled_low_utilisation",
    79: "throttled_reliability",
    80: "throttled_below_application_clocks",
    81: "throttled_below_base_clocks",
    269: "throttled_sw_thermal",
    270: "throttled_hw_thermal",
    271: "throttled_hw_power_brake",
}
_VALUE_TYPES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_SM, _MEMORY = 1, 2
_SHUTDOWN, _SLOWDOWN = 0, 1
_CORRECTED, _UNCORRECTED, _SINCE_LOAD = 0, 1, 0
_MEMORY_V2 = 0x02000028
_PSTATE_UNKNOWN = 32
_ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
_OFF_ON = {0: "off", 1: "on"}

_NO_PACKAGE = Absent("unsupported", "nvidia-ml-py is not installed")
_NO_FUNCTION = Absent("unsupported", "nvidia-ml-py has no such function")
_NOT_TOLD = Absent("unsupported", "the driver does not tell it")
_WHICH_GPU = Absent("unsupported", "which GPU is under test is not known")
_NO_SUCH_GPU = Absent("unsupported", "no GPU with the UUID of the device under test")
_OTHER_NAMESPACE = Absent("unsupported", "process ids of the driver mean nothing in this container")
_UNSUPPORTED = {
    # An older driver says "invalid argument" to a number that it does not know.
    2: "the driver does not know it",
    3: "not supported by this GPU or driver",
    6: "the driver does not find it",
    9: "the driver is not loaded",
    12: "no NVML library here",
    13: "the driver has no such function",
    18: "the NVML library and the driver do not match",
    25: "the driver does not know this version of it",
    26: "the driver no longer tells it",
}
_NO_PERMISSION = 4
_LACKING = {_NO_FUNCTION, Absent("unsupported", _UNSUPPORTED[13])}
# Once a GPU was found there was a driver: from then on these are a failure.
_ONLY_AT_START = {9, 12, 18}

_PROCESS_TICKS = 10
# Linux gives the first process namespace, the host's, this fixed number.
_HOST_NAMESPACE = "pid:[4026531836]"

_TEMPERATURE: tuple[Way, ...] = (("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0))
_REASONS: tuple[Way, ...] = (
    ("nvmlDeviceGetCurrentClocksEventReasons",),
    ("nvmlDeviceGetCurrentClocksThrottleReasons",),
)
_MEMORY_INFO: tuple[Way, ...] = (("nvmlDeviceGetMemoryInfo", _MEMORY_V2), ("nvmlDeviceGetMemoryInfo",))
_PROCESSES: tuple[Way, ...] = (
    ("nvmlDeviceGetComputeRunningProcesses_v3",),
    ("nvmlDeviceGetComputeRunningProcesses_v2",),
)
_CUDA_VERSION: tuple[Way, ...] = (
    ("nvmlSystemGetCudaDriverVersion_v2",),
    ("nvmlSystemGetCudaDriverVersion",),
)


def reasons(bits: int) -> tuple[str, ...]:
    """Name the bits of `event_reasons`; a bit without a name keeps its number."""
    return tuple(EVENT_REASONS.get(1 << i, hex(1 << i)) for i in range(bits.bit_length()) if bits & (1 << i))


class Nvml:
    """Reads the GPU with the UUID `gpu_uuid`, telling the worker `pid` and its children from others.

    Without a UUID the only GPU is taken; of several none. NVML is opened once, at the first reading.
    """

    name = "nvml"
    rate_hz = 10.0
    channels: tuple[ChannelSpec, ...] = (
        ChannelSpec("sm_clock", "MHz", "nvmlDeviceGetClockInfo, SM"),
        ChannelSpec("memory_clock", "MHz", "nvmlDeviceGetClockInfo, memory"),
        ChannelSpec("event_reasons", "1", "nvmlDeviceGetCurrentClocksEventReasons, raw bits"),
        ChannelSpec(
            "power", "W", "field 186, instant; else 185, average; else nvmlDeviceGetPowerUsage (power_source)"
        ),
        ChannelSpec("energy", "J", "field 83, since the driver was loaded"),
        ChannelSpec("temperature", "C", "nvmlDeviceGetTemperatureV, GPU"),
        ChannelSpec("memory_temperature", "C", "field 82"),
        ChannelSpec("gpu_utilisation", "%", "nvmlDeviceGetUtilizationRates"),
        ChannelSpec("memory_utilisation", "%", "nvmlDeviceGetUtilizationRates"),
        ChannelSpec(
            "memory_used",
            "bytes",
            "nvmlDeviceGetMemoryInfo, with memory_reserved where that is not told",
        ),
        ChannelSpec("performance_state", "1", "nvmlDeviceGetPerformanceState"),
        ChannelSpec(
            "other_processes",
            "1",
            "nvmlDeviceGetComputeRunningProcesses without the worker and its children, every 10th tick",
        ),
        ChannelSpec("other_memory", "bytes", "GPU memory of other_processes, every 10th tick"),
    )

    def __init__(self, pid: int, gpu_uuid: str | None, root: Path = Path("/")) -> None:
        self._pid = pid
        self._uuid = gpu_uuid
        self._root = root
        self._opened = False
        self._nvml: Any = _NO_PACKAGE
        self._gpu: Any = _NO_PACKAGE
        # The instance under test of a GPU that is shared through MIG; otherwise the GPU itself.
        self._instance: Any = _NO_PACKAGE
        self._instance_of_mig = False
        self._settled: dict[tuple[Way, ...], tuple[Way, ...] | Absent] = {}
        self._power_kind: str | None = None
        self._ticks = 0
        self._others: tuple[Reading, Reading] = (_NOT_TOLD, _NOT_TOLD)

    def read(self) -> Mapping[str, Reading]:
        """Read all channels once."""
        self._open()
        fields = self._fields(_TICK_FIELDS)
        use = self._ask(self._gpu, ("nvmlDeviceGetUtilizationRates",))
        if self._ticks % _PROCESS_TICKS == 0:
            self._others = self._other_processes()
        self._ticks += 1
        return {
            "sm_clock": self._number(self._gpu, ("nvmlDeviceGetClockInfo", _SM)),
            "memory_clock": self._number(self._gpu, ("nvmlDeviceGetClockInfo", _MEMORY)),
            "event_reasons": self._number(self._gpu, *_REASONS),
            "power": self._power_w(fields)[0],
            "energy": _scaled(self._energy_mj(fields), 1e-3),
            "temperature": self._number(self._gpu, *_TEMPERATURE),
            "memory_temperature": _not_zero(fields[_MEMORY_TEMPERATURE]),
            "gpu_utilisation": use if isinstance(use, Absent) else float(use.gpu),
            "memory_utilisation": use if isinstance(use, Absent) else float(use.memory),
            "memory_used": self._memory("used"),
            "performance_state": self._performance_state(),
            "other_processes": self._others[0],
            "other_memory": self._others[1],
        }

    def facts(self) -> Sequence[Fact]:
        """Read the GPU's and the driver's description; the private ones leave only as pseudonyms."""
        self._open()
        found: list[Fact] = []
        gpu = self._gpu

        def fact(name: str, value: Any, unit: str | None = None, *, private: bool = False) -> None:
            if value is None or value == "":
                value = _NOT_TOLD
            if isinstance(value, Absent):
                found.append(Fact(self.name, name, unit, value.state, None, value.reason, private))
            else:
                found.append(Fact(self.name, name, unit, "value", value, None, private))

        def asked(
            name: str,
            handle: Any,
            ways: Sequence[Way],
            unit: str | None = None,
            told: Callable[[Any], Scalar | None] = lambda value: value,
            *,
            private: bool = False,
        ) -> None:
            answer = self._ask(handle, *ways)
            fact(name, answer if isinstance(answer, Absent) else told(answer), unit, private=private)

        asked("gpu_name", gpu, [("nvmlDeviceGetName",)])
        asked("driver_version", None, [("nvmlSystemGetDriverVersion",)])
        asked("cuda_driver_version", None, _CUDA_VERSION, told=lambda v: f"{v // 1000}.{v % 1000 // 10}")
        asked("nvml_version", None, [("nvmlSystemGetNVMLVersion",)])
        asked("architecture", gpu, [("nvmlDeviceGetArchitecture",)], told=_ARCHITECTURES.get)
        asked(
            "compute_capability",
            gpu,
            [("nvmlDeviceGetCudaComputeCapability",)],
            told=lambda pair: f"{pair[0]}.{pair[1]}",
        )
        asked("gpu_cores", gpu, [("nvmlDeviceGetNumGpuCores",)], "1")
        asked("memory_bus_width", gpu, [("nvmlDeviceGetMemoryBusWidth",)], "bits")
        asked("vbios_version", gpu, [("nvmlDeviceGetVbiosVersion",)])
        asked("inforom_version", gpu, [("nvmlDeviceGetInforomImageVersion",)])
        asked("board_part_number", gpu, [("nvmlDeviceGetBoardPartNumber",)])
        fact("memory_total", _whole(self._memory("total")), "bytes")
        fact("memory_reserved", _whole(self._memory("reserved")), "bytes")
        asked("ecc_mode", gpu, [("nvmlDeviceGetEccMode",)], told=lambda pair: _OFF_ON.get(pair[0]))
        asked("mig_mode", gpu, [("nvmlDeviceGetMigMode",)], told=lambda pair: _OFF_ON.get(pair[0]))
        fact("mig_instance", gpu if isinstance(gpu, Absent) else self._instance is not gpu)
        asked("persistence_mode", gpu, [("nvmlDeviceGetPersistenceMode",)], told=_OFF_ON.get)
        asked("compute_mode", gpu, [("nvmlDeviceGetComputeMode",)], told=_COMPUTE_MODES.get)
        for clock, domain in (("sm_clock", _SM), ("memory_clock", _MEMORY)):
            asked(f"{clock}_max", gpu, [("nvmlDeviceGetMaxClockInfo", domain)], "MHz")
            asked(f"{clock}_application", gpu, [("nvmlDeviceGetApplicationsClock", domain)], "MHz")
        asked("power_limit", gpu, [("nvmlDeviceGetEnforcedPowerLimit",)], "W", _milli)
        asked("power_limit_default", gpu, [("nvmlDeviceGetPowerManagementDefaultLimit",)], "W", _milli)
        bounds = self._ask(gpu, ("nvmlDeviceGetPowerManagementLimitConstraints",))
        for i, name in enumerate(("power_limit_min", "power_limit_max")):
            fact(name, bounds if isinstance(bounds, Absent) else _milli(bounds[i]), "W")
        fact("power_source", self._power_w(self._fields(_TICK_FIELDS))[1])
        asked("temperature_slowdown", gpu, [("nvmlDeviceGetTemperatureThreshold", _SLOWDOWN)], "C")
        asked("temperature_shutdown", gpu, [("nvmlDeviceGetTemperatureThreshold", _SHUTDOWN)], "C")
        asked("pcie_generation", gpu, [("nvmlDeviceGetCurrPcieLinkGeneration",)], "1")
        asked("pcie_generation_max", gpu, [("nvmlDeviceGetMaxPcieLinkGeneration",)], "1")
        asked("pcie_width", gpu, [("nvmlDeviceGetCurrPcieLinkWidth",)], "1")
        asked("pcie_width_max", gpu, [("nvmlDeviceGetMaxPcieLinkWidth",)], "1")
        asked("gpu_uuid", self._instance, [("nvmlDeviceGetUUID",)], private=True)
        asked("gpu_serial", gpu, [("nvmlDeviceGetSerial",)], private=True)
        asked("pci_bus_id", gpu, [("nvmlDeviceGetPciInfo_v3",)], told=_bus_id, private=True)
        asked("board_id", gpu, [("nvmlDeviceGetBoardId",)], told=hex, private=True)
        return found

    def counters(self) -> Mapping[str, tuple[str, int]]:
        """Read what only ever counts up since the driver was loaded."""
        self._open()
        fields = self._fields((_ENERGY_MJ, *_THROTTLED_NS))
        ecc = "nvmlDeviceGetTotalEccErrors"
        read: dict[str, tuple[str, Reading]] = {
            "energy": ("mJ", self._energy_mj(fields)),
            **{name: ("ns", fields[number]) for number, name in _THROTTLED_NS.items()},
            "ecc_corrected": ("1", self._number(self._gpu, (ecc, _CORRECTED, _SINCE_LOAD))),
            "ecc_uncorrected": ("1", self._number(self._gpu, (ecc, _UNCORRECTED, _SINCE_LOAD))),
            "pcie_replays": ("1", self._number(self._gpu, ("nvmlDeviceGetPcieReplayCounter",))),
        }
        return {
            name: (unit, int(value)) for name, (unit, value) in read.items() if not isinstance(value, Absent)
        }

    def _open(self) -> None:
        """Load NVML and find the GPU, once; NVML stays open, as closing may unload the driver."""
        if self._opened:
            return
        self._opened = True
        try:
            import pynvml
        except ImportError:
            return
        self._nvml = pynvml
        started = self._ask(None, ("nvmlInit",))
        if isinstance(started, Absent):
            self._nvml = self._gpu = self._instance = started
            return
        self._gpu = self._instance = self._find()
        if self._instance_of_mig:
            self._gpu = self._ask(self._instance, ("nvmlDeviceGetDeviceHandleFromMigDeviceHandle",))

    def _find(self) -> Any:
        if self._uuid is not None:
            # CUDA gives a MIG instance's own UUID, but without the prefix that NVML wants.
            for name in dict.fromkeys((self._uuid, self._uuid.replace("GPU-", "MIG-", 1))):
                found = self._ask(None, ("nvmlDeviceGetHandleByUUID", name))
                if not isinstance(found, Absent) or found.state != "unsupported":
                    self._instance_of_mig = name.startswith("MIG-") and not isinstance(found, Absent)
                    return found
            return _NO_SUCH_GPU
        count = self._ask(None, ("nvmlDeviceGetCount",))
        if isinstance(count, Absent):
            return count
        return self._ask(None, ("nvmlDeviceGetHandleByIndex", 0)) if count == 1 else _WHICH_GPU

    def _ask(self, handle: Any, *ways: Way) -> Any:
        """Return the answer to the first of `ways`, the newest first, that is there, or an `Absent`.

        What worked once stays the only way: two ways may not mean quite the same quantity. What never
        worked and is unsupported or denied is not asked again.
        """
        for absent in (self._nvml, handle):
            if isinstance(absent, Absent):
                return absent
        settled = self._settled.get(ways, ways)
        if isinstance(settled, Absent):
            return settled
        answer: Any = _NO_FUNCTION
        for way in settled:
            told = self._call(handle, *way)
            if not isinstance(told, Absent):
                self._settled[ways] = (way,)
                return told
            if told.state == "missed":
                return told
            # The newest function that is there knows best why it tells nothing.
            answer = told if answer in _LACKING else answer
            if told.state == "denied":
                break
        self._settled.setdefault(ways, answer)
        return answer

    def _call(self, handle: Any, name: str, *arguments: Any) -> Any:
        function = getattr(self._nvml, name, None)
        if function is None:
            return _NO_FUNCTION
        try:
            return function(*arguments) if handle is None else function(handle, *arguments)
        except self._nvml.NVMLError as error:
            return self._why(error.value)
        except ValueError as error:  # A text that is none.
            return Absent("missed", type(error).__name__)

    def _why(self, code: int) -> Absent:
        """Say in the contract's words what NVML's return code means."""
        if code == _NO_PERMISSION:
            return Absent("denied", "no permission")
        found = not isinstance(self._instance, Absent)
        if code in _UNSUPPORTED and not (found and code in _ONLY_AT_START):
            return Absent("unsupported", _UNSUPPORTED[code])
        name = type(self._nvml.NVMLError(code)).__name__.partition("_")[2]
        return Absent("missed", name or f"NVML error {code}")

    def _number(self, handle: Any, *ways: Way) -> Reading:
        answer = self._ask(handle, *ways)
        return answer if isinstance(answer, Absent) else float(answer)

    def _fields(self, numbers: tuple[int, ...]) -> dict[int, Reading]:
        """Read field values in one call; each has a return code and a type of its own."""
        values = self._ask(self._gpu, ("nvmlDeviceGetFieldValues", numbers))
        if isinstance(values, Absent):
            return dict.fromkeys(numbers, values)
        return {number: self._decoded(value) for number, value in zip(numbers, values, strict=True)}

    def _decoded(self, field: Any) -> Reading:
        if field.nvmlReturn:
            return self._why(field.nvmlReturn)
        # The type of a field is not the same in every driver.
        if field.valueType >= len(_VALUE_TYPES) or not hasattr(field.value, _VALUE_TYPES[field.valueType]):
            return Absent("missed", "a value of unknown type")
        return float(getattr(field.value, _VALUE_TYPES[field.valueType]))

    def _power_w(self, fields: Mapping[int, Reading]) -> tuple[Reading, str | Absent]:
        """Return the power and which kind it is; the kind that was told first stays the only one."""
        kinds: dict[str, Callable[[], Reading]] = {
            "instant": lambda: fields[_POWER_INSTANT_MW],
            "average": lambda: fields[_POWER_AVERAGE_MW],
            "usage": lambda: self._number(self._gpu, ("nvmlDeviceGetPowerUsage",)),
        }
        why = _NOT_TOLD
        for kind in kinds if self._power_kind is None else (self._power_kind,):
            power = _scaled(_not_zero(kinds[kind]()), 1e-3)
            if not isinstance(power, Absent):
                self._power_kind = kind
                return power, kind
            why = power
            if why.state != "unsupported":
                break
        return why, why

    def _energy_mj(self, fields: Mapping[int, Reading]) -> Reading:
        energy = fields[_ENERGY_MJ]
        if isinstance(energy, Absent) and energy.state == "unsupported":
            return self._number(self._gpu, ("nvmlDeviceGetTotalEnergyConsumption",))
        return energy

    def _memory(self, part: str) -> Reading:
        memory = self._ask(self._instance, *_MEMORY_INFO)
        if isinstance(memory, Absent):
            return memory
        size = getattr(memory, part, None)
        return _NOT_TOLD if size is None else float(size)

    def _performance_state(self) -> Reading:
        state = self._number(self._gpu, ("nvmlDeviceGetPerformanceState",))
        return _NOT_TOLD if state == _PSTATE_UNKNOWN else state

    def _other_processes(self) -> tuple[Reading, Reading]:
        """Return how many processes of others use the GPU, and how much of its memory."""
        with contextlib.suppress(OSError):
            # In a container the driver hides processes or calls them by the host's numbers; neither
            # "nobody else" nor "somebody else" could be told from that.
            if str((self._root / "proc/self/ns/pid").readlink()) != _HOST_NAMESPACE:
                return _OTHER_NAMESPACE, _OTHER_NAMESPACE
        processes = self._ask(self._instance, *_PROCESSES)
        if isinstance(processes, Absent):
            return processes, processes
        # A process that uses several contexts may be listed more than once.
        others = [process for process in processes if not self._own(process.pid)]
        sizes = [process.usedGpuMemory for process in others]
        count = float(len({process.pid for process in others}))
        return count, _NOT_TOLD if None in sizes else float(sum(sizes))

    def _own(self, pid: int) -> bool:
        """Return whether a process is the worker or descends from it."""
        seen = set()
        while pid > 0 and pid != self._pid and pid not in seen:
            seen.add(pid)
            try:
                # The name, in parentheses, may hold spaces; the parent is the second field behind it.
                pid = int((self._root / f"proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError, IndexError):
                return False
        return pid == self._pid


def _scaled(reading: Reading, factor: float) -> Reading:
    return reading if isinstance(reading, Absent) else reading * factor


def _not_zero(reading: Reading) -> Reading:
    """Replace the 0 that some drivers give for a sensor which is not there."""
    return _NOT_TOLD if reading == 0 else reading


def _whole(reading: Reading) -> int | Absent:
    return reading if isinstance(reading, Absent) else int(reading)


def _milli(value: int) -> float:
    return value / 1e3


def _bus_id(info: Any) -> str:
    bus_id = info.busId
    return bus_id.decode() if isinstance(bus_id, bytes) else str(bus_id)
