"""TensorRT's words for layers, types and formats, in the kit's vocabulary.

The same layer is described by the inspector's JSON (8.x to 10.x, and otherwise since 11.0), by its text
form, by lines of a verbose build, and with its time only in the profile.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
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
_VECTORIZED = re.compile(r"(\S+) wide channel vectorized", re.IGNORECASE)
_MULTIPLE = re.compile(r"where (?:channel|C) % (\d+) == 0", re.IGNORECASE)
_TENSOR = re.compile(r"\((\w+\[[\d:,\- ]*\])\)")
# Behind the dimensions of Myelin's layers stand strides first, and the type before the format.
_DESCRIBED = re.compile(
    r"Dimensions: \[([\d,\- ]*)\]((?:, (?:Stride\w+: \[[^\]]*\]|(?:Format|Data)[\w/]*: [^,}]*))*)"
)
_FORMAT = re.compile(r", Format(?:/Datatype)?: ([^,}]*)")
_KIND = re.compile(r", Data[Tt]ype: ([^,}]*)")
_NICKNAME = re.compile(r"\(\S+\) ")
_ENUMERATOR = re.compile(r"\(k([A-Z]+\d*)\)")
_IO_FORMAT = re.compile(r"\bIOMode: .*[,{] Format: ([^}]*)\}")
_MOVES = re.compile(r"__myl_(?:Resh|Slic|Conc)*(?:Tran|Move)(?:Tran|Move|Resh|Slic|Conc)*_")
"""Myelin names a kernel by all that it does: these transpose, move, reshape, slice and concatenate only."""
_SIZE = re.compile(r"-?\d{1,15}")
_TACTIC_NAME = re.compile(r"TacticName: ([^,]+)")
_TACTIC_VALUE = re.compile(r"TacticValue: ([^,\s]+)")
MAX_ROWS = 10_000
MAX_NAME_CHARACTERS = 2_000


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
    if match := _ENUMERATOR.search(words):
        name = match[1].lower()
        return "chw" if name == "linear" else name
    words = _NICKNAME.sub("", words, count=1) if _NICKNAME.match(words) else words
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
    parts = [part.partition(":") for part in match[2].split(",") if part]
    width = next((vector for _, _, vector in parts if vector), "")
    return LayerTensor(
        _TYPES[match[1].lower()], _BY_WIDTH.get(width), _dims(",".join(size for size, _, _ in parts))
    )


def _dims(text: str) -> tuple[int, ...] | None:
    sizes = [size.strip() for size in text.split(",") if size.strip()]
    return tuple(map(int, sizes)) if all(map(_SIZE.fullmatch, sizes)) else None


def is_reformat(name: str, kind: str | None) -> bool:
    """Return whether a layer only moves or re-arranges data."""
    return (
        kind in ("Reformat", "NoOp")
        or name.startswith("Reformatting CopyNode")
        or _MOVES.match(name) is not None
    )


def of_build(text: str) -> Layer | None:
    """Return the layer of a line `Layer(KIND): NAME, Tactic: T, in (Half[…]) -> out (Half[…])`, or `None`."""
    head, _, rest = text.partition("): ")
    name, told, rest = rest.partition(", Tactic: ")
    tactic, _, tensors = rest.partition(", ")
    if not told or not head.startswith("Layer("):
        return None
    kind = head.removeprefix("Layer(")
    ends = tensors.rpartition(" -> ")
    before, after = (tuple(filter(None, map(brief, _TENSOR.findall(end)))) for end in (ends[0], ends[2]))
    return Layer(name, kind, tactic or None, before, after, is_reformat(name, kind))


def of_text(text: str) -> Layer | None:
    """Return the layer of the inspector's text form, `Name: …, LayerType: …, Inputs: […], …`, or `None`."""
    name, _, rest = text.partition(", LayerType: ")
    kind, _, rest = rest.partition(", Inputs: [")
    inputs, told, rest = rest.partition("], Outputs: [")
    if not told or not name.startswith("Name: "):
        return None
    outputs, _, rest = rest.partition("}]")
    tactic = _TACTIC_NAME.search(rest) or _TACTIC_VALUE.search(rest)
    name = name.removeprefix("Name: ")
    inputs = inputs.partition("], Constants: [")[0]
    before, after = (
        tuple(
            tensor(_first(_FORMAT, told), _first(_KIND, told), _dims(dims))
            for dims, told in _DESCRIBED.findall(end)
        )
        for end in (inputs, outputs)
    )
    return Layer(name, kind, tactic[1].strip() if tactic else None, before, after, is_reformat(name, kind))


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1].strip() if match else None


def of_engine(text: str) -> tuple[Layer, ...]:
    """Return the layers of an engine in the inspector's text form, one a line among others."""
    return tuple(filter(None, map(of_text, text.splitlines())))


def io_layout(text: str) -> str | None:
    """Return the one layout of the inputs and outputs in the inspector's text form, `mixed`, or `None`."""
    found = {layout(match[1].strip()) for match in map(_IO_FORMAT.search, text.splitlines()) if match}
    return found.pop() if len(found) == 1 else "mixed" if found else None


class Table:
    """The table of layers of a profiled run, in either order of its columns."""

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations
        self._order: Literal["name_first", "time_first"] | None = None
        self._medians = True
        self.rows: list[ProfileRow] = []
        self._total: ProfileRow | None = None

    def row(self, text: str) -> bool:
        """Take a line; return whether it is of the table."""
        if self._order is None:
            cells = text.split()
            if not cells or "Layer" not in (cells[0], cells[-1]):
                return False
            self._order = "name_first" if cells[0] == "Layer" else "time_first"
            self._medians = "Median" in text
            return True
        if self._total is not None or len(self.rows) >= MAX_ROWS:
            return False
        numbers = 4 if self._medians else 3
        if self._order == "name_first":
            name, *cells = text.strip().rsplit(None, numbers)
        else:
            *cells, name = text.split(None, numbers)
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            return False
        if len(values) != numbers or not all(value - value == 0 for value in values):
            return False
        median = values[2] if self._medians else None
        row = ProfileRow(name.strip()[:MAX_NAME_CHARACTERS], values[0], values[1], median, values[-1])
        if row.name == "Total":
            self._total = row
        else:
            self.rows.append(row)
        return True

    def profile(self) -> Profile:
        """Return what was taken."""
        return Profile(self._iterations, tuple(self.rows), self._total, self._order)


def timed(layers: Iterable[Layer], profile: Profile) -> tuple[Layer, ...]:
    """Return the layers with their times; what only the profile has comes last, without a type.

    Of layers that share a name, the first takes the first row of that name, and so on. A time is the
    median where the release gives one, else the mean.
    """
    rows: defaultdict[str, deque[ProfileRow]] = defaultdict(deque)
    for row in profile.rows:
        rows[row.name].append(row)
    found, taken = [], Counter[str]()
    for layer in layers:
        if own := rows.get(layer.name):
            taken[layer.name] += 1
            layer = msgspec.structs.replace(layer, time_ns=_time_ns(own.popleft()))
        found.append(layer)
    for row in profile.rows:
        if taken[row.name]:
            taken[row.name] -= 1
        else:
            reformat = is_reformat(row.name, None)
            found.append(Layer(row.name, None, is_reformat=reformat, time_ns=_time_ns(row)))
    return tuple(found)


def _time_ns(row: ProfileRow) -> int:
    return round((row.average_ms if row.median_ms is None else row.median_ms) * 1e6)
