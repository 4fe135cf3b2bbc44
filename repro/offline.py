"""One tar for a lab without internet: kit, wheels, image, and a script that installs them.

Whatever goes in is pinned: wheels by the kit's own lock, the Python archive by the table of releases, the
image by its id. The same kit, image and engine give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from repro import __version__, delivery, images, plan, releases, supplies
from repro.containers import Engine
from repro.errors import ReproError, Unavailable, UsageError
from repro.images import Image
from repro.releases import Row

Say = Callable[[str], None]

FOLDER = "trt-repro-offline"
ARCHIVE = "archive"
"""In place of a version: the Python of the table of releases goes along."""
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PYTHON_OF_L4T = {"35": ARCHIVE, "36": "3.10", "39": "3.12"}
"""Python of JetPack's Ubuntu by L4T's major: 20.04 has 3.8, which is too old for the kit; 22.04; 24.04."""
SPARE_BYTES = 512 * 2**20
"""Room for all but the image."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a tar is made of, all of it decided."""

    row: Row
    architecture: str
    python: str
    """A version such as `3.10`."""
    archive: bytes | None
    """A Python to bring along; `None`: the board's own serves."""
    lock: bytes
    wheels: tuple[Path, ...]
    image: Image | None
    engine: Engine | None

    @property
    def name(self) -> str:
        """Name of the tar."""
        bare = "" if self.image else "-no-image"
        release = self.row.name.replace("+", "_")
        return f"trt-repro-{self.row.device}-{release}-{self.architecture}-py{self.python}{bare}.tar"


def contents(
    row: Row,
    engine: Engine | None,
    say: Say,
    *,
    python: str | None = None,
    archive: Path | None = None,
) -> Contents:
    """Decide on a tar for a row's device and get what goes into it; without an engine there is no image."""
    image = None
    architecture = images.DEVICE_ARCHITECTURE.get(row.device) or machine()
    if engine is not None:
        image, told = images.usable(engine, row)
        if image is None:
            raise Unavailable(
                f"the image of {row.name} for {row.device} is not there",
                f"`repro images build {row.name} --device {row.device}` makes it; "
                "--no-image leaves it out, for a board without Docker",
            )
        for each in told:
            say(f"note: {each}")
        architecture = image.architecture
    wanted = python or (ARCHIVE if archive is not None else _python_of(row))
    brought = None
    if wanted == ARCHIVE:
        version = next(iter(releases.archives()), None) if row.python is None else row.python
        brought = supplies.archive(msgspec.structs.replace(row, python=version), architecture, archive, say)
        wanted = ".".join(str(version).split(".")[:2])
    elif wanted not in PYTHONS:
        raise UsageError(f"unknown Python '{wanted}'", f"known are {', '.join(PYTHONS)} and {ARCHIVE}")
    say(f"for Python {wanted} on {architecture}{'' if brought is None else ', which goes along'}")
    lock = locked(_lock_of_kit(), wanted, architecture) + _pip(row)
    wheels = tuple(supplies.wheels(lock, architecture, say, python=wanted))
    return Contents(
        row=row,
        architecture=architecture,
        python=wanted,
        archive=brought,
        lock=lock,
        wheels=wheels,
        image=image,
        engine=engine,
    )


def _python_of(row: Row) -> str:
    """Return the Python of the boards that a row is for; elsewhere this machine's serves as the guess."""
    for major, version in PYTHON_OF_L4T.items():
        if row.l4t and row.l4t[0].partition(".")[0].rstrip("+") == major:
            return version
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def write(made: Contents, target: Path, say: Say) -> Path:
    """Write the tar to a file or into a folder; return its path. It appears complete or not at all."""
    path = target if target.suffix == ".tar" else target / made.name
    need = SPARE_BYTES + 2 * (made.image.size_bytes if made.image else 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < need:
            raise Unavailable(
                f"{free / 2**30:.1f} GiB are free in {path.parent}, the tar needs {need / 2**30:.1f} GiB",
                "name another --output",
            )
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".offline-") as name:
            part = Path(name) / "part"
            with part.open("wb") as file:
                _pack(made, file, Path(name) / "image", say)
            part.replace(path)
    except OSError as error:
        raise ReproError(f"can't write {path} ({error.strerror})", "name another --output") from None
    return path


