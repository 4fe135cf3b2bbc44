"""The one door to other processes.

Every child gets a session of its own, so that Ctrl-C reaches only the command line, which then ends
its children in order. A child that belongs to the kit also holds a *lifeline*: its standard input is
a pipe from its parent, and when that closes, because the parent ended in whatever way, it ends too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

from repro.errors import ReproError


class Finished(NamedTuple):
    """How a process ended; `returncode` is negative when a signal ended it."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout_s: float = 30.0,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run `argv` to its end; raise `ReproError` when it can't start or takes longer than `timeout_s`."""
    try:
        with subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=timeout_s)
            except BaseException as error:
                kill_group(process)
                process.communicate()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise ReproError(
                        f"{argv[0]} did not answer within {timeout_s:g} s", "try again"
                    ) from None
                raise
    except OSError as error:
        raise ReproError(f"can't start {argv[0]} ({error.strerror})", "install it") from None
    return Finished(process.returncode, stdout, stderr)


def follow(argv: Sequence[str], *, cwd: Path, note: Callable[[bytes], None]) -> int:
    """Run a foreign program to its end, giving each line that it prints; return its exit status.

    It stays in this process's group, so that whoever ends the group ends it too. A line longer than
    64 KiB comes in pieces. Raises `ReproError` when the program can't start.
    """
    try:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd
        )
    except OSError as error:
        raise ReproError(f"can't start {argv[0]} ({error.strerror})", "install it") from None
    # If noting a line fails, its output is closed, and the next line that it prints ends it.
    with process:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        while line := process.stdout.readline(2**16):
            note(line)
    return process.returncode


def join(argv: Sequence[str], connection: socket.socket, stderr: IO[bytes]) -> int:
    """Run a program that reads from and writes to a connection, to its end; return its exit status."""
    both = connection.fileno()
    with subprocess.Popen(
        list(argv), stdin=both, stdout=both, stderr=stderr, start_new_session=True
    ) as process:
        # The program's copy alone keeps it open: so each end sees when the other closes.
        connection.close()
        return process.wait()


def end_own_group() -> NoReturn:
    """End this process at once, and what it has started where it leads a group of its own."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class Child:
    """A long-running process of the kit; leaving the context ends it and all that it started."""

    PIPE = subprocess.PIPE

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdout: IO[bytes] | int = subprocess.DEVNULL,
        stderr: IO[bytes] | int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def lines(self) -> Iterator[bytes]:
        """Give the lines of its standard output until it closes."""
        if self._process.stdout is not None:
            yield from self._process.stdout

    def poll(self) -> int | None:
        """Return the exit status, or `None` while the process runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit status, or `None` when `timeout_s` passed first."""
        try:
            if timeout_s is not None and self._process.returncode is None:
                # Popen.wait(timeout) wakes up to eighty times a second; a poll on the process sleeps.
                with contextlib.suppress(AttributeError, OSError):
                    _sleep_until_end(self.pid, timeout_s)
                    return self._process.poll()
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def let_go(self) -> None:
        """Close the lifeline: the child finishes what it holds and ends."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def end(self, grace_s: float = 2.0) -> int:
        """End the process: by its lifeline, then by SIGKILL to its whole group."""
        self.let_go()
        status = self.wait(grace_s)
        kill_group(self._process)
        if status is None:
            status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status


def _sleep_until_end(pid: int, timeout_s: float) -> None:
    """Sleep until a child ends or time is up; raise `AttributeError` or `OSError` where that can't be had."""
    descriptor = os.pidfd_open(pid)
    try:
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        waiter.poll(timeout_s * 1e3)
    finally:
        os.close(descriptor)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and everything in its session's group."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:  # pragma: no cover - Windows has no process groups of this kind
        process.kill()


def hold_lifeline(silence_s: float | None = None, heard: Path | None = None) -> threading.Event:
    """Watch the parent's end of standard input from a thread; the event is set when it closes.

    With `silence_s` it is also set when the parent wrote nothing for so long, as over a link that froze;
    the time of the file `heard` is when it last wrote.
    """
    gone = threading.Event()

    def watch() -> None:
        # os.read, not sys.stdin: a buffered reader would hold a lock that blocks interpreter shutdown.
        with contextlib.suppress(OSError):
            while silence_s is None or select.select([0], [], [], silence_s)[0]:
                if not os.read(0, 4096):
                    break
                if heard is not None:
                    heard.touch()
        gone.set()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    return gone


def signal_name(returncode: int) -> str | None:
    """Return the name of the signal that ended a process, or `None`."""
    if returncode >= 0:
        return None
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def oom_kills() -> int:
    """Return how many processes the kernel has ended for want of memory, as far as it says."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
