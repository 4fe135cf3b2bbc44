"""The device under test and its queue, against a made-up driver that the tests compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.backends import cuda
from repro.errors import ExitCode, Unavailable
from repro.schema import ReleaseSeen
from tests.conftest import ROOT


@pytest.fixture
def here(driver: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let processes of this test find the made-up driver."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    return monkeypatch


@pytest.mark.needs("cc")
def test_the_device_is_as_the_driver_describes_it(here: pytest.MonkeyPatch) -> None:
    assert cuda.look() == cuda.Gpu(
        name="Made-up GPU",
        uuid="GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
        compute_capability="8.7",
        sm_count=14,
        integrated=True,
        l2_bytes=4 * 2**20,
        memory_bytes=8 * 2**30,
        driver_cuda="13.0",
    )


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("CUDA_STUB_FAIL", "cuInit=100", "offers no GPU (cuInit: CUDA_ERROR_NO_DEVICE)"),
        ("CUDA_STUB_FAIL", "cuInit=803", "offers no GPU (cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)"),
        ("CUDA_STUB_FAIL", "cuDeviceGet=101", "offers no GPU (cuDeviceGet: CUDA_ERROR_101)"),
        ("CUDA_STUB_CRASH", "cuDeviceGetName", "the NVIDIA driver crashed"),
    ],
)
def test_a_driver_without_a_usable_gpu_is_told_in_one_line(
    here: pytest.MonkeyPatch, name: str, value: str, what: str
) -> None:
    here.setenv(name, value)
    with pytest.raises(Unavailable) as caught:
        cuda.look()
    assert what in caught.value.what
    assert "\n" not in str(caught.value)
    assert caught.value.code is ExitCode.DOES_NOT_APPLY


@pytest.mark.needs("cc")
def test_a_driver_that_hangs_is_given_up(here: pytest.MonkeyPatch) -> None:
    here.setenv("CUDA_STUB_HANG", "cuInit")
    here.setattr(cuda, "LOOK_TIMEOUT_S", 1.0)
    with pytest.raises(Unavailable, match="does not answer"):
        cuda.look()


def test_without_a_driver_its_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libno-such-driver.so.1")
    monkeypatch.setattr(sys, "stderr", (tmp_path / "errors").open("w"))
    assert cuda.main() == 1
    sys.stderr.close()
    assert (tmp_path / "errors").read_text() == (
        "there is no NVIDIA driver here (libno-such-driver.so.1 is missing)\n"
    )


def gpu(driver_cuda: str) -> cuda.Gpu:
    return cuda.Gpu("g", "GPU-1", "9.0", 132, False, 1, 1, driver_cuda)


@pytest.mark.parametrize(
    ("needed", "known"), [("13.0", "13.0"), ("12.8", "13.0"), ("12.8", "12.2"), (None, "11.4")]
)
def test_a_driver_of_the_same_or_a_newer_major_will_do(needed: str | None, known: str) -> None:
    cuda.check(gpu(known), ReleaseSeen("torch-2.11.0+cu130", "2.11.0", cuda=needed))


def test_a_driver_that_is_too_old_says_what_to_update() -> None:
    with pytest.raises(Unavailable) as caught:
        cuda.check(gpu("12.4"), ReleaseSeen("torch-2.11.0+cu130", "2.11.0", cuda="13.0"))
    assert "torch-2.11.0+cu130 needs CUDA 13, and the driver knows 12.4" in caught.value.what
    assert "update the driver" in caught.value.hint


def test_the_version_of_the_kernels_driver_is_read_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "proc/driver/nvidia/version"
    assert cuda.driver_version(tmp_path) is None
    path.parent.mkdir(parents=True)
    path.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Jan  1 00:00:00 UTC 2026\n"
    )
    assert cuda.driver_version(tmp_path) == "580.159.04"
    path.write_text("NVRM version: something else\n")
    assert cuda.driver_version(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "cuda_version"),
    [
        ("from typing import Optional\n__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\n", "13.0"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.0'\n", None),
        ("package_name = 'onnxruntime-gpu'\ncuda_version = \"12.8\"\n", "12.8"),
        ("package_name = 'onnxruntime'\n", None),
    ],
)
def test_what_a_package_was_built_for_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cuda_version: str | None
) -> None:
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('this must not be imported')\n")
    (package / "version.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cuda.built_for("made_up_package", "version.py") == cuda_version
    assert cuda.built_for("made_up_package", "no_such_file.py") is None
    assert cuda.built_for("no_such_package", "version.py") is None


QUEUE = """
import ctypes, json
from repro.backends import cuda
queue = cuda.Queue()
first, second, third = queue.event(), queue.event(), queue.event()
queue.mark(first)
queue.mark(second)
queue.flush_l2()
queue.flush_l2()
queue.mark(third)
queue.wait(third)
queue.wait()
stub = ctypes.CDLL("libcuda.so.1")
for name in ("stub_allocated", "stub_written"):
    getattr(stub, name).restype = ctypes.c_size_t
found = [queue.between_ns(first, second), queue.between_ns(second, third)]
print(json.dumps([*found, stub.stub_allocated(), stub.stub_written(), queue.stream != 0]))
"""


def in_a_process(driver: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.needs("cc")
def test_a_queue_times_what_is_between_events_and_flushes_twice_the_cache(driver: Path) -> None:
    done = in_a_process(driver, QUEUE)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [1e6, 5e6, 8 * 2**20, 16 * 2**20, True]


@pytest.mark.needs("cc")
def test_a_device_that_is_lost_midway_is_named_by_the_drivers_own_code(driver: Path) -> None:
    done = in_a_process(driver, QUEUE, CUDA_STUB_FAIL="cuEventElapsedTime=999")
    assert "CudaError: cuEventElapsedTime: CUDA_ERROR_999" in done.stderr.splitlines()[-1]
