"""compose.yaml is what the launcher's options give."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from repro.launch import compose, options

ROOT = Path(__file__).parents[3]


def test_the_file_is_fresh() -> None:
    assert (ROOT / "compose.yaml").read_text() == compose.render(), "`make compose` writes it anew"


@pytest.mark.parametrize("family", compose.FAMILIES)
def test_a_service_has_the_launchers_fences(family: str) -> None:
    service = compose.service(family)
    assert service["network_mode"] == "none"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]
    assert service["user"] == f"{options.UID}:{options.UID}"
    assert service["command"] == list(options.COMMAND)
    assert not [
        volume for volume in service["volumes"] if volume.startswith("/") and not volume.endswith(":ro")
    ]


@pytest.mark.needs("compose")
def test_docker_compose_takes_the_whole_file() -> None:
    argv = ["docker-compose", "-f", str(ROOT / "compose.yaml"), "config", "--services"]
    # It reads the file only; no engine is asked.
    done = subprocess.run(
        argv, env={**os.environ, "JOB": "/job"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(compose.FAMILIES)


def test_each_family_reaches_its_device() -> None:
    assert compose.service("orin")["runtime"] == "nvidia"
    (gpu,) = compose.service("x86")["deploy"]["resources"]["reservations"]["devices"]
    assert gpu == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu", "compute", "utility"]}
    assert not {"runtime", "deploy"} & set(compose.service("cpu"))
