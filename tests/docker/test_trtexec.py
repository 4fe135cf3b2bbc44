"""The images for `orin` and `x86`, on bases that have the tests' trtexec in the real one's place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from repro import images, releases
from repro.containers import Engine
from tests.docker.conftest import Call, Finished, run_arguments
from tests.docker.test_cpu import record_of

ORIN, X86 = "trt-8.5.2.2+cuda11.4", "trt-10.8.0.43+cuda12.8"
USUAL = "/usr/src/tensorrt/bin/trtexec"
RIGHT = {
    "orin": (ORIN, {"plays": "8.5.2", "trtexec": USUAL, "package": "8.5.2-1+cuda11.4"}),
    "x86": (X86, {"plays": "10.8.0", "trtexec": USUAL, "package": "10.8.0.43-1+cuda12.8"}),
}
Make = Callable[..., Finished]


def image_of(tensorrt: Make, device: str) -> str:
    release, base = RIGHT[device]
    done = tensorrt(release, device, **base)
    assert done.returncode == 0, done.stderr
    row = releases.row_of(release, device)
    assert row is not None
    return row.image


@pytest.mark.parametrize("device", list(RIGHT))
def test_the_whole_path(engine: Engine, tensorrt: Make, repro: Call, tmp_path: Path, device: str) -> None:
    name, (release, base) = image_of(tensorrt, device), RIGHT[device]
    proof = json.loads(engine.client.containers.run(name, remove=True, network_disabled=True))
    assert proof["release"] == release
    assert proof["python"].startswith("3.11.")
    assert proof["trtexec"]["version"] == base["plays"]
    assert set(proof["packages"].values()) == {base["package"]}
    asked = ["--device", device, "--release", release, "--no-calibrate", "--iterations", "20"]
    done = repro(*run_arguments("engine", *asked))
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("STAND-IN")
    record = record_of(tmp_path)
    assert (record.status, record.runtime.place.standin) == ("measured", True)
    assert (record.runtime.release.name, record.runtime.release.version) == (release, base["plays"])
    effective = {setting: seen.value for setting, seen in record.settings.effective.items()}
    assert effective == record.settings.planned
    refused = repro(*run_arguments("engine", *asked), env={images.STANDIN_SWITCH: "0"})
    assert refused.returncode == 4
    assert f"{name} holds a stand-in" in refused.stderr


def test_the_python_of_the_image_is_the_archives(engine: Engine, tensorrt: Make) -> None:
    said = engine.client.containers.run(
        image_of(tensorrt, "orin"),
        ["/opt/repro/venv/bin/python", "-c", "import sys; print(sys.base_prefix)"],
        remove=True,
        network_disabled=True,
    )
    assert said.decode().strip() == "/opt/repro/python"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"plays": "8.6.1"}, f"{USUAL} is 8.6.1, the row says 8.5.2.2, and "),
        (
            {"package": "8.6.1.6-1+cuda12.0"},
            "libnvinfer-plugin8 is 8.6.1.6-1+cuda12.0, the row says 8.5.2.2, and 1 more",
        ),
        ({"trtexec": "/usr/local/bin/trtexec"}, f"{USUAL} is not there"),
    ],
    ids=["banner", "packages", "path"],
)
def test_a_base_that_is_not_what_the_row_says_ends_the_build(
    engine: Engine, tensorrt: Make, change: dict[str, str], told: str
) -> None:
    before = {image.id for image in engine.client.images.list(name="trt-repro/orin")}
    done = tensorrt(ORIN, "orin", **{**RIGHT["orin"][1], **change})
    assert done.returncode == 1
    assert f"not {ORIN}: {told}" in done.stderr
    assert "correct the row" in done.stderr
    assert {image.id for image in engine.client.images.list(name="trt-repro/orin")} == before


def test_an_archive_that_is_not_the_pinned_one_is_refused(
    repro: Call, python_archive: Path, tmp_path: Path
) -> None:
    other = tmp_path / "python.tar.gz"
    shutil.copy(python_archive, other)
    with other.open("ab") as file:
        file.write(b"\0")
    base = ["--base", "trt-repro-test/base:1", "--python-archive", other]
    done = repro("images", "build", ORIN, "--device", "orin", *base)
    assert done.returncode == 1
    assert ", pinned is " in done.stderr
