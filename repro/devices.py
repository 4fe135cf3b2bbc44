"""Devices: what a user names. A device decides backend, place and probes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from repro import backends
from repro.backends import cuda, trtexec
from repro.errors import ReproError, Unavailable, unknown


class Device(msgspec.Struct, frozen=True):
    """A device by name, with the backends that measure on it, the best first."""

    name: str
    what: str
    backends: tuple[str, ...]
    protocol: str
    gpu: bool
    image_backend: str = "trtexec"
    """What its images measure with."""


DEVICES = {
    device.name: device
    for device in (
        Device(
            "cpu",
            "this machine's processor, with ONNX Runtime",
            ("onnxruntime",),
            "brief",
            gpu=False,
            image_backend="onnxruntime",
        ),
        Device(
            "x86",
            "an NVIDIA GPU in a PC or server, with TensorRT, TensorRT-RTX, torch or ONNX Runtime",
            ("trtexec", "tensorrt", "torch", "onnxruntime", "tensorrt_rtx"),
            "standard",
            gpu=True,
        ),
        Device("orin", "a Jetson Orin, with TensorRT", ("trtexec", "tensorrt"), "standard", gpu=True),
    )
}


def choose(name: str, backend_name: str | None = None) -> Device:
    """Return the device `name`; `auto` is the best one that this version can measure on here.

    With a backend that builds without a GPU, it is the one that such a build is for.
    """
    if name == "auto":
        x86 = DEVICES["x86"]
        if backend_name is not None and backends.builds_without_gpu(backend_name):
            return x86
        return x86 if cuda.present() and availability(x86) is None else DEVICES["cpu"]
    if name not in DEVICES:
        raise unknown("device", name, [*DEVICES, "auto"])
    return DEVICES[name]


def backend(device: Device, name: str | None = None) -> str:
    """Return the backend to use: the one named, or the first that is installed; raise if none is.

    A GPU comes first: nobody should install a runtime to hear that there is none.
    """
    if name is not None:
        backends.load(name)
        if name not in device.backends:
            raise Unavailable(f"{name} does not measure on {device.name}", "leave --backend out")
    chosen, lacking = _try(device, device.backends if name is None else (name,))
    if chosen is None:
        raise next(iter(lacking.values()))  # Say how to get the best.
    return chosen


def build_only(device: Device, backend_name: str) -> str | None:
    """Return why a backend can build on `device` here and not run, `None` where it can run."""
    if not device.gpu or not backends.builds_without_gpu(backend_name):
        return None
    try:
        cuda.look()
    except Unavailable as error:
        return error.what
    return None


def standing(device: Device) -> tuple[str | None, str]:
    """Return the backend that measures on `device` here and what better ones lack; or `None` and why."""
    try:
        chosen, lacking = _try(device, device.backends)
    except ReproError as error:
        return None, error.what
    if chosen is None:
        return None, next(iter(lacking.values())).what
    return chosen, "; ".join(f"{name}: {error.what}" for name, error in lacking.items())


def availability(device: Device) -> str | None:
    """Return why nothing can run on `device` here, or `None` when it can."""
    chosen, why_not = standing(device)
    return None if chosen else why_not


def _try(device: Device, names: Sequence[str]) -> tuple[str | None, dict[str, Unavailable]]:
    """Return the first backend that lacks nothing here, and what those before it lack."""
    if device.gpu and trtexec.NAME in names and trtexec.is_standin():
        # It plays the GPU too; whether it may is up to its release.
        trtexec.release(gpu=True)
        return trtexec.NAME, {}
    gpu = None
    if device.gpu:
        try:
            gpu = cuda.look()
        except Unavailable:
            if not all(map(backends.builds_without_gpu, names)):
                raise
    lacking: dict[str, Unavailable] = {}
    for name in names:
        lacks = _lacks(name, device, gpu)
        if lacks is None:
            return name, lacking
        lacking[name] = lacks
    return None, lacking


def _lacks(name: str, device: Device, gpu: cuda.Gpu | None) -> Unavailable | None:
    """Return what a backend lacks here, `None` where nothing."""
    try:
        release = backends.load(name).release(gpu=device.gpu)
        if gpu is not None:
            cuda.check(gpu, release)
    except Unavailable as error:
        return error
    return None
