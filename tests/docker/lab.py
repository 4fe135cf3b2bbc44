"""A board for tests: a second engine behind a real sshd on loopback, with a disk and a boot of its own.

Everything lies in one folder. The board's boot id is a file that its sshd sees in the kernel's place; its
disk is a file with a file system. `ssh` in `bin/` is the system's, with a configuration of the board's own,
for the system's ssh reads that of the user whatever HOME says. Needs root, sshd and loop devices.

`python -m tests.docker.lab start FOLDER` starts one, and prints what a shell must set to reach it as $BOARD;
`… stop FOLDER` ends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.docker import engine

SSHD = "/usr/sbin/sshd"
DISK_BYTES = 4 * 2**30
ALIAS = "board"


class Board:
    """The board: what a user sees of it, and what can happen to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port_file = folder / "port"
        self.port = int(self._port_file.read_text()) if self._port_file.exists() else _free_port()
        self.known_hosts = folder / "known_hosts"
        self.boot_id = folder / "boot_id"
        self.engine_folder = folder / "disk"

    @property
    def url(self) -> str:
        return f"ssh://root@127.0.0.1:{self.port}"

    @property
    def local_url(self) -> str:
        return engine.url(self.engine_folder)

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def make(self) -> None:
        """Make disk, keys and configuration, and start it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._port_file.write_text(str(self.port))
        for name in ("host_key", "user_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True
            )
        public = (self.folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        (self.folder / "authorized_keys").write_text((self.folder / "user_key.pub").read_text())
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host_key\n"
            f"PidFile {self.folder}/sshd.pid\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPermitRootLogin prohibit-password\n"
            f"SetEnv DOCKER_HOST={self.local_url} PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\n"
        )
        (self.folder / "ssh_config").write_text(
            f"Host {ALIAS}\n HostName 127.0.0.1\n Port {self.port}\n User root\n"
            f"Host *\n IdentityFile {self.folder}/user_key\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {self.known_hosts}\n GlobalKnownHostsFile /dev/null\n"
        )
        shim = self.folder / "bin" / "ssh"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {self.folder}/ssh_config "$@"\n')
        shim.chmod(0o755)
        disk = self.folder / "disk.img"
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", disk], check=True)
        self.engine_folder.mkdir()
        subprocess.run(["mount", "-o", "loop", disk, self.engine_folder], check=True)
        self.start()

    def destroy(self) -> None:
        self.stop_link()
        engine.stop(self.engine_folder)
        subprocess.run(["umount", "--lazy", self.engine_folder], check=False)

    # --- the board as such ------------------------------------------------------------------------

    def start(self) -> None:
        """Boot it: a new boot id, an engine, an sshd."""
        self.boot_id.write_text(f"{uuid.uuid4()}\n")
        engine.start(self.engine_folder)
        self.start_link()

    def reboot_begins(self) -> None:
        """Take everything down at once, as when the power goes."""
        self.kill_link(listener=True)
        self.kill_engine(containers=True)

    def kill_engine(self, *, containers: bool = False) -> None:
        os.kill(engine.pid(self.local_url), signal.SIGKILL)
        if containers:
            for pid in _processes_naming(str(self.engine_folder)):
                for each in (*_descendants(pid), pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)

    # --- its link ---------------------------------------------------------------------------------

    def start_link(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        script = (
            f"mount --bind {self.boot_id} /proc/sys/kernel/random/boot_id && "
            f"exec {SSHD} -D -f {self.folder}/sshd_config -E {self.folder}/sshd.log"
        )
        subprocess.run(
            ["sh", "-c", '"$@" &', "sh", "setsid", "unshare", "--mount", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def reload_sshd(self) -> None:
        """Have new connections served by what the configuration says now."""
        os.kill(self._sshd(), signal.SIGKILL)
        self.start_link()

    def stop_link(self) -> None:
        self.kill_link(listener=True)

    def sessions(self) -> list[int]:
        """Return the processes of sshd that serve connections."""
        return _descendants(self._sshd(), name="sshd")

    def kill_link(self, *, listener: bool = False) -> None:
        pids = self.sessions()
        if listener:
            pids.append(self._sshd())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze_link(self) -> list[int]:
        """Stop the processes that serve the link: nothing is closed, and nothing is answered."""
        pids = self.sessions()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def freeze_listener(self) -> list[int]:
        """Let nobody connect either."""
        os.kill(self._sshd(), signal.SIGSTOP)
        return [self._sshd()]

    # --- its disk ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Fill the disk."""
        filler = self.engine_folder / "filler"
        free = os.statvfs(self.engine_folder)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - 4096)
        # What fallocate left, block by block.
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            filler.unlink()

    def _sshd(self) -> int:
        return int((self.folder / "sshd.pid").read_text())


def _free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def _descendants(pid: int, name: str | None = None) -> list[int]:
    """Return the processes below one, all or those of a name."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if name in (None, Path(f"/proc/{child}/comm").read_text().strip()):
                    found.append(int(child))
            found += _descendants(int(child), name)
    return found


def _processes_naming(text: str) -> list[int]:
    """Return the processes whose command line names a path."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text in each.read_bytes().decode(errors="replace") and int(each.parent.name) != os.getpid():
                found.append(int(each.parent.name))
    return found


if __name__ == "__main__":
    board = Board(Path(sys.argv[2]).absolute())
    if sys.argv[1] == "stop":
        board.destroy()
    else:
        board.make()
        print(f"export BOARD='{board.url}' PATH='{board.environment()['PATH']}'")
