"""A board over ssh: its shell, its files, and its Docker engine behind a socket of this machine.

The system's `ssh` is used, so its configuration, agent, jump hosts and known host keys hold, and what a
shell can reach the kit can reach. One connection is opened; each connection to the engine is a session in
it (`docker system dial-stdio`), joined to a socket in a private folder. The SDK speaks to that socket like
to a local engine, so its time-outs hold here too; a link that freezes is ended by ssh itself. When this
process ends, in whatever way, the sessions and the connection end with it.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from repro import proc
from repro.errors import Lost, ReproError, Unavailable, UsageError

CONNECT_S = 10
"""Longest wait for the board to take the connection; its log-in may take as long again."""
ALIVE_S, ALIVE_COUNT = 3, 3
"""A link that answers nothing for their product is frozen, and ended."""
ASK_S = 20.0
READY = "trt-repro-ready"
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": str(ALIVE_S),
    "ServerAliveCountMax": str(ALIVE_COUNT),
    "ClearAllForwardings": "yes",
    "ControlPersist": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "LogLevel": "ERROR",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
"""What must hold whatever the user's configuration says."""


class Target(msgspec.Struct, frozen=True):
    """Where a board is: the parts of `ssh://user@host:port/path of the engine's socket`."""

    host: str
    user: str | None = None
    port: int | None = None
    socket: str | None = None

    @property
    def place(self) -> list[str]:
        """The arguments that name the board to ssh; without a port, ssh's configuration gives it."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port else []
        return [*user, *port, "--", self.host]

    @property
    def command(self) -> str:
        """The ssh command that a user types to get there."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}{f'{self.user}@' if self.user else ''}{self.host}"

    @property
    def known_as(self) -> str:
        """The board's name in a file of known hosts."""
        return f"[{self.host}]:{self.port}" if self.port not in (None, 22) else self.host


def parse(url: str) -> Target:
    """Return the parts of `ssh://[user@]host[:port][/socket]`; raise `UsageError` for anything else."""
    form = "write ssh://user@host, or ssh://user@host:port"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url} is no address of a board ({error})", form) from None
    if parts.scheme != "ssh" or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"{url} is no address of a board", form)
    if parts.password is not None:
        raise UsageError("a password in the address would be seen by everybody", "use a key: ssh-copy-id")
    # urlsplit lowers the host, and ssh's configuration tells Orin from orin.
    host = parts.netloc.rpartition("@")[2]
    host = host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
    user = unquote(parts.username) if parts.username else None
    path = unquote(parts.path) if parts.path not in ("", "/") else None
    for name in (host, user or "x", path or "x"):
        if name.startswith("-") or not re.fullmatch(r"[^\s'\"`$\\;&|<>()]+", name):
            raise UsageError(f"{url} is no address of a board ({name!r})", form)
    return Target(host, user, port, path)


class Link:
    """One connection to a board, opened anew when it was lost and is needed again."""

    def __init__(self, target: Target) -> None:
        self.target = target
        # Short: a socket's path has at most 104 characters on some systems.
        self.folder = Path(tempfile.mkdtemp(prefix="repro-"))
        """A private folder that lives as long as the link."""
        self._log = self.folder / "log"
        self._master: proc.Child | None = None
        self._opening = threading.Lock()
        self._closed = False
        self.opened = 0
        """How often it was opened: more than before means that it was lost in between."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / "e"))
        self._listener.listen(16)
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """Address of the board's engine, for this process only."""
        return f"unix://{self.folder / 'e'}"

    def open(self) -> None:
        """Connect, if there is no connection; raise `Unavailable` with what mends it where there can't be."""
        with self._opening:
            if self._closed:
                raise Lost(f"the link to {self.target.host} is closed")
            if self._master is not None:
                if self._master.poll() is None:
                    return
                self._master.end()
            self._connect()

    def start(self) -> Link:
        """Connect, and serve the engine's socket from now on."""
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._accept, name="link", daemon=True).start()
        return self

    def ask(self, command: str) -> str:
        """Return what a command for the board's shell prints; raise `Lost` where the link is gone."""
        self.open()
        done = proc.run([*self._session(), command], timeout_s=ASK_S)
        if done.returncode == 255:
            raise Lost(f"the link to {self.target.host} was lost", f"try `{self.target.command}`")
        return done.stdout.decode(errors="replace")

    def said(self) -> str:
        """Return the last line that ssh, or Docker's command on the board, wrote to its log."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").strip().splitlines()
            return lines[-1][:200] if lines else ""
        return ""

    def close(self) -> None:
        """End the connection and everything in it."""
        self._closed = True
        atexit.unregister(self.close)
        with contextlib.suppress(OSError):
            # Closing alone does not wake a thread that waits in accept.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._master is not None:
            self._master.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- how --------------------------------------------------------------------------------------

    def _argv(self, *more: str) -> list[str]:
        options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-S", str(self.folder / "c"), *more, *options, *self.target.place]

    def _session(self) -> list[str]:
        # A server takes ten sessions in one connection (MaxSessions); beyond them ssh makes one of its own,
        # to which the same options apply.
        return self._argv("-o", "ControlMaster=no")

    def _connect(self) -> None:
        # One that was killed leaves its socket, and the next would have no sessions.
        (self.folder / "c").unlink(missing_ok=True)
        # `cat` lives as long as its input: so the connection ends with this process.
        with self._log.open("wb") as log:
            try:
                master = proc.Child(
                    [*self._argv("-M"), f"echo {READY} && exec cat >/dev/null"],
                    stdout=proc.Child.PIPE,
                    stderr=log,
                )
            except OSError as error:
                raise Unavailable(
                    f"can't start ssh ({error.strerror})", "apt install openssh-client"
                ) from None
        late = threading.Timer(2 * CONNECT_S, master.end, [0.0])
        late.start()
        noise = b""
        for line in master.lines():
            if line.strip() == READY.encode():
                break
            noise = noise or line.strip()
        else:
            late.cancel()
            master.end()
            raise refused(self.target, self._log.read_text(errors="replace"))
        late.cancel()
        if noise:
            master.end()
            raise Unavailable(
                f"the shell of {self.target.host} prints '{noise.decode(errors='replace')[:60]}' on log-in, "
                "and Docker can't speak through that",
                "let ~/.bashrc there print nothing for a shell that is not interactive",
            )
        self._master = master
        self.opened += 1

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Join one connection to the engine; what goes wrong ends it, and is in the log."""
        with connection, contextlib.suppress(ReproError, OSError):
            self.open()
            engine = f"--host unix://{self.target.socket} " if self.target.socket else ""
            with self._log.open("ab") as log:
                proc.join([*self._session(), f"docker {engine}system dial-stdio"], connection, log)


def refused(target: Target, said: str) -> Unavailable:
    """Say why there is no connection, from what ssh said, and what mends it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it does not answer"]
    host = target.host
    if "IDENTIFICATION HAS CHANGED" in said:
        return Unavailable(
            f"the host key of {host} has changed: another machine, or one installed anew",
            f"if it is the right one: ssh-keygen -R '{target.known_as}' && {target.command} true",
        )
    if "Host key verification failed" in said:
        return Unavailable(
            f"the host key of {host} is not known here",
            f"compare its fingerprint: {target.command} true",
        )
    if "Permission denied" in said:
        copy = target.command.replace("ssh ", "ssh-copy-id ", 1)
        return Unavailable(
            f"{host} takes none of your keys ({lines[-1]})", f"{copy}, or ssh-add if yours has a passphrase"
        )
    return Unavailable(f"can't reach {host} ({lines[-1][:200]})", f"try `{target.command}`")
