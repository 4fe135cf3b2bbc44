"""Where a run takes place and with which release: `PLACE=auto`, and what a place must have.

On the host each turn has an environment of its own, so releases of a Python package can alternate there; a
container holds one release. The processor is measured on the host where the release is installed, else in
its image where the engine has it, else on the host again if the release can be installed. A GPU is measured
in the image of its release where the engine has it, else by that release's trtexec on the host. An image is
built only where the caller agreed to it (`pull`), and always announced.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec

from repro import backends, devices, environments, images, releases, worker
from repro.backends import cuda, trtexec
from repro.containers import Engine, connect
from repro.devices import Device
from repro.environments import Environment
from repro.errors import Unavailable, UsageError, unknown
from repro.images import Image
from repro.launch import holder, lock, options
from repro.probes import jetson
from repro.releases import Row
from repro.schema import Job, Limits, Place, ReleaseSeen

Say = Callable[[str], None]

KINDS = ("auto", "host", "docker")
TOOLKIT = (
    "sudo apt install nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker "
    "&& sudo systemctl restart docker"
)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks of the place; `None` leaves the choice to the kit."""

    device: str = "auto"
    release: str | None = None
    backend: str | None = None
    place: str = "auto"
    on_host: str | None = None
    """Why only the host will do, where that is so."""
    pull: bool = False
    """An image that is missing may be built."""
    host: str | None = None
    """A board's engine, such as `ssh://user@orin`; `None`: Docker's own choice."""
    gpu: str | None = None
    """For a container: the GPU, by index or UUID."""
    jtop: bool = False
    own: bool = True
    """The experiment is the user's own, and not that of a bundle."""


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """A place that was looked at and will do."""

    device: Device
    backend: str
    place: Place = Place("host")
    release: str | None = None
    """The one that the image holds; `None`: the host, where each turn has its own."""
    engine: Engine | None = None
    image: Image | None = None
    asked: Asked = Asked()

    @property
    def runtime(self) -> ModuleType:
        """The backend's module."""
        return backends.load(self.backend)


def choose(asked: Asked, say: Say = lambda _: None) -> Where:
    """Return where to run; raise `Unavailable` with what to do where nothing will."""
    if asked.place not in KINDS:
        raise unknown("place", asked.place, KINDS)
    if asked.place == "docker" or asked.host is not None:
        if asked.place == "host":
            raise UsageError(
                "PLACE=host measures this machine, and HOST names another",
                "leave one of them out; to measure a board without Docker, run the kit on it",
            )
        if asked.on_host:
            raise UsageError(asked.on_host, f"leave --{'host' if asked.host else 'place docker'} out")
        engine = connect(asked.host)
        device = device_of(engine, asked.device, asked.backend)
        if asked.device == "auto":
            say(f"measuring on {device.name}, the best that the engine's machine has")
        return _docker(device, asked, engine, say)
    device = devices.choose(asked.device, asked.backend)
    if asked.gpu is not None or asked.jtop:
        raise UsageError("--gpu and --jtop are for a container", "add --place docker")
    if asked.place == "host" or asked.on_host:
        return _host(device, asked)
    return _auto_gpu(device, asked, say) if device.gpu else _auto_cpu(device, asked, say)


def environment(where: Where, release: str | None, python: Path | None, say: Say) -> Environment:
    """Return which release a turn has in a place, and by which interpreter; `None` is the one that is there.

    On the host it may have to be made first; see `environments.choose`.
    """
    if where.release is None:
        device = where.device
        return environments.choose(
            release, device.name, where.backend, gpu=device.gpu, python=python, say=say
        )
    row = releases.row_of(where.release, where.device.name)
    version = row.tensorrt if row is not None else None
    return Environment(ReleaseSeen(where.release, version or where.release.partition("-")[2]), None)


def pinned(device: str, release: str | None, host: str | None = None) -> tuple[Engine, Row]:
    """Return the engine, and the row whose image a user means by a device and a release's name."""
    if device != "auto":
        devices.choose(device)
    engine = connect(host)
    chosen = device_of(engine, device)
    return engine, _row(chosen, Asked(release=release), engine.board)


def named(device: str, release: str | None) -> Row:
    """Return the row that a user means by a device and a release's name, where no engine is asked."""
    return _row(devices.choose(device), Asked(release=release), Path("/"))


