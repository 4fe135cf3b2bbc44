"""The bundle's container: a zip file in exactly one form.

Sorted ASCII names, one fixed date, one mode, no extra fields, comments, descriptors or zip64; DEFLATE
or, where that isn't smaller, STORED. The reader rebuilds every header as this writer would have written
it and compares the bytes, so nothing can hide between, before or behind the members, and no two zip
readers can disagree on the content. Everything is checked before any member is returned.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from repro.errors import Refused, ReproError

MAX_MEMBERS = 2_000
MAX_MEMBER_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 256 * 2**20
MAX_NAME_BYTES = 200
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
    """An opened archive in canonical form; `read` checks a member's length and CRC."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._members = {member.name: member for member in _parse(data)}

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, sorted."""
        return tuple(self._members)

    def size(self, name: str) -> int:
        """Return a member's size in bytes."""
        return self._members[name].size

    def read(self, name: str) -> bytes:
        """Return a member's content; raise `Refused` when it isn't what its header says."""
        member = self._members[name]
        begin = member.offset + _LOCAL.size + len(name)
        raw = memoryview(self._data)[begin : begin + member.packed]
        try:
            if member.method == _STORED:
                content = bytes(raw)
            else:
                unpacker = zlib.decompressobj(-15)
                content = unpacker.decompress(raw, member.size + 1)
                if not unpacker.eof or unpacker.unused_data or unpacker.unconsumed_tail:
                    raise Refused(f"{name}: its data is not as long as it says")
        except zlib.error:
            raise Refused(f"{name}: its data can't be unpacked") from None
        finally:
            raw.release()
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise Refused(f"{name}: its content is damaged")
        return content


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open the archive at `path`; raise `Refused` for anything but the canonical form."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size < _END.size:
                raise Refused("it is not a zip file: too short")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield Archive(data)
    except IsADirectoryError:
        raise ReproError(f"{path} is a folder", "name the bundle's file") from None
    except FileNotFoundError:
        raise ReproError(f"{path} does not exist", "name a bundle's file") from None
    except PermissionError:
        raise ReproError(f"{path} can't be read", "check its permissions") from None


def _parse(data: bytes | mmap.mmap) -> Iterator[Member]:
    """Check the whole container, and give its members in order."""
    end_at = len(data) - _END.size
    if end_at < 0 or data[end_at : end_at + 4] != b"PK\5\6":
        raise Refused("it is not a zip file in canonical form: no end record at its very end")
    _, *numbers = _END.unpack(data[end_at:])
    disk, directory_disk, here, count, directory_size, directory_at, comment = numbers
    if disk or directory_disk or here != count or comment:
        raise Refused("its end record is not canonical")
    if count > MAX_MEMBERS:
        raise Refused(f"it lists {count} members; {MAX_MEMBERS} are allowed")
    if directory_at + directory_size != end_at:
        raise Refused("something stands before, between or behind its parts")
    members: list[Member] = []
    at = directory_at
    expected_offset = 0
    total = 0
    for _ in range(count):
        if at + _CENTRAL.size > end_at:
            raise Refused("its directory is cut short")
        fields = _CENTRAL.unpack(data[at : at + _CENTRAL.size])
        length = fields[10]
        try:
            name = data[at + _CENTRAL.size : at + _CENTRAL.size + length].decode("ascii")
        except UnicodeDecodeError:
            raise Refused("a member's name is not ASCII") from None
        method, crc, packed, size, offset = fields[4], fields[7], fields[8], fields[9], fields[16]
        member = Member(name, method, crc, packed, size, offset)
        entry = member.central()
        if data[at : at + len(entry)] != entry or method not in (_STORED, _DEFLATED):
            raise Refused(f"the directory entry of {name!r} is not canonical")
        if size > MAX_MEMBER_BYTES:
            raise Refused(f"{name!r} claims {size} bytes; {MAX_MEMBER_BYTES} are allowed")
        if method == _STORED and packed != size:
            raise Refused(f"{name!r} is stored with two lengths")
        total += size
        header = member.local()
        if offset != expected_offset or data[offset : offset + len(header)] != header:
            raise Refused(f"the header of {name!r} disagrees with the directory")
        expected_offset = offset + len(header) + packed
        at += len(entry)
        members.append(member)
    if at != end_at or expected_offset != directory_at:
        raise Refused("something stands before, between or behind its members")
    if total > MAX_TOTAL_BYTES:
        raise Refused(f"it unpacks to {total} bytes; {MAX_TOTAL_BYTES} are allowed")
    names = [member.name for member in members]
    if names != sorted(names):
        raise Refused("its members are not in order")
    if problem := names_problem(names):
        raise Refused(problem)
    yield from members
