"""Pythons that have a release: the kit's own, one that the user names, or one made for the release.

A release of a runtime that lives in Python is a package, and two of them don't fit into one
environment. So a turn may be started by another interpreter than the kit's; that one needs what
`turn.py` imports (msgspec, NumPy, onnx) and the runtime, and finds the kit's source by PYTHONPATH.

Environments that the kit makes lie in the user's cache folder and are made once: everything in them has
the version that the kit's own environment has, except the runtime and what the table of releases pins
beside it. One appears complete or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro import backends, proc, releases
from repro.errors import ReproError, Unavailable, UsageError
from repro.releases import Row
from repro.schema import ReleaseSeen

if sys.platform != "win32":
    import fcntl

IN_PYTHON = frozenset({"onnxruntime", "torch", "tensorrt", "tensorrt_rtx"})
"""Backends whose runtime is a package of the interpreter that runs the turn."""
NEEDS = ("msgspec", "numpy", "onnx")
"""What a turn imports beside the runtime."""
RUNTIMES = frozenset({"onnxruntime", "onnxruntime-gpu"})
LOOK_TIMEOUT_S = 120.0
MAKE_TIMEOUT_S = 1200.0
_LOOK = """
import sys
print("Python", flush=True)
if sys.version_info < (3, 10):
    sys.exit("it is Python %d.%d; 3.10 or newer is needed" % sys.version_info[:2])
import importlib, msgspec, numpy, onnx, repro.turn
from repro import backends
from repro.errors import ReproError
backend = backends.load(sys.argv[1])
try:
    seen = backend.release(gpu=sys.argv[2] == "gpu")
except ReproError as error:
    sys.exit(error.what)
if not hasattr(backend, "MODULES"):  # Those that have them were imported to be asked.
    importlib.import_module(backend.NAME)
sys.stdout.buffer.write(b"release " + msgspec.json.encode(seen))
"""
_MARK = b"release "

Say = Callable[[str], None]


class Environment(NamedTuple):
    """A release, and the interpreter that has it; `None` is the kit's own."""

    release: ReleaseSeen
    interpreter: Path | None


def expose(folder: Path) -> None:
    """Make a folder that holds the kit's source, the cases beside it, and nothing else.

    The folder that the kit is installed in holds its own runtime, too, which must not be found.
    """
    package = Path(__file__).parent.absolute()
    folder.mkdir()
    (folder / "repro").symlink_to(package, target_is_directory=True)
    if (package.parent / "cases").is_dir():
        (folder / "cases").symlink_to(package.parent / "cases", target_is_directory=True)


