"""What the tests build on: stand-ins for base images, a Python archive, a checkout that pins it."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

from repro import images
from repro.containers import Engine

ROOT = Path(__file__).parents[2]
DEBS = ("libnvinfer8", "libnvinfer-plugin8")


def python_archive(address: str, base: str, path: Path) -> Path:
    """Write the Python of a base as an archive that can lie anywhere; return its path."""
    import docker

    client = docker.DockerClient(base_url=address)
    container = client.api.create_container(base, "true")["Id"]
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for source, target in (("/usr/bin/python3.11", "bin"), ("/usr/lib/python3.11", "lib")):
            chunks, _ = client.api.get_archive(container, source)
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as found:
                for member in found:
                    content = found.extractfile(member) if member.isreg() else None
                    member.name = f"python/{target}/{member.name}"
                    tar.addfile(member, content)
        link = tarfile.TarInfo("python/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, "python3.11"
        tar.addfile(link)
    client.api.remove_container(container)
    client.close()
    return path


def checkout(archive: Path, folder: Path) -> Path:
    """Copy the kit into `folder`, with a table that pins `archive`; return the folder."""
    for name in ("repro", "images", "cases"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", folder)
    table = folder / "images" / "releases.toml"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    table.write_text(re.sub(r'(?m)^sha256 = "\w+"$', f'sha256 = "{digest}"', table.read_text()))
    return folder


def with_trtexec(
    engine: Engine, under: str, name: str, plays: str, trtexec: str, package: str, evaluator: str = ""
) -> None:
    """Make a base that has the tests' trtexec at the real one's path, and packages of its version."""
    launcher = (
        f"#!/bin/sh\nexport TRT_STANDIN_RELEASE={plays} TRT_STANDIN_EVALUATOR={evaluator}\n"
        'export TRT_STANDIN_NAME="$0"\n'
        'exec /opt/repro/venv/bin/python /opt/standin/tests/standin/trtexec.py "$@"\n'
    )
    debs = " && ".join(
        f"mkdir -p /{deb}/DEBIAN && printf 'Package: {deb}\\nVersion: {package}\\nArchitecture: all\\n"
        f"Maintainer: tests\\nDescription: stands in\\n' > /{deb}/DEBIAN/control "
        f"&& dpkg-deb -b /{deb} /{deb}.deb && dpkg -i /{deb}.deb && rm -r /{deb} /{deb}.deb"
        for deb in DEBS
    )
    files: dict[str, bytes] = {
        "Dockerfile": (
            f"FROM {under}\nCOPY standin /opt/standin/tests/standin\nCOPY trtexec {trtexec}\n"
            f"RUN chmod 755 {trtexec} && {debs}\n"
        ).encode(),
        "trtexec": launcher.encode(),
    }
    for path in (ROOT / "tests" / "standin").glob("*.*"):
        files[f"standin/{path.name}"] = path.read_bytes()
    with io.BytesIO() as context:
        images.pack(files, context)
        context.seek(0)
        events: list[Any] = list(
            engine.client.api.build(
                fileobj=context, custom_context=True, tag=name, rm=True, decode=True, network_mode="none"
            )
        )
    assert not [event for event in events if "error" in event], events[-3:]