def device_of(engine: Engine, name: str, backend: str | None = None) -> Device:
    """Return the device `name`; `auto` is what the engine's machine is."""
    if name != "auto" or not engine.remote:
        return devices.choose(name, backend)
    if engine.board is not None and l4t(engine.board) is not None:
        return devices.choose("orin")
    gpu = engine.architecture == "amd64" and ("nvidia" in engine.runtimes or engine.cdi)
    return devices.choose("x86" if gpu else "cpu")


def _host(device: Device, asked: Asked) -> Where:
    backend = devices.backend(device, asked.backend)
    if asked.on_host is None:
        installed = environments.own(backend, gpu=device.gpu, needed=asked.release is None)
        releases.choose(asked.release, device.name, installed)
    standin = backend == trtexec.NAME and trtexec.is_standin()
    return Where(device=device, backend=backend, place=Place("host", standin=standin), asked=asked)


def _auto_cpu(device: Device, asked: Asked, say: Say) -> Where:
    if asked.release is None or asked.backend not in (None, device.image_backend):
        return _host(device, asked)
    installed = environments.own(device.image_backend, gpu=device.gpu)
    release = releases.find(asked.release, device.name, [installed.name] if installed else [])
    row = releases.row_of(release, device.name)
    if row is None or row.base is None or (installed is not None and release == installed.name):
        return _host(device, asked)
    if row.requirements and environments.is_made(row):
        return _host(device, asked)
    # Not installed here, but there is an image of it.
    try:
        engine = connect()
    except Unavailable as missing:
        if row.requirements:
            return _host(device, asked)
        raise Unavailable(f"{release} is not installed here, and {missing.what}", missing.hint) from None
    if row.requirements and images.usable(engine, row)[0] is None:
        return _host(device, asked)
    return _docker(device, asked, engine, say)


def _auto_gpu(device: Device, asked: Asked, say: Say) -> Where:
    if asked.backend not in (None, device.image_backend):
        return _host(device, asked)
    engine: Engine | None = None
    with contextlib.suppress(Unavailable):
        engine = connect()
    row = None
    if engine is not None:
        # A release that only the host knows is no error yet.
        with contextlib.suppress(Unavailable, UsageError):
            found = _row(device, asked, engine.board)
            images.fitting(engine, found)
            row = found
    if engine is not None and row is not None and images.usable(engine, row)[0] is not None:
        return _docker(device, asked, engine, say)
    try:
        return _host(device, asked)
    except Unavailable:
        if engine is None or row is None or not asked.pull:
            if engine is not None and row is not None:
                raise _not_built(row) from None
            raise
        return _docker(device, asked, engine, say)


def _row_with_image(device: Device, asked: Asked) -> Row | None:
    row = releases.row_of(releases.find(asked.release, device.name), device.name) if asked.release else None
    return row if row is not None and row.base is not None else None


def _row(device: Device, asked: Asked, board: Path | None) -> Row:
    """Return the row to take an image of; without a name the one that fits the board with those files."""
    if asked.release is None:
        if not device.gpu:
            return releases.default(device.name)
        seen_l4t, seen_driver = (l4t(board), cuda.driver_version(board)) if board else (None, None)
        return releases.default(device.name, l4t=seen_l4t, driver=seen_driver)
    row = _row_with_image(device, asked)
    if row is None:
        raise Unavailable(
            f"{asked.release} has no image for {device.name}", "`repro images list` shows which do"
        )
    return row


def _docker(device: Device, asked: Asked, engine: Engine, say: Say) -> Where:
    if asked.jtop:
        if engine.remote:
            raise UsageError("jtop's socket is let in on this machine's own engine only", "leave --jtop out")
        options.jtop_mount(options.JTOP_SOCKET, own=asked.own)
    row = _row(device, asked, engine.board)
    if asked.backend not in (None, device.image_backend):
        raise Unavailable(f"images for {device.name} hold no {asked.backend}", "leave --backend out")
    image, told = images.usable(engine, row)
    if image is None or not image.standin:
        check(engine, row)
    if image is None:
        if not asked.pull:
            raise _not_built(row)
        images.build(engine, row, say)
        image, told = images.usable(engine, row)
        if image is None:  # pragma: no cover - somebody removed it that moment
            raise _not_built(row)
    for each in told:
        say(f"note: {each}")
    memory_bytes, pids = options.limits(engine.memory_bytes, engine.limits)
    place = Place(
        kind="docker",
        image_id=image.id,
        repo_digest=image.repo_digest,
        base_digest=image.labels.get(images.BASE_DIGEST),
        labels={name: image.labels[name] for name in images.KEPT_LABELS if name in image.labels},
        limits=Limits(None, memory_bytes, pids),
        remote=engine.remote,
        standin=image.standin,
        engine=engine.version,
    )
    return Where(
        device=device,
        backend=device.image_backend,
        release=row.name,
        place=place,
        engine=engine,
        image=image,
        asked=asked,
    )


