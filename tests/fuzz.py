"""Random damage to a bundle: it must be refused, or hold exactly what it held before.

`python tests/fuzz.py 1000000` runs a million mutants on all cores and prints a tally; CI runs 20,000
(tests/e2e/test_fuzz.py). A mutant is damaged as a file (bytes, slices, swaps, other bundles' parts), or
inside: a member is changed and everything packed anew, so that the damage gets past the container.
"""

from __future__ import annotations

import collections
import hashlib
import io
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from repro.bundle import archive, statement, unpack  # noqa: E402
from repro.errors import ReproError  # noqa: E402
from tests.builders import make_failed, make_record, seal  # noqa: E402

MEMORY_LIMIT_BYTES = 256 * 2**20
TIME_LIMIT_S = 10.0

MARKS = [b"\0", b"\xff", b"\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"PK\3\4", b"PK\5\6", b"../"]

Members = dict[str, bytes]
Mutation = Callable[[random.Random, bytes], bytes]


class Broken(AssertionError):
    """A mutant that got through, or broke the reader."""


# --- damage to bytes ----------------------------------------------------------------------------


def flip(choose: random.Random, data: bytes) -> bytes:
    at = choose.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 :]


def overwrite(choose: random.Random, data: bytes) -> bytes:
    at, length = choose.randrange(len(data)), choose.choice([1, 2, 4, 8, 40])
    return data[:at] + choose.randbytes(length) + data[at + length :]


def interesting(choose: random.Random, data: bytes) -> bytes:
    at = choose.randrange(len(data))
    value = choose.choice(MARKS)
    return data[:at] + value + data[at + len(value) :]


def insert(choose: random.Random, data: bytes) -> bytes:
    at = choose.randrange(len(data) + 1)
    return data[:at] + choose.randbytes(choose.choice([1, 2, 22, 46, 300])) + data[at:]


def delete(choose: random.Random, data: bytes) -> bytes:
    at = choose.randrange(len(data))
    return data[:at] + data[at + choose.choice([1, 2, 22, 46, 300]) :]


def truncate(choose: random.Random, data: bytes) -> bytes:
    return data[: choose.randrange(len(data))]


def repeat(choose: random.Random, data: bytes) -> bytes:
    a, b = sorted(choose.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b] + data[b:]


def swap(choose: random.Random, data: bytes) -> bytes:
    a, b, c = sorted(choose.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


BYTES: tuple[Mutation, ...] = (flip, overwrite, interesting, insert, delete, truncate, repeat, swap)

JSON_PARTS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"NaN",
    b"1e999",
    b"-0",
    b'"',
    b"\\u0000",
    b"9" * 30,
    b"\xef\xbb\xbf",
]


def break_json(choose: random.Random, data: bytes) -> bytes:
    at = choose.randrange(len(data) + 1)
    return (
        data[:at] + choose.choice(JSON_PARTS) * choose.choice([1, 1, 50]) + data[at + choose.randrange(3) :]
    )


# --- damage inside ------------------------------------------------------------------------------


def repack(choose: random.Random, members: Members) -> bytes:
    """Change one member, or the set of them, and pack everything canonically."""
    changed = dict(members)
    name = choose.choice(sorted(changed))
    what = choose.randrange(4)
    if what == 0:
        del changed[name]
    elif what == 1:
        changed[choose.choice(["extra.txt", "records/x/record.json", "META/extra.json", "a.bin"])] = b"{}"
    elif what == 2:
        changed[name] = choose.choice(BYTES)(choose, changed[name] or b"\0")
    else:
        changed[name] = break_json(choose, changed[name])
    return pack(changed)


def restate(choose: random.Random, members: Members) -> bytes:
    """Change a JSON member and the statement with it, and take the signature off: only sense is left."""
    changed = without_signature(members)
    name = choose.choice([name for name in sorted(changed) if name.endswith(".json")])
    changed[name] = choose.choice((*BYTES, break_json, break_json))(choose, changed[name])
    if name != statement.NAME:
        told = statement.parse(members[statement.NAME])
        digests = {n: hashlib.sha256(d).hexdigest() for n, d in changed.items() if n != statement.NAME}
        changed[statement.NAME] = statement.make(digests, told.predicate)
    return pack(changed)


