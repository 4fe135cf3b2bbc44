"""The bundle's container: a zip file in exactly one form.

Sorted ASCII names, one fixed date, one mode, no extra fields, comments, descriptors or zip64; DEFLATE
or, where that isn't smaller, STORED. The reader rebuilds every header as this writer would have written
it and compares the bytes, so nothing can hide between, before or behind the members, and no two zip
readers can disagree on the content. Members are unpacked in parts, so checking takes little memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from repro.errors import Refused, ReproError

MAX_MEMBERS = 2_000
MAX_MEMBER_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 256 * 2**20
MAX_NAME_BYTES = 200
CHUNK_BYTES = 128 * 2**10
"""How much of a member is held at once while it is checked."""
DEFLATE_LEVEL = 6

_STORED, _DEFLATED = 0, 8
_VERSION = 20
_CREATED_BY_UNIX = 3 << 8 | _VERSION
_DATE_1980_01_01 = 0x0021
_MODE = 0o100644 << 16
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class Member(NamedTuple):
    """One file of the archive as its headers describe it."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    offset: int

    def fields(self) -> tuple[int, ...]:
        """Return what local and central header have in common."""
        return (0, self.method, 0, _DATE_1980_01_01, self.crc, self.packed, self.size)

    def local(self) -> bytes:
        """Return the local header."""
        name = self.name.encode("ascii")
        return _LOCAL.pack(b"PK\3\4", _VERSION, *self.fields(), len(name), 0) + name

    def central(self) -> bytes:
        """Return the entry of the central directory."""
        name = self.name.encode("ascii")
        fixed = (len(name), 0, 0, 0, 0, _MODE, self.offset)
        return _CENTRAL.pack(b"PK\1\2", _CREATED_BY_UNIX, _VERSION, *self.fields(), *fixed) + name


def name_problem(name: str) -> str | None:
    """Return why `name` can't be a member's name, or `None`."""
    if not 0 < len(name) <= MAX_NAME_BYTES:
        return "its length"
    for segment in name.split("/"):
        if not _SEGMENT.fullmatch(segment):
            return "its characters"
        if segment.endswith(".") or _RESERVED.fullmatch(segment):
            return "not allowed on every system"
    return None


def names_problem(names: list[str]) -> str | None:
    """Return why these names can't stand in one archive, or `None`."""
    folded: set[str] = set()
    folders: set[str] = set()
    for name in names:
        if problem := name_problem(name):
            return f"member name {name!r}: {problem}"
        if name.casefold() in folded:
            return f"member name {name!r}: stands there twice, by letter case at least"
        folded.add(name.casefold())
        parts = name.casefold().split("/")
        folders.update("/".join(parts[:i]) for i in range(1, len(parts)))
    if clash := folded & folders:
        return f"member name {min(clash)!r}: is a file and a folder"
    return None


def write(file: IO[bytes], members: Mapping[str, bytes]) -> int:
    """Write the archive and return its size; raise `ReproError` where a limit is exceeded."""
    names = sorted(members)
    if problem := names_problem(names):
        raise ReproError(problem, "this is a fault of the kit; please report it")
    if len(names) > MAX_MEMBERS or sum(map(len, members.values())) > MAX_TOTAL_BYTES:
        raise ReproError("the bundle would have too many files or bytes", "use fewer variants or builds")
    directory = b""
    offset = 0
    for name in names:
        data = members[name]
        if len(data) > MAX_MEMBER_BYTES:
            raise ReproError(f"{name} has {len(data)} bytes", f"{MAX_MEMBER_BYTES} are allowed")
        packer = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -15)
        packed = packer.compress(data) + packer.flush()
        method = _DEFLATED
        if len(packed) >= len(data):
            method, packed = _STORED, data
        member = Member(name, method, zlib.crc32(data), len(packed), len(data), offset)
        header = member.local()
        file.write(header)
        file.write(packed)
        directory += member.central()
        offset += len(header) + len(packed)
    count = len(names)
    end = _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), offset, 0)
    file.write(directory + end)
    return offset + len(directory) + len(end)


