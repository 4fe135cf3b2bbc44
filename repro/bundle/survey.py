"""May an ONNX file of a bundle be built here? Looked at as bytes, before any library opens it.

What a model says of its own size can be a lie: a tensor that is declared with 2 GB in a file of 1 kB,
ends of another shape than its description has. Operators whose work depends on values can run for ever.
Such models are refused; how large its inner tensors become, only a library can tell, in a process that is
held to its memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from repro.bundle.model import fields, varint
from repro.errors import Refused, Unavailable
from repro.schema import TensorSpec

MAX_NODES = 20_000
MAX_FIELDS = 1_000_000
MAX_RANK = 16
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators that run others, as often as values say."""
OWN_DOMAINS = frozenset({"", "ai.onnx"})

_ELEMENT_TYPES = {"fp32": 1, "fp16": 10}
_RAW = 9
_TYPED = frozenset({4, 5, 6, 7, 10, 11})
_Value = int | memoryview


class Survey(NamedTuple):
    """What a model is made of."""

    nodes: int
    operators: tuple[str, ...]


def survey(name: str, data: bytes, ends: tuple[TensorSpec, TensorSpec]) -> Survey:
    """Return what the model in `data` is made of; `ends` are the input and the output that it must have.

    Raise `Unavailable` for one that can't be replayed, and `Refused` for one that lies or is none.
    """
    try:
        return _Walk(name, ends).model(memoryview(data))
    except (IndexError, ValueError, TypeError, UnicodeDecodeError):
        raise Refused(f"{name} is no ONNX model") from None


class _Walk:
    def __init__(self, name: str, ends: tuple[TensorSpec, TensorSpec]) -> None:
        self._name, self._ends = name, ends
        self._left = MAX_FIELDS
        self._nodes = 0
        self._operators: set[str] = set()
        self._constants: set[str] = set()
        self._found: dict[int, dict[str, tuple[int, tuple[int, ...]]]] = {11: {}, 12: {}}

    def model(self, message: memoryview) -> Survey:
        for number, value in self._fields(message):
            if number in (20, 25):
                raise Unavailable(f"{self._name} has functions or training steps of its own")
            if number == 7:
                self._graph(_bytes(value))
        if not self._nodes:
            raise ValueError("empty")
        self._check_ends()
        return Survey(self._nodes, tuple(sorted(self._operators)))

    def _fields(self, message: memoryview) -> Iterator[tuple[int, _Value]]:
        for field in fields(message):
            self._left -= 1
            if not self._left:
                raise Refused(f"{self._name} has more parts than a model may have")
            yield field

    def _graph(self, message: memoryview) -> None:
        for number, value in self._fields(message):
            if number == 1:
                self._node(_bytes(value))
            elif number == 5:
                self._constants.add(self._tensor(_bytes(value)))
            elif number == 15:
                raise Unavailable(f"{self._name} has sparse tensors")
            elif number in self._found:
                called, kind, dims = self._end(_bytes(value))
                self._found[number][called] = kind, dims

    def _node(self, message: memoryview) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Unavailable(f"{self._name} has more than {MAX_NODES} operators")
        for number, value in self._fields(message):
            if number == 4:
                operator = _text(value)
                if operator in CONTROL_FLOW:
                    raise Unavailable(
                        f"{self._name} has the operator {operator}, whose work depends on values"
                    )
                self._operators.add(operator)
            elif number == 7 and (domain := _text(value)) not in OWN_DOMAINS:
                raise Unavailable(f"{self._name} has an operator of {domain[:40]!a}, not of ONNX itself")
            elif number == 5:
                for part, inner in self._fields(_bytes(value)):
                    if part in (6, 11):
                        raise Unavailable(f"{self._name} has graphs within operators")
                    if part in (22, 23):
                        raise Unavailable(f"{self._name} has sparse tensors")
                    if part in (5, 10):
                        self._tensor(_bytes(inner))

    def _tensor(self, message: memoryview) -> str:
        """Return the tensor's name; raise where it declares more than it holds."""
        dims: list[int] = []
        called, held = "", 0
        for number, value in self._fields(message):
            if number == 1:
                dims += _integers(value)
            elif number == 8:
                called = _text(value)
            elif number == _RAW or number in _TYPED:
                # An element takes a byte at least, or half of one.
                held += 2 * len(value) if isinstance(value, memoryview) else 1
        if len(dims) > MAX_RANK or any(not 0 <= dim < 2**31 for dim in dims) or math.prod(dims) > held:
            raise Refused(f"{self._name} declares a tensor of {_shape(dims)}, and doesn't hold it")
        return called

    def _end(self, message: memoryview) -> tuple[str, int, tuple[int, ...]]:
        """Return name, element type and shape of an input or output; an open size is 0."""
        called, kind, dims = "", 0, []
        for number, value in self._fields(message):
            if number == 1:
                called = _text(value)
            elif number == 2:
                for part, tensor in self._fields(_bytes(value)):
                    if part != 1:
                        continue
                    for inner, detail in self._fields(_bytes(tensor)):
                        if inner == 1 and isinstance(detail, int):
                            kind = detail
                        elif inner == 2:
                            dims += [
                                self._dim(_bytes(dim)) for n, dim in self._fields(_bytes(detail)) if n == 1
                            ]
        return called, kind, tuple(dims)

    def _dim(self, message: memoryview) -> int:
        sizes = [value for number, value in self._fields(message) if number == 1]
        return sizes[-1] if sizes and isinstance(sizes[-1], int) else 0

    def _check_ends(self) -> None:
        for number, spec in zip((11, 12), self._ends, strict=True):
            found = {
                name: end
                for name, end in self._found[number].items()
                if number == 12 or name not in self._constants
            }
            if found != {spec.name: (_ELEMENT_TYPES[spec.dtype], spec.shape)}:
                raise Refused(f"{self._name} has not the {spec.name} that its description says")


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError(value)
    return value


def _text(value: _Value) -> str:
    return str(_bytes(value), "utf-8")


def _integers(value: _Value) -> list[int]:
    """Return the numbers of a repeated field, one by one or packed."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        found.append(number)
    return found


def _shape(dims: list[int]) -> str:
    return f"[{', '.join(map(str, dims[:MAX_RANK]))}]"
