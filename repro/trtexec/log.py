"""Reads trtexec's log of any release, whole or pasted into a ticket.

    log = read(file, "build.log")      # one process of trtexec
    log.summary.gpu_compute.median_ms

A pasted log may have lost its prefixes, gained blank lines, colours or CRLF, be wrapped or cut. What
isn't there is `None` with an entry in `missing`, numbers keep their printed digits, and lines of no
known form are kept up to a limit and counted. Reading takes linear time and a few MB, however long the
log is: lines are told apart by their first bytes before any pattern is tried.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from repro.errors import ReproError
from repro.trtexec.process import MAX_LINE_BYTES, Process
from repro.trtexec.seen import TrtexecLog
from repro.trtexec.tuning import BY_LETTERS, SET_NAME

CHUNK_BYTES = 1 << 20
MAX_PROCESSES = 1_000
TAIL = 50
"""Lines in which the last words of a log without an end line are sought."""
KIND = slice(22, 38)
"""What tells most lines apart: severity and first letters, behind a time stamp of 22 characters."""
_LIBRARY = b"[V] [TRT] "
_TACTIC = b"[V] [TRT] Tactic"
_VERBOSE = {_LIBRARY + letters.encode(): take for letters, take in BY_LETTERS.items()}
_FACTS = frozenset({b"[V] [TRT] Engine", b"[V] [TRT] Total ", b"[V] [TRT] Layer("})
"""The library's verbose lines that hold a fact beside the tactics; the others are passed over."""
_AVERAGE = b"[I] Average on"


def read(source: BinaryIO | Iterable[bytes], name: str) -> TrtexecLog:
    """Read the log of one process; `source` is a file, or pieces of one of any size.

    Raise `ReproError` where no line is one of trtexec's, or where the log holds several processes
    (then use `read_all`).
    """
    logs = read_all(source, name)
    if len(logs) > 1:
        raise ReproError(f"{name} holds {len(logs)} logs of trtexec", "give them one by one")
    return logs[0]


def read_all(source: BinaryIO | Iterable[bytes], name: str) -> tuple[TrtexecLog, ...]:
    """Read the logs of all processes in `source`, one after another; at least one, or `ReproError`."""
    reader = _Reader(name)
    tail: list[bytes] = []
    for lines in _blocks(source):
        reader.take(lines)
        tail = [*tail, *lines[-TAIL:]][-TAIL:]
    return reader.end(tail)


# --- bytes to lines -------------------------------------------------------------------------------------


def _blocks(source: BinaryIO | Iterable[bytes]) -> Iterator[list[bytes]]:
    """Give the lines in lists; a line beyond the limit is cut, so that memory stays bounded."""
    left, skipping = b"", False
    for piece in _utf8(_pieces(source)):
        if skipping:
            _, newline, piece = piece.partition(b"\n")
            if not newline:
                continue
            skipping = False
        whole, newline, rest = (left + piece).rpartition(b"\n")
        if newline:
            if b"\r" in whole:
                whole = whole.replace(b"\r\n", b"\n")
            yield whole.split(b"\n")
        left = rest
        if len(left) > MAX_LINE_BYTES:
            yield [left[:MAX_LINE_BYTES]]
            left, skipping = b"", True
    if left:
        yield [left]


def _pieces(source: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    read_some = getattr(source, "read", None)
    if read_some is None:
        yield from source
        return
    while piece := read_some(CHUNK_BYTES):
        yield piece


def _utf8(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Take away a byte order mark; UTF-16, which PowerShell's `>` writes, becomes UTF-8."""
    first = next(pieces, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        decoder = codecs.getincrementaldecoder("utf-16")("replace")
        yield decoder.decode(first).encode("utf-8", "replace")
        for piece in pieces:
            yield decoder.decode(piece).encode("utf-8", "replace")
        return
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from pieces


class _Reader:
    """Takes lines, and keeps the process that they are of."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done: list[TrtexecLog] = []
        self._log = Process(name)

    def take(self, lines: list[bytes]) -> None:
        """Take a list of lines: the many of a verbose build at once, the others one by one."""
        log, tuning = self._log, self._log.tuning
        log.lines += len(lines)
        timed, named, worst = 0, b"", tuning.worst
        for number, line in enumerate(lines):
            kind = line[KIND]
            if kind == _TACTIC:
                try:
                    time_ms = float(line[line.rfind(b" ") + 1 :])
                except ValueError:
                    continue
                timed += 1
                if time_ms < worst:
                    tuning.add(line, time_ms, named)
                    worst = tuning.worst
            elif kind in _VERBOSE:
                tuning.count(timed)
                _VERBOSE[kind](tuning, line)
                timed, worst = 0, tuning.worst
            elif kind[:10] == _LIBRARY and kind not in _FACTS:
                if SET_NAME in line:
                    named = line
            elif line and kind[:14] != _AVERAGE and log.line(line):
                tuning.count(timed)
                left = len(lines) - number
                log.lines -= left
                self._close()
                log, tuning = self._log, self._log.tuning
                log.lines += left
                timed, worst = 0, tuning.worst
                log.line(line)
        tuning.count(timed)

    def _close(self, tail: list[bytes] | None = None) -> None:
        if self._log.known:
            if len(self._done) == MAX_PROCESSES:
                raise ReproError(f"{self._name} holds more than {MAX_PROCESSES} logs", "give fewer at a time")
            self._done.append(self._log.end(tail or []))
        self._log = Process(self._name)

    def end(self, tail: list[bytes]) -> tuple[TrtexecLog, ...]:
        """Return what was read."""
        lines = self._log.lines
        self._close(tail)
        if not self._done:
            raise ReproError(
                f"{self._name} is no log of trtexec: none of its lines (1 to {lines}) has such a form",
                "give what trtexec printed, as text",
            )
        return tuple(self._done)