class Archive:
    """An opened archive in canonical form; its members can be read from several threads at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._members = {member.name: member for member in _parse(self._at, file.seek(0, os.SEEK_END))}

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, sorted."""
        return tuple(self._members)

    def size(self, name: str) -> int:
        """Return a member's size in bytes."""
        return self._members[name].size

    def read(self, name: str) -> bytes:
        """Return a member's content; raise `Refused` when it isn't what its header says."""
        return b"".join(self._content(self._members[name]))

    def sha256(self, name: str) -> str:
        """Return the digest of a member without holding it; raise `Refused` as `read` does."""
        digest = hashlib.sha256()
        for part in self._content(self._members[name]):
            digest.update(part)
        return digest.hexdigest()

    def _at(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, fewer where it ends."""
        try:
            with self._lock:
                self._file.seek(offset)
                return self._file.read(length)
        except OSError as error:
            raise ReproError(f"the bundle can't be read ({error.strerror})", "copy it elsewhere") from None

    def _packed(self, member: Member) -> Iterator[bytes]:
        at = member.offset + _LOCAL.size + len(member.name)
        end = at + member.packed
        while at < end:
            part = self._at(at, min(CHUNK_BYTES, end - at))
            if not part:
                raise Refused("it was cut short while it was read")
            yield part
            at += len(part)

    def _content(self, member: Member) -> Iterator[bytes]:
        """Give a member's content in parts; raise `Refused` after the last good one at the latest."""
        parts = self._packed(member)
        size = crc = 0
        for part in parts if member.method == _STORED else _unpacked(member.name, parts):
            size += len(part)
            if size > member.size:
                break
            crc = zlib.crc32(part, crc)
            yield part
        if size != member.size:
            raise Refused(f"{member.name}: its data is not as long as it says")
        if crc != member.crc:
            raise Refused(f"{member.name}: its content is damaged")


def _unpacked(name: str, parts: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack a deflated stream that ends with the last of `parts`, never much at once."""
    unpacker = zlib.decompressobj(-15)
    try:
        for packed in parts:
            if unpacker.eof:
                raise Refused(f"{name}: its data is not as long as it says")
            rest = packed
            # Behind its end a stream consumes nothing, so what is left there would be left forever.
            while rest and not unpacker.eof:
                yield unpacker.decompress(rest, CHUNK_BYTES)
                rest = unpacker.unconsumed_tail
        # What is unpacked but not handed out yet.
        while not unpacker.eof:
            part = unpacker.decompress(b"", CHUNK_BYTES)
            if not (part or unpacker.eof):
                raise Refused(f"{name}: its data is cut short")
            yield part
    except zlib.error:
        raise Refused(f"{name}: its data can't be unpacked") from None
    if unpacker.unused_data:
        raise Refused(f"{name}: its data is not as long as it says")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open the archive at `path`; raise `Refused` for anything but the canonical form."""
    try:
        # A pipe would be waited for.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ReproError(f"{path} is not a regular file", "name a bundle's file")
        file = path.open("rb", buffering=0)
    except IsADirectoryError:
        raise ReproError(f"{path} is a folder", "name the bundle's file") from None
    except FileNotFoundError:
        raise ReproError(f"{path} does not exist", "name a bundle's file") from None
    except PermissionError:
        raise ReproError(f"{path} can't be read", "check its permissions") from None
    except OSError as error:
        raise ReproError(f"{path} can't be read ({error.strerror})", "name a bundle's file") from None
    with file:
        yield Archive(file)


def _parse(at: Callable[[int, int], bytes], file_size: int) -> Iterator[Member]:
    """Check the whole container, and give its members in order; `at(offset, length)` reads it."""
    end_at = file_size - _END.size
    if end_at < 0:
        raise Refused("it is not a zip file: too short")
    end = at(end_at, _END.size)
    if len(end) != _END.size or not end.startswith(b"PK\5\6"):
        raise Refused("it is not a zip file in canonical form: no end record at its very end")
    _, *numbers = _END.unpack(end)
    disk, directory_disk, here, count, directory_size, directory_at, comment = numbers
    if disk or directory_disk or here != count or comment:
        raise Refused("its end record is not canonical")
    if count > MAX_MEMBERS:
        raise Refused(f"it lists {count} members; {MAX_MEMBERS} are allowed")
    if directory_at + directory_size != end_at:
        raise Refused("something stands before, between or behind its parts")
    if directory_size > count * (_CENTRAL.size + MAX_NAME_BYTES):
        raise Refused("its directory is longer than its members' entries can be")
    directory = at(directory_at, directory_size)
    members: list[Member] = []
    position = 0
    expected_offset = 0
    total = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise Refused("its directory is cut short")
        fields = _CENTRAL.unpack_from(directory, position)
        begin = position + _CENTRAL.size
        try:
            name = directory[begin : begin + fields[10]].decode("ascii")
        except UnicodeDecodeError:
            raise Refused("a member's name is not ASCII") from None
        method, crc, packed, size, offset = fields[4], fields[7], fields[8], fields[9], fields[16]
        member = Member(name, method, crc, packed, size, offset)
        entry = member.central()
        if not directory.startswith(entry, position) or method not in (_STORED, _DEFLATED):
            raise Refused(f"the directory entry of {name!r} is not canonical")
        if size > MAX_MEMBER_BYTES:
            raise Refused(f"{name!r} claims {size} bytes; {MAX_MEMBER_BYTES} are allowed")
        if packed != size if method == _STORED else packed >= size:
            raise Refused(f"{name!r} is packed to {packed} bytes from {size}, which this method never does")
        total += size
        header = member.local()
        if offset != expected_offset or at(offset, len(header)) != header:
            raise Refused(f"the header of {name!r} disagrees with the directory")
        expected_offset = offset + len(header) + packed
        position += len(entry)
        members.append(member)
    if position != len(directory) or expected_offset != directory_at:
        raise Refused("something stands before, between or behind its members")
    if total > MAX_TOTAL_BYTES:
        raise Refused(f"it unpacks to {total} bytes; {MAX_TOTAL_BYTES} are allowed")
    names = [member.name for member in members]
    if names != sorted(names):
        raise Refused("its members are not in order")
    if problem := names_problem(names):
        raise Refused(problem)
    yield from members
