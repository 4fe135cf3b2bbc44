"""The tar for a lab without internet: installed with the network off, and run from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repro import bundle, containers, images
from repro.offline import FOLDER
from tests.docker.conftest import RELEASE, Call, run_arguments
from tests.docker.lab import Board

pytestmark = pytest.mark.needs("sshd", "mount", "network")


def without_network(
    *argv: str | Path, cwd: Path, env: dict[str, str], check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command in a network of its own that has nothing but an unused loopback."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env
    done = subprocess.run(
        ["unshare", "--net", *map(str, argv)],
        cwd=cwd,
        env=given,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def test_a_tar_is_installed_and_run_from_without_internet(
    cpu: Callable[[str], str], repro: Call, board: Board, tmp_path: Path
) -> None:
    name = cpu(RELEASE)
    made = repro("offline", "--device", "cpu", "--release", RELEASE, "--output", "lab.tar")
    assert made.returncode == 0, made.stderr
    assert f"there: tar -xf lab.tar && sh {FOLDER}/install.sh" in made.stdout

    # The board stands for the lab's machine: it has never seen the image.
    there = containers.connect(board.local_url)
    if images.inspect(there, name):
        there.client.images.remove(name, force=True)
    lab = {"DOCKER_HOST": board.local_url, "PYTHON": sys.executable, images.STANDIN_SWITCH: "1"}
    subprocess.run(["tar", "-xf", tmp_path / "lab.tar"], cwd=tmp_path, check=True)
    (tmp_path / "lab.tar").unlink()
    done = without_network("sh", f"{FOLDER}/install.sh", "kit", cwd=tmp_path, env=lab)
    assert f"next: {tmp_path}/kit/bin/repro run conv16 --device cpu --place docker" in done.stdout
    assert images.inspect(there, name) is not None
    there.close()
    for place in ("docker", "host"):
        arguments = run_arguments("tiny", "--device", "cpu", "--place", place, "--output", place)
        release = ("--release", RELEASE) if place == "docker" else ()
        without_network("kit/bin/repro", *arguments, *release, cwd=tmp_path, env=lab)
        (path,) = (tmp_path / place).glob("*.zip")
        (record,) = bundle.read(path).records.values()
        assert (record.status, record.runtime.place.kind) == ("measured", place)

    refuse(tmp_path, lab)


def refuse(folder: Path, lab: dict[str, str]) -> None:
    """See what is said where the tar can't be installed: one line, and what was there stays."""
    (folder / "bin").mkdir()
    (folder / "bin" / "uname").write_text("#!/bin/sh\necho riscv64\n")
    (folder / "bin" / "uname").chmod(0o755)
    (folder / "mine").mkdir()
    path = os.environ["PATH"]
    for target, env, told in (
        ("kit", {"PATH": f"{folder / 'bin'}:{path}"}, "this is for x86_64, and this machine is riscv64"),
        ("mine", {}, "mine is there and is no installation of the kit"),
    ):
        done = without_network(
            *("sh", f"{FOLDER}/install.sh", target), cwd=folder, env={**lab, **env}, check=False
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert told in done.stderr
    next((folder / FOLDER / "wheels").glob("rich-*")).write_bytes(b"")
    done = without_network("sh", f"{FOLDER}/install.sh", "kit", cwd=folder, env=lab, check=False)
    assert done.returncode == 1
    assert "files are missing or damaged: copy the tar again" in done.stderr
    # One that fails half-way leaves the older installation.
    lines = (folder / FOLDER / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / FOLDER / "SHA256SUMS").write_text("".join(line for line in lines if "/rich-" not in line))
    done = without_network("sh", f"{FOLDER}/install.sh", "kit", cwd=folder, env=lab, check=False)
    assert done.returncode != 0
    assert not (folder / "kit.old").exists()
    without_network("kit/bin/repro", "--version", cwd=folder, env=lab)
    shutil.rmtree(folder / FOLDER)
