"""The place `docker`: the worker in a container of its own, on this machine's engine or a board's.

Kit source and job go in before the start, records come out after the end, both through the engine's API; no
path of the caller is mounted. The worker's lifeline is the container's standard input: when the caller, the
link or the engine goes away, it closes and the worker ends. Over a link that can freeze, where nothing
closes, the caller also lets itself be heard, and a worker that hears nothing ends too. A container is
removed once its result was fetched; one that could not be reached is found again by its run.
"""

from __future__ import annotations

import contextlib
import io
import queue
import socket
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from repro.containers import Engine, answering, connect, first_line
from repro.errors import Lost, ReproError, Unavailable
from repro.launch import holder, options
from repro.schema import Job
from repro.worker import Progress

LOOK_S = 5.0
"""How often the engine is asked whether the container still runs."""
RETURN_S = 15.0
"""How long an engine that went away is waited for."""
END_S = 5.0
"""How long a worker has to end by itself once its lifeline is closed."""
SPARE_S = 60.0
"""Beyond the job's own time-outs: then the worker itself no longer answers."""
WHERE = "engine.json"
"""File of a work folder that says where its container is; it stays on this machine."""

Tell = Callable[[Progress], None]
Say = Callable[[str], None]


class Stood(msgspec.Struct, frozen=True):
    """Where a run's container was made, and in which boot of that machine."""

    url: str
    boot: str | None


def launch(
    engine: Engine,
    wanted: options.Wanted,
    job_folder: Path,
    out: Path,
    tell: Tell,
    say: Say = lambda _: None,
) -> str | None:
    """Run the worker on `job_folder` in a container, until its records lie under `out`.

    Returns `None`, or how the worker ended before it had written them; raises `Lost` when the engine went
    away and did not come back, and `Unavailable` when it refuses the container.
    """
    job = msgspec.json.decode((job_folder / "job.json").read_bytes(), type=Job)
    out.mkdir()
    api = engine.client.api
    stood = Stood(engine.url, engine.boot_id())
    (out.parent / WHERE).write_bytes(msgspec.json.encode(stood))
    opened = engine.link.opened if engine.link else 0
    with answering("making the container"):
        container = create(api, options.request(wanted), say)
    try:
        with answering("copying the job in"), tempfile.TemporaryFile() as file:
            pack(job_folder, file)
            file.seek(0)
            api.put_archive(container, options.HOME, file)
        ended = _attend(engine, container, job, out, tell)
    except (Lost, KeyboardInterrupt) as error:
        # What the worker had found out is kept, if the engine is there to give it.
        with contextlib.suppress(ReproError):
            _back(engine)
            _stop(api, container)
            fetch(api, container, out)
            remove(api, container)
            if isinstance(error, Lost):
                return f"{_underneath(engine, stood, opened) or error.what}; the worker was ended"
        if isinstance(error, Lost):
            raise _gone(engine, error) from None
        raise
    except BaseException:
        remove(api, container)
        raise
    try:
        fetch(api, container, out)
    except Lost:
        _back(engine)
        fetch(api, container, out)
    remove(api, container)
    return ended and (_underneath(engine, stood, opened) or ended)


def recover(job: Job, out: Path) -> str | None:
    """Fetch what the container of a job left, where its engine still has it, after a run that was cut off.

    Returns what is known of how it was cut off.
    """
    if out.exists() and any(out.glob("session.json")):
        return None
    stood = None
    with contextlib.suppress(OSError):
        stood = msgspec.json.decode((out.parent / WHERE).read_bytes(), type=Stood)
    engine = connect(stood.url if stood else None)
    api = engine.client.api
    try:
        with answering("looking for the container"):
            found = api.containers(all=True, filters={"label": f"{holder.RUN}={job.run_id}"})
        if not found:
            return None
        container = found[0]["Id"]
        _stop(api, container)
        out.mkdir(exist_ok=True)
        fetch(api, container, out)
        remove(api, container)
        return _underneath(engine, stood, 1) if stood else None
    finally:
        engine.close()


