"""Releases: pinned runtimes by device, with their holes (`images/releases.toml`)."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from repro.errors import Unavailable, UsageError, unknown
from repro.schema import ReleaseSeen


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one release on one device; with `base` there is an image to build."""

    name: str
    device: str
    available: bool
    source: str
    reason: str | None = None
    requirements: tuple[str, ...] = ()
    """Exact pins of the packages that bring it into a Python of the host, beside what every turn needs."""
    base: str | None = None
    tensorrt: str | None = None
    """Version of TensorRT that the base must turn out to hold."""
    cuda: str | None = None
    l4t: tuple[str, ...] = ()
    """Releases of Linux for Tegra that it runs on: `35` any of that major, `36.4+` that one and later."""
    driver: str | None = None
    """Least version of NVIDIA's driver."""
    trtexec: str | None = None
    """Path in the image."""
    apt: tuple[str, ...] = ()
    """Packages on top of the base, each `name=version`."""
    python: str | None = None
    """Version of the Python archive that the image gets; `None`: the base's own Python serves."""
    lock: str | None = None
    """File under `images/` that pins the wheels."""

    @property
    def image(self) -> str:
        """Name of the image in an engine; a tag has no `+`."""
        return f"trt-repro/{self.device}:{self.name.replace('+', '_')}"

    def runs_on_l4t(self, l4t: str) -> bool:
        """Tell whether it runs on a release of Linux for Tegra, such as `36.4.3`."""
        board = numbers(l4t)
        for each in self.l4t:
            wanted = numbers(each)
            later = each.endswith("+") and board[0] == wanted[0] and board >= wanted
            if later or board[: len(wanted)] == wanted:
                return True
        return False


class Archive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Python for images whose base has none that serves."""

    url: str
    sha256: str


class Locked(msgspec.Struct, frozen=True):
    """What was really seen of a release's image, in `images/lock.json`."""

    base: str
    base_digest: str
    lock: str
    image_id: str
    seen_utc: str


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    release: tuple[Row, ...]
    python: dict[str, dict[str, Archive]] = {}


def folder() -> Path:
    """Return where the images' recipes are: in the checkout, or in the package."""
    package = Path(__file__).parent
    checkout = package.parent / "images"
    return checkout if (checkout / "releases.toml").is_file() else package / "data" / "images"


@functools.cache
def _read() -> _Table:
    return msgspec.toml.decode((folder() / "releases.toml").read_bytes(), type=_Table)


def table() -> tuple[Row, ...]:
    """Return all rows."""
    return _read().release


def archives() -> tuple[str, ...]:
    """Return the versions of Python of which there is an archive."""
    return tuple(_read().python)


def archive(version: str, architecture: str) -> Archive:
    """Return the Python archive for images of an architecture (`amd64` or `arm64`)."""
    return _read().python[version][architecture]


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparing."""
    return tuple(map(int, re.findall(r"\d+", version)))


def find(name: str, device: str, installed: Sequence[str] = ()) -> str:
    """Return the whole name of a release of `device`; `name` may be any unambiguous beginning of it.

    Raises `Unavailable` for a hole, with its reason, and `UsageError` for a name that nobody has.
    """
    here = {row.name for row in table() if row.device == device} | set(installed)
    everywhere = here | {row.name for row in table()}
    matches, elsewhere = _beginning(name, here), _beginning(name, everywhere)
    if not elsewhere:
        raise unknown("release", name, everywhere)
    if not matches:
        meant = elsewhere[0] if len(elsewhere) == 1 else name
        raise Unavailable(f"{meant} does not exist for {device}", "`repro releases` lists what does")
    if len(matches) > 1:
        raise UsageError(f"release '{name}' could be {', '.join(matches)}", "write more of it")
    (found,) = matches
    row = row_of(found, device)
    if row is not None and not row.available and found not in installed:
        raise Unavailable(f"{found} is not available on {device}", row.reason or "")
    return found


def _beginning(name: str, names: Collection[str]) -> list[str]:
    """Return which names `name` may stand for: itself, or those that it begins."""
    return [name] if name in names else sorted(known for known in names if known.startswith(name))


def row_of(name: str, device: str) -> Row | None:
    """Return the row of a release on a device, `None` where the table has none."""
    return next((row for row in table() if (row.name, row.device) == (name, device)), None)


def choose(name: str | None, device: str, installed: ReleaseSeen | None) -> str:
    """Return the release to run on the host: the installed one, one that it can install, or why not.

    `name` may be any unambiguous beginning of a release's name.
    """
    if name is None:
        if installed is None:
            raise Unavailable("no release is installed here", "name one; `repro releases` lists them")
        return installed.name
    found = find(name, device, [installed.name] if installed else [])
    row = row_of(found, device)
    if (installed and found == installed.name) or (row is not None and row.requirements):
        return found
    hint = f"{installed.name} is; leave --release out" if installed else "nor is any other release"
    raise Unavailable(f"{found} is not installed here", hint)


def with_image(device: str) -> tuple[Row, ...]:
    """Return the rows of a device that have an image, as the table orders them."""
    return tuple(row for row in table() if row.device == device and row.available and row.base)


def default(device: str, *, l4t: str | None = None, driver: str | None = None) -> Row:
    """Return the release that an image of `device` has unless another is named.

    On a Jetson it follows the board's L4T; elsewhere it is the newest that the driver carries.
    """
    rows = with_image(device)
    if not rows:
        raise Unavailable(f"no image is known for {device}", "`repro images list` shows what is")
    if device == "orin":
        fitting = [row for row in rows if l4t is not None and row.runs_on_l4t(l4t)]
        if not fitting:
            raise Unavailable(
                f"no image is known for L4T {l4t}" if l4t else "this is no Jetson, or its L4T can't be read",
                "name one with --release (`repro images list`)",
            )
        return fitting[-1]
    carried = [
        row
        for row in rows
        if None in (row.driver, driver) or numbers(driver or "") >= numbers(row.driver or "")
    ]
    return max(carried or rows, key=lambda row: numbers(row.name.partition("+")[0]))


# --- the lock of digests -----------------------------------------------------------------------------


def key(row: Row, architecture: str) -> str:
    """Return a row's name in `lock.json`."""
    return f"{row.device}/{row.name}/{architecture}"


def locked() -> dict[str, Locked]:
    """Return what `images/lock.json` holds."""
    return msgspec.json.decode((folder() / "lock.json").read_bytes(), type=dict[str, Locked])