def _pack(made: Contents, file: IO[bytes], room: Path, say: Say) -> None:
    """Write all members in order, with the sums of all before them at the end."""
    sums: list[str] = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: IO[bytes], size: int, mode: int = 0o644) -> None:
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size, member.mode = size, mode
            digest = hashlib.sha256()
            while chunk := content.read(2**20):
                digest.update(chunk)
            sums.append(f"{digest.hexdigest()}  {name}\n")
            content.seek(0)
            tar.addfile(member, content)

        def data(name: str, content: bytes, mode: int = 0o644) -> None:
            add(name, io.BytesIO(content), len(content), mode)

        data("README.txt", _readme(made).encode())
        data("install.sh", (releases.folder() / "offline.sh").read_bytes(), 0o755)
        data("about", _about(made).encode())
        data("requirements.lock", made.lock)
        if made.archive is not None:
            data("python.tar.gz", made.archive)
        for name, path in sorted(kit_files()):
            data(f"kit/{name}", path.read_bytes())
        for path in made.wheels:
            data(f"wheels/{path.name}", path.read_bytes())
        if made.image is not None and made.engine is not None:
            with room.open("w+b") as image:
                for chunk in delivery.saved(made.engine, made.row, made.image, say):
                    image.write(chunk)
                size = image.tell()
                image.seek(0)
                add("image.tar", image, size)
        text = "".join(sums).encode()
        member = tarfile.TarInfo(f"{FOLDER}/SHA256SUMS")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))


def kit_files() -> Iterator[tuple[str, Path]]:
    """Give the kit's files by their places: the package, and what lies beside it in a checkout."""
    package = Path(__file__).parent
    beside = [package.parent / name for name in ("cases", "images", "LICENSE", *LOCKS)]
    for root in (package, *(beside if releases.folder().parent == package.parent else ())):
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(package.parent).as_posix(), path


LOCKS = ("requirements.lock",)


def _lock_of_kit() -> str:
    """Return the lock that the kit itself is installed from: beside the package, or in it."""
    package = Path(__file__).parent
    for folder in (package.parent, package / "data"):
        if (folder / LOCKS[0]).is_file():
            return (folder / LOCKS[0]).read_text()
    raise Unavailable("this installation has no lock of its own", "make the tar from a checkout of the kit")


def locked(lock: str, python: str, architecture: str) -> bytes:
    """Return the entries of a universal lock that hold on Linux with a Python, without their markers.

    pip itself asks the markers of the interpreter that it runs in, not of the one that is meant.
    """
    from packaging.markers import Marker

    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": supplies.MACHINES[architecture],
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    entries = []
    for entry in re.findall(r"^[a-z0-9](?:.*\\\n)*.*$", lock, re.MULTILINE):
        first, _, hashes = entry.partition("\\\n")
        name, _, marker = first.partition(";")
        if not marker or Marker(marker.strip()).evaluate(environment):
            entries.append(f"{name.strip()} \\\n{hashes}\n")
    return "".join(entries).encode()


def _pip(row: Row) -> bytes:
    """Return the entry of pip, which installs the others, from the lock of the row's image."""
    text = (releases.folder() / str(row.lock)).read_text()
    found = re.search(r"^pip==(?:.*\\\n)*.*\n", text, re.MULTILINE)
    if found is None:
        raise ReproError(f"images/{row.lock} has no pip", "make lock")
    return found[0].encode()


def _about(made: Contents) -> str:
    """Return what the script reads, as variables of a shell."""
    values = {
        "DEVICE": made.row.device,
        "RELEASE": made.row.name,
        "MACHINE": supplies.MACHINES[made.architecture],
        "PYTHON_VERSION": made.python,
        "KIT": f"{__version__} {plan.kit().tree_sha256}",
        "IMAGE": f"{made.image.name} {made.image.id}" if made.image else "",
    }
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def _readme(made: Contents) -> str:
    own = "brings its own Python" if made.archive else "the machine's own is used"
    image = made.image.name if made.image else "none; run with --place host"
    return (
        f"trt-repro {__version__}, to be installed without internet\n\n"
        f"for      {made.row.device}, {supplies.MACHINES[made.architecture]}, Python {made.python} ({own})\n"
        f"image    {image}\n\n"
        "install  sh install.sh [FOLDER]     (default: ~/trt-repro)\n"
        "check    sha256sum -c SHA256SUMS    (the script does it first)\n"
    )


def machine() -> str:
    """Return this machine's architecture as engines call it."""
    return {value: key for key, value in supplies.MACHINES.items()}.get(os.uname().machine, "amd64")
