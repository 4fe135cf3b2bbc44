"""Is an ONNX file of a bundle whole? Looked at as bytes, before any library opens it.

A tensor of an ONNX model may lie in another file, named by a path; libraries have followed such paths out
of their folder (CVE-2022-25882, CVE-2024-27318, CVE-2025-51480). A bundle's model holds all of its
tensors, so any that says otherwise is refused. Only as much of protobuf's wire format is read as finding
them takes, with bounds on depth and work.
"""

from __future__ import annotations

from collections.abc import Iterator

from repro.errors import Refused

MAX_DEPTH = 16
MAX_FIELDS = 1_000_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_TENSOR = "tensor"
# Of onnx.proto: the fields of each message that may hold a tensor, and the message that each is.
_HOLDERS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}


def check(name: str, data: bytes) -> None:
    """Raise `Refused` unless `data` is in protobuf's form and none of its tensors lies elsewhere."""
    view = memoryview(data)
    left = MAX_FIELDS
    waiting = [("model", view, 1)]
    while waiting:
        kind, message, depth = waiting.pop()
        try:
            for number, value in fields(message):
                left -= 1
                if not left:
                    raise Refused(f"{name} has more parts than a model may have")
                if kind == _TENSOR and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
                    raise Refused(f"{name} keeps a tensor in another file")
                inner = _HOLDERS[kind].get(number)
                if inner is None:
                    continue
                if not isinstance(value, memoryview):
                    raise ValueError(number)
                if depth == MAX_DEPTH:
                    raise Refused(f"{name} is nested deeper than a model may be")
                waiting.append((inner, value, depth + 1))
        except (IndexError, ValueError):
            raise Refused(f"{name} is no ONNX model") from None


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Give number and value of each field; raise `IndexError` or `ValueError` for anything malformed."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        # Some readers drop what is beyond 32 bits, and see another field.
        if not 8 <= tag < 2**32:
            raise ValueError(tag)
        value: int | memoryview
        wire = tag & 7
        if wire == _VARINT:
            value, at = varint(message, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
            if wire == _BYTES:
                size, at = varint(message, at)
            elif not size:
                raise ValueError(wire)
            if size > len(message) - at:
                raise ValueError(size)
            value, at = message[at : at + size], at + size
        yield tag >> 3, value


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number at `at` and where the next one begins; raise as `fields` does."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("endless")
