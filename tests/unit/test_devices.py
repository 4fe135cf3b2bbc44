"""Devices: what a user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import backends, devices, measure
from repro.backends import cuda, onnxruntime, trtexec
from repro.errors import ExitCode, Unavailable, UsageError


def test_without_a_gpu_auto_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "present", lambda: False)
    assert devices.choose("auto") == devices.DEVICES["cpu"] == devices.choose("cpu")


def no_trtexec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = cuda.Gpu("Orin", "GPU-0", "8.7", 16, True, 2**22, 2**35, "12.6")
    monkeypatch.setattr(cuda, "look", lambda: gpu)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TRTEXEC", raising=False)
    monkeypatch.setattr(trtexec, "USUAL_PATH", tmp_path / "trtexec")


def test_a_device_without_a_backend_is_unavailable_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_trtexec(monkeypatch, tmp_path)
    with pytest.raises(Unavailable) as caught:
        devices.backend(devices.choose("orin"))
    assert caught.value.code is ExitCode.DOES_NOT_APPLY
    assert "no trtexec" in caught.value.what
    assert "DEVICE=cpu" in caught.value.hint


def test_a_backend_of_another_device_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="torch does not measure on cpu"):
        devices.backend(devices.choose("cpu"), "torch")


@pytest.mark.parametrize("name", [None, "torch", "onnxruntime"])
def test_without_a_gpu_nobody_is_told_to_install_its_runtime(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def none() -> cuda.Gpu:
        raise Unavailable("there is no NVIDIA driver here")

    monkeypatch.setattr(cuda, "look", none)
    with pytest.raises(Unavailable, match="no NVIDIA driver"):
        devices.backend(devices.choose("x86"), name)
    assert devices.availability(devices.DEVICES["x86"]) == "there is no NVIDIA driver here"


@pytest.mark.parametrize("name", ["", "CPU", "orin2"])
def test_an_unknown_device_is_told_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown device '{name}'"):
        devices.choose(name)


def test_every_device_is_called_what_it_is_listed_as_and_can_be_carried_out() -> None:
    for name, device in devices.DEVICES.items():
        assert name == device.name
        assert device.protocol in measure.PROTOCOLS
        assert set(device.backends) <= set(backends.names())


def test_the_processor_is_ready_here() -> None:
    assert devices.availability(devices.DEVICES["cpu"]) is None


def test_a_device_without_its_runtime_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*, gpu: bool) -> None:
        assert not gpu
        raise Unavailable("ONNX Runtime is not installed", "install it")

    monkeypatch.setattr(onnxruntime, "release", missing)
    reason = devices.availability(devices.DEVICES["cpu"])
    assert reason == "ONNX Runtime is not installed"


def test_a_device_without_a_backend_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_trtexec(monkeypatch, tmp_path)
    assert devices.availability(devices.DEVICES["orin"]) == "there is no trtexec here"
