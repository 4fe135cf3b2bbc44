"""TensorRT's Python API, 8.6 to 11, and TensorRT-RTX's: where it is, what it is, where releases differ.

What every release has is declared in `api.py`. What only some have stands in `DIFFERENCES` and is reached
through `find` alone: there is one code path, and it asks for attributes, never for a version.

`python -m repro.backends.bindings PRODUCT` imports the API and describes it as JSON; it is a process of
its own because a library that can't be loaded may end the process that tries.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from repro import proc
from repro.backends.api import Bindings
from repro.errors import ReproError, Unavailable
from repro.schema import ReleaseSeen

LOOK_TIMEOUT_S = 120.0
FIRST = (8, 6)
"""Earlier bindings are for Python 3.8 and older, on which this doesn't run."""
CUDA_MAJORS = range(11, 16)
"""CUDA that a package may be named after."""


class Product(NamedTuple):
    """One of NVIDIA's two libraries with this API."""

    key: str
    name: str
    release: str
    """What its releases begin with."""
    modules: tuple[str, ...]
    """Names to import it by, the first that exists."""
    packages: str
    """What the names of its packages begin with."""
    install: str
    by_version: bool
    """Whether the bounds in `DIFFERENCES` are of its own versions."""


TENSORRT = Product("tensorrt", "TensorRT", "trt", ("tensorrt",), "tensorrt", "pip install tensorrt", True)
RTX = Product(
    "tensorrt_rtx",
    "TensorRT-RTX",
    "trtrtx",
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "tensorrt-rtx",
    "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
    False,
)
PRODUCTS = {product.key: product for product in (TENSORRT, RTX)}


# --- what differs ---------------------------------------------------------------------------------


class Difference(NamedTuple):
    """Something that not every release has, and what the kit does with it."""

    since: str
    """The first release that has it."""
    before: str | None
    """The first release that has it no more."""
    rtx: bool
    """Whether TensorRT-RTX 1.7 has it."""
    rule: str


# Read in python/src of github.com/NVIDIA/TensorRT at the tags 8.6.1, 10.0.1, 10.3, 10.16, 11.0 and 11.1, not
# in 9.x, and in the package of TensorRT-RTX 1.7.1.
DIFFERENCES = {
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": Difference("8.5", "11.0", False, "set where it exists"),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": Difference(
        "9.0", None, True, "set for strong typing; without it typing is weak"
    ),
    "BuilderFlag.FP16": Difference("8.5", "11.0", False, "set for weak fp16; without it typing is strong"),
    "BuilderFlag.INT8": Difference("8.5", "11.0", False, "set for weak int8"),
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": Difference(
        "8.5", "11.0", False, "set for weak fp16, with every layer held to it"
    ),
    "ParserError.node_name": Difference("10.0", None, True, "before, the node's name is read from the ONNX"),
    "ParserError.node_operator": Difference("10.0", None, True, "as its name"),
    "IRuntimeConfig.create_runtime_cache": Difference(
        "none", None, True, "keeps what the JIT compiled with the build, so that its runs have one engine"
    ),
    "IExecutionContext.is_stream_capturable": Difference("none", None, True, "asked before a CUDA graph"),
}


def find(module: Bindings, path: str) -> Any:
    """Return what `path` (`Class.attribute`, a row of `DIFFERENCES`) names, `None` where it doesn't exist."""
    if path not in DIFFERENCES:
        raise KeyError(path)
    owner, _, attribute = path.partition(".")
    return getattr(getattr(module, owner, None), attribute, None)


def typings(product: Product, version: str) -> tuple[str, ...]:
    """Return how a version may type a network, as the table has it: `weak`, `strong` or both."""
    rows = {"weak": "BuilderFlag.FP16", "strong": "NetworkDefinitionCreationFlag.STRONGLY_TYPED"}
    return tuple(word for word, path in rows.items() if has(product, version, path))


def has(product: Product, version: str, path: str) -> bool:
    """Return whether a version has a row's attribute, by the table."""
    row = DIFFERENCES[path]
    if not product.by_version:
        return row.rtx
    if row.since == "none":
        return False
    at = numbers(version)
    return numbers(row.since) <= at and (row.before is None or at < numbers(row.before))


def numbers(version: str) -> tuple[int, ...]:
    """Return `10.16.1.11` as numbers, up to what is none."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


# --- which one is here ----------------------------------------------------------------------------

_ABSENT = "absent"
_BY_HAND = "does it import by hand?"


class Seen(msgspec.Struct, frozen=True):
    """An installed API."""

    version: str
    cuda: str | None


def release(product: Product) -> ReleaseSeen:
    """Return the installed release; raise `Unavailable` where there is none that can be used."""
    seen = look(product)
    if product.by_version and numbers(seen.version) < FIRST:
        raise Unavailable(
            f"{product.name} {seen.version} is here; its Python API is used from 8.6 on",
            "use --backend trtexec",
        )
    parts = seen.version.split(".")
    suffix = f"+cuda{seen.cuda}" if seen.cuda else ""
    return ReleaseSeen(
        f"{product.release}-{seen.version}{suffix}",
        ".".join(parts[:3]),
        build=".".join(parts[3:]) or None,
        cuda=seen.cuda,
    )


@functools.cache
def look(product: Product) -> Seen:
    """Import the API in a process of its own; raise `Unavailable` with what keeps it from that."""
    argv = [sys.executable, "-m", "repro.backends.bindings", product.key]
    try:
        done = proc.run(argv, timeout_s=LOOK_TIMEOUT_S)
    except ReproError as error:
        raise Unavailable(
            f"{product.name} does not answer ({error.what})", "does it import by hand?"
        ) from None
    if done.returncode == 0:
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(done.stdout.splitlines()[-1], type=Seen)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    raise _unavailable(product, said[-1] if said else "it ended the process that loaded it")


def _unavailable(product: Product, words: str) -> Unavailable:
    """Return the error for the last words of a failed import."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if words == _ABSENT:
        return Unavailable(f"{product.name}'s Python API is not installed", product.install)
    what = f"{product.name} can't be loaded ({words[:200]})"
    if "Python version mismatch" in words or "No module named" in words:
        return Unavailable(what, f"install its bindings for Python {python}: {product.install}")
    if "shared object" in words:
        return Unavailable(what, f"a library is missing: {product.install}")
    return Unavailable(what, _BY_HAND)


def load(product: Product) -> Bindings:
    """Import the API into this process; raise `Unavailable` where it isn't here."""
    try:
        found: Any = _import(product)
    except ImportError as error:
        raise _unavailable(product, _first_line(error)) from None
    module: Bindings = found
    return module


def _import(product: Product) -> ModuleType:
    """Import the first of the product's modules that is installed."""
    name = next(filter(importlib.util.find_spec, product.modules), None)
    if name is None:
        raise ImportError(_ABSENT)
    return importlib.import_module(name)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def main(key: str) -> int:
    """Print what is installed as JSON, or one line why it can't be used."""
    product = PRODUCTS[key]
    try:
        module = _import(product)
    except Exception as error:  # noqa: BLE001 - whatever it is, it can't be used
        sys.stderr.write(f"{_first_line(error)}\n")
        return 1
    seen = Seen(str(module.__version__), _cuda(product))
    sys.stdout.buffer.write(msgspec.json.encode(seen) + b"\n")
    return 0


def _cuda(product: Product) -> str | None:
    """Return the CUDA that the installed package is named after, `None` where it is none of pip's."""
    for major in CUDA_MAJORS:
        for name in (f"{product.packages}-cu{major}-bindings", f"{product.packages}-cu{major}"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                importlib.metadata.version(name)
                return str(major)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
