"""The tar for a lab without internet: what goes in, for which Python, and that it is always the same."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repro import images, offline, releases, supplies
from repro.errors import ReproError, Unavailable, UsageError
from repro.images import Image
from repro.releases import Row
from tests.unit.test_places import engine_of

LOCK = """\
click==8.5.1 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
numpy==2.2.6 ; python_full_version < '3.11' \\
    --hash=sha256:ba
numpy==2.5.5 ; python_full_version >= '3.11' \\
    --hash=sha256:bb
pywin32==312 ; sys_platform == 'win32' \\
    --hash=sha256:ca
cffi==2.1.1 ; platform_python_implementation != 'PyPy' \\
    --hash=sha256:da
"""


@pytest.mark.parametrize(("python", "numpy"), [("3.10", "2.2.6"), ("3.12", "2.5.5")])
def test_the_lock_is_cut_to_a_python_with_its_hashes(python: str, numpy: str) -> None:
    found = offline.locked(LOCK, python, "arm64").decode()
    assert [line.split(" ")[0] for line in found.splitlines() if "==" in line] == [
        "click==8.5.1",
        f"numpy=={numpy}",
        "cffi==2.1.1",
    ]
    assert "--hash=sha256:aa" in found
    assert "--hash=sha256:ab" in found
    assert ";" not in found


def test_every_entry_of_the_kits_own_lock_is_read() -> None:
    lock = (Path(releases.__file__).parent.parent / "requirements.lock").read_text()
    kept = offline.locked(lock, "3.12", "arm64").decode()
    assert kept.count("--hash=") > 100
    for name in ("onnxruntime", "msgspec", "docker", "click"):
        assert f"\n{name}==" in kept
    assert "pywin32" not in kept


def row(name: str, device: str) -> Row:
    found = releases.row_of(name, device)
    assert found is not None
    return found


ORIN_35, ORIN_36 = row("trt-8.5.2.2+cuda11.4", "orin"), row("trt-8.6.2+cuda12.2", "orin")
CPU = row("ort-1.31.1", "cpu")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Have nothing fetched; return what was asked for, as (architecture, Python)."""
    asked: list[tuple[str, str]] = []
    wheel = tmp_path / "made_up-1-py3-none-any.whl"
    wheel.write_bytes(b"wheel")

    def wheels(lock: bytes, architecture: str, say: Any, *, python: str) -> list[Path]:
        assert b"\npip==" in lock
        asked.append((architecture, python))
        return [wheel]

    monkeypatch.setattr(supplies, "wheels", wheels)
    monkeypatch.setattr(supplies, "archive", lambda row, architecture, given, say: row.python.encode())
    return asked


@pytest.mark.parametrize(
    ("of", "python", "wanted"),
    [
        (ORIN_35, None, ("arm64", "3.11")),
        (ORIN_36, None, ("arm64", "3.10")),
        (ORIN_36, "3.12", ("arm64", "3.12")),
        (ORIN_36, "archive", ("arm64", "3.11")),
    ],
    ids=["JetPack 5 has none that is new enough", "JetPack 6", "named", "brought along"],
)
def test_the_python_is_that_of_the_board(
    fetched: list[tuple[str, str]], of: Row, python: str | None, wanted: tuple[str, str]
) -> None:
    made = offline.contents(of, None, lambda _: None, python=python)
    assert fetched == [wanted]
    assert (made.archive is not None) is (wanted[1] == "3.11")


class World:
    """An engine that has an image, and what was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, image: Image | None) -> None:
        self.told: list[str] = []
        self.engine = engine_of()
        monkeypatch.setattr(images, "usable", lambda engine, row: (image, ("it is old",)))
        monkeypatch.setattr(offline.delivery, "saved", self.saved)  # type: ignore[attr-defined]

    def saved(self, *_: object) -> Iterator[bytes]:
        yield from (b"layer 1", b"layer 2")

    def write(self, target: Path) -> Path:
        made = offline.contents(CPU, self.engine, self.told.append, python="3.12")
        return offline.write(made, target, self.told.append)


IMAGE = Image("sha256:1d", CPU.image, {}, None, "amd64", 14)


def test_the_same_gives_the_same_bytes_and_the_sums_hold(
    fetched: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(monkeypatch, IMAGE)
    first, second = world.write(tmp_path / "a"), world.write(tmp_path / "b" / "x.tar")
    assert (first.name, second.name) == ("trt-repro-cpu-ort-1.31.1-amd64-py3.12.tar", "x.tar")
    assert first.read_bytes() == second.read_bytes()
    assert "note: it is old" in world.told
    with tarfile.open(first) as tar:
        files = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            assert (member.mtime, member.uid, member.uname) == (0, 0, "")
            files[member.name.removeprefix(f"{offline.FOLDER}/")] = content.read()
    sums = files.pop("SHA256SUMS").decode().splitlines()
    assert sums == [f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in files.items()]
    assert files["image.tar"] == b"layer 1layer 2"
    assert {
        "install.sh",
        "about",
        "kit/repro/cli/__init__.py",
        "kit/cases/lock.json",
        "kit/images/releases.toml",
    } < set(files)
    assert "RELEASE='ort-1.31.1'\nMACHINE='x86_64'\nPYTHON_VERSION='3.12'\n" in files["about"].decode()


def test_what_can_t_be_made_is_told_and_leaves_nothing(
    fetched: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match=r"images build ort-1.31.1 --device cpu` makes it; --no-image"):
        World(monkeypatch, None).write(tmp_path)
    with pytest.raises(UsageError, match=r"unknown Python '2.7'"):
        offline.contents(CPU, None, lambda _: None, python="2.7")
    world = World(monkeypatch, IMAGE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ReproError, match="name another --output"):
        world.write(tmp_path / "file" / "x.tar")

    def breaks(*_: object) -> Iterator[bytes]:
        yield b"layer 1"
        raise Unavailable("the engine went away")

    monkeypatch.setattr(offline.delivery, "saved", breaks)  # type: ignore[attr-defined]
    with pytest.raises(Unavailable):
        world.write(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    huge = Image("sha256:1d", CPU.image, {}, None, "amd64", 2**60)
    with pytest.raises(Unavailable, match=r"the tar needs \d+\.\d GiB: name another --output"):
        World(monkeypatch, huge).write(tmp_path / "out")