def pack(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    archive.write(file, members)
    return file.getvalue()


# --- the trial ----------------------------------------------------------------------------------


def contents(path: Path) -> Members:
    with archive.opened(path) as zipped:
        return {name: zipped.read(name) for name in zipped.names}


def without_signature(members: Members) -> Members:
    """Anybody can take a signature off: then the bundle is unsigned, and called so."""
    return {name: data for name, data in members.items() if not name.startswith(statement.SIGNATURES)}


def originals(folder: Path) -> list[tuple[bytes, Members]]:
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    paths = [
        seal(folder, key=key).path,
        seal(folder, make_record(), make_failed(record_name="other"), key=key).path,
    ]
    return [(path.read_bytes(), contents(path)) for path in paths]


def trial(choose: random.Random, sealed: list[tuple[bytes, Members]], folder: Path) -> str:
    """Try one mutant; return what became of it, or raise `Broken`."""
    data, members = choose.choice(sealed)
    kind = choose.choices(["bytes", "repacked", "restated"], [8, 1, 1])[0]
    if kind == "bytes":
        mutant = data
        for _ in range(choose.choice([1, 1, 1, 2, 5])):
            mutant = choose.choice(BYTES)(choose, mutant or b"\0")
    else:
        mutant = (repack if kind == "repacked" else restate)(choose, members)
    path = folder / "mutant.zip"
    path.write_bytes(mutant)
    target = folder / "out"
    begin = time.monotonic()
    try:
        unpack.extract(path, target)
    except ReproError as error:
        if target.exists() or "\n" in str(error):
            raise Broken(f"{kind}: left something, or said too much: {error!s:.200}") from None
        verdict = "refused"
    except Exception as error:
        raise Broken(f"{kind}: {type(error).__name__}: {error!s:.200}") from error
    else:
        now = contents(path)
        if kind != "restated" and now not in (members, without_signature(members)):
            raise Broken(f"{kind}: accepted with other content")
        for name in sorted(target.rglob("*"), reverse=True):
            name.rmdir() if name.is_dir() else name.unlink()
        target.rmdir()
        verdict = "identical" if now == members else "unsigned now" if kind != "restated" else "valid"
    if time.monotonic() - begin > TIME_LIMIT_S:
        raise Broken(f"{kind}: took longer than {TIME_LIMIT_S} s")
    if sorted(item.name for item in folder.iterdir()) != ["mutant.zip"]:
        raise Broken(f"{kind}: wrote beside its target")
    return f"{kind}: {verdict}"


def run(count: int, seed: int) -> collections.Counter[str]:
    """Try `count` mutants; a failure names its seed and number."""
    tally: collections.Counter[str] = collections.Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        home = Path(name)
        (home / "sealed").mkdir()
        (home / "trial").mkdir()
        os.environ["XDG_CONFIG_HOME"] = str(home / "config")
        sealed = originals(home / "sealed")
        for number in range(count):
            choose = random.Random(f"{seed}/{number}")
            try:
                tally[trial(choose, sealed, home / "trial")] += 1
            except Broken as error:
                raise Broken(f"mutant {seed}/{number}: {error}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if grown > MEMORY_LIMIT_BYTES:
        raise Broken(f"memory grew by {grown / 2**20:.0f} MiB")
    return tally


def main(count: int) -> None:
    begin = time.monotonic()
    parts = (os.cpu_count() or 1) * 8
    with multiprocessing.Pool(os.cpu_count()) as pool:
        found = pool.starmap(run, [(count // parts, seed) for seed in range(parts)])
    total: collections.Counter[str] = sum(found, collections.Counter())
    for what, number in sorted(total.items()):
        print(f"{what:<32}{number:>10}")
    print(f"{'in all':<32}{total.total():>10}  in {time.monotonic() - begin:.0f} s, no other outcome")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
