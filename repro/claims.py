"""Claims: what is said to be wrong, as written on the command line or derived from a failure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from repro.errors import UsageError, unknown
from repro.schema import (
    Absolute,
    AnyClaim,
    BelowRoof,
    Fails,
    Ratio,
    Record,
    StatedEfficiency,
    WrongOutput,
)

KINDS: dict[str, type[AnyClaim]] = {
    "absolute": Absolute,
    "ratio": Ratio,
    "below_roof": BelowRoof,
    "fails": Fails,
    "wrong_output": WrongOutput,
    "stated_efficiency": StatedEfficiency,
}


def parse(text: str) -> AnyClaim:
    """Read a claim as `KIND field=value …`, for example `absolute record=base ms=8.98`."""
    try:
        kind, *pairs = shlex.split(text) or [""]
    except ValueError as error:
        raise UsageError(f"can't read the claim '{text}' ({error})", "quote its values") from None
    if kind not in KINDS:
        raise unknown("kind of claim", kind, KINDS)
    fields = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise UsageError(f"'{pair}' in the claim is not field=value", _usage(kind))
        fields[name] = value
    try:
        return msgspec.convert({**fields, "kind": kind}, KINDS[kind], strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"the claim '{text}' is not complete ({error})", _usage(kind)) from None


def _usage(kind: str) -> str:
    fields = " ".join(f"{field.name}=…" for field in msgspec.structs.fields(KINDS[kind]) if field.required)
    return f"write: {kind} {fields}"


def derived(records: Sequence[Record]) -> tuple[AnyClaim, ...]:
    """Return the claims that the records make by themselves: each failure, by its signature."""
    return tuple(
        Fails(stage.error.stage, stage.error.signature)
        for record in records
        for stage in record.stages
        if stage.error is not None
    )
