"""The container: one form, and every known way to leave it."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from repro.bundle import archive
from repro.errors import Refused, ReproError
from tests.unit.bundle import forge
from tests.unit.bundle.forge import Entry

MEMBERS = {
    "README.txt": b"hello\n" * 100,
    "META/statement.json": b"{}",
    "records/a-b_c+1.0/samples/b0r0.bin": bytes(range(256)) * 8,
    "empty.bin": b"",
    "noise.bin": random.Random(1).randbytes(3000),
}


def written(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    size = archive.write(file, members)
    assert size == len(file.getvalue())
    return file.getvalue()


def contents(data: bytes) -> dict[str, bytes]:
    """Return everything in an archive; checks that both ways of reading agree."""
    zipped = archive.Archive(io.BytesIO(data))
    found = {name: zipped.read(name) for name in zipped.names}
    digests = {name: zipped.sha256(name) for name in zipped.names}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == digests
    return found


def refusal(data: bytes) -> str:
    """Return why `data` is refused, as a file or when its members are read."""
    with pytest.raises(Refused) as caught:
        contents(data)
    assert "\n" not in caught.value.what
    assert caught.value.what.isprintable()
    return caught.value.what


# --- what is written ----------------------------------------------------------------------------


def test_what_is_written_is_read_again() -> None:
    assert contents(written(MEMBERS)) == MEMBERS


@given(
    st.dictionaries(
        st.from_regex(r"[a-b]{1,2}(/[a-b]{1,2})?\.bin", fullmatch=True), st.binary(max_size=300), max_size=8
    )
)
def test_any_members_survive(members: dict[str, bytes]) -> None:
    assert contents(written(members)) == members


def test_the_order_of_members_does_not_matter() -> None:
    backwards = dict(sorted(MEMBERS.items(), reverse=True))
    assert written(MEMBERS) == written(backwards)


def test_the_form_is_the_one_built_by_hand() -> None:
    text = b"compressible " * 50
    by_hand = forge.archive(Entry(b"a.txt", b"x"), Entry(b"b.txt", text, method=8))
    assert by_hand == written({"b.txt": text, "a.txt": b"x"})
    assert contents(by_hand) == {"a.txt": b"x", "b.txt": text}


def test_what_does_not_shrink_is_stored() -> None:
    with zipfile.ZipFile(io.BytesIO(written(MEMBERS))) as zipped:
        methods = {info.filename: info.compress_type for info in zipped.infolist()}
    assert methods == {
        "META/statement.json": zipfile.ZIP_STORED,
        "README.txt": zipfile.ZIP_DEFLATED,
        "empty.bin": zipfile.ZIP_STORED,
        "noise.bin": zipfile.ZIP_STORED,
        "records/a-b_c+1.0/samples/b0r0.bin": zipfile.ZIP_DEFLATED,
    }


def test_python_reads_it() -> None:
    with zipfile.ZipFile(io.BytesIO(written(MEMBERS))) as zipped:
        assert None is zipped.testzip()
        assert {name: zipped.read(name) for name in zipped.namelist()} == MEMBERS


@pytest.mark.needs("unzip")
def test_unzip_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(written(MEMBERS))
    tested = subprocess.run(["unzip", "-t", str(path)], capture_output=True, text=True, check=True)
    assert "No errors detected" in tested.stdout
    subprocess.run(["unzip", "-q", str(path), "-d", str(tmp_path / "x")], check=True)
    found = {
        str(file.relative_to(tmp_path / "x")): file.read_bytes()
        for file in (tmp_path / "x").rglob("*")
        if file.is_file()
    }
    assert found == MEMBERS


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"../a.txt": b""}, id="name"),
        pytest.param({"a": b"", "a/b.txt": b""}, id="file and folder"),
        pytest.param({"a.txt": b"", "A.txt": b""}, id="case"),
        pytest.param({f"{i}.txt": b"" for i in range(archive.MAX_MEMBERS + 1)}, id="too many"),
        pytest.param({"a.bin": bytes(archive.MAX_MEMBER_BYTES + 1)}, id="too big"),
    ],
)
def test_what_could_not_be_read_is_not_written(members: dict[str, bytes]) -> None:
    with pytest.raises(ReproError):
        archive.write(io.BytesIO(), members)


def test_the_total_is_limited_when_writing() -> None:
    full = bytes(archive.MAX_MEMBER_BYTES)
    with pytest.raises(ReproError, match="too many files or bytes"):
        archive.write(io.BytesIO(), {**{f"{i}.bin": full for i in range(4)}, "one-more.bin": b"x"})


def test_as_many_members_as_allowed_are_read() -> None:
    members = {f"{i:04}.txt": b"x" for i in range(archive.MAX_MEMBERS)}
    assert contents(written(members)) == members


def test_a_member_over_many_chunks_is_read() -> None:
    choose = random.Random(2)
    for size in (archive.CHUNK_BYTES - 1, archive.CHUNK_BYTES, 5 * archive.CHUNK_BYTES + 7):
        for data in (choose.randbytes(size), bytes(choose.choices(b"ab", k=size)), bytes(size)):
            assert {"a.bin": data} == contents(written({"a.bin": data}))


# --- attacks: names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param(b"../evil.txt", "its characters", id="traversal"),
        pytest.param(b"a/../../evil.txt", "its characters", id="traversal inside"),
        pytest.param(b"a/./b.txt", "its characters", id="dot"),
        pytest.param(b"/etc/passwd.txt", "its characters", id="absolute"),
        pytest.param(b"C:/evil.txt", "its characters", id="drive"),
        pytest.param(b"C:evil.txt", "its characters", id="drive, relative"),
        pytest.param(b"//host/share.txt", "its characters", id="share"),
        pytest.param(b"a\\b.txt", "its characters", id="backslash"),
        pytest.param(b"..\\evil.txt", "its characters", id="backslash traversal"),
        pytest.param(b"a.txt\0.exe", "its characters", id="NUL"),
        pytest.param(b"a\n.txt", "its characters", id="line feed"),
        pytest.param(b"a.txt\n", "its characters", id="line feed at the end"),
        pytest.param(b"\x1b[2Ja.txt", "its characters", id="escape"),
        pytest.param(b"a\x7f.txt", "its characters", id="delete"),
        pytest.param("ä.txt".encode(), "not ASCII", id="non-ASCII, UTF-8"),
        pytest.param(b"\x84.txt", "not ASCII", id="non-ASCII, code page 437"),
        pytest.param(b"a b.txt", "its characters", id="blank"),
        pytest.param(b"a.txt:stream", "its characters", id="alternate stream"),
        pytest.param(b"~/a.txt", "its characters", id="home"),
        pytest.param(b"-rf.txt", "its characters", id="option"),
        pytest.param(b".hidden.txt", "its characters", id="hidden"),
        pytest.param(b"con.txt", "not allowed on every system", id="reserved"),
        pytest.param(b"a/NUL", "not allowed on every system", id="reserved folder entry"),
        pytest.param(b"com1.tar.txt", "not allowed on every system", id="reserved, two suffixes"),
        pytest.param(b"Lpt9/a.txt", "not allowed on every system", id="reserved folder"),
        pytest.param(b"a.txt.", "not allowed on every system", id="trailing dot"),
        pytest.param(b"a./b.txt", "not allowed on every system", id="trailing dot of a folder"),
        pytest.param(b"a//b.txt", "its characters", id="empty segment"),
        pytest.param(b"folder/", "its characters", id="folder entry"),
        pytest.param(b"", "its length", id="empty"),
        pytest.param(b"a" * (archive.MAX_NAME_BYTES + 1), "its length", id="too long"),
    ],
)
def test_a_name_is_refused(name: bytes, reason: str) -> None:
    # A second member makes room in the directory for the long name.
    data = forge.archive(*sorted([Entry(name), Entry(b"m.txt")], key=lambda entry: entry.name))
    assert reason in refusal(data)


def test_a_name_longer_than_all_names_may_be_is_refused() -> None:
    assert "its directory is longer" in refusal(forge.archive(Entry(b"a" * 60_000)))


def test_names_that_only_look_odd_are_read() -> None:
    names = ["a..b.txt", "console.txt", "com10.txt", "_a.txt", "x+y-z_1.0.txt", "a" * archive.MAX_NAME_BYTES]
    assert contents(written(dict.fromkeys(names, b"x"))) == dict.fromkeys(sorted(names), b"x")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param([b"a.txt", b"a.txt"], "stands there twice", id="duplicate"),
        pytest.param([b"A.txt", b"B.txt", b"a.txt"], "stands there twice, by letter case", id="case"),
        pytest.param([b"A/x.txt", b"a/X.txt"], "stands there twice, by letter case", id="case of folders"),
        pytest.param([b"a", b"a/b.txt"], "is a file and a folder", id="file as folder"),
        pytest.param([b"A/b.txt", b"a"], "is a file and a folder", id="file as folder, by case"),
        pytest.param([b"a/b", b"a/b/c/d.txt"], "is a file and a folder", id="file as folder, deep"),
        pytest.param([b"b.txt", b"a.txt"], "not in order", id="order"),
    ],
)
def test_names_that_clash_are_refused(names: list[bytes], reason: str) -> None:
    assert reason in refusal(forge.archive(*(Entry(name) for name in names)))


# --- attacks: headers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(0o120777, id="symbolic link"),
        pytest.param(0o040755, id="folder"),
        pytest.param(0o104755, id="setuid"),
        pytest.param(0o102755, id="setgid"),
        pytest.param(0o100755, id="executable"),
        pytest.param(0o020666, id="character device"),
        pytest.param(0o060666, id="block device"),
        pytest.param(0o010644, id="pipe"),
        pytest.param(0o140644, id="socket"),
        pytest.param(0, id="none"),
    ],
)
def test_a_mode_is_refused(mode: int) -> None:
    reason = refusal(forge.archive(Entry(central={"external": mode << 16})))
    assert reason == "the directory entry of 'a.txt' is not canonical"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"flags": 1}, id="encrypted"),
        pytest.param({"flags": 1 << 6 | 1}, id="strongly encrypted"),
        pytest.param({"flags": 1 << 13}, id="masked headers"),
        pytest.param({"flags": 1 << 3}, id="data descriptor"),
        pytest.param({"flags": 1 << 11}, id="UTF-8 names"),
        pytest.param({"flags": 1 << 5}, id="patched data"),
        pytest.param({"version": 45}, id="zip64 version"),
        pytest.param({"date": 0x5000}, id="another date"),
        pytest.param({"time": 1}, id="another time"),
        pytest.param({"method": 1}, id="shrink"),
        pytest.param({"method": 9}, id="deflate64"),
        pytest.param({"method": 12}, id="bzip2"),
        pytest.param({"method": 14}, id="lzma"),
        pytest.param({"method": 93}, id="zstd"),
        pytest.param({"method": 99}, id="AES"),
    ],
)
def test_a_field_of_both_headers_is_refused(fields: forge.Fields) -> None:
    reason = refusal(forge.archive(Entry(both=fields)))
    assert reason == "the directory entry of 'a.txt' is not canonical"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"disk": 1}, id="another disk"),
        pytest.param({"internal": 1}, id="internal attributes"),
        pytest.param({"external": 0o100644 << 16 | 0x10}, id="DOS folder"),
        pytest.param({"made_by": 20}, id="made by DOS"),
        pytest.param({"signature": b"PK\1\3"}, id="signature"),
    ],
)
def test_a_field_of_the_directory_is_refused(fields: forge.Fields) -> None:
    reason = refusal(forge.archive(Entry(central=fields)))
    assert reason == "the directory entry of 'a.txt' is not canonical"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"signature": b"PK\3\5"}, id="signature"),
        pytest.param({"version": 10}, id="version"),
        pytest.param({"flags": 1}, id="flags"),
        pytest.param({"method": 8}, id="method"),
        pytest.param({"crc": 0}, id="checksum"),
        pytest.param({"size": 3}, id="size"),
        pytest.param({"packed": 3}, id="packed size"),
        pytest.param({"name_length": 1}, id="length of the name"),
        pytest.param({"extra_length": 4}, id="length of the extra field"),
    ],
)
def test_a_local_header_that_differs_from_the_directory_is_refused(fields: forge.Fields) -> None:
    reason = refusal(forge.archive(Entry(local=fields)))
    assert reason == "the header of 'a.txt' disagrees with the directory"


def test_a_local_name_that_differs_from_the_directory_is_refused() -> None:
    data = forge.archive(Entry(b"a.txt")).replace(b"a.txt", b"b.txt", 1)
    assert refusal(data) == "the header of 'a.txt' disagrees with the directory"


def extra(kind: int, content: bytes) -> bytes:
    return struct.pack("<HH", kind, len(content)) + content


EXTRAS = [
    pytest.param(extra(1, struct.pack("<QQ", 7, 7)), id="zip64"),
    pytest.param(extra(0x7075, b"\1" + bytes(4) + b"b.txt"), id="Unicode path"),
    pytest.param(extra(0x5455, b"\1" + bytes(4)), id="time"),
    pytest.param(b"\0", id="garbage"),
]


@pytest.mark.parametrize("tail", EXTRAS)
def test_an_extra_field_of_the_directory_is_refused(tail: bytes) -> None:
    entry = Entry(central={"extra_length": len(tail)}, central_tail=tail)
    assert refusal(forge.archive(entry)) == "the directory entry of 'a.txt' is not canonical"


@pytest.mark.parametrize("tail", EXTRAS)
def test_an_extra_field_of_the_local_header_is_refused(tail: bytes) -> None:
    entry = Entry(local={"extra_length": len(tail)}, local_tail=tail)
    assert refusal(forge.archive(entry)) == "the header of 'a.txt' disagrees with the directory"


def test_a_comment_of_an_entry_is_refused() -> None:
    entry = Entry(central={"comment_length": 5}, central_tail=b"hello")
    assert refusal(forge.archive(entry)) == "the directory entry of 'a.txt' is not canonical"


# --- attacks: the end record and what stands around ---------------------------------------------

GOOD = forge.archive(Entry(b"a.txt"), Entry(b"b.txt", b"b" * 99, method=8))
AROUND = "something stands before, between or behind its"
NO_END = "it is not a zip file in canonical form: no end record at its very end"


def test_the_good_one_is_read() -> None:
    assert contents(GOOD) == {"a.txt": b"made up", "b.txt": b"b" * 99}


def test_a_comment_of_the_archive_is_refused() -> None:
    data = forge.archive(Entry(), end={"comment_length": 5}) + b"hello"
    assert refusal(data) == NO_END


def test_a_comment_with_another_end_record_is_refused() -> None:
    comment = forge.pack(
        forge.END,
        {
            "signature": b"PK\5\6",
            "disk": 0,
            "directory_disk": 0,
            "here": 0,
            "count": 0,
            "directory_size": 0,
            "directory_at": 0,
            "comment_length": 0,
        },
    )
    data = forge.archive(Entry(), end={"comment_length": len(comment)}) + comment
    assert AROUND in refusal(data)


def test_a_comment_with_a_whole_archive_is_refused() -> None:
    inner = forge.archive(Entry(b"b.txt"))
    data = forge.archive(Entry(), end={"comment_length": len(inner)}) + inner
    assert AROUND in refusal(data)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"disk": 1}, id="several disks"),
        pytest.param({"directory_disk": 1}, id="directory on another disk"),
        pytest.param({"here": 0}, id="fewer entries here"),
        pytest.param({"here": 2}, id="more entries here"),
        pytest.param({"comment_length": 1}, id="comment length without comment"),
    ],
)
def test_an_end_record_is_refused(fields: forge.Fields) -> None:
    assert refusal(forge.archive(Entry(), end=fields)) == "its end record is not canonical"


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        pytest.param(0, "its directory is longer", id="none"),
        pytest.param(2, "its directory is cut short", id="one more"),
        pytest.param(archive.MAX_MEMBERS + 1, "are allowed", id="too many"),
        pytest.param(0xFFFF, "are allowed", id="zip64 mark"),
    ],
)
def test_a_count_that_lies_is_refused(here: int, reason: str) -> None:
    assert reason in refusal(forge.archive(Entry(), end={"here": here, "count": here}))


def test_a_count_one_too_small_is_refused() -> None:
    entries = [Entry(b"a.txt"), Entry(b"b.txt")]
    assert AROUND in refusal(forge.archive(*entries, end={"here": 1, "count": 1}))


def test_too_many_members_are_refused() -> None:
    entries = [Entry(f"{i:04}.txt".encode()) for i in range(archive.MAX_MEMBERS + 1)]
    assert refusal(forge.archive(*entries)) == "it lists 2001 members; 2000 are allowed"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"#!/bin/sh\n" + GOOD, id="prefix"),
        pytest.param(GOOD + GOOD, id="stacked"),
        pytest.param(forge.archive(Entry(b"c.txt")) + GOOD, id="another one stacked"),
        pytest.param(forge.archive(Entry(), before_directory=b"gap"), id="gap before the directory"),
        pytest.param(forge.archive(Entry(behind=b"gap"), Entry(b"b.txt")), id="gap between members"),
        pytest.param(forge.archive(Entry(), before_end=b"gap"), id="gap before the end"),
        pytest.param(
            forge.archive(Entry(both={"flags": 0}, behind=b"PK\7\x08" + bytes(12))),
            id="data descriptor without its flag",
        ),
        pytest.param(
            forge.archive(Entry(), before_end=b"PK\6\6" + bytes(52) + b"PK\6\7" + bytes(16)),
            id="zip64 end records",
        ),
        pytest.param(forge.archive(Entry(), end={"directory_at": 0xFFFFFFFF}), id="zip64 marks"),
        pytest.param(forge.archive(Entry(), end={"directory_size": 0}), id="no directory"),
        pytest.param(forge.archive(Entry(), end={"directory_at": 0}), id="directory at the start"),
    ],
)
def test_anything_around_or_between_is_refused(data: bytes) -> None:
    reason = refusal(data)
    assert AROUND in reason or "disagrees with the directory" in reason


def test_a_prefix_that_the_offsets_know_of_is_refused() -> None:
    prefix = b"#!/bin/sh\n"
    entry = Entry(central={"offset": len(prefix)})
    plain = forge.archive(entry)
    moved = forge.archive(entry, end={"directory_at": plain.index(b"PK\1\2") + len(prefix)})
    assert refusal(prefix + moved) == "the header of 'a.txt' disagrees with the directory"


@pytest.mark.parametrize(
    "suffix",
    [pytest.param(b"\0", id="byte"), pytest.param(b"\n", id="line end"), pytest.param(GOOD[:40], id="head")],
)
def test_a_suffix_is_refused(suffix: bytes) -> None:
    assert refusal(GOOD + suffix) == NO_END


@pytest.mark.parametrize("length", [0, 1, 21])
def test_what_is_too_short_is_refused(length: int) -> None:
    assert refusal(GOOD[:length]) == "it is not a zip file: too short"


def test_a_zip_file_of_another_tool_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("a.txt", "x")
    assert refusal(file.getvalue()) == "the directory entry of 'a.txt' is not canonical"


def test_members_that_overlap_are_refused() -> None:
    one = Entry(b"a.txt")
    data = forge.archive(one, Entry(b"b.txt", central={"offset": 0}))
    assert refusal(data) == "the header of 'b.txt' disagrees with the directory"


def test_a_member_inside_another_is_refused() -> None:
    # As in "A better zip bomb": the first member's data holds the second member whole.
    inner = forge.pack(
        forge.LOCAL,
        {
            "signature": b"PK\3\4",
            "version": 20,
            "flags": 0,
            "method": 0,
            "time": 0,
            "date": 0x21,
            "crc": zlib.crc32(b"x"),
            "packed": 1,
            "size": 1,
            "name_length": 5,
            "extra_length": 0,
        },
    )
    inside = inner + b"b.txt" + b"x"
    entries = (
        Entry(b"a.txt", inside),
        Entry(b"b.txt", b"x", raw=b"", both={"packed": 1}, central={"offset": 35}),
    )
    assert refusal(forge.archive(*entries)) == "the header of 'b.txt' disagrees with the directory"


# --- attacks: sizes and bombs -------------------------------------------------------------------

LONG = b"made up " * 1000


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        pytest.param(Entry(data=LONG, method=8, both={"size": 7999}), "not as long", id="too small"),
        pytest.param(Entry(data=LONG, method=8, both={"size": 8001}), "not as long", id="too big"),
        pytest.param(
            Entry(data=LONG, method=8, raw=forge.deflated(LONG)[:-3]), "cut short", id="stream cut short"
        ),
        pytest.param(
            Entry(data=LONG, method=8, raw=forge.deflated(LONG) + b"x"), "not as long", id="byte behind"
        ),
        pytest.param(
            Entry(data=LONG, method=8, raw=forge.deflated(LONG) * 2), "not as long", id="stream behind"
        ),
        pytest.param(
            Entry(data=bytes(2**20), method=8, raw=forge.deflated(bytes(2**20)) + bytes(archive.CHUNK_BYTES)),
            "not as long",
            id="much behind",
        ),
        pytest.param(Entry(data=LONG, method=8, both={"crc": 1}), "damaged", id="checksum"),
        pytest.param(Entry(data=b"abc", both={"crc": 1}), "damaged", id="checksum of stored data"),
        pytest.param(Entry(data=LONG, method=8, raw=b"\7" * 30), "can't be unpacked", id="no deflate data"),
        pytest.param(Entry(data=LONG, method=8, raw=b""), "cut short", id="nothing"),
        pytest.param(Entry(data=b"abc", both={"size": 2}), "never does", id="stored, too small"),
        pytest.param(Entry(data=b"abc", both={"size": 4}), "never does", id="stored, too big"),
        pytest.param(Entry(data=b"abc", method=8), "never does", id="deflated, longer than stored"),
        pytest.param(
            Entry(data=b"abc", both={"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF}),
            "are allowed",
            id="zip64 marks",
        ),
    ],
)
def test_sizes_that_lie_are_refused(entry: Entry, reason: str) -> None:
    assert reason in refusal(forge.archive(entry))


def test_a_member_that_reaches_into_the_directory_is_refused() -> None:
    assert AROUND in refusal(forge.archive(Entry(data=LONG, raw=LONG[:20], both={"packed": len(LONG)})))


def test_a_claimed_size_beyond_the_limit_is_refused_unread() -> None:
    entry = Entry(data=LONG, method=8, both={"size": archive.MAX_MEMBER_BYTES + 1})
    assert refusal(forge.archive(entry)) == "'a.txt' claims 67108865 bytes; 67108864 are allowed"


def test_many_members_that_are_too_much_together_are_refused_unread() -> None:
    entries = [
        Entry(f"{i}.bin".encode(), LONG, method=8, both={"size": archive.MAX_MEMBER_BYTES}) for i in range(5)
    ]
    assert refusal(forge.archive(*entries)) == "it unpacks to 335544320 bytes; 268435456 are allowed"


@pytest.mark.needs("linux")
def test_a_bomb_that_lies_about_its_size_takes_no_memory(tmp_path: Path) -> None:
    # 400 MB of zeros in 400 kB, said to be 1 MB.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw = b"".join(packer.compress(bytes(10**6)) for _ in range(400)) + packer.flush()
    bomb = tmp_path / "bomb.zip"
    bomb.write_bytes(forge.archive(Entry(data=bytes(10**6), method=8, raw=raw)))
    program = (
        "import resource, sys; from pathlib import Path; from repro.bundle import archive\n"
        "from repro.errors import Refused\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for way in 'read', 'sha256':\n"
        "    with archive.opened(Path(sys.argv[1])) as zipped:\n"
        "        try: getattr(zipped, way)('a.txt')\n"
        "        except Refused as error: print(error.what)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(grown < 32 * 1024 or grown)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bomb)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["a.txt: its data is not as long as it says"] * 2 + ["True"]


def test_an_archive_in_an_archive_is_only_bytes() -> None:
    assert contents(written({"inner.zip": GOOD})) == {"inner.zip": GOOD}


# --- files that can't be opened -----------------------------------------------------------------


def opening(path: Path) -> str:
    with pytest.raises(ReproError) as caught, archive.opened(path):
        pass
    assert not isinstance(caught.value, Refused)
    return caught.value.what


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert opening(tmp_path / "none.zip").endswith("none.zip does not exist")


def test_a_folder_is_told(tmp_path: Path) -> None:
    assert opening(tmp_path).endswith("is a folder")


@pytest.mark.needs("linux")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    assert opening(tmp_path / "pipe.zip").endswith("is not a regular file")


def test_a_path_through_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "can't be read" in opening(tmp_path / "file" / "b.zip")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(written(MEMBERS))
    with archive.opened(path) as zipped:
        os.truncate(path, 100)
        with pytest.raises(Refused, match="cut short while it was read"):
            zipped.read("noise.bin")


# --- random damage ------------------------------------------------------------------------------

SEALED = written(MEMBERS)
places = st.integers(0, len(SEALED))


def damaged(data: bytes, kind: str, a: int, b: int, more: bytes) -> bytes:
    a, b = sorted((a, b))
    if kind == "flip":
        at = min(a, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (more or b"\1")[0]]) + data[at + 1 :]
    if kind == "insert":
        return data[:a] + more + data[a:]
    if kind == "delete":
        return data[:a] + data[b:]
    if kind == "truncate":
        return data[:a]
    if kind == "repeat":
        return data[:b] + data[a:b] + data[b:]
    middle = (a + b) // 2
    return data[:a] + data[middle:b] + data[a:middle] + data[b:]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("flip", 0, 0, b"\1")
@example("truncate", 0, 0, b"")
@given(
    st.sampled_from(["flip", "flip", "insert", "delete", "truncate", "repeat", "swap"]),
    places,
    places,
    st.binary(max_size=8),
)
def test_damage_is_refused_or_changes_nothing(kind: str, a: int, b: int, more: bytes) -> None:
    try:
        found = contents(damaged(SEALED, kind, a, b, more))
    except Refused:
        return
    assert found == MEMBERS


def test_nearly_every_single_flip_is_refused() -> None:
    accepted = 0
    small = written({"a.txt": b"hello " * 5, "b.bin": b"xyz"})
    for at in range(len(small)):
        for bit in range(8):
            data = small[:at] + bytes([small[at] ^ 1 << bit]) + small[at + 1 :]
            try:
                found = contents(data)
            except Refused:
                continue
            accepted += 1
            assert found == {"a.txt": b"hello " * 5, "b.bin": b"xyz"}
    # Only the padding bits behind the end of a deflate stream mean nothing.
    assert accepted <= 7


def test_resource_limits_are_what_the_reference_says() -> None:
    limits = archive.MAX_MEMBERS, archive.MAX_MEMBER_BYTES, archive.MAX_TOTAL_BYTES
    assert limits == (2000, 64 * 2**20, 256 * 2**20)
