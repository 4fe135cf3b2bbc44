"""A replay in another place: an image that is there goes before the host, and holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from repro import bundle
from repro.backends import onnxruntime
from repro.schema import Reply
from tests import forge
from tests.docker.conftest import CASES, QUICK, Call

Make = Callable[[str], str]


def measured(repro: Call, folder: Path) -> Path:
    places = ("--cases", CASES, "--output", "original", "--work", "w", "--place", "host", "--device", "cpu")
    assert repro("run", "tiny", *places, "--yes", *QUICK).returncode == 0
    (path,) = (folder / "original").glob("*.zip")
    return path


def reply_of(folder: Path) -> tuple[bundle.Bundle, Reply]:
    (path,) = (folder / "replies").glob("*.zip")
    opened = bundle.read(path)
    assert opened.statement.predicate.reply is not None
    return opened, opened.statement.predicate.reply


def test_a_bundle_of_the_host_is_replayed_in_a_container(cpu: Make, repro: Call, tmp_path: Path) -> None:
    cpu(onnxruntime.release(gpu=False).name)
    path = measured(repro, tmp_path)
    done = repro("replay", path, "--output", "replies", "--yes")
    assert "place docker" in done.stderr
    assert done.returncode in (0, 1, 3), done.stderr
    opened, reply = reply_of(tmp_path)
    (record,) = opened.records.values()
    assert (record.status, record.runtime.place.kind) == ("measured", "docker")
    limits = record.runtime.place.limits
    assert limits is not None
    assert limits.memory_bytes is None or limits.memory_bytes <= 8 * 2**30
    assert [each.claim for each in reply.answers] == [None]
    assert repro("verify", next((tmp_path / "replies").glob("*.zip")), path).returncode == 0


def test_no_image_is_made_for_a_bundle(repro: Call, tmp_path: Path) -> None:
    def newer(record: object) -> object:
        assert hasattr(record, "runtime")
        release = msgspec.structs.replace(record.runtime.release, name="ort-1.24.1", version="1.24.1")
        runtime = msgspec.structs.replace(record.runtime, release=release)
        return msgspec.structs.replace(record, runtime=runtime)  # type: ignore[type-var]

    path = forge.forge(measured(repro, tmp_path), tmp_path / "other.zip", record=newer)  # type: ignore[arg-type]
    done = repro("replay", path, "--output", "replies", "--yes", "--replay-unknown-signer")
    assert done.returncode == 4, done.stderr
    assert "step 1 of" not in done.stderr
    _, reply = reply_of(tmp_path)
    assert reply.outcome == "could_not_run"
