"""What a user writes for one arm of a comparison: `CASE[:VARIANT][@RELEASE][+SETTING=VALUE…]`.

    conv16@ort-1.30.0      conv16:hwc8      conv16+threads=2      conv16:hwc8@torch-2.11.0+cu130+l2=flush

A release may have a plus sign in its name; a setting has an equals sign, so the two are told apart.
"""

from __future__ import annotations

import re

import msgspec

from repro import cases
from repro.errors import UsageError

GRAMMAR = "CASE[:VARIANT][@RELEASE][+SETTING=VALUE…]"
_SPEC = re.compile(
    r"(?P<case>[^@+=\s]+)(?:@(?P<release>[^@=\s]+?))?(?P<settings>(?:\+[A-Za-z_0-9]+=[^+@=\s]*)*)"
)


class Spec(msgspec.Struct, frozen=True):
    """One arm as a user wrote it; `None` leaves the choice to the kit."""

    case: str
    variant: str | None
    release: str | None = None
    settings: dict[str, str] = {}
    threads: int | None = None


def parse(text: str) -> Spec:
    """Read a SPEC; raise `UsageError` for what is none."""
    match = _SPEC.fullmatch(text)
    if not match:
        raise UsageError(f"'{text}' is no experiment", f"write {GRAMMAR}")
    case, variants = cases.parse(match["case"])
    if len(variants) > 1:
        raise UsageError(f"'{text}' names {len(variants)} variants", "an arm is one experiment")
    settings: dict[str, str] = {}
    for part in filter(None, match["settings"].split("+")):
        name, _, value = part.partition("=")
        if name in settings:
            raise UsageError(f"'{text}' sets {name} twice", "set it once")
        settings[name] = value
    threads = settings.pop("threads", None)
    if threads is not None and (not threads.isdecimal() or int(threads) < 1):
        raise UsageError(f"threads={threads} in '{text}'", "threads must be a number above 0")
    return Spec(case, variants[0], match["release"], settings, int(threads) if threads else None)