def _not_built(row: Row) -> Unavailable:
    return Unavailable(
        f"the image of {row.name} for {row.device} is not there",
        f"`repro images build {row.name} --device {row.device}` makes it, or add --pull",
    )


def check(engine: Engine, row: Row, root: Path | None = None) -> None:
    """Raise `Unavailable` where the engine's machine lacks what a row's image needs.

    `root` is where that machine's files are; driver and L4T are not looked at where they can't be read.
    """
    images.fitting(engine, row)
    if row.device == "orin" and "nvidia" not in engine.runtimes:
        raise Unavailable("this Docker engine has no NVIDIA runtime", TOOLKIT)
    if row.device == "x86" and "nvidia" not in engine.runtimes and not engine.cdi:
        raise Unavailable("this Docker engine has no NVIDIA runtime and no CDI devices", TOOLKIT)
    root = root or engine.board
    if root is None:
        return
    seen_driver = cuda.driver_version(root)
    if row.driver and seen_driver and releases.numbers(seen_driver) < releases.numbers(row.driver):
        raise Unavailable(
            f"{row.name} needs NVIDIA driver {row.driver}, here is {seen_driver}",
            "install a newer driver, or name an older --release (`repro images list`)",
        )
    seen_l4t = l4t(root)
    if row.l4t and seen_l4t and not row.runs_on_l4t(seen_l4t):
        raise Unavailable(
            f"{row.name} runs on L4T {' or '.join(row.l4t)}, this board has {seen_l4t}",
            f"leave --release out: {releases.default(row.device, l4t=seen_l4t).name} is this board's",
        )


def l4t(root: Path = Path("/")) -> str | None:
    """Return the board's release of Linux for Tegra, such as `35.4.1`; `None` where this is no Jetson."""
    with contextlib.suppress(OSError):
        text = (root / "etc/nv_tegra_release").read_text()
        found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
        return f"{found[1]}.{found[2]}" if found else None
    return None


def wanted(where: Where, job: Job, job_folder: Path) -> options.Wanted:
    """Return what the job asks of its container."""
    started_utc = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    engine, image, device, place = where.engine, where.image, where.device.name, where.place
    if engine is None or image is None:
        raise TypeError("not a container")
    local = not engine.remote
    mounts: list[tuple[str, str]] = []
    # A stand-in has no GPU to reach.
    hardware = "cpu" if place.standin else device
    board = jetson.root() if local else Path("/")
    if hardware == "orin" or (device == "orin" and local and jetson.present(board)):
        mounts += options.board_mounts(board, local=local, copy=engine.board)
    if where.asked.jtop:
        mounts.append(options.jtop_mount(options.JTOP_SOCKET, own=where.asked.own))
    if local and lock.path().exists():
        mounts.append((os.path.abspath(lock.path()), options.LOCK))
    row = releases.row_of(where.release or "", device)
    variables = {"TRTEXEC": row.trtexec} if row is not None and row.trtexec else {}
    if place.standin:
        variables[images.STANDIN_SWITCH] = "1"
    if not local:
        variables[worker.SILENCE] = f"{holder.SILENCE_S:g}"
    return options.Wanted(
        device=hardware,
        image=image.id,
        memory_bytes=place.limits.memory_bytes if place.limits else None,
        pids=place.limits.pids if place.limits else None,
        scratch_bytes=options.scratch_bytes(job_folder / s.model_file for s in job.subjects),
        gpu=where.asked.gpu or "0",
        cdi="nvidia" not in engine.runtimes and engine.cdi,
        groups=options.device_groups(hardware, local=local),
        mounts=tuple(mounts),
        environment=variables,
        labels={
            holder.RUN: job.run_id,
            holder.CASE: job.subjects[0].case.id,
            holder.STARTED: started_utc,
            holder.CALLER: holder.caller(),
        },
    )
