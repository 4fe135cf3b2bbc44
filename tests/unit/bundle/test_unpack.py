"""Extracting writes what the statement lists into a new folder of one's own, or nothing."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from repro.bundle import archive, unpack
from repro.errors import Refused, ReproError, UsageError
from tests.builders import seal


def test_every_member_is_written_into_a_folder_of_ones_own(tmp_path: Path) -> None:
    path = seal(tmp_path).path
    old = os.umask(0)
    try:
        names = unpack.extract(path, tmp_path / "new")
    finally:
        os.umask(old)
    with zipfile.ZipFile(path) as zipped:
        assert sorted(names) == sorted(zipped.namelist())
        assert all((tmp_path / "new" / name).read_bytes() == zipped.read(name) for name in names)
    written = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert {oct(p.stat().st_mode & 0o777) for p in written} == {"0o700", "0o600"}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
def test_what_is_there_is_never_touched(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "there"
    elsewhere = tmp_path / "elsewhere"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        if kind == "link":
            elsewhere.mkdir()
        target.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is there already"):
        unpack.extract(seal(tmp_path).path, target)
    assert not elsewhere.exists() or list(elsewhere.iterdir()) == []


def test_a_refused_bundle_makes_no_folder(tmp_path: Path) -> None:
    path = seal(tmp_path).path
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(Refused):
        unpack.extract(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="can't make"):
        unpack.extract(seal(tmp_path).path, tmp_path / "no" / "such" / "parent")


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = seal(tmp_path).path
    real = archive.Archive.read
    written = 0

    def full(self: archive.Archive, name: str) -> bytes:
        nonlocal written
        written += (tmp_path / "new").is_dir()
        if written > 3:
            raise OSError(28, "No space left on device")
        return real(self, name)

    monkeypatch.setattr(archive.Archive, "read", full)
    with pytest.raises(ReproError, match="No space left on device"):
        unpack.extract(path, tmp_path / "new")
    assert written == 4
    assert not (tmp_path / "new").exists()


def test_a_file_exchanged_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = seal(tmp_path).path
    real = archive.Archive.read

    def exchanged(self: archive.Archive, name: str) -> bytes:
        data = real(self, name)
        return b"evil" if (tmp_path / "new").is_dir() and name.startswith("telemetry/") else data

    monkeypatch.setattr(archive.Archive, "read", exchanged)
    with pytest.raises(Refused, match=r"telemetry/host\.bin changed while it was read"):
        unpack.extract(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()
