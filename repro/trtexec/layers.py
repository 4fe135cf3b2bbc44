"""TensorRT's words for layers, types and formats, in the kit's vocabulary.

The same layer is described by the inspector's JSON (8.x to 10.x, and otherwise since 11.0), by its text
form, by lines of a verbose build, and with its time only in the profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from repro.schema import Layer, LayerTensor

_TYPES = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "fp8": "fp8",
    "int8": "int8",
    "uint8": "uint8",
    "int4": "int4",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
_TYPE = re.compile(rf"\b({'|'.join(_TYPES)})\b", re.IGNORECASE)
_WIDTHS = {"two": 2, "four": 4, "eight": 8, "sixteen": 16, "thirty-two": 32}
_VECTORIZED = re.compile(r"(\S+) wide channel vectorized row major", re.IGNORECASE)
_MULTIPLE = re.compile(r"where (?:channel|C) % (\d+) == 0", re.IGNORECASE)


class ProfileRow(msgspec.Struct, frozen=True):
    """One layer's time over all iterations of a profiled run, to the digits that were printed."""

    name: str
    time_ms: float
    average_ms: float
    median_ms: float | None
    """`None`: the release prints none."""
    percent: float


class Profile(msgspec.Struct, frozen=True):
    """A profiled run, layer by layer, in the order of execution."""

    iterations: int
    rows: tuple[ProfileRow, ...]
    total: ProfileRow | None = None
    """The table's last row; the export has none."""
    order: Literal["name_first", "time_first"] | None = None
    """Which column order the table has: names come first up to 8.5. `None`: an export."""


def dtype(words: str) -> str | None:
    """Return the type that `words` name, `None` where they name none."""
    match = _TYPE.search(words)
    return _TYPES[match[1].lower()] if match else None


def layout(words: str) -> str | None:
    """Return the format that `words` name as trtexec's options spell it; other words as they are."""
    lower = words.lower()
    deep = "3 spatial dimensions" in lower
    if match := _VECTORIZED.search(words):
        width = _WIDTHS.get(match[1].lower())
        return f"{'cdhw' if deep else 'chw'}{width}" if width else words
    if lower.startswith("channel major"):
        multiple = _MULTIPLE.search(words)
        return f"{'dhwc' if deep else 'hwc'}{multiple[1] if multiple else ''}"
    if lower.startswith("row major"):
        return "chw"
    return words or None


def tensor(description: str | None, kind: str | None, dims: Sequence[int] | None) -> LayerTensor:
    """Return a layer's tensor from the inspector's words; `kind` names the type apart, as since 11.0."""
    return LayerTensor(
        dtype=dtype(kind or description or ""),
        format=layout(description or ""),
        dims=None if dims is None else tuple(dims),
    )


# What a width says for sure; vectors of 4 or 16 may lie either way, and none may be chw or hwc.
_BY_WIDTH = {"2": "chw2", "8": "hwc8", "32": "chw32"}
_BRIEF = re.compile(r"(\w+)\[([\d:,\- ]*)\]")


def brief(words: str) -> LayerTensor | None:
    """Return the tensor of a verbose build's line, such as `Half[1,16:8,9,9]`; `None` for other words."""
    match = _BRIEF.fullmatch(words.strip())
    if not match or match[1].lower() not in _TYPES:
        return None
    width: str | None = None
    dims = []
    for part in filter(None, match[2].split(",")):
        size, _, vector = part.partition(":")
        width = vector or width
        dims.append(int(size))
    return LayerTensor(_TYPES[match[1].lower()], _BY_WIDTH.get(width or ""), tuple(dims))


def is_reformat(name: str, kind: str | None) -> bool:
    """Return whether a layer only moves or re-arranges data."""
    return kind in ("Reformat", "NoOp") or name.startswith(("Reformatting CopyNode", "__myl_Tran"))


def timed(layers: Iterable[Layer], profile: Profile) -> tuple[Layer, ...]:
    """Return the layers with their times; what only the profile has comes last, without a type.

    Of layers that share a name, the first takes the first row of that name, and so on. A time is the
    median where the release gives one, else the mean.
    """
    left: dict[str, list[ProfileRow]] = {}
    for row in profile.rows:
        left.setdefault(row.name, []).append(row)
    found = []
    for layer in layers:
        rows = left.get(layer.name)
        found.append(msgspec.structs.replace(layer, time_ns=_time_ns(rows.pop(0))) if rows else layer)
    for row in profile.rows:
        if left[row.name]:
            left[row.name].remove(row)
            found.append(
                Layer(row.name, None, is_reformat=is_reformat(row.name, None), time_ns=_time_ns(row))
            )
    return tuple(found)


def _time_ns(row: ProfileRow) -> int:
    return round((row.average_ms if row.median_ms is None else row.median_ms) * 1e6)
