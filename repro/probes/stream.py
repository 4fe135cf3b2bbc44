"""Probes that listen: a process of its own tells its readings line by line, at its own pace."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence

from repro.probes import Absent
from repro.proc import Child

ENDED = Absent("missed", "its process ended")
SILENT = Absent("missed", "no line came in time")


class Stream:
    """A process whose lines are readings; it is ended with the probe that holds it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        try:
            self._child: Child | None = Child(argv, stdout=Child.PIPE)
        except OSError:
            self._child = None
            self._lines.put(None)
            return
        threading.Thread(target=self._listen, args=(self._child,), daemon=True).start()

    def _listen(self, child: Child) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in child.lines():
                self._lines.put(line)
        self._lines.put(None)

    def line(self, timeout_s: float) -> bytes | Absent:
        """Return the next line, waiting for it; say why where none comes in time.

        After the end it waits all the same: who asks in a loop must not burn a core.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return SILENT
        if line is None:
            self._lines.put(None)
            self._closed.wait(timeout_s)
            return ENDED
        return line

    def newest(self, timeout_s: float) -> bytes | Absent:
        """Return the newest line, waiting for one where none has come since the last."""
        line = self.line(timeout_s)
        while not isinstance(line, Absent) and not self._lines.empty():
            following = self._lines.get()
            if following is None:
                self._lines.put(None)
                break
            line = following
        return line

    def close(self) -> None:
        """End the process; whoever waits for a line goes on."""
        self._closed.set()
        self._lines.put(None)
        if self._child is not None:
            self._child.end(0.0)
