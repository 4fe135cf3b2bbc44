"""Who holds the container's name on an engine, and whether that caller still lives.

The name is the board's lock: the engine gives it once, whoever asks from wherever. A caller that is gone
leaves it behind. Whether it is gone is known for sure on the machine it ran on, by its process; from
elsewhere by what stopped: the worker notes when it last heard its caller, and an ended container is
fetched within seconds by a caller that lives. What a dead run measured is put aside, never dropped.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.bundle import privacy
from repro.errors import Unavailable
from repro.launch import options

CASE, RUN, STARTED, CALLER = "trt-repro.case", "trt-repro.run", "trt-repro.started", "trt-repro.caller"
HEARD = "heard"
"""File among the records whose time is when the worker last heard its caller."""
BEAT_S = 4.0
"""How often a caller on another machine lets its worker hear it."""
SILENCE_S = 20.0
"""How long a worker goes on without hearing it."""
UNHEARD_S = 60.0
"""A worker that heard nothing for so long has not even ended itself: it hangs."""
PREPARED_S = 600.0
"""Longest time that copying a job in takes, for a caller that can't be looked at."""
FETCHED_S = 120.0
"""Longest time until a living caller has fetched what an ended container holds."""

Say = Callable[[str], None]
Stop = Callable[[Any, str], None]


def caller() -> str:
    """Return what names this process on this machine and boot, and nowhere else anything."""
    return f"{_machine()}.{os.getpid()}"


def _machine() -> str:
    parts = [privacy.of_machine().key_id]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if "ns/" in path else Path(path).read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def lives(label: str | None) -> bool | None:
    """Tell whether the caller of a label still runs; `None` where it ran elsewhere."""
    machine, _, pid = (label or "").partition(".")
    if machine != _machine() or not pid.isdigit():
        return None
    if int(pid) == os.getpid():
        return False  # It asks for the name now, so that run of its own is over.
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def free(api: Any, stop: Stop, say: Say) -> None:
    """Free the name where its holder is dead; raise `Unavailable`, naming the run, where it is not.

    `stop` ends a container. What a dead run measured stays on the engine until `repro seal` fetches it.
    """
    from docker import errors

    try:
        seen = api.inspect_container(options.NAME)
    except errors.NotFound:
        return
    labels, state, container = seen["Config"]["Labels"] or {}, seen["State"], str(seen["Id"])
    run = labels.get(RUN, "unknown")
    told = f"{labels.get(CASE, 'unknown')}, run {run}, since {labels.get(STARTED, 'unknown')}"
    living = lives(labels.get(CALLER))
    if state["Running"]:
        if living is not False and not _unheard(api, container):
            raise Unavailable(f"another run is going on here ({told})", "wait until it has ended")
        stop(api, container)
    elif state["Status"] == "created":
        if living if living is not None else _age_s(api, seen["Created"]) < PREPARED_S:
            raise Unavailable(
                f"another run is being prepared here ({told})",
                f"wait, or if its caller is gone: `docker rm -v {options.NAME}` there",
            )
    elif living if living is not None else _age_s(api, state["FinishedAt"]) < FETCHED_S:
        raise Unavailable(f"another run has just ended here, and is being fetched ({told})", "wait a moment")
    if RUN not in labels or _stat(api, container, "session.json") is None:
        api.remove_container(container, v=True)
        say(f"note: removed the container of run {run}, whose caller is gone; nothing was measured in it")
        return
    kept = f"{options.NAME}-{run}"
    api.rename(container, kept)
    say(
        f"note: the caller of run {run} is gone; what it measured is put aside as container {kept}: "
        f"`repro seal work/{run}` fetches it, `docker rm -v {kept}` drops it"
    )


def _unheard(api: Any, container: str) -> bool:
    """Tell whether a worker that should hear a caller has not for long."""
    seen = _stat(api, container, HEARD)
    return seen is not None and _age_s(api, str(seen["mtime"])) > UNHEARD_S


def _stat(api: Any, container: str, name: str) -> dict[str, Any] | None:
    """Return what the engine says of one of the records' files, `None` where there is none."""
    from docker import errors

    try:
        chunks, seen = api.get_archive(container, f"{options.OUT}/{name}")
    except errors.NotFound:
        return None
    for _ in chunks:
        pass
    return dict(seen)


def _age_s(api: Any, time: str) -> float:
    """Return how long ago a time of the engine's machine was, by that machine's clock."""
    now = api.info().get("SystemTime")
    if not now:
        return 0.0
    return (_parsed(str(now)) - _parsed(time)).total_seconds()


def _parsed(time: str) -> datetime.datetime:
    """Return a time as Docker writes it: nanoseconds, and `Z` or an offset."""
    cut = re.sub(r"(\.\d{1,6})\d*", lambda found: found[1].ljust(7, "0"), time)
    return datetime.datetime.fromisoformat(cut.replace("Z", "+00:00"))
