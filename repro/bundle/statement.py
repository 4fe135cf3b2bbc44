"""The statement: the one file that lists and describes every other file, and that is signed.

The bundle's id is the sha256 of the statement's bytes as stored; nothing is ever canonicalised anew.
JSON from a bundle is read here only, strictly: no duplicate keys, no NaN, no byte-order mark, bounded
size, depth and numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from repro.errors import Refused
from repro.schema import (
    REPLAY_PREDICATE,
    RUN_PREDICATE,
    STATEMENT_TYPE,
    DigestSet,
    FileDigest,
    Predicate,
    Statement,
)

NAME = "META/statement.json"
SIGNATURES = "META/sig/"
MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_DEPTH = 32
MAX_INTEGER_DIGITS = 20

_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NEITHER = bytes(set(range(256)) - set(b'[]{}"'))
_STRING = re.compile(rb'"[^"]*"?')

T = TypeVar("T")


def make(files: Mapping[str, str], predicate: Predicate) -> bytes:
    """Return the statement over `files` (name → sha256), as the bytes to sign."""
    statement = Statement(
        type=STATEMENT_TYPE,
        subject=tuple(FileDigest(name, DigestSet(files[name])) for name in sorted(files)),
        predicate_type=REPLAY_PREDICATE if predicate.reply else RUN_PREDICATE,
        predicate=predicate,
    )
    return json.dumps(
        msgspec.to_builtins(statement), sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False
    ).encode()


def bundle_id(data: bytes) -> str:
    """Return the id of the bundle with this statement."""
    return hashlib.sha256(data).hexdigest()


def parse(data: bytes) -> Statement:
    """Read a statement; raise `Refused` for anything that isn't one of ours."""
    statement = decode(NAME, data, Statement)
    if statement.type != STATEMENT_TYPE:
        raise Refused(f"{NAME} is not an in-toto Statement v1")
    if statement.predicate_type not in (RUN_PREDICATE, REPLAY_PREDICATE):
        raise Refused(f"{NAME} has the predicate type {statement.predicate_type[:80]!r}", "use a newer kit")
    told = statement.predicate
    if (statement.predicate_type == REPLAY_PREDICATE) != (told.reply is not None):
        raise Refused(f"{NAME} is of another type than what it holds")
    if told.reply is not None and not re.fullmatch(r"[0-9a-f]{64}", told.parent_bundle_id or ""):
        raise Refused(f"{NAME} is a reply and doesn't say to what")
    return statement


def decode(name: str, data: bytes, kind: type[T]) -> T:
    """Read the JSON file `name` of a bundle strictly into `kind`; raise `Refused` otherwise."""
    if len(data) > MAX_JSON_BYTES:
        raise Refused(f"{name} has {len(data)} bytes; {MAX_JSON_BYTES} are allowed")
    if _too_deep(data):
        raise Refused(f"{name} is nested too deeply, or its brackets don't match")
    try:
        text = data.decode("utf-8")
        # Once for what msgspec lets pass, building next to nothing, and once for the value.
        json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded,
            parse_float=_finite,
        )
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError:
        raise Refused(f"{name} is not UTF-8") from None
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        # The message can quote the file.
        raise Refused(f"{name} is not as it must be: {_shown(str(error))}") from None


def _too_deep(data: bytes) -> bool:
    """Tell whether brackets outside strings nest too deeply, or don't match; in linear time."""
    # Without escaped backslashes and quotes, a string is what stands between two quotes.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_ONE_KIND, _NEITHER)
    brackets = _STRING.sub(b"", plain)
    # Each pass takes the innermost pairs away.
    for _ in range(MAX_JSON_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _shown(text: str) -> str:
    return ascii(text[:200])[1:-1]


def _unique(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands there twice")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _bounded(text: str) -> None:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError("a number is too long")


def _finite(text: str) -> None:
    if math.isinf(float(text)):
        raise ValueError("a number is too big")
