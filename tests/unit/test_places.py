"""Where a run takes place: PLACE=auto, and what each place must have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import containers, environments, images, places, plan, releases, worker
from repro.backends import cuda, onnxruntime
from repro.containers import Engine
from repro.errors import ExitCode, Unavailable, UsageError
from repro.images import Image
from repro.launch import lock, options
from repro.places import Asked
from repro.plan import ArmRequest, Request
from repro.releases import Row
from repro.schema import ReleaseSeen
from repro.spec import parse
from tests.unit.test_plan import CASES

INSTALLED = ReleaseSeen("ort-1.31.1", "1.31.1")
GPU = cuda.Gpu("Made-up", "GPU-0", "8.6", 68, False, 2**22, 2**33, "13.3")


def engine_of(**info: Any) -> Engine:
    known = {
        "Architecture": "x86_64",
        "Runtimes": {"nvidia": {}},
        "MemTotal": 10 * 2**30,
        "MemoryLimit": True,
    }
    return containers.describe(None, "unix:///x", {**known, **info}, {"Version": "27.1"})


class World:
    """What the machine has: an engine, images by name, a trtexec, environments, a driver."""

    def __init__(self) -> None:
        self.engine: Engine | None = engine_of()
        self.images: set[str] = set()
        self.trtexec = False
        self.made: set[str] = set()
        self.told: list[str] = []
        self.built: list[str] = []
        self.host: str | None = None

    def connect(self, host: str | None = None) -> Engine:
        self.host = host
        if self.engine is None:
            raise Unavailable("no Docker engine answers", "sudo apt install docker.io")
        return self.engine

    def usable(self, _: Engine, row: Row) -> tuple[Image | None, tuple[str, ...]]:
        if row.image not in self.images:
            return None, ()
        labels = {images.RELEASE: row.name, images.BASE_DIGEST: "sha256:ba5e", "other": "x"}
        return Image("sha256:1d", row.image, labels, "sha256:4e90", "amd64", 5), ("it is old",)

    def build(self, _: Engine, row: Row, say: Callable[[str], None]) -> None:
        say(f"building {row.image}")
        self.built.append(row.image)
        self.images.add(row.image)

    def host_backend(self, device: Any, name: str | None = None) -> str:
        if not device.gpu:
            return "onnxruntime"
        if not self.trtexec:
            raise Unavailable("there is no trtexec here", "install TensorRT")
        return "trtexec"

    def choose(self, **asked: Any) -> places.Where:
        return places.choose(Asked(**asked), self.told.append)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()
    monkeypatch.setattr(places, "connect", made.connect)
    monkeypatch.setattr(images, "usable", made.usable)
    monkeypatch.setattr(images, "build", made.build)
    monkeypatch.setattr(places.devices, "backend", made.host_backend)  # type: ignore[attr-defined]
    monkeypatch.setattr(environments, "is_made", lambda row: row.name in made.made)
    monkeypatch.setattr(onnxruntime, "release", lambda *, gpu: INSTALLED)
    monkeypatch.setattr(cuda, "driver_version", lambda _root=None: "570.10")
    return made


# --- the processor ---------------------------------------------------------------------------------


@pytest.mark.parametrize("release", [None, "ort-1.31.1"])
def test_the_installed_release_runs_on_the_host_and_no_engine_is_asked(
    world: World, release: str | None
) -> None:
    world.engine = None
    where = world.choose(device="cpu", release=release)
    assert (where.place.kind, where.release, where.engine) == ("host", None, None)


def test_another_release_runs_in_its_image(world: World) -> None:
    world.images = {"trt-repro/cpu:ort-1.23.2"}
    where = world.choose(device="cpu", release="ort-1.23")
    place = where.place
    assert (place.kind, where.release, where.backend) == ("docker", "ort-1.23.2", "onnxruntime")
    assert (place.image_id, place.repo_digest, place.base_digest) == (
        "sha256:1d",
        "sha256:4e90",
        "sha256:ba5e",
    )
    assert place.labels == {images.RELEASE: "ort-1.23.2", images.BASE_DIGEST: "sha256:ba5e"}
    assert place.limits is not None
    assert place.limits.memory_bytes == 9 * 2**30
    assert world.told == ["note: it is old"]


def test_an_image_is_built_only_where_the_caller_agreed(world: World) -> None:
    with pytest.raises(Unavailable) as caught:
        world.choose(device="cpu", release="ort-1.20.1")
    assert "repro images build ort-1.20.1 --device cpu" in caught.value.hint
    assert world.built == []
    assert world.choose(device="cpu", release="ort-1.20.1", pull=True).place.kind == "docker"
    assert world.built == ["trt-repro/cpu:ort-1.20.1"]
    assert world.told[0] == "building trt-repro/cpu:ort-1.20.1"


def test_an_estimate_builds_nothing(world: World) -> None:
    asked = Request(case="tiny", cases_folder=CASES, device="cpu", release="ort-1.20.1", pull=True)
    assert plan.estimate_s(asked) > 0
    assert world.built == []
    with pytest.raises(Unavailable, match=r"image of ort-1\.20\.1"):
        plan.estimate_s(msgspec.structs.replace(asked, pull=False))


def test_without_an_engine_both_reasons_are_told(world: World) -> None:
    world.engine = None
    with pytest.raises(Unavailable, match=r"ort-1.20.1 is not installed here, and no Docker engine answers"):
        world.choose(device="cpu", release="ort-1.20.1")


@pytest.mark.parametrize("engine", [True, False])
def test_a_release_without_its_image_that_the_host_can_install_runs_there(
    world: World, *, engine: bool
) -> None:
    if not engine:
        world.engine = None
    where = world.choose(device="cpu", release="ort-1.23.2", pull=True)
    assert (where.place.kind, world.built) == ("host", [])


def test_an_environment_that_was_made_is_as_good_as_an_installed_release(world: World) -> None:
    world.images, world.made = {"trt-repro/cpu:ort-1.23.2"}, {"ort-1.23.2"}
    assert world.choose(device="cpu", release="ort-1.23.2").place.kind == "host"


def test_what_only_the_host_can_do_is_done_there_or_refused_in_a_container(world: World) -> None:
    world.images = {"trt-repro/cpu:ort-1.23.2"}
    assert world.choose(device="cpu", on_host="two releases").place.kind == "host"
    with pytest.raises(UsageError, match="two releases: leave --place docker out"):
        world.choose(device="cpu", on_host="two releases", place="docker")


def ab(a: str, b: str, **more: Any) -> plan.Planned:
    arms = (ArmRequest(parse(a)), ArmRequest(parse(b)))
    return plan.make(Request(arms=arms, cases_folder=CASES, device="cpu", **more))


def test_the_arms_of_a_comparison_share_the_container_of_their_one_release(world: World) -> None:
    world.images = {"trt-repro/cpu:ort-1.23.2"}
    job, _, where = ab("tiny@ort-1.23.2", "tiny@ort-1.23.2+threads=1")
    assert (job.place.kind, job.release, where.release) == ("docker", "ort-1.23.2", "ort-1.23.2")
    assert [subject.record_name for subject in job.subjects] == ["a-base-ort-1.23.2", "b-base-ort-1.23.2"]
    assert {(subject.release, subject.interpreter) for subject in job.subjects} == {(None, None)}


def test_two_releases_need_the_host(world: World) -> None:
    with pytest.raises(UsageError, match="a container holds one release, and these are two"):
        ab("tiny@ort-1.23.2", "tiny@ort-1.31.1", place="docker")


def test_an_interpreter_that_is_named_is_the_hosts(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an interpreter that is named is the host's"):
        plan.make(Request(case="tiny", cases_folder=CASES, device="cpu", python=tmp_path, place="docker"))


# --- GPUs ------------------------------------------------------------------------------------------


def test_a_gpu_is_measured_in_the_image_if_it_is_there(world: World) -> None:
    world.trtexec = True
    world.images = {"trt-repro/x86:trt-10.11.0.33_cuda12.9"}
    where = world.choose(device="x86", release="trt-10.11")
    assert (where.place.kind, where.backend) == ("docker", "trtexec")


def test_else_on_the_host_if_trtexec_is_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.trtexec = True
    found = ReleaseSeen("trt-10.11.0.33+cuda12.9", "10.11.0")
    monkeypatch.setattr(environments, "own", lambda *_, **__: found)
    assert world.choose(device="x86", release="trt-10.11", pull=True).place.kind == "host"
    assert world.built == []


def test_else_it_says_what_to_do_or_does_it(world: World) -> None:
    with pytest.raises(Unavailable) as caught:
        world.choose(device="x86", release="trt-10.11")
    assert "or add --pull" in caught.value.hint
    where = world.choose(device="x86", release="trt-10.11", pull=True)
    assert (where.place.kind, world.built) == ("docker", ["trt-repro/x86:trt-10.11.0.33_cuda12.9"])


def test_without_anything_the_hosts_reason_is_told(world: World) -> None:
    world.engine = None
    with pytest.raises(Unavailable, match="there is no trtexec here"):
        world.choose(device="x86")


@pytest.mark.parametrize(
    ("seen", "release"),
    [
        ("35.4.1", "trt-8.5.2.2+cuda11.4"),
        ("36.3.0", "trt-8.6.2+cuda12.2"),
        ("36.4.3", "trt-10.3.0+cuda12.6"),
        ("39.2.0", "trt-10.16.1.11+cuda13.2"),
    ],
)
def test_the_default_release_follows_the_board(
    world: World, monkeypatch: pytest.MonkeyPatch, seen: str, release: str
) -> None:
    world.engine = engine_of(Architecture="aarch64")
    monkeypatch.setattr(places, "l4t", lambda _root=None: seen)
    assert world.choose(device="orin", place="docker", pull=True).release == release


@pytest.mark.parametrize("seen", ["32.7.1", None])
def test_a_board_without_an_image_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, seen: str | None
) -> None:
    monkeypatch.setattr(places, "l4t", lambda _root=None: seen)
    with pytest.raises(
        Unavailable, match="no image is known for L4T 32.7.1" if seen else "this is no Jetson"
    ):
        world.choose(device="orin", place="docker")


def test_the_default_for_x86_is_the_newest_that_the_driver_carries(world: World) -> None:
    where = world.choose(device="x86", place="docker", pull=True)
    assert where.release == "trt-10.11.0.33+cuda12.9", "driver 570 carries no CUDA 13"


ORIN = releases.row_of("trt-8.5.2.2+cuda11.4", "orin")
X86 = releases.row_of("trt-11.0.0.114+cuda13.3", "x86")


@pytest.mark.parametrize(
    ("row", "info", "files", "told"),
    [
        (X86, {"Architecture": "aarch64"}, {}, "images for x86 are amd64, this engine's machine is arm64"),
        (
            X86,
            {"Runtimes": {"runc": {}}},
            {},
            "no NVIDIA runtime and no CDI devices: sudo apt install nvidia-con",
        ),
        (
            X86,
            {},
            {"driver": "570.10"},
            "needs NVIDIA driver 580.65.06, here is 570.10: install a newer driver",
        ),
        (
            ORIN,
            {"Architecture": "aarch64", "Runtimes": {}},
            {},
            "no NVIDIA runtime: sudo apt install nvidia-con",
        ),
        (
            ORIN,
            {"Architecture": "aarch64"},
            {"l4t": "# R36 (release), REVISION: 4.3, GCID: 1"},
            "runs on L4T 35, this board has 36.4.3: leave --release out: trt-10.3.0+cuda12.6 is this board's",
        ),
    ],
    ids=["architecture", "runtime", "driver", "orin runtime", "l4t"],
)
def test_what_the_engines_machine_lacks_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    row: Row,
    info: dict[str, Any],
    files: dict[str, str],
    told: str,
) -> None:
    monkeypatch.setattr(cuda, "driver_version", lambda _root=None: files.get("driver"))
    (tmp_path / "etc").mkdir()
    if "l4t" in files:
        (tmp_path / "etc/nv_tegra_release").write_text(files["l4t"])
    with pytest.raises(Unavailable) as caught:
        places.check(engine_of(**info), row, tmp_path)
    assert told in str(caught.value)
    assert caught.value.code is ExitCode.DOES_NOT_APPLY


def test_cdi_serves_where_there_is_no_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "driver_version", lambda _root=None: "580.65.06")
    assert X86 is not None
    devices = [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]
    places.check(engine_of(Runtimes={}, DiscoveredDevices=devices), X86, tmp_path)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"place": "podman"}, "unknown place 'podman'"),
        ({"gpu": "1", "device": "cpu"}, "--gpu and --jtop are for a container"),
        ({"jtop": True, "device": "cpu"}, "--gpu and --jtop are for a container"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(world: World, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        world.choose(**asked)


@pytest.mark.parametrize(
    ("own", "told"), [(True, "there is no jtop socket at"), (False, "never given to somebody else's")]
)
def test_jtops_socket_is_looked_at_before_anything_is_built(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: bool, told: str
) -> None:
    monkeypatch.setattr(options, "JTOP_SOCKET", tmp_path / "jtop.sock")
    with pytest.raises(UsageError, match=told):
        world.choose(device="cpu", release="ort-1.20.1", place="docker", jtop=True, own=own, pull=True)
    assert world.built == []


# --- what the job asks of its container ---------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_the_container_sees_the_lock_and_the_rows_trtexec(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.images = {"trt-repro/cpu:ort-1.23.2", "trt-repro/x86:trt-10.11.0.33_cuda12.9"}
    job, experiments, where = plan.make(
        Request(case="tiny", cases_folder=CASES, device="cpu", release="ort-1.23.2")
    )
    for name, experiment in experiments.items():
        model = tmp_path / "job/records" / name / "case/model.fp32.onnx"
        model.parent.mkdir(parents=True)
        model.write_bytes(experiment.onnx["fp32"])
    with lock.held(job.run_id, "tiny"):
        wanted = places.wanted(where, job, tmp_path / "job")
    assert wanted.mounts == ((str(lock.path()), options.LOCK),)
    assert wanted.labels["trt-repro.run"] == job.run_id
    assert wanted.labels["trt-repro.case"] == "tiny"
    assert wanted.scratch_bytes > options.SCRATCH_BYTES
    assert wanted.environment == {}
    x86 = world.choose(device="x86", release="trt-10.11", place="docker", gpu="GPU-1")
    wanted = places.wanted(x86, job, tmp_path / "job")
    assert (wanted.device, wanted.gpu, wanted.cdi) == ("x86", "GPU-1", False)
    assert wanted.environment == {"TRTEXEC": "/usr/src/tensorrt/bin/trtexec"}
    remote = msgspec.structs.replace(where, engine=board_of(tmp_path))
    wanted = places.wanted(remote, job, tmp_path / "job")
    assert wanted.mounts == (), "no path of this machine goes to another"
    assert wanted.environment == {worker.SILENCE: "20"}, "a link can freeze"


# --- boards ----------------------------------------------------------------------------------------


def board_of(files: Path, **info: Any) -> Engine:
    """Return the engine of a board whose files lie under a folder."""
    return msgspec.structs.replace(engine_of(**info), url="ssh://u@orin", board=files)


def jetson(root: Path, release: str = "R36", revision: str = "4.3") -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "etc/nv_tegra_release").write_text(f"# {release} (release), REVISION: {revision}, GCID: 1\n")
    (root / "etc/nvpmodel.conf").write_text("")
    return root


ARM = {"Architecture": "aarch64"}


@pytest.mark.parametrize("device", ["auto", "orin"])
def test_a_board_is_what_its_own_files_say(world: World, tmp_path: Path, device: str) -> None:
    world.engine = board_of(jetson(tmp_path / "board"), **ARM)
    where = world.choose(device=device, host="ssh://u@orin", pull=True)
    assert world.host == "ssh://u@orin"
    assert (where.device.name, where.release, where.place.kind) == ("orin", "trt-10.3.0+cuda12.6", "docker")
    assert where.place.remote
    told = [line for line in world.told if line.startswith("measuring on")]
    assert told == (["measuring on orin, the best that the engine's machine has"] if device == "auto" else [])


@pytest.mark.parametrize(
    ("info", "device"),
    [
        ({"Runtimes": {"nvidia": {}}}, "x86"),
        ({"Runtimes": {"runc": {}}}, "cpu"),
        ({"Runtimes": {"nvidia": {}}, **ARM}, "cpu"),
    ],
)
def test_another_machine_is_measured_by_what_its_engine_offers(
    tmp_path: Path, info: dict[str, Any], device: str
) -> None:
    assert places.device_of(board_of(tmp_path, **info), "auto").name == device


def test_a_boards_own_paths_are_mounted_and_only_those_it_has(world: World, tmp_path: Path) -> None:
    world.engine = board_of(jetson(tmp_path / "board"), **ARM)
    where = world.choose(device="orin", host="ssh://u@orin", pull=True)
    job, _, _ = plan.make(Request(case="tiny", cases_folder=CASES, device="cpu"))
    (tmp_path / job.subjects[0].model_file).parent.mkdir(parents=True)
    (tmp_path / job.subjects[0].model_file).touch()
    mounts = places.wanted(where, job, tmp_path)
    assert [there for there, _ in mounts.mounts] == ["/sys", "/etc/nv_tegra_release", "/etc/nvpmodel.conf"]


def test_a_board_with_another_l4t_is_told(world: World, tmp_path: Path) -> None:
    world.engine = board_of(jetson(tmp_path / "board"), **ARM)
    with pytest.raises(Unavailable, match=r"runs on L4T 35, this board has 36.4.3"):
        world.choose(device="orin", release="trt-8.5.2", host="ssh://u@orin", pull=True)


def test_a_machine_whose_files_can_t_be_read_needs_a_named_release(world: World) -> None:
    world.engine = msgspec.structs.replace(engine_of(**ARM), url="tcp://orin:2376", board=None)
    with pytest.raises(Unavailable, match="its L4T can't be read"):
        world.choose(device="orin", host="tcp://orin:2376")
    assert world.choose(device="orin", release="trt-8.5.2", host="tcp://orin:2376", pull=True).place.remote


def test_the_host_is_not_measured_in_a_boards_name(world: World) -> None:
    with pytest.raises(UsageError, match="PLACE=host measures this machine, and HOST names another"):
        world.choose(device="cpu", place="host", host="ssh://u@orin")
