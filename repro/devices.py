"""Devices: what a user names. A device decides backend, place and probes."""

from __future__ import annotations

import msgspec

from repro import backends
from repro.errors import ReproError, Unavailable, unknown


class Device(msgspec.Struct, frozen=True):
    """A device by name; `backend` is `None` where this version has none for it."""

    name: str
    what: str
    backend: str | None
    protocol: str


DEVICES = {
    device.name: device
    for device in (
        Device("cpu", "this machine's processor, with ONNX Runtime", "onnxruntime", "brief"),
        Device("x86", "an NVIDIA GPU in a PC or server, with TensorRT", None, "standard"),
        Device("orin", "a Jetson Orin, with TensorRT", None, "standard"),
    )
}


def choose(name: str) -> Device:
    """Return the device `name`; `auto` is the best one that this version can measure on."""
    if name == "auto":
        return DEVICES["cpu"]
    if name not in DEVICES:
        raise unknown("device", name, [*DEVICES, "auto"])
    device = DEVICES[name]
    if device.backend is None:
        raise Unavailable(
            f"this version of the kit can't measure on {name} yet", "DEVICE=cpu runs the same case here"
        )
    return device


def availability(device: Device) -> str | None:
    """Return why nothing can run on `device` here, or `None` when it can."""
    if device.backend is None:
        return "no TensorRT backend in this version"
    try:
        backends.load(device.backend).release()
    except ReproError as error:
        return str(error)
    return None
