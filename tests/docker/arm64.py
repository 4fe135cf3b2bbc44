"""`make test-arm64`: the image for `orin` built for arm64, and its worker run, under qemu; never for timing.

Needs root, debootstrap, qemu-user-static and the tests' engine (TRT_REPRO_TEST_ENGINE). The kernel is told
of qemu for as long as this runs, if it isn't already.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from repro import bundle, containers, images, releases
from tests.docker import bases, engine
from tests.docker.conftest import run_arguments

BINFMT = Path("/proc/sys/fs/binfmt_misc")
RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
BASE, WITH_TRTEXEC = "trt-repro-test/base-arm64:1", "trt-repro-test/orin-arm64:1"
RELEASE = "trt-8.5.2.2+cuda11.4"


@contextlib.contextmanager
def qemu() -> Iterator[None]:
    """Have the kernel start arm64 programs by qemu."""
    entry = BINFMT / "qemu-aarch64"
    if entry.exists():
        yield
        return
    (BINFMT / "register").write_text(RULE.read_text().strip())
    try:
        yield
    finally:
        entry.write_text("-1")


def main() -> None:
    address = os.environ[engine.VARIABLE]
    os.environ |= {"DOCKER_HOST": address, images.STANDIN_SWITCH: "1"}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name, qemu():
        folder = Path(name)
        if not engine.has(address, BASE):
            engine.make_base(address, BASE, architecture="arm64")
        archive = bases.python_archive(address, BASE, folder / "python.tar.gz")
        checkout = bases.checkout(archive, folder / "checkout")
        # Engine 20.10 calls an imported image one of its own architecture; what is in it is arm64.
        arm64 = msgspec.structs.replace(containers.connect(), architecture="arm64")
        usual = "/usr/src/tensorrt/bin/trtexec"
        bases.with_trtexec(arm64, BASE, WITH_TRTEXEC, "8.5.2", usual, "8.5.2-1+cuda11.4", evaluator="onnx")
        releases.folder = lambda: checkout / "images"
        row = releases.row_of(RELEASE, "orin")
        assert row is not None
        images.build(arm64, row, print, base=WITH_TRTEXEC, archive=archive)
        machine = arm64.client.containers.run(row.image, ["uname", "-m"], remove=True, network_disabled=True)
        print(f"the image's programs run on {machine.decode().strip()}")
        asked = ["--device", "orin", "--release", RELEASE, "--no-calibrate", "--iterations", "20"]
        subprocess.run(
            [sys.executable, "-m", "repro", *run_arguments("engine", *asked)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            check=True,
        )
        (path,) = (folder / "bundles").glob("*.zip")
        (record,) = bundle.read(path).records.values()
        assert record.status == "measured"
        assert record.runtime.place.standin
    print(f"built and run for arm64 in {time.monotonic() - begin:.0f} s; nothing of it is a measurement")


if __name__ == "__main__":
    main()
