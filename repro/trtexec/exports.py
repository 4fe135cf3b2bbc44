"""Reads the files that trtexec exports: times, profile, layers, outputs.

They are JSON with trtexec's own liberties: names are written unescaped, a number may be `inf` or `nan`.
Times and outputs may be hundreds of MB and are read as a stream. A file that is not whole is refused
with its name and line; numbers are kept to the digits that were printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from repro.errors import ReproError
from repro.schema import Layer, LayerTensor
from repro.trtexec.layers import Profile, ProfileRow, is_reformat, tensor

CHUNK_BYTES = 1 << 20
MAX_WHOLE_BYTES = 64 << 20
"""Profiles and layers are read whole; larger ones are none."""

MAX_HEAD_BYTES = 1 << 16
"""An output's name and dimensions stand within so much."""

Milliseconds = npt.NDArray[np.float64]


class Times(NamedTuple):
    """The times of each inference of a run, warm-up left out, as `--exportTimes` gives them.

    Each is in milliseconds, exact to the six significant digits that are printed. Starts therefore get
    coarse: 10 µs after one second, 100 µs after ten.
    """

    start_ms: Milliseconds
    """When the computation began, since the run's start event."""
    h2d_ms: Milliseconds
    compute_ms: Milliseconds
    d2h_ms: Milliseconds
    latency_ms: Milliseconds
    """The sum of the three before, not wall time."""

    def ns(self, name: str) -> npt.NDArray[np.int64]:
        """Return a column in whole nanoseconds: exact from 0.1 ms up, rounded below."""
        column: Milliseconds = getattr(self, name)
        return np.rint(column * 1e6).astype(np.int64)


class _Trace(msgspec.Struct):
    start: float = msgspec.field(name="startComputeMs")
    h2d: float = msgspec.field(name="h2dMs")
    compute: float = msgspec.field(name="computeMs")
    d2h: float = msgspec.field(name="d2hMs")
    latency: float = msgspec.field(name="latencyMs")


def times(path: Path) -> Times:
    """Read `--exportTimes`; raise `ReproError` for anything but at least one whole entry."""
    decoder = msgspec.json.Decoder(list[_Trace])
    columns: list[npt.NDArray[np.float64]] = []
    for block, line in _objects(path):
        try:
            entries = decoder.decode(block)
        except msgspec.DecodeError as error:
            _refuse(path, line, block, error, "trtexec --exportTimes")
        columns.append(np.array([(e.start, e.h2d, e.compute, e.d2h, e.latency) for e in entries]))
    if not columns:
        raise ReproError(f"{path} holds no times", "was it written by trtexec --exportTimes?")
    return Times(*np.concatenate(columns).T)


