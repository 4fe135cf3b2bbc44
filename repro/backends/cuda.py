"""What the backends on NVIDIA GPUs share: the device under test, its memory, its events, its queue.

The CUDA driver's own library through ctypes, so that every backend is timed in the same way whatever
runtime it brings. `python -m repro.backends.cuda` describes device 0 as JSON; it is a process of its
own because a driver, once loaded, keeps a context and can hang.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from repro import proc
from repro.errors import ReproError, Unavailable
from repro.schema import ReleaseSeen

LIBRARY = "libcuda.so.1"
RESOLUTION_NS = 500
"""Of an event's time stamp: "a resolution of approximately 0.5 microseconds" (CUDA driver API)."""
LOOK_TIMEOUT_S = 60.0

_COMPUTE_MAJOR, _COMPUTE_MINOR, _SM_COUNT, _L2_BYTES, _INTEGRATED = 75, 76, 16, 38, 18
_EVENT_DEFAULT, _STREAM_NON_BLOCKING, _CAPTURE_THREAD_LOCAL = 0, 1, 1


class CudaError(Exception):
    """A call of the driver failed; `code` is its own name for that."""

    def __init__(self, call: str, code: str) -> None:
        super().__init__(f"{call}: {code}")
        self.code = code


class Gpu(msgspec.Struct, frozen=True):
    """Device 0 as the driver describes it to this process (`CUDA_VISIBLE_DEVICES` is obeyed)."""

    name: str
    uuid: str
    compute_capability: str
    sm_count: int
    integrated: bool
    l2_bytes: int
    memory_bytes: int
    driver_cuda: str
    """The newest CUDA that the driver knows, not the one that anything was built with."""


class Driver:
    """The driver's library; every call raises `CudaError` where it fails."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver."""
        status = getattr(self._library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(text))
            raise CudaError(name, (text.value or b"").decode() or f"CUDA_ERROR_{status}")

    def number(self, name: str, *arguments: Any, kind: Any = ctypes.c_int) -> int:
        """Return the number that a function writes through its first argument."""
        value = kind()
        self.call(name, ctypes.byref(value), *arguments)
        return int(value.value or 0)

    def describe(self) -> Gpu:
        """Describe device 0; raise `CudaError` where there is none."""
        device = self.number("cuDeviceGet", 0)

        def attribute(which: int) -> int:
            return self.number("cuDeviceGetAttribute", which, device)

        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, 256, device)
        uuid = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid_v2", uuid, device)
        digits = bytes(uuid).hex()
        version = self.number("cuDriverGetVersion")
        return Gpu(
            name=name.value.decode(errors="replace"),
            uuid=f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
            compute_capability=f"{attribute(_COMPUTE_MAJOR)}.{attribute(_COMPUTE_MINOR)}",
            sm_count=attribute(_SM_COUNT),
            integrated=bool(attribute(_INTEGRATED)),
            l2_bytes=attribute(_L2_BYTES),
            memory_bytes=self.number("cuDeviceTotalMem_v2", device, kind=ctypes.c_size_t),
            driver_cuda=f"{version // 1000}.{version % 1000 // 10}",
        )


class Buffer:
    """Memory of the device, written and read as a whole."""

    def __init__(self, driver: Driver, address: int, size_bytes: int) -> None:
        self._driver, self.address, self.size_bytes = driver, address, size_bytes

    def write(self, data: bytes) -> None:
        """Copy `data`, of the buffer's size, to the device."""
        self._whole(len(data))
        self._driver.call("cuMemcpyHtoD_v2", ctypes.c_uint64(self.address), data, ctypes.c_size_t(len(data)))

    def read(self) -> bytes:
        """Copy what is in it from the device."""
        data = ctypes.create_string_buffer(self.size_bytes)
        size = ctypes.c_size_t(self.size_bytes)
        self._driver.call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(self.address), size)
        return data.raw

    def _whole(self, size_bytes: int) -> None:
        if size_bytes != self.size_bytes:
            raise ValueError(f"{size_bytes} bytes for a buffer of {self.size_bytes}")


