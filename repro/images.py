"""Images: what `images/` describes, built, proved and found again.

An image is a base, pinned by digest, plus the worker's Python environment from a lock; the kit's own source
is not in it. Archive and wheels are fetched here, checked, and handed to the build, so that a build needs
no network (but for a row with `apt`) and a board that builds needs none at all. What an image holds stands
in its labels and in `/opt/repro/proof.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from repro import releases, supplies
from repro.containers import Engine, answering, first_line
from repro.errors import Lost, Refused, ReproError, Unavailable
from repro.releases import Row
from repro.trtexec import flags as trtexec

Say = Callable[[str], None]

STANDIN_SWITCH = "TRT_REPRO_TEST_STANDIN"
RELEASE, LOCK, RECIPE = "trt-repro.release", "trt-repro.lock", "trt-repro.recipe"
BASE_NAME, BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
STANDIN = "base.standin"
KEPT_LABELS = (RELEASE, LOCK, RECIPE, BASE_NAME, BASE_DIGEST, STANDIN)
DEVICE_ARCHITECTURE = {"orin": "arm64", "x86": "amd64"}
BUILD_TIMEOUT_S = 3600
FREE_BYTES = {"cpu": 2 * 2**30}
"""Room that a build needs in the engine's folder; TensorRT's bases take up to 10 GiB unpacked."""
FREE_BYTES_TENSORRT = 15 * 2**30


class Image(msgspec.Struct, frozen=True):
    """An image that an engine has."""

    id: str
    name: str
    labels: dict[str, str]
    repo_digest: str | None
    architecture: str
    size_bytes: int

    @property
    def standin(self) -> bool:
        """Tell whether its base only stands in for the real one, as tests do it."""
        return self.labels.get(STANDIN) == "true"


class Recipe(msgspec.Struct, frozen=True):
    """What an image is made of, apart from archive and wheels, which the recipe pins."""

    files: dict[str, bytes]
    arguments: dict[str, str]
    lock_digest: str
    digest: str


# --- what there is --------------------------------------------------------------------------------


def recipe(row: Row, architecture: str) -> Recipe:
    """Return the recipe of a row's image for an architecture."""
    if row.base is None or row.lock is None:
        raise Unavailable(f"{row.name} has no image for {row.device}", row.reason or "")
    home = releases.folder()
    lock = (home / row.lock).read_bytes()
    expected = {
        "release": row.name,
        "wheels": pins(lock.decode()),
        # With TensorRT, ONNX Runtime is asked only where the output check has no rule of its own.
        "imports": ["msgspec", "numpy", "onnx", *(["onnxruntime"] if row.tensorrt is None else [])],
        "tensorrt": row.tensorrt,
        "trtexec": row.trtexec,
        "flags": trtexec.relied_on(row.tensorrt) if row.tensorrt else {},
    }
    files = {
        "Dockerfile": (home / row.device / "Dockerfile").read_bytes(),
        "install.sh": (home / "install.sh").read_bytes(),
        "prove.py": (home / "prove.py").read_bytes(),
        "expected.json": msgspec.json.format(msgspec.json.encode(expected), indent=1),
        "requirements.lock": lock,
    }
    arguments = {
        "RELEASE": row.name,
        "BASE_NAME": row.base,
        "APT_PACKAGES": " ".join(row.apt),
        "PYTHON_SHA256": releases.archive(row.python, architecture).sha256 if row.python else "",
    }
    digest = hashlib.sha256(msgspec.json.encode(arguments, order="deterministic"))
    for name in sorted(files):
        digest.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return Recipe(files, arguments, supplies.sha256(lock), f"sha256:{digest.hexdigest()}")


def pins(lock: str) -> dict[str, str]:
    """Return the distributions of a lock with their versions, without pip, which does not stay."""
    found = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE))
    found.pop("pip", None)
    return found


def inspect(engine: Engine, name: str) -> Image | None:
    """Return an image of the engine by name or id, `None` where it has none."""
    from docker import errors

    try:
        with answering(f"looking for {name}"):
            seen = engine.client.api.inspect_image(name)
    except errors.NotFound:
        return None
    digests = seen.get("RepoDigests") or []
    return Image(
        id=str(seen["Id"]),
        name=name,
        labels={str(k): str(v) for k, v in (seen.get("Config", {}).get("Labels") or {}).items()},
        repo_digest=str(digests[0]).rpartition("@")[2] if digests else None,
        architecture=str(seen.get("Architecture", "")),
        size_bytes=int(seen.get("Size") or 0),
    )


def fitting(engine: Engine, row: Row) -> None:
    """Raise `Unavailable` where the engine's machine can't run the device's images."""
    wanted = DEVICE_ARCHITECTURE.get(row.device, engine.architecture)
    if engine.architecture != wanted:
        raise Unavailable(
            f"images for {row.device} are {wanted}, this engine's machine is {engine.architecture}",
            "name the board (HOST=ssh://user@board), or another --device",
        )


