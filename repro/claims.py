"""Claims: what is said to be wrong, as written on the command line or derived from a failure."""

from __future__ import annotations

import math
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
    shown = _one_line(text)
    try:
        kind, *pairs = shlex.split(text) or [""]
    except ValueError as error:
        raise UsageError(f"can't read the claim '{shown}' ({error})", "quote its values") from None
    if kind not in KINDS:
        raise unknown("kind of claim", _one_line(kind), KINDS)
    fields: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not value:
            raise UsageError(f"'{_one_line(pair)}' in the claim is not field=value", _usage(kind))
        if name in fields or name == "kind":
            raise UsageError(f"the claim '{shown}' says {name} twice", _usage(kind))
        fields[name] = value
    try:
        claim = msgspec.convert({**fields, "kind": kind}, KINDS[kind], strict=False)
    except msgspec.ValidationError as error:
        why = _one_line(str(error))
        raise UsageError(f"the claim '{shown}' is not complete ({why})", _usage(kind)) from None
    for name, number in msgspec.structs.asdict(claim).items():
        if isinstance(number, float) and not 0 < number < math.inf:  # NaN too
            raise UsageError(f"{name} in the claim '{shown}' must be a number above 0", _usage(kind))
    return claim


def _one_line(text: str) -> str:
    return " ".join(text.split())


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
