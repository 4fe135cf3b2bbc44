"""The Makefile on machines that lack something."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.needs("make")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def fake_python(folder: Path, *, refuses: str) -> Path:
    """Return an interpreter that answers everything but one question."""
    path = folder / "python3"
    path.write_text(f'#!/bin/sh\ncase "$*" in *{refuses}*) exit 1;; esac\nexit 0\n')
    path.chmod(0o755)
    return path


def test_help_is_the_default_and_lists_the_targets() -> None:
    done = make()
    assert done.returncode == 0
    for target in (
        "repro",
        "test",
        "lint",
        "bench",
        "bench-stats",
        "verify",
        "show",
        "compare",
        "replay",
        "clean",
    ):
        assert f"  {target}" in done.stdout


def test_compare_names_its_bundles() -> None:
    done = make("-n", "compare", "A=one.zip", "B=two.zip", "ARGS=three.zip")
    assert "/repro compare one.zip two.zip three.zip\n" in done.stdout


def test_replay_names_its_bundle() -> None:
    done = make("-n", "replay", "BUNDLE=one.zip", "RELEASE=ort-1.30.0", "ARGS=--yes")
    told = "/repro replay one.zip --device auto --place auto --release ort-1.30.0 --yes\n"
    assert told in done.stdout


def test_without_venv_one_line_names_the_apt_command(tmp_path: Path) -> None:
    python = fake_python(tmp_path, refuses="ensurepip")
    done = make("repro", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert "sudo apt install python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_old_python_is_named(tmp_path: Path) -> None:
    python = fake_python(tmp_path, refuses="version_info")
    done = make("repro", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert "older than 3.10" in done.stderr


def test_clean_keeps_bundles_work_and_keys(tmp_path: Path) -> None:
    names = [
        "Makefile",
        "bundles/a.zip",
        "work/run/job/job.json",
        ".config/signing_key",
        "build/x",
        "repro/a.py",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / "Makefile").read_text() if name == "Makefile" else "x")
    for folder in ("tests", "cases"):
        (tmp_path / folder).mkdir()
    subprocess.run(["make", "-C", str(tmp_path), "clean"], check=True, capture_output=True, env=os.environ)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(names) - {"build/x"}


def test_a_board_is_named_on_the_command_line_of_make_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "workstation")  # csh and others export it.
    for target in ("repro", "images", "offline"):
        assert "--host" not in make("-n", target).stdout
        assert "--host ssh://me@orin:2222 " in make("-n", target, "HOST=ssh://me@orin:2222").stdout