def usable(engine: Engine, row: Row) -> tuple[Image | None, tuple[str, ...]]:
    """Return the row's image as the engine has it, and what a user should know of it.

    Raises `Refused` when its labels name other pins than the row does, and `Unavailable` for a stand-in.
    """
    image = inspect(engine, row.image)
    if image is None:
        return None, ()
    made = recipe(row, engine.architecture)
    again = f"`repro images build {row.name} --device {row.device}` makes it anew"
    for label, wanted in ((RELEASE, row.name), (LOCK, made.lock_digest)):
        if image.labels.get(label) != wanted:
            seen = image.labels.get(label, "missing")
            raise Refused(
                f"{row.image} is not what it is called: its label {label} is {seen}, not {wanted}", again
            )
    if image.standin and os.environ.get(STANDIN_SWITCH) != "1":
        raise Unavailable(f"{row.image} holds a stand-in, not {row.name}", again)
    told = []
    if not image.standin and image.labels.get(BASE_NAME) != row.base:
        told.append(f"{row.image} stands on {image.labels.get(BASE_NAME)} instead of {row.base}; {again}")
    if image.labels.get(RECIPE) != made.digest:
        told.append(f"{row.image} was made by another recipe than this checkout's; {again}")
    known = releases.locked().get(releases.key(row, engine.architecture))
    seen_digest = image.labels.get(BASE_DIGEST)
    if known and not image.standin and seen_digest != known.base_digest:
        told.append(
            f"{row.image} stands on {seen_digest}, locked is {known.base_digest}; "
            f"`repro images pull {row.name} --device {row.device}`, then build it"
        )
    return image, tuple(told)


def listing(devices: Iterable[str], engine: Engine | None) -> Iterator[str]:
    """Give a line for each release of some devices that has or should have an image."""
    for device in devices:
        for row in releases.table():
            if row.device != device or (row.available and row.base is None):
                continue
            if row.base is None:
                yield f"{device:<6} {row.name:<24} {'–':<10} {row.reason}"
                continue
            state = "unknown"
            if engine is not None:
                image = inspect(engine, row.image)
                state = "not built" if image is None else "stand-in" if image.standin else "built"
            needs = [
                f"L4T {' or '.join(row.l4t)}" if row.l4t else "",
                f"driver {row.driver}" * bool(row.driver),
            ]
            yield f"{device:<6} {row.name:<24} {state:<10} {', '.join(filter(None, [row.base, *needs]))}"


# --- the lock of digests -----------------------------------------------------------------------------


def lock(engine: Engine, rows: Iterable[Row], now_utc: str) -> dict[str, releases.Locked]:
    """Write down the digests of the images that the engine has; return the new entries."""
    entries = {}
    for row in rows:
        image = inspect(engine, row.image)
        if image is None or row.base is None:
            continue
        digest = image.labels.get(BASE_DIGEST, "")
        if image.standin or not digest.startswith("sha256:") or image.labels.get(BASE_NAME) != row.base:
            continue
        entries[releases.key(row, engine.architecture)] = releases.Locked(
            row.base, digest, image.labels.get(LOCK, ""), image.id, now_utc
        )
    if not entries:
        raise Unavailable("this engine has no image to lock", "`repro images build` makes one")
    path = releases.folder() / "lock.json"
    everything = dict(sorted({**releases.locked(), **entries}.items()))
    part = path.with_name("lock.json.part")
    try:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(everything), indent=1) + b"\n")
        part.replace(path)
    except OSError as error:
        raise ReproError(f"can't write {path} ({error.strerror})", "lock in a checkout of the kit") from None
    return entries


# --- getting and making them -------------------------------------------------------------------------