def _objects(path: Path) -> Iterator[tuple[bytes, int]]:
    """Give a JSON list of flat objects as shorter lists, each with the number of its first line."""
    line, left = 1, b""
    with _opened(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            left += chunk
            end = left.rfind(b"}") + 1
            if end == 0 and len(left) > CHUNK_BYTES:
                break
            if end:
                begin = end - len(left[:end].lstrip(b" \r\n\t,["))
                line += left.count(b"\n", 0, begin)
                yield b"[" + left[begin:end] + b"]", line
                line += left.count(b"\n", begin, end)
                left = left[end:]
    line += left.rstrip().count(b"\n")
    if left.strip(b" \r\n\t[]"):
        raise ReproError(f"{path}, line {line}: the file is cut off or no list", "export it again")
    if not left.strip().endswith(b"]"):
        raise ReproError(f"{path}, line {line}: the file is cut off", "export it again")


def profile(path: Path) -> Profile:
    """Read `--exportProfile`; raise `ReproError` where it is not whole."""
    content = _whole(path)
    try:
        entries = msgspec.json.decode(content, type=list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError):
        entries = _unescaped(path, content)
    counts = [entry["count"] for entry in entries if "count" in entry]
    if len(counts) != 1 or not isinstance(counts[0], (int, str)) or not str(counts[0]).isdecimal():
        raise ReproError(f"{path} tells no count of iterations", "was it written by trtexec --exportProfile?")
    layers = [entry for entry in entries if "count" not in entry]
    return Profile(int(counts[0]), tuple(_row(path, i, entry) for i, entry in enumerate(layers)))


def _row(path: Path, number: int, entry: dict[str, Any]) -> ProfileRow:
    try:
        return ProfileRow(
            name=str(entry["name"]),
            time_ms=float(entry["timeMs"]),
            average_ms=float(entry["averageMs"]),
            median_ms=float(entry["medianMs"]) if "medianMs" in entry else None,
            percent=float(entry["percentage"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise ReproError(
            f"{path}: layer {number} has no such times ({what})", "was it written by trtexec --exportProfile?"
        ) from None


# A name may hold quotes and backslashes; what follows it can't be a part of it.
_NAME = re.compile(r'\s*,?\s*\{ *"name" *: *"')
_BEHIND_NAME = re.compile(r'", *$')
_FIELD = re.compile(r'"(\w+)" *: *("[^"]*"|[^,\s]+)')


def _unescaped(path: Path, content: str) -> list[dict[str, Any]]:
    """Read a profile line by line, as trtexec writes it, because it is no JSON."""
    entries: list[dict[str, Any]] = []
    lines = content.splitlines()
    for number, line in enumerate(lines, 1):
        begin, end = _NAME.match(line), line.rfind('"timeMs"')
        quote = _BEHIND_NAME.search(line[begin.end() if begin else 0 : max(end, 0)][-100:])
        if begin and quote and line.rstrip().endswith("}"):
            name = line[begin.end() : end - len(quote[0])]
            entries.append({"name": name, **dict(_FIELD.findall(line[end:].rstrip().rstrip("}")))})
        elif '"count"' in line:
            entries.append(dict(_FIELD.findall(line)))
        elif line.strip() not in ("[", "]", ""):
            raise ReproError(f"{path}, line {number}: no JSON, or cut off", "export it again")
    if not lines or lines[-1].strip() != "]":
        raise ReproError(f"{path}, line {len(lines)}: the file is cut off", "export it again")
    return entries


def layers(path: Path) -> tuple[Layer, ...]:
    """Read `--exportLayerInfo`, of any release; names alone give layers without a type.

    Raise `ReproError` where the file is not whole or of another form.
    """
    content = _whole(path)
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        _refuse(path, 1, content.encode(), error, "trtexec --exportLayerInfo")
    entries = value.get("Layers") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise ReproError(f"{path} has no list of layers", "was it written by trtexec --exportLayerInfo?")
    found = []
    for number, entry in enumerate(entries):
        if isinstance(entry, str):
            found.append(Layer(entry, None, is_reformat=is_reformat(entry, None)))
        elif isinstance(entry, dict) and isinstance(entry.get("Name"), str):
            found.append(_layer(entry))
        else:
            raise ReproError(
                f"{path}: layer {number} has no name", "was it written by trtexec --exportLayerInfo?"
            )
    return tuple(found)


def _layer(entry: dict[str, Any]) -> Layer:
    name, kind = entry["Name"], _text(entry.get("LayerType"))
    return Layer(
        name=name,
        type=kind,
        tactic=_text(entry.get("TacticName")) or _text(entry.get("TacticValue")),
        inputs=_tensors(entry.get("Inputs")),
        outputs=_tensors(entry.get("Outputs")),
        is_reformat=is_reformat(name, kind),
    )


def _tensors(entries: object) -> tuple[LayerTensor, ...]:
    return tuple(
        tensor(
            _text(entry.get("Format/Datatype") or entry.get("Format")),
            _text(entry.get("DataType") or entry.get("Datatype")),
            dims if _are_sizes(dims := entry.get("Dimensions")) else None,
        )
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
    )


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(size, int) for size in value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


# --- outputs ----------------------------------------------------------------------------------------

_HEAD = re.compile(
    rb'"name"\s*:\s*"(.{0,1000}?)"\s*,\s*(?:"standin"\s*:\s*"[^"]*"\s*,\s*)?'
    rb'"dimensions"\s*:\s*"([^"]*)"\s*,\s*"values"\s*:\s*\[',
    re.DOTALL,
)


def outputs(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read `--exportOutput`: each output by name, in the network's own dimensions.

    The file is read once, in pieces; nothing but the outputs themselves is kept. Raise `ReproError` where
    it holds fewer or more values than its dimensions say.
    """
    found: dict[str, npt.NDArray[np.float32]] = {}
    with _opened(path) as file:
        size = path.stat().st_size
        reader = _Reader(path, file)
        while (head := reader.upto(_HEAD)) is not None:
            name, dims = head[1].decode("utf-8", "replace"), head[2].decode("ascii", "replace")
            shape = _shape(dims)
            # A value takes two bytes at least, so that no file claims more memory than its own size.
            if shape is None or np.prod(shape, dtype=float) > size:
                reader.refuse(f"output {name} can't have the dimensions '{dims[:80]}'")
            values = np.empty(int(np.prod(shape)), np.float32)
            n = 0
            for part in reader.numbers():
                if n + len(part) > len(values):
                    reader.refuse(f"output {name} holds more than the {len(values)} values of {dims}")
                values[n : n + len(part)] = part
                n += len(part)
            if n != len(values):
                reader.refuse(f"output {name} holds {n} of {len(values)} values")
            found[name] = values.reshape(shape)
    if not found:
        raise ReproError(f"{path} holds no outputs", "was it written by trtexec --exportOutput?")
    return found


def _shape(dims: str) -> tuple[int, ...] | None:
    sizes = dims.split("x") if dims else []
    return tuple(map(int, sizes)) if all(re.fullmatch(r"\d{1,9}", size) for size in sizes) else None


class _Reader:
    """The file in pieces, with the place where it stands."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file
        self._left = b""
        self._line = 1

    def _more(self) -> bool:
        chunk: bytes = self._file.read(CHUNK_BYTES)
        self._left += chunk
        return bool(chunk)

    def _drop(self, count: int) -> bytes:
        taken, self._left = self._left[:count], self._left[count:]
        self._line += taken.count(b"\n")
        return taken

    def refuse(self, what: str) -> NoReturn:
        """Raise the error that names the place."""
        raise ReproError(f"{self._path}, line {self._line}: {what}", "export it again")

    def upto(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Return the next match and stand behind it; `None` at the end of a whole file."""
        while not (match := pattern.search(self._left, 0, MAX_HEAD_BYTES)):
            if len(self._left) > MAX_HEAD_BYTES or not self._more():
                if self._left.strip(b" \r\n\t[]},"):
                    self.refuse("no output of trtexec --exportOutput, or cut off")
                return None
        self._drop(match.end())
        return match

    def numbers(self) -> Iterator[npt.NDArray[np.float64]]:
        """Give the numbers up to the closing bracket."""
        more = True
        while more:
            end = self._left.find(b"]")
            if end < 0:
                end = self._left.rfind(b",")
                if not self._more_or_end(end):
                    self.refuse("the file is cut off")
                if end < 0:
                    continue
            else:
                more = False
            text = self._left[:end].strip(b" \r\n\t,")
            if text:
                yield self._parsed(text)
            self._drop(end + 1)

    def _more_or_end(self, comma: int) -> bool:
        """Return whether there is something to go on with: whole numbers at hand, or more of the file."""
        return self._more() or comma > 0

    def _parsed(self, text: bytes) -> npt.NDArray[np.float64]:
        try:
            return np.array(msgspec.json.decode(b"[" + text + b"]", type=list[float]))
        except msgspec.DecodeError:
            # inf and nan are no JSON, but a wrong output has them.
            try:
                return np.array([float(value) for value in text.split(b",")])
            except ValueError as error:
                self.refuse(f"no list of numbers ({str(error)[:80]})")


# --- files --------------------------------------------------------------------------------------------


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise ReproError(f"can't read {path}", error.strerror or "") from None


def _whole(path: Path) -> str:
    with _opened(path) as file:
        content: bytes = file.read(MAX_WHOLE_BYTES + 1)
    if len(content) > MAX_WHOLE_BYTES:
        raise ReproError(f"{path} is larger than {MAX_WHOLE_BYTES >> 20} MiB", "it is no list of layers")
    return content.decode("utf-8", "replace")


def _refuse(path: Path, line: int, content: bytes, error: Exception, writer: str) -> NoReturn:
    """Raise the error that names file and line."""
    place = re.search(r"\(byte (\d+)\)", str(error))
    if place:
        line += content.count(b"\n", 0, int(place[1]))
        what = "no JSON, or cut off"
    elif "truncated" in str(error):
        line += content.count(b"\n")
        what = "the file is cut off"
    else:
        what = str(error).partition("\n")[0]
    raise ReproError(f"{path}, line {line}: {what}", f"was it written whole by {writer}?") from None