def _underneath(engine: Engine, stood: Stood, opened: int) -> str | None:
    """Return what happened to the machine or the link under a worker that ended early, where it is known.

    `opened` is how often the link had been opened when the worker started.
    """
    with contextlib.suppress(ReproError):
        if stood.boot is not None and engine.boot_id() != stood.boot:
            return "the board was rebooted while the worker ran"
    if engine.link and engine.link.opened != opened:
        return "the link to the board was lost while the worker ran"
    return None


def create(api: Any, body: dict[str, Any], say: Say = lambda _: None) -> str:
    """Create the container and return its id; raise `Unavailable` where another run has its name."""
    from docker import errors

    try:
        return str(api.create_container_from_config(body, options.NAME)["Id"])
    except errors.APIError as error:
        if error.response is None or error.response.status_code != 409:
            raise _refused(error) from None
    holder.free(api, _stop, say)
    return create(api, body, say)


def _refused(error: Exception) -> Unavailable:
    """Say why the engine makes or starts no such container."""
    said = first_line(error)
    hint = "see the engine's log"
    for words, better in (
        ("unknown or invalid runtime name", "install nvidia-container-toolkit: nvidia-ctk runtime configure"),
        ("could not select device driver", "install nvidia-container-toolkit: nvidia-ctk runtime configure"),
        ("bind source path does not exist", "the engine's machine is no such board"),
        ("no space left on device", "make room, for example by docker system prune"),
        ("No such image", "`repro images build` makes it"),
    ):
        if words in said:
            hint = better
    return Unavailable(f"Docker refuses the container ({said})", hint)


def pack(job_folder: Path, file: Any) -> None:
    """Write what goes into the container: the kit's source, the job, and a folder for the records.

    All of it belongs to root and is readable by all, but the folder for the records: that is the worker's.
    """
    package = Path(__file__).parents[1]
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("kit", "job", "out"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            if name == "out":
                folder.uid = folder.gid = options.UID
            tar.addfile(folder)
        for source, target in ((package, "kit/repro"), (job_folder, "job")):
            for path in sorted(source.rglob("*")):
                # What the bundle says beside its records, and what is private, stays here.
                if not path.is_file() or "__pycache__" in path.parts or path.name == "said.json":
                    continue
                data = path.read_bytes()
                member = tarfile.TarInfo(f"{target}/{path.relative_to(source).as_posix()}")
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))


# --- while it runs -----------------------------------------------------------------------------------


def _attend(engine: Engine, container: str, job: Job, out: Path, tell: Tell) -> str | None:
    """Start the container and pass on its progress until it ends; return how, or `None` if well."""
    from docker import errors

    api = engine.client.api
    with answering("starting the container"):
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        # Open until the end: closing it is what ends the worker.
        attached = api.attach_socket(container, params=streams)
        try:
            api.start(container)
        except errors.APIError as error:
            raise _refused(error) from None
    lines: queue.Queue[bytes | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(attached, out / "worker.log", lines), daemon=True)
    reader.start()
    patience_s = max(job.timeout_build_s, job.timeout_run_s) + SPARE_S
    heard = looked = beat = time.monotonic()
    try:
        while True:
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=1.0)
                if line is None:
                    break
                heard = time.monotonic()
                # A line that isn't progress is noise of the interpreter; the log is elsewhere.
                with contextlib.suppress(msgspec.DecodeError):
                    tell(msgspec.json.decode(line, type=Progress))
            now = time.monotonic()
            if engine.remote and now - beat > holder.BEAT_S:
                beat = now
                # A link that is gone is noticed by the looks below.
                with contextlib.suppress(OSError):
                    _connection(attached).sendall(b"\n")
            if now - looked > LOOK_S:
                with answering("the worker ran"):
                    if not api.inspect_container(container)["State"]["Running"]:
                        break
                looked = now
            if now - heard > patience_s:
                _stop(api, container)
                return f"the worker did not answer for {patience_s:.0f} s"
        with answering("waiting for the worker's end"):
            api.wait(container, timeout=RETURN_S)
            return _ended(api.inspect_container(container)["State"])
    finally:
        _hang_up(attached)


