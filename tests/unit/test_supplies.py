"""What a build gets from outside: pinned, fetched once, told where it can't be had."""

from __future__ import annotations

import hashlib
import io
import urllib.error
from pathlib import Path

import pytest

from repro import proc, releases, supplies
from repro.errors import Refused, Unavailable, UsageError
from repro.releases import Archive

DATA = b"a Python"
ROW = releases.with_image("orin")[0]
PINNED = Archive("https://host.invalid/python.tar.gz", hashlib.sha256(DATA).hexdigest())


@pytest.fixture(autouse=True)
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "archive", lambda version, architecture: PINNED)


def archive(given: Path | None = None) -> bytes:
    return supplies.archive(ROW, "arm64", given, lambda _: None)


def test_an_archive_that_is_given_must_be_the_pinned_one(tmp_path: Path) -> None:
    path = tmp_path / "python.tar.gz"
    with pytest.raises(UsageError, match=r"can't read .*: name another --python-archive"):
        archive(path)
    path.write_bytes(b"another")
    with pytest.raises(Refused, match=f"pinned is {PINNED.sha256}"):
        archive(path)
    path.write_bytes(DATA)
    assert archive(path) == DATA


def test_an_archive_is_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(DATA)

    monkeypatch.setattr(supplies.urllib.request, "urlopen", urlopen)  # type: ignore[attr-defined]
    assert archive() == archive() == DATA
    assert asked == [PINNED.url]


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (
            urllib.error.URLError("no route"),
            Unavailable,
            r"can't fetch Python .* \(no route\): fetch it yourself",
        ),
        (b"something else", Refused, "as fetched is sha256:"),
    ],
)
def test_an_archive_that_can_t_be_had_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception, error: type[Exception], told: str
) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(supplies.urllib.request, "urlopen", urlopen)  # type: ignore[attr-defined]
    with pytest.raises(error, match=told):
        archive()
    assert not list(supplies.cache().rglob("*.tar.gz"))


def test_wheels_are_fetched_once_by_hash_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(argv: list[str], *, timeout_s: float) -> proc.Finished:
        calls.append(argv)
        folder = Path(argv[argv.index("--dest") + 1])
        folder.mkdir()
        (folder / "x-1-py3-none-any.whl").write_bytes(b"x")
        return proc.Finished(0, b"", b"")

    monkeypatch.setattr(proc, "run", run)
    found = supplies.wheels(b"x==1", "arm64", lambda _: None)
    assert [path.name for path in found] == ["x-1-py3-none-any.whl"]
    assert supplies.wheels(b"x==1", "arm64", lambda _: None) == found
    (argv,) = calls
    assert {"--require-hashes", "--no-deps", "manylinux_2_31_aarch64"} <= set(argv)
    assert "manylinux_2_32_aarch64" not in argv, "newer than the oldest base"


def test_wheels_that_can_t_be_fetched_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = proc.Finished(1, b"", b"ERROR: no matching distribution\n")
    monkeypatch.setattr(proc, "run", lambda argv, *, timeout_s: failed)
    with pytest.raises(Unavailable, match=r"can't fetch the wheels \(ERROR: no matching distribution\)"):
        supplies.wheels(b"x==1", "amd64", lambda _: None)
    assert list((supplies.cache() / "wheels").iterdir()) == []
