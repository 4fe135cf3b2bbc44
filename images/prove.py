"""Prove at build time that an image holds what its row in releases.toml says; fail where it does not.

Runs inside the image as the worker's user: `python prove.py expected.json` prints what was seen as JSON, or
says on standard error what is wrong and exits with 1. It imports nothing of the kit, for the kit is not in
the image.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

# The board's driver brings these at run time; without them trtexec can't start while an image is built.
DRIVER_LIBRARIES = re.compile(r"lib(cuda|nvdla_compiler|nvidia-\w+|nvos|nvrm\w*|nvsocsys|nvcudla)\.so")


def wheels(expected: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the locked distributions as installed, and which of them are not as locked."""
    seen, wrong = {}, []
    for name, version in expected.items():
        try:
            seen[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if seen[name] != version:
            wrong.append(f"{name} is {seen[name]}, locked is {version}")
    return seen, wrong


def imports(names: list[str]) -> list[str]:
    """Return which modules can't be imported, and why."""
    wrong = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            wrong.append(f"{name} can't be imported ({error})")
    return wrong


def packages(tensorrt: str) -> tuple[dict[str, str], list[str]]:
    """Return the packages libnvinfer* of the base, and which of them are of another TensorRT."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n", "libnvinfer*"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
    found = dict(line.split()[1:] for line in listed if line.startswith("installed "))
    if not found:
        return {}, ["no package libnvinfer* is installed"]
    return found, [
        f"{name} is {version}, the row says {tensorrt}"
        for name, version in found.items()
        if not same(version.partition("-")[0], tensorrt)
    ]


def same(seen: str, tensorrt: str) -> bool:
    """Tell whether two versions agree as far as both go: packages name three numbers or four."""
    pairs = zip(seen.split("."), tensorrt.split("."), strict=False)
    return all(a == b for a, b in pairs) and seen.count(".") >= 2


def spelled(number: int) -> str:
    """Return the version that a banner means: 8502 is 8.5.2, 100300 is 10.3.0."""
    major, rest = divmod(number, 10_000 if number >= 10_000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def trtexec(path: str, tensorrt: str, flags: dict[str, bool]) -> tuple[dict[str, Any], list[str]]:
    """Return what trtexec says of itself, and where that is not what the row or the table of flags says."""
    if not os.access(path, os.X_OK):
        return {}, [f"{path} is not there"]
    done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    banner = re.search(r"&&&& RUNNING TensorRT\.trtexec \[TensorRT v(\d+)\](?: \[b(\d+)\])?", text)
    if banner is None:
        missing = re.search(r"(lib[\w+-]+\.so[\w.]*): cannot open shared object", text)
        if missing and DRIVER_LIBRARIES.match(missing[1]):
            return {"unproven": f"{missing[1]} comes with the driver, which a build does not see"}, []
        first = (text.strip().splitlines() or ["nothing"])[0]
        return {}, [f"{path} --help shows no banner but: {first[:200]}"]
    version = spelled(int(banner[1]))
    wrong = []
    if ".".join(tensorrt.split(".")[:3]) != version:
        wrong.append(f"{path} is {version}, the row says {tensorrt}")
    offered = set(re.findall(r"--[A-Za-z][\w-]*", text))
    wrong += [
        f"{path} {'lacks' if wanted else 'has'} {flag}, unlike the table of flags"
        for flag, wanted in flags.items()
        if (flag in offered) != wanted
    ]
    return {"banner": banner[0], "version": version, "flags": sorted(offered & set(flags))}, wrong


def user() -> list[str]:
    """Return what is wrong with the user that the worker will be."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return ["the user has no entry in /etc/passwd"]
    return ["the user is root"] if entry.pw_uid == 0 else []


def main(expected: dict[str, Any]) -> int:
    """Print the proof, or what is wrong."""
    seen, wrong = wheels(expected["wheels"])
    wrong += imports(expected["imports"]) + user()
    proof: dict[str, Any] = {
        "release": expected["release"],
        "python": ".".join(map(str, sys.version_info[:3])),
        "wheels": seen,
    }
    if tensorrt := expected["tensorrt"]:
        proof["packages"], more = packages(tensorrt)
        proof["trtexec"], flaws = trtexec(expected["trtexec"], tensorrt, expected["flags"])
        wrong += more + flaws
    for each in wrong:
        print(f"not {expected['release']}: {each}", file=sys.stderr)
    if not wrong:
        print(json.dumps(proof, indent=1, sort_keys=True))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
