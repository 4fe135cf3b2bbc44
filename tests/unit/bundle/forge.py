"""Zip files by hand: canonical unless told otherwise, and independent of the writer under test."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

LOCAL = {
    "signature": "4s",
    "version": "H",
    "flags": "H",
    "method": "H",
    "time": "H",
    "date": "H",
    "crc": "I",
    "packed": "I",
    "size": "I",
    "name_length": "H",
    "extra_length": "H",
}
CENTRAL = {
    "signature": "4s",
    "made_by": "H",
    "version": "H",
    "flags": "H",
    "method": "H",
    "time": "H",
    "date": "H",
    "crc": "I",
    "packed": "I",
    "size": "I",
    "name_length": "H",
    "extra_length": "H",
    "comment_length": "H",
    "disk": "H",
    "internal": "H",
    "external": "I",
    "offset": "I",
}
END = {
    "signature": "4s",
    "disk": "H",
    "directory_disk": "H",
    "here": "H",
    "count": "H",
    "directory_size": "I",
    "directory_at": "I",
    "comment_length": "H",
}

Fields = dict[str, int | bytes]


def pack(layout: Mapping[str, str], fields: Mapping[str, int | bytes]) -> bytes:
    assert not set(fields) - set(layout)
    return struct.pack("<" + "".join(layout.values()), *(fields[name] for name in layout))


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@dataclass
class Entry:
    """A member; `both`, `local` and `central` override fields of its headers."""

    name: bytes = b"a.txt"
    data: bytes = b"made up"
    method: int = 0
    raw: bytes | None = None
    """Instead of the packed data."""
    both: Fields = field(default_factory=dict)
    local: Fields = field(default_factory=dict)
    central: Fields = field(default_factory=dict)
    local_tail: bytes = b""
    """Behind the name in the local header."""
    central_tail: bytes = b""
    behind: bytes = b""
    """Behind the data."""

    def packed(self) -> bytes:
        if self.raw is not None:
            return self.raw
        return deflated(self.data) if self.method else self.data


def archive(
    *entries: Entry, end: Fields | None = None, before_end: bytes = b"", before_directory: bytes = b""
) -> bytes:
    """Return the zip file."""
    body = directory = b""
    for entry in entries:
        packed = entry.packed()
        common: Fields = {
            "version": 20,
            "flags": 0,
            "method": entry.method,
            "time": 0,
            "date": 0x21,
            "crc": zlib.crc32(entry.data),
            "packed": len(packed),
            "size": len(entry.data),
            "name_length": len(entry.name),
            "extra_length": 0,
            **entry.both,
        }
        central: Fields = {
            **common,
            "signature": b"PK\1\2",
            "made_by": 3 << 8 | 20,
            "comment_length": 0,
            "disk": 0,
            "internal": 0,
            "external": 0o100644 << 16,
            "offset": len(body),
            **entry.central,
        }
        local: Fields = {**common, "signature": b"PK\3\4", **entry.local}
        directory += pack(CENTRAL, central) + entry.name + entry.central_tail
        body += pack(LOCAL, local) + entry.name + entry.local_tail + packed + entry.behind
    body += before_directory
    last: Fields = {
        "signature": b"PK\5\6",
        "disk": 0,
        "directory_disk": 0,
        "here": len(entries),
        "count": len(entries),
        "directory_size": len(directory),
        "directory_at": len(body),
        "comment_length": 0,
        **(end or {}),
    }
    return body + directory + before_end + pack(END, last)
