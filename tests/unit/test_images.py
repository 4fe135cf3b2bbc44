"""Recipes, labels, the lock of digests and the build-time proof, without an engine."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import requests
from docker import errors

from repro import containers, images, releases
from repro.containers import Engine
from repro.errors import ExitCode, Refused, ReproError, Unavailable
from repro.releases import Row
from repro.trtexec import flags as trtexec
from tests.conftest import HADOLINT

FOLDER = releases.folder()
WITH_IMAGE = [row for row in releases.table() if row.base]
CPU = releases.default("cpu")


class Api:
    """An engine's answers about images."""

    def __init__(self, *seen: dict[str, Any]) -> None:
        self.seen = {image["Name"]: image for image in seen}

    @property
    def api(self) -> Api:
        return self

    def inspect_image(self, name: str) -> dict[str, Any]:
        if name not in self.seen:
            response = requests.Response()
            response.status_code = 404
            raise errors.NotFound("no such image", response=response)
        return self.seen[name]


def engine(*seen: dict[str, Any], architecture: str = "x86_64") -> Engine:
    info = {"Architecture": architecture, "DockerRootDir": "/nowhere", "Runtimes": {}}
    return containers.describe(Api(*seen), "unix:///x", info, {"Version": "27.1"})


def image(labels: Mapping[str, str] = {}, row: Row = CPU) -> dict[str, Any]:
    made = images.recipe(row, "amd64")
    known = {
        images.RELEASE: row.name,
        images.LOCK: made.lock_digest,
        images.RECIPE: made.digest,
        images.BASE_NAME: str(row.base),
        images.BASE_DIGEST: "sha256:ba5e",
    }
    return {
        "Id": "sha256:1d",
        "Name": row.image,
        "Config": {"Labels": {**known, **labels}},
        "RepoDigests": [],
        "Architecture": "amd64",
        "Size": 5,
    }


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the recipes stand in a folder whose lock may be written."""
    for path in FOLDER.rglob("*"):
        if path.is_file():
            target = tmp_path / "images" / path.relative_to(FOLDER)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    monkeypatch.setattr(releases, "folder", lambda: tmp_path / "images")
    return tmp_path / "images" / "lock.json"


# --- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", WITH_IMAGE, ids=lambda row: f"{row.device}-{row.name}")
def test_every_row_has_a_recipe_with_pinned_parts(row: Row) -> None:
    made = images.recipe(row, images.DEVICE_ARCHITECTURE.get(row.device, "amd64"))
    lock = made.files["requirements.lock"].decode()
    pins = images.pins(lock)
    assert {"msgspec", "numpy", "onnx", "onnxruntime", "nvidia-ml-py"} <= set(pins)
    assert "pip" not in pins
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=\S)", lock.strip()))
    if row.device == "cpu":
        assert pins["onnxruntime"] == row.name.removeprefix("ort-")
    else:
        assert re.fullmatch(r"[0-9a-f]{64}", made.arguments["PYTHON_SHA256"])
    assert all(re.fullmatch(r"[\w.-]+=[\w.+-]+", package) for package in row.apt)
    assert "+" not in row.image


def test_anything_that_goes_into_an_image_changes_its_recipe() -> None:
    row = releases.row_of("trt-8.6.1.6+cuda12.0", "x86")
    assert row is not None
    digests = {
        images.recipe(each, architecture).digest
        for each, architecture in (
            (row, "amd64"),
            (row, "arm64"),
            (msgspec.structs.replace(row, base="elsewhere/cuda:12.0"), "amd64"),
            (msgspec.structs.replace(row, apt=row.apt[1:]), "amd64"),
            (msgspec.structs.replace(row, trtexec="/usr/bin/trtexec"), "amd64"),
        )
    }
    assert len(digests) == 5


def test_dockerfiles_take_versions_by_argument_only() -> None:
    for path in FOLDER.glob("*/Dockerfile"):
        text = path.read_text()
        assert re.findall(r"^FROM (?!base|runtime)(\S+)", text, re.MULTILINE) == ["${BASE}"]
        code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        assert not re.search(r"\d+\.\d+\.\d+", code), f"{path} names a version"
        assert "curl" not in code
        assert "wget" not in code
        assert re.search(r"^USER 65532:65532$", code, re.MULTILINE)
        for label in ("trt-repro.release", "trt-repro.lock", "trt-repro.recipe", images.BASE_DIGEST):
            assert label in code


@pytest.mark.needs("hadolint")
@pytest.mark.parametrize("device", ["cpu", "orin", "x86"])
def test_hadolint_has_nothing_to_say(device: str) -> None:
    done = subprocess.run(
        [str(HADOLINT), str(FOLDER / device / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_flags_to_prove_follow_the_table() -> None:
    old, new = (
        trtexec.relied_on(str(row.tensorrt))
        for row in (
            releases.row_of("trt-8.5.2.2+cuda11.4", "orin"),
            releases.row_of("trt-11.0.0.114+cuda13.3", "x86"),
        )
        if row
    )
    assert old["--fp16"] is True
    assert new["--fp16"] is False
    assert old["--onnx"] is new["--onnx"] is True


# --- the image that an engine has --------------------------------------------------------------------


def test_an_image_as_the_row_says_is_usable_without_a_word() -> None:
    found, told = images.usable(engine(image()), CPU)
    assert found is not None
    assert (found.id, told) == ("sha256:1d", ())
    assert images.usable(engine(), CPU) == (None, ())


@pytest.mark.parametrize("label", [images.RELEASE, images.LOCK])
def test_labels_that_name_other_pins_are_refused(label: str) -> None:
    with pytest.raises(Refused, match=f"its label {label} is other, not") as caught:
        images.usable(engine(image({label: "other"})), CPU)
    assert f"repro images build {CPU.name} --device cpu" in caught.value.hint


def test_a_stand_in_is_refused_unless_a_test_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    standin = engine(image({images.STANDIN: "true"}))
    monkeypatch.delenv(images.STANDIN_SWITCH, raising=False)
    with pytest.raises(Unavailable, match="holds a stand-in"):
        images.usable(standin, CPU)
    monkeypatch.setenv(images.STANDIN_SWITCH, "1")
    found, _ = images.usable(standin, CPU)
    assert found is not None
    assert found.standin


@pytest.mark.parametrize(
    ("label", "told"), [(images.RECIPE, "another recipe"), (images.BASE_NAME, "stands on other instead of")]
)
def test_another_recipe_or_base_is_told(label: str, told: str) -> None:
    _, notes = images.usable(engine(image({label: "other"})), CPU)
    assert told in notes[0]


def test_a_base_that_is_not_the_locked_one_is_told_with_what_mends_it(locked: Path) -> None:
    images.lock(engine(image()), [CPU], "2026-01-01T00:00:00Z")
    assert images.usable(engine(image()), CPU)[1] == ()
    (note,) = images.usable(engine(image({images.BASE_DIGEST: "sha256:07"})), CPU)[1]
    assert "stands on sha256:07, locked is sha256:ba5e" in note
    assert f"repro images pull {CPU.name} --device cpu" in note


def test_the_lock_holds_what_was_really_seen(locked: Path) -> None:
    entries = images.lock(engine(image()), releases.table(), "2026-01-01T00:00:00Z")
    assert list(entries) == [f"cpu/{CPU.name}/amd64"]
    assert releases.locked() == entries
    made = images.recipe(CPU, "amd64")
    assert json.loads(locked.read_text())[f"cpu/{CPU.name}/amd64"] == {
        "base": CPU.base,
        "base_digest": "sha256:ba5e",
        "lock": made.lock_digest,
        "image_id": "sha256:1d",
        "seen_utc": "2026-01-01T00:00:00Z",
    }


@pytest.mark.parametrize(
    "labels",
    [{images.STANDIN: "true"}, {images.BASE_NAME: "other"}, {images.BASE_DIGEST: ""}],
    ids=["stand-in", "other base", "no digest"],
)
def test_what_is_not_the_rows_own_is_never_locked(locked: Path, labels: dict[str, str]) -> None:
    before = locked.read_bytes()
    with pytest.raises(Unavailable, match="no image to lock"):
        images.lock(engine(image(labels)), [CPU], "2026-01-01T00:00:00Z")
    assert locked.read_bytes() == before


@pytest.mark.needs("root")
def test_a_lock_that_can_t_be_written_leaves_the_old_one(
    locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    before = locked.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(ReproError, match="Read-only"):
        images.lock(engine(image()), [CPU], "2026-01-01T00:00:00Z")
    assert locked.read_bytes() == before


def test_the_shipped_lock_names_rows_of_the_table() -> None:
    keys = {releases.key(row, architecture) for row in WITH_IMAGE for architecture in ("amd64", "arm64")}
    assert set(releases.locked()) <= keys


def test_an_image_of_another_architecture_is_unavailable() -> None:
    row = releases.with_image("orin")[0]
    with pytest.raises(
        Unavailable, match="images for orin are arm64, this engine's machine is amd64"
    ) as caught:
        images.fitting(engine(), row)
    assert "HOST=ssh://" in caught.value.hint
    assert caught.value.code is ExitCode.DOES_NOT_APPLY
    images.fitting(engine(architecture="aarch64"), row)
    images.fitting(engine(architecture="aarch64"), CPU)


def test_too_little_room_is_told_before_anything_is_pulled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**30})())
    full = msgspec.structs.replace(engine(), root=str(tmp_path))
    with pytest.raises(Unavailable, match=r"1\.0 GiB are free in .*, an image for cpu needs 2 GiB"):
        images.build(full, CPU, print)


def test_the_list_tells_what_is_built_and_what_is_a_hole() -> None:
    lines = list(images.listing(["cpu", "orin"], engine(image())))
    rows = [row for row in releases.table() if row.device != "x86" and (row.base or not row.available)]
    assert [line.split()[1] for line in lines] == [
        row.name for device in ("cpu", "orin") for row in rows if row.device == device
    ]
    assert [line.split()[2] for line in lines if line.startswith("cpu")] == ["built", "not", "not"]
    assert any("TensorRT 11.0 to 11.4.0 do not support JetPack" in line for line in lines)
    assert all(" unknown " in line for line in images.listing(["cpu"], None))


def test_the_last_words_of_a_failed_build_are_told() -> None:
    proof = [
        f"not {CPU.name}: numpy is 1.0, locked is 2.0",
        f"not {CPU.name}: the user is root",
        "ERROR step 9",
    ]
    assert str(images._failed(CPU, proof)).startswith(
        f"the base is not {CPU.name}: numpy is 1.0, locked is 2.0, and 1 more: correct the row in "
    )
    assert "the engine's disk is full" in str(
        images._failed(CPU, ["ERROR write /x: no space left on device"])
    )
    assert "was not built (boom; it ended)" in str(images._failed(CPU, ["boom", "ERROR it ended"]))


def test_a_context_is_the_same_bytes_for_the_same_files() -> None:
    packed = []
    for files in ({"a": b"1", "b/c": b"2"}, {"b/c": b"2", "a": b"1"}):
        with io.BytesIO() as file:
            images.pack(files, file)
            packed.append(file.getvalue())
    assert packed[0] == packed[1]
    with tarfile.open(fileobj=io.BytesIO(packed[0])) as tar:
        assert tar.getnames() == ["a", "b/c"]


# --- the proof -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prove() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prove", FOLDER / "prove.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("number", "version"),
    [
        (8502, "8.5.2"),
        (8601, "8.6.1"),
        (8001, "8.0.1"),
        (100300, "10.3.0"),
        (101303, "10.13.3"),
        (110000, "11.0.0"),
    ],
)
def test_the_version_of_a_banner(prove: ModuleType, number: int, version: str) -> None:
    assert prove.spelled(number) == version


@pytest.mark.parametrize(
    ("package", "row", "same"),
    [
        ("8.5.2", "8.5.2.2", True),
        ("8.6.1.6", "8.6.1.6", True),
        ("8.6.2.3", "8.6.2", True),
        ("8.6.1.5", "8.6.1.6", False),
        ("8.5.20", "8.5.2", False),
        ("8.5", "8.5.2", False),
    ],
)
def test_packages_are_held_against_the_row(prove: ModuleType, package: str, row: str, same: bool) -> None:
    assert prove.same(package, row) is same


def test_a_trtexec_that_lacks_only_the_boards_driver_is_unproven_and_no_failure(
    prove: ModuleType, tmp_path: Path
) -> None:
    program = tmp_path / "trtexec"
    said = "error while loading shared libraries: libnvdla_compiler.so: cannot open shared object file"
    program.write_text(f"#!/bin/sh\necho 'trtexec: {said}' >&2\nexit 127\n")
    program.chmod(0o755)
    seen, wrong = prove.trtexec(str(program), "8.5.2.2", {})
    assert wrong == []
    assert "libnvdla_compiler.so comes with the driver" in seen["unproven"]
    program.write_text(program.read_text().replace("libnvdla_compiler.so", "libnvinfer.so.8"))
    seen, wrong = prove.trtexec(str(program), "8.5.2.2", {})
    assert "shows no banner but" in wrong[0]


def test_flags_are_held_against_the_table(prove: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "trtexec"
    banner = "&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # x --help"
    program.write_text(f"#!/bin/sh\necho '{banner}'\necho '  --onnx=<file>  --fp16'\n")
    program.chmod(0o755)
    seen, wrong = prove.trtexec(str(program), "8.5.2.2", {"--onnx": True, "--fp16": False, "--warmUp": True})
    assert seen["flags"] == ["--fp16", "--onnx"]
    assert wrong == [
        f"{program} has --fp16, unlike the table of flags",
        f"{program} lacks --warmUp, unlike the table of flags",
    ]