def surroundings(source: Path) -> dict[str, str]:
    """Return the environment variables for another interpreter that finds the kit in `source`."""
    foreign = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    # A file of the user's that is called numpy.py must not be found either.
    return {**kept, "PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}


def look(python: Path, backend: str, *, gpu: bool) -> Environment:
    """Return what the interpreter `python` (or the environment's folder) has; raise where it won't do."""
    if backend not in IN_PYTHON:
        raise UsageError(f"{backend} is no package of a Python", "leave --python out")
    chosen = (python / "bin" / "python" if python.is_dir() else python).absolute()
    if not chosen.is_file():
        raise UsageError(f"there is no Python at {python}", "name an interpreter, or a folder made by venv")
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        expose(source)
        argv = [str(chosen), "-c", _LOOK, backend, "gpu" if gpu else "cpu"]
        try:
            done = proc.run(argv, timeout_s=LOOK_TIMEOUT_S, env=surroundings(source))
        except ReproError as error:
            raise Unavailable(f"{python} is no Python ({error.what})", "name an interpreter") from None
    for line in done.stdout.splitlines():
        if done.returncode == 0 and line.startswith(_MARK):
            with contextlib.suppress(msgspec.DecodeError):
                seen = msgspec.json.decode(line.removeprefix(_MARK), type=ReleaseSeen)
                return Environment(seen, chosen)
    if not done.stdout.startswith(b"Python\n"):
        raise Unavailable(f"{python} is no Python", "name an interpreter")
    raise Unavailable(f"{python} can't run a turn ({_last_line(done.stderr)})", _remedy(done.stderr, backend))


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it does not say why"


def _first_error(text: bytes) -> str:
    """Return pip's own word for what is wrong; what it says last is advice."""
    if b"Retrying (" in text:
        # Without the index, it would call any two pins a conflict.
        return "the package index can't be reached"
    match = re.search(rb"^ERROR: (.*)$", text, re.MULTILINE)
    return f"pip: {match[1].decode(errors='replace').strip()[:200] if match else _last_line(text)}"


def _remedy(stderr: bytes, backend: str) -> str:
    if b"No module named" in stderr or b"is not installed" in stderr:
        return f"its environment needs {', '.join(NEEDS)} and {backend}"
    return "name another interpreter"


def choose(
    name: str | None, device: str, backend: str, *, gpu: bool, python: Path | None = None, say: Say
) -> Environment:
    """Return where release `name` runs: in `python`, in the kit's own environment, or in one made for it.

    `None` is the release that is there. `say` is told before anything is downloaded.
    """
    if python is not None:
        found = look(python, backend, gpu=gpu)
        if name is not None and not found.release.name.startswith(name):
            raise Unavailable(f"{python} has {found.release.name}, not {name}", "ask for that one")
        return found
    installed = own(backend, gpu=gpu, needed=name is None)
    chosen = releases.choose(name, device, installed)
    if installed is not None and chosen == installed.name:
        return Environment(installed, None)
    row = next(row for row in releases.table() if (row.name, row.device) == (chosen, device))
    return look(made(row, say), backend, gpu=gpu)


def own(backend: str, *, gpu: bool, needed: bool = False) -> ReleaseSeen | None:
    """Return the release in the kit's own environment; `None`, or raise if it is `needed`, where none is."""
    try:
        found: ReleaseSeen = backends.load(backend).release(gpu=gpu)
    except Unavailable:
        if needed:
            raise
        return None
    return found


# --- environments that the kit makes --------------------------------------------------------------


def folder() -> Path:
    """Return where they lie: the user's cache folder (XDG_CACHE_HOME), which may be emptied at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trt-repro" / "releases"


def place(row: Row) -> Path:
    """Return the folder of a release's environment; its name covers everything that is pinned."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = "\n".join([sys.implementation.cache_tag or "", *sorted([*row.requirements, *_shared()])])
    return folder() / f"{row.name}-py{version}-{hashlib.sha256(pinned.encode()).hexdigest()[:8]}"


def is_made(row: Row) -> bool:
    """Tell whether a release's environment is there."""
    # The link dangles when the Python that it was made with has gone.
    return (place(row) / "bin" / "python").is_file()


def made(row: Row, say: Say) -> Path:
    """Return the environment of a release; make it, told to `say`, where it isn't there yet."""
    home = place(row)
    if not is_made(row):
        say(f"making an environment for {row.name} in {home} (once; about 60 MB to download)")
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            with _alone(home.parent):
                if not is_made(row):
                    _make(row, home)
        except OSError as error:
            raise ReproError(
                f"can't make {home} ({error.strerror})", "name another folder in XDG_CACHE_HOME"
            ) from None
    return home


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Be the only one who makes an environment; what somebody else left unfinished goes."""
    with (parent / ".lock").open("w") as lock:
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        for unfinished in parent.glob(".*.part"):
            shutil.rmtree(unfinished, ignore_errors=True)
        yield


def _make(row: Row, home: Path) -> None:
    part = home.with_name(f".{home.name}.{secrets.token_hex(4)}.part")
    try:
        done = proc.run([sys.executable, "-m", "venv", str(part)], timeout_s=MAKE_TIMEOUT_S)
        if done.returncode:
            why = _last_line(done.stderr or done.stdout)
            raise Unavailable(f"this Python can't make an environment ({why})", "install python3-venv")
        pins = part / "constraints.txt"
        pins.write_text("".join(f"{pin}\n" for pin in _pins(row)))
        quiet = ("-q", "--disable-pip-version-check", "--no-input", "--retries", "1")
        argv = [str(part / "bin" / "python"), "-m", "pip", "install", *quiet, "--only-binary", ":all:"]
        done = proc.run(
            [*argv, "--constraint", str(pins), *_shared(), *row.requirements], timeout_s=MAKE_TIMEOUT_S
        )
        if done.returncode:
            raise Unavailable(
                f"{row.name} can't be installed here ({_first_error(done.stderr)})",
                f"it needs the network once, and wheels for Python {sys.version_info.major}."
                f"{sys.version_info.minor}; or name a Python that has it with --python",
            )
        shutil.rmtree(home, ignore_errors=True)
        part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _shared() -> list[str]:
    """Return what every turn needs, at the kit's own versions."""
    try:
        return [f"{name}=={importlib.metadata.version(name)}" for name in NEEDS]
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(
            f"{error.name} is not installed", "pip install 'trt-repro[run]', or `make repro`"
        ) from None


def _pins(row: Row) -> list[str]:
    """Return the versions of the kit's own environment, for all that the release doesn't pin itself."""
    settled = RUNTIMES | {_plain(requirement.partition("==")[0]) for requirement in row.requirements}
    found = {
        _plain(distribution.metadata["Name"]): distribution.version
        for distribution in importlib.metadata.distributions()
    }
    return sorted(f"{name}=={version}" for name, version in found.items() if name not in settled)


def _plain(name: str) -> str:
    """Return a distribution's name in its normal form (PyPA, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()