def _hang_up(attached: Any) -> None:
    """Close the worker's lifeline at once: the reader holds it open, and so does the SDK's connection."""
    connection = _connection(attached)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    attached.close()


def _connection(attached: Any) -> Any:
    """Return the socket under what the SDK gives: a file over it."""
    return getattr(attached, "_sock", attached)


def _read(attached: Any, log: Path, lines: queue.Queue[bytes | None]) -> None:
    """Put the worker's lines of progress into `lines`, and what it says else into its log; one thread."""
    from docker.utils.socket import STDOUT, frames_iter

    rest = b""
    with log.open("wb") as file, contextlib.suppress(OSError, ValueError):
        for stream, data in frames_iter(attached, tty=False):
            if stream != STDOUT:
                file.write(data)
                continue
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                lines.put(line)
    lines.put(None)


def _ended(state: dict[str, Any]) -> str | None:
    """Return how a container ended before its records were written, `None` where it did not."""
    status = int(state["ExitCode"])
    if state.get("OOMKilled"):
        return "the kernel ended the worker: out of memory"
    if status > 128:
        return f"the worker was ended by signal {status - 128}"
    return f"the worker was ended by status {status}" if status else None


def _back(engine: Engine) -> None:
    """Wait until the engine answers again; raise `Lost` where it does not."""
    deadline = time.monotonic() + RETURN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Lost), answering("waiting for it"):
            engine.client.api.ping()
            return
        time.sleep(0.5)
    raise Lost("Docker went away", "start Docker again")


def _gone(engine: Engine, error: Lost) -> Lost:
    """Return the loss of an engine that did not come back, with what its machine says."""
    if engine.link is None:
        return Lost(f"{error.what}, and did not come back", error.hint)
    said = engine.link.said() or "no connection"
    hint = f"when `{engine.link.target.command}` gets through"
    return Lost(f"{error.what}, and did not come back ({said})", hint)


# --- after it ----------------------------------------------------------------------------------------


def _stop(api: Any, container: str) -> None:
    """End a container: it ends by itself once its lifeline closed; then by SIGKILL."""
    from docker import errors

    deadline = time.monotonic() + END_S
    with answering("stopping the container"):
        while api.inspect_container(container)["State"]["Running"]:
            if time.monotonic() > deadline:
                with contextlib.suppress(errors.APIError):
                    api.kill(container)
                api.wait(container, timeout=RETURN_S)
                return
            time.sleep(0.1)


def fetch(api: Any, container: str, out: Path) -> None:
    """Copy what the worker wrote into `out`."""
    with answering("copying the records out"), tempfile.TemporaryFile() as file:
        chunks, _ = api.get_archive(container, options.OUT)
        for chunk in chunks:
            file.write(chunk)
        file.seek(0)
        for name, data in unpacked(file):
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def unpacked(file: Any) -> Iterator[tuple[str, bytes]]:
    """Give the plain files of the container's answer, by their names below its first folder.

    What a container holds is not trusted: links, devices and paths that lead elsewhere are left out.
    """
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            parts = member.name.split("/")[1:]
            if not member.isreg() or not parts or any(part in ("", ".", "..") for part in parts):
                continue
            content = tar.extractfile(member)
            if content is not None:
                yield "/".join(parts), content.read()


def remove(api: Any, container: str) -> None:
    """Remove a container with its volume, whatever state it is in."""
    from docker import errors

    with contextlib.suppress(errors.APIError, Lost), answering("removing the container"):
        api.remove_container(container, v=True, force=True)