class Queue:
    """A stream of device 0, with events to time what is enqueued on it.

    A context of the runtime's own kind is made current first; runtimes that are loaded later use it.
    """

    resolution_ns = RESOLUTION_NS

    def __init__(self, stream: int | None = None) -> None:
        self._driver = Driver()
        device = self._driver.number("cuDeviceGet", 0)
        context = self._driver.number("cuDevicePrimaryCtxRetain", device, kind=ctypes.c_void_p)
        self._driver.call("cuCtxSetCurrent", ctypes.c_void_p(context))
        if stream is None:
            stream = self._driver.number("cuStreamCreate", _STREAM_NON_BLOCKING, kind=ctypes.c_void_p)
        self.stream = stream
        self._l2_bytes = self._driver.number("cuDeviceGetAttribute", _L2_BYTES, device)
        self._flushed: int | None = None

    def event(self) -> int:
        """Make an event."""
        return self._driver.number("cuEventCreate", _EVENT_DEFAULT, kind=ctypes.c_void_p)

    def mark(self, event: int) -> None:
        """Enqueue `event`: its time is when the device comes to it."""
        self._driver.call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(self.stream))

    def wait(self, event: int | None = None) -> None:
        """Wait for `event`, or for everything that was enqueued."""
        if event is None:
            self._driver.call("cuStreamSynchronize", ctypes.c_void_p(self.stream))
        else:
            self._driver.call("cuEventSynchronize", ctypes.c_void_p(event))

    def between_ns(self, first: int, second: int) -> float:
        """Return the time from one event to another; both have happened."""
        value = ctypes.c_float()
        self._driver.call(
            "cuEventElapsedTime", ctypes.byref(value), ctypes.c_void_p(first), ctypes.c_void_p(second)
        )
        return value.value * 1e6

    def buffer(self, size_bytes: int) -> Buffer:
        """Return memory of the device, which is let go with the process."""
        address = self._driver.number("cuMemAlloc_v2", ctypes.c_size_t(size_bytes), kind=ctypes.c_uint64)
        return Buffer(self._driver, address, size_bytes)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what `enqueue` enqueues as a CUDA graph; return what launches it.

        Raise `CudaError` where something in it can't be recorded.
        """
        stream = ctypes.c_void_p(self.stream)
        self._driver.call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        finally:
            # Ended even where it failed: a stream that still records can't be used.
            graph = ctypes.c_void_p()
            self._driver.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        launched = ctypes.c_void_p(
            self._driver.number(
                "cuGraphInstantiateWithFlags",
                graph,
                ctypes.c_ulonglong(0),
                kind=ctypes.c_void_p,
            )
        )
        return lambda: self._driver.call("cuGraphLaunch", launched, stream)

    def flush_l2(self) -> None:
        """Enqueue a write over twice the size of the L2 cache."""
        size = 2 * self._l2_bytes
        if self._flushed is None:
            self._flushed = self._driver.number("cuMemAlloc_v2", ctypes.c_size_t(size), kind=ctypes.c_uint64)
        self._driver.call(
            "cuMemsetD8Async",
            ctypes.c_uint64(self._flushed),
            ctypes.c_ubyte(0),
            ctypes.c_size_t(size),
            ctypes.c_void_p(self.stream),
        )


def built_for(package: str, file: str) -> str | None:
    """Return the CUDA that an installed package was built for, as `file` in it says; nothing is imported."""
    with contextlib.suppress(ImportError, OSError):
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            # torch: cuda: Optional[str] = '13.0'; ONNX Runtime: cuda_version = '13.0'
            text = Path(folder, file).read_text()
            found = re.search(r"^cuda\w*\b[^=\n]*=\s*['\"](\d+(?:\.\d+)*)", text, re.MULTILINE)
            if found:
                return found[1]
    return None


def present() -> bool:
    """Tell, without loading anything, whether a driver for NVIDIA GPUs is likely to be here."""
    return any(map(os.path.exists, ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")))


def look() -> Gpu:
    """Return the device under test; raise `Unavailable` where none can be used."""
    try:
        finished = proc.run([sys.executable, "-m", "repro.backends.cuda"], timeout_s=LOOK_TIMEOUT_S)
    except ReproError:
        raise Unavailable("the NVIDIA driver does not answer", "restart the machine, or its driver") from None
    if finished.returncode == 0:
        return msgspec.json.decode(finished.stdout, type=Gpu)
    said = finished.stderr.decode(errors="replace").strip().splitlines()
    raise Unavailable(said[-1] if said else "the NVIDIA driver crashed", "`repro doctor` tells more")


def check(gpu: Gpu, release: ReleaseSeen) -> None:
    """Raise `Unavailable` where `release` needs a newer CUDA than the driver knows.

    Within a major version a driver runs what a newer minor has built (NVIDIA's CUDA compatibility guide).
    """
    if release.cuda is not None and _major(release.cuda) > _major(gpu.driver_cuda):
        raise Unavailable(
            f"{release.name} needs CUDA {_major(release.cuda)}, and the driver knows {gpu.driver_cuda}",
            f"update the driver, or install a build for CUDA {_major(gpu.driver_cuda)}",
        )


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def driver_version(root: Path = Path("/")) -> str | None:
    """Return the version of the kernel's driver, `None` where it doesn't say."""
    try:
        words = (root / "proc/driver/nvidia/version").read_text().split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and word.count(".") in (1, 2)), None)


def main() -> int:
    """Print device 0 as JSON, or one line why there is none."""
    try:
        found = Driver().describe()
    except OSError:
        sys.stderr.write(f"there is no NVIDIA driver here ({LIBRARY} is missing)\n")
        return 1
    except CudaError as error:
        sys.stderr.write(f"the NVIDIA driver offers no GPU ({error})\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
