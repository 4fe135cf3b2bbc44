"""Unpacking a bundle: only what its statement lists, only into a new folder of one's own."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from repro import bundle
from repro.bundle import archive
from repro.errors import Refused, ReproError, UsageError


def extract(path: Path, folder: Path) -> tuple[str, ...]:
    """Write the bundle's files into `folder`, which must not exist; return their names.

    The folder is the caller's alone (0700). Nothing is left of it when anything is wrong.
    """
    opened = bundle.read(path)
    listed = {item.name: item.digest.sha256 for item in opened.statement.subject}
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UsageError(f"{folder} is there already", "name a new folder") from None
    except OSError as error:
        raise ReproError(f"can't make {folder} ({error.strerror})", "name another one") from None
    try:
        with archive.opened(path) as zipped:
            for name in zipped.names:
                data = zipped.read(name)
                # The file may have been exchanged since it was examined.
                if name in listed and hashlib.sha256(data).hexdigest() != listed[name]:
                    raise Refused(f"{name} changed while it was read")
                _write(folder, Path(name), data)
            return zipped.names
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ReproError(f"can't write to {folder} ({error.strerror})", "name another one") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(folder: Path, name: Path, data: bytes) -> None:
    # `mkdir(parents=True)` would give the ones between the user's usual mode.
    for parent in reversed(name.parents):
        (folder / parent).mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(folder / name, flags, 0o600), "wb") as file:
        file.write(data)
