"""Taking an image to where there is no registry: to a board's engine, or into a file.

What arrives is looked at: an engine may keep the image under another id than its sender does, so layers and
labels are compared, not ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from repro import images
from repro.containers import ROOM, Engine, answering, first_line
from repro.errors import Lost, Unavailable
from repro.images import Image
from repro.releases import Row

Say = Callable[[str], None]

LOAD_S = 1800.0
"""Longest silence of an engine that unpacks what it was given; a link that froze is ended by ssh."""


def push(source: Engine, target: Engine, row: Row, say: Say) -> Image:
    """Deliver a row's image from one engine to another; return it as it arrived there.

    Raises `Unavailable` where the source has none, or where the target's machine can't run or hold it.
    """
    image, told = images.usable(source, row)
    if image is None:
        raise Unavailable(
            f"{row.image} is not there to be sent",
            f"`repro images build {row.name} --device {row.device}` makes it",
        )
    for each in told:
        say(f"note: {each}")
    if image.architecture != target.architecture:
        raise Unavailable(
            f"{row.image} is for {image.architecture}, {target.name} is {target.architecture}",
            "build it on such a machine (`repro images build --host …`), and push it from there (--from)",
        )
    if (there := images.inspect(target, row.image)) and _content(target, row) == _content(source, row):
        say(f"{target.name} has {row.image} already")
        return there
    free = target.free_bytes()
    if free is not None and free < image.size_bytes:
        raise Unavailable(
            f"{free / 2**30:.1f} GiB are free on {target.name}, {row.image} needs "
            f"{image.size_bytes / 2**30:.1f} GiB",
            ROOM,
        )
    say(f"sending {row.image} to {target.name}: {image.size_bytes / 2**20:.0f} MiB")
    _load(target, row, saved(source, row, image, say))
    arrived = images.inspect(target, row.image)
    if arrived is None or _content(target, row) != _content(source, row):
        raise Lost(f"{row.image} did not arrive as it was sent", "push it again")
    return arrived


def saved(engine: Engine, row: Row, image: Image, say: Say) -> Iterator[bytes]:
    """Give an image as the engine writes it to a file (`docker save`), telling how far it is."""
    sent, shown = 0, 0
    with answering(f"reading {row.image}"):
        for chunk in engine.client.api.get_image(row.image):
            yield chunk
            sent += len(chunk)
            # The file has headers beside the layers: the end may come at 101 %.
            tenth = sent * 10 // max(1, image.size_bytes)
            if tenth != shown and tenth <= 10:
                shown = tenth
                say(f"{row.image}: {sent / 2**20:.0f} of {image.size_bytes / 2**20:.0f} MiB")


def _load(target: Engine, row: Row, data: Iterator[bytes]) -> None:
    from docker import errors

    api = target.client.api
    usual, api.timeout = api.timeout, LOAD_S
    try:
        with answering(f"sending {row.image}", hint="push it again; what was sent in part is dropped"):
            for event in api.load_image(data, quiet=False):
                if "error" in event:
                    if "no space left on device" in event["error"]:
                        raise Unavailable(f"the disk of {target.name} is full", ROOM)
                    raise Lost(f"{target.name} did not take {row.image} ({event['error']})", "push it again")
    except errors.APIError as error:
        raise Unavailable(f"{target.name} refuses {row.image} ({first_line(error)})", "see its log") from None
    finally:
        api.timeout = usual


def _content(engine: Engine, row: Row) -> tuple[Any, Any]:
    """Return what an image is whatever an engine calls it: its layers, and its labels."""
    with answering(f"looking for {row.image}"):
        seen = engine.client.api.inspect_image(row.image)
    return seen["RootFS"].get("Layers"), seen["Config"].get("Labels")