def pull(engine: Engine, row: Row, say: Say) -> Image:
    """Pull the base of a row, by its locked digest where one is known."""
    base = str(row.base)
    known = releases.locked().get(releases.key(row, engine.architecture))
    reference = f"{base.rpartition(':')[0]}@{known.base_digest}" if known else base
    say(f"pulling {reference}")
    layers: dict[str, tuple[int, int]] = {}
    shown = -1
    with (
        answering(f"pulling {reference}"),
        _refusals(f"can't pull {reference}", "is the registry reachable?"),
    ):
        for event in engine.client.api.pull(reference, stream=True, decode=True):
            if "error" in event:
                raise Unavailable(f"can't pull {reference} ({event['error']})", "is the registry reachable?")
            detail = event.get("progressDetail") or {}
            if "total" in detail and event.get("status") == "Downloading":
                layers[str(event.get("id"))] = int(detail.get("current") or 0), int(detail["total"])
                done, total = (sum(each) for each in zip(*layers.values(), strict=True))
                if (tenth := done * 10 // max(1, total)) != shown:
                    shown = tenth
                    say(f"pulling {base}: {done / 2**30:.1f} of {total / 2**30:.1f} GiB")
    image = inspect(engine, reference)
    if image is None:
        raise Lost(f"{reference} was pulled and is not there", "try again")
    return image


def build(
    engine: Engine, row: Row, say: Say, *, base: str | None = None, archive: Path | None = None
) -> Image:
    """Build a row's image and have it prove what it holds; pull its base where the engine has none.

    `base` names another image to build on, which must hold the same; `archive` a Python archive at hand.
    """
    under = inspect(engine, base) if base else _base(engine, row)
    if base and under is None:
        raise Unavailable(f"this engine has no image {base}", f"`docker pull {base}`")
    if under is None or not under.standin:
        fitting(engine, row)
        _room(engine, row)
    made = recipe(row, engine.architecture)
    if under is None:
        under = pull(engine, row, say)
    context = dict(made.files)
    if row.python:
        context["python.tar.gz"] = supplies.archive(row, engine.architecture, archive, say)
    for wheel in supplies.wheels(made.files["requirements.lock"], engine.architecture, say):
        context[f"wheels/{wheel.name}"] = wheel.read_bytes()
    digest = under.repo_digest or under.id
    arguments = {
        **made.arguments,
        "BASE": under.id,
        "BASE_NAME": base or str(row.base),
        "BASE_DIGEST": digest,
        "LOCK_DIGEST": made.lock_digest,
        "RECIPE_DIGEST": made.digest,
    }
    say(f"building {row.image} on {base or row.base} ({under.size_bytes / 2**30:.1f} GiB)")
    image = _run_build(engine, row, context, arguments, say)
    say(f"{row.image} is ready: {image.id[:19]}, {image.size_bytes / 2**30:.2f} GiB")
    return image


def _base(engine: Engine, row: Row) -> Image | None:
    """Return a row's base where the engine has it: the locked one, where one is locked."""
    known = releases.locked().get(releases.key(row, engine.architecture))
    base = str(row.base)
    return inspect(engine, f"{base.rpartition(':')[0]}@{known.base_digest}" if known else base)


def _room(engine: Engine, row: Row) -> None:
    """Raise `Unavailable` where the engine's disk has too little room, as far as it can be asked."""
    need = FREE_BYTES.get(row.device, FREE_BYTES_TENSORRT)
    free = engine.free_bytes()
    if free is not None and free < need:
        raise Unavailable(
            f"{free / 2**30:.1f} GiB are free in {engine.root}, "
            f"an image for {row.device} needs {need / 2**30:.0f} GiB",
            "make room, for example by docker system prune",
        )


def _run_build(
    engine: Engine, row: Row, context: Mapping[str, bytes], arguments: Mapping[str, str], say: Say
) -> Image:
    """Run the build, passing on its steps; raise `Refused` with the last words of a failed one."""
    words: list[str] = []
    with tempfile.TemporaryFile() as file:
        pack(context, file)
        file.seek(0)
        with answering("building"), _refusals(f"{row.image} was not built", "see `docker build`'s output"):
            events = engine.client.api.build(
                fileobj=file,
                custom_context=True,
                tag=row.image,
                buildargs={name: value for name, value in arguments.items() if _wanted(context, name)},
                rm=True,
                forcerm=True,
                decode=True,
                network_mode="host" if row.apt else "none",
                timeout=BUILD_TIMEOUT_S,
            )
            for line in _told(events):
                if step := re.match(r"Step (\d+)/(\d+) : (.*)", line):
                    say(f"{row.image}: step {step[1]} of {step[2]}")
                elif not line.startswith(" --->"):
                    words.append(line)
                if line.startswith("ERROR "):
                    raise _failed(row, words)
    image = inspect(engine, row.image)
    if image is None:
        raise Lost(f"{row.image} was built and is not there", "try again")
    return image


def _wanted(context: Mapping[str, bytes], argument: str) -> bool:
    """Tell whether a Dockerfile takes an argument: the builder complains about others."""
    return re.search(rf"^ARG {argument}\b", context["Dockerfile"].decode(), re.MULTILINE) is not None


def _told(events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Give the lines of a build's output; an error begins with `ERROR `."""
    for event in events:
        for line in str(event.get("stream", "")).splitlines():
            # The builder colours what a step writes to standard error.
            if text := re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip():
                yield text
        if "error" in event:
            yield f"ERROR {event['error']}"


def _failed(row: Row, words: list[str]) -> ReproError:
    """Say why a build failed: what the image is not, or the last words of the step."""
    if wrong := [word for word in words if word.startswith(f"not {row.name}: ")]:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return Refused(
            f"the base is {wrong[0]}{more}",
            f"correct the row in {releases.folder() / 'releases.toml'}, or use the row's own base",
        )
    # The last words before the builder's own.
    said = [word.removeprefix("ERROR ") for word in words if not word.startswith("Removing intermediate")][
        -2:
    ]
    if "no space left on device" in " ".join(said):
        return Unavailable("the engine's disk is full", "make room, for example by docker system prune")
    return ReproError(f"{row.image} was not built ({'; '.join(said)[:300]})", "mend that and build again")


@contextlib.contextmanager
def _refusals(what: str, hint: str) -> Iterator[None]:
    """Turn a refusal by the engine (a status below 500) into one line."""
    from docker import errors

    try:
        yield
    except errors.APIError as error:
        raise Unavailable(f"{what} ({first_line(error)})", hint) from None


def pack(files: Mapping[str, bytes], file: Any) -> None:
    """Write files as a tar archive, the same bytes for the same files."""
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o644
            tar.addfile(member, io.BytesIO(files[name]))
