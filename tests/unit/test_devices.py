"""Devices: what a user names."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from repro import backends, devices, doctor, measure
from repro.backends import cuda, onnxruntime, trtexec
from repro.cli import cli
from repro.errors import ExitCode, Unavailable, UsageError
from repro.schema import ReleaseSeen


def test_without_a_gpu_auto_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "present", lambda: False)
    assert devices.choose("auto") == devices.DEVICES["cpu"] == devices.choose("cpu")


GPU = cuda.Gpu("Made-up", "GPU-0", "8.7", 16, True, 4 << 20, 32 << 30, "12.6")


def no_trtexec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "look", lambda: GPU)
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


@pytest.mark.parametrize("name", [None, "tensorrt", "torch", "onnxruntime"])
def test_without_a_gpu_nobody_is_told_to_install_its_runtime(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def none() -> cuda.Gpu:
        raise Unavailable("there is no NVIDIA driver here")

    monkeypatch.setattr(cuda, "look", none)
    with pytest.raises(Unavailable, match="no NVIDIA driver"):
        devices.backend(devices.choose("x86"), name)
    assert devices.availability(devices.DEVICES["x86"]) == "there is no NVIDIA driver here"


def test_without_a_gpu_one_that_builds_all_the_same_is_taken_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> cuda.Gpu:
        raise Unavailable("there is no NVIDIA driver here")

    release = ReleaseSeen("trtrtx-1.7.1.116+cuda13", "1.7.1", build="116", cuda="13")
    monkeypatch.setattr(backends.load("tensorrt_rtx"), "release", lambda *, gpu: release)
    monkeypatch.setattr(cuda, "look", none)
    x86, cpu = devices.DEVICES["x86"], devices.DEVICES["cpu"]
    assert devices.choose("auto", "tensorrt_rtx") == x86
    assert devices.backend(x86, "tensorrt_rtx") == "tensorrt_rtx"
    assert devices.build_only(x86, "tensorrt_rtx") == "there is no NVIDIA driver here"
    assert devices.build_only(x86, "tensorrt") is None
    assert devices.build_only(cpu, "onnxruntime") is None
    # Nobody who didn't name it is given a build instead of a measurement.
    assert devices.choose("auto") == cpu
    monkeypatch.setattr(cuda, "look", lambda: GPU)
    assert devices.build_only(x86, "tensorrt_rtx") is None


RELEASES = {
    "trtexec": ReleaseSeen("trt-10.3.0.26", "10.3.0", cuda="12.5"),
    "tensorrt": ReleaseSeen("trt-10.16.1.11+cuda12", "10.16.1", cuda="12"),
    "torch": ReleaseSeen("torch-2.9.0+cu126", "2.9.0", cuda="12.6"),
    "onnxruntime": ReleaseSeen("ort-1.31.1", "1.31.1"),
}

LACKING = "trtexec: no trtexec here; tensorrt: no tensorrt here; torch: no torch here"


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(cuda, "look", lambda: GPU)
    monkeypatch.setattr(trtexec, "is_standin", lambda: False)
    for name, release in RELEASES.items():

        def answer(*, gpu: bool, name: str = name, release: ReleaseSeen = release) -> ReleaseSeen:
            if name not in names:
                raise Unavailable(f"no {name} here")
            return release

        monkeypatch.setattr(backends.load(name), "release", answer)


@pytest.mark.parametrize(
    ("names", "chosen", "why_not"),
    [
        (["trtexec", "torch", "onnxruntime"], "trtexec", ""),
        (["tensorrt", "torch"], "tensorrt", "trtexec: no trtexec here"),
        (["torch", "onnxruntime"], "torch", "trtexec: no trtexec here; tensorrt: no tensorrt here"),
        (["onnxruntime"], "onnxruntime", LACKING),
        ([], None, "no trtexec here"),
    ],
)
def test_the_best_backend_is_taken_and_what_better_ones_lack_is_told(
    monkeypatch: pytest.MonkeyPatch, names: list[str], chosen: str | None, why_not: str
) -> None:
    installed(monkeypatch, *names)
    assert devices.standing(devices.DEVICES["x86"]) == (chosen, why_not)
    if chosen:
        assert devices.backend(devices.DEVICES["x86"]) == chosen
    else:
        with pytest.raises(Unavailable, match="no trtexec here"):
            devices.backend(devices.DEVICES["x86"])


def test_a_backend_that_the_driver_can_t_run_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RELEASES, "torch", ReleaseSeen("torch-2.11.0+cu130", "2.11.0", cuda="13.0"))
    installed(monkeypatch, "torch", "onnxruntime")
    chosen, why_not = devices.standing(devices.DEVICES["x86"])
    assert chosen == "onnxruntime"
    assert "torch: torch-2.11.0+cu130 needs CUDA 13, and the driver knows 12.6" in why_not


def test_devices_and_doctor_say_what_measures_and_what_was_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, "onnxruntime")
    told = CliRunner().invoke(cli, ["devices"]).output
    assert "measured with onnxruntime" in told
    assert LACKING in told
    (line,) = [line for line in doctor._devices() if line.about == "device x86"]
    assert line.text == f"ready, with onnxruntime ({LACKING})"


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
