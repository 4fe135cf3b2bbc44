"""Whether two sides are comparable at all: the table of fields, and what it says of two records.

A difference is *intended* (it is what is being compared), *harmless*, *suspicious* (the verdict stands,
marked unconfirmed) or *blocking*. Rows stand in the order of their likely effect on time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from repro import clocks
from repro.observed import Observed
from repro.schema import Across, Noticed, Record, Scalar, Weight
from repro.telemetry import fact_value

CLOCKS_APART = 0.03
"""Clocks that differ by more than this share make times incomparable."""
THROTTLED_MOST = 0.01
"""More readings than this share with clocks held down make a time incomparable; fewer, suspicious."""

Reader = Callable[[Observed], Scalar | None]


class Field(NamedTuple):
    """A field, and what a difference in it means where a release, a device or a setting is compared."""

    name: str
    read: Reader
    release: Weight
    device: Weight
    setting: Weight
    unread: Weight = "harmless"
    """What it means that one side doesn't tell it."""


def _setting(name: str) -> Reader:
    def read(seen: Observed) -> Scalar | None:
        settings = seen.record.settings
        effective = settings.effective.get(name)
        return effective.value if effective else settings.planned.get(name)

    return read


def _fact(name: str) -> Reader:
    return lambda seen: fact_value(seen.record.telemetry.facts, name)


def _of(read: Callable[[Record], Scalar | None]) -> Reader:
    return lambda seen: read(seen.record)


def _model(record: Record) -> str:
    digests = record.model.digests
    shapes = (f"{each.name}{list(each.shape)}" for each in (*record.model.inputs, *record.model.outputs))
    # By all its files: one of them alone would also change with the precision.
    return " ".join([*(digests[name][:12] for name in sorted(digests)), *shapes])


def _gpu(record: Record) -> str | None:
    # Pseudonyms made with different keys say nothing about each other.
    return f"{record.board.gpu} (key {record.privacy.pseudonym_key_id})" if record.privacy else None


def _board(record: Record) -> str | None:
    return record.board.matched_id or record.board.name


def _power_mode(record: Record) -> str | None:
    """Return a mode with what it sets: boards give different modes the same name."""
    mode = record.board.power_mode
    if mode is None:
        return None
    if not mode.content:
        return mode.name
    return f"{mode.name} ({', '.join(f'{key} {value}' for key, value in sorted(mode.content.items()))})"


def _image(record: Record) -> str | None:
    return record.runtime.place.repo_digest or record.runtime.place.image_id


OK: Weight = "intended"
NOTE: Weight = "harmless"
DOUBT: Weight = "suspicious"
STOP: Weight = "blocking"

# fmt: off
FIELDS: tuple[Field, ...] = (
    #                                                                            release device setting unread
    Field("model",             _of(_model),                                      STOP,  STOP,  STOP),
    Field("product",           _of(lambda r: r.runtime.product),                 STOP,  STOP,  STOP),
    Field("precision",         _setting("precision"),                            STOP,  STOP,  OK,    DOUBT),
    Field("io_layout",         _setting("io_layout"),                            STOP,  STOP,  OK,    DOUBT),
    Field("board",             _of(_board),                                      STOP,  OK,    STOP,  DOUBT),
    Field("emulated",          _of(lambda r: r.board.emulated),                  STOP,  OK,    STOP),
    Field("mig",               _of(lambda r: r.board.mig),                       STOP,  OK,    STOP),
    Field("sm_count",          _of(lambda r: r.board.sm_count),                  STOP,  OK,    STOP),
    Field("threads",           _of(lambda r: r.board.threads),                   STOP,  STOP,  OK),
    Field("power_mode",        _of(_power_mode),                                 STOP,  OK,    OK),
    Field("release",           _of(lambda r: r.runtime.release.version),         OK,    STOP,  STOP),
    Field("backend",           _of(lambda r: r.runtime.backend),                 STOP,  STOP,  OK),
    Field("provider",          _of(lambda r: r.runtime.provider),                STOP,  STOP,  OK),
    Field("timer",             _of(lambda r: r.protocol.timer),                  STOP,  STOP,  STOP),
    Field("queue",             _setting("queue"),                                STOP,  STOP,  OK),
    Field("cuda_graph",        _setting("cuda_graph"),                           STOP,  STOP,  OK),
    Field("transfers",         _setting("transfers"),                            STOP,  STOP,  OK),
    Field("spin_wait",         _setting("spin_wait"),                            STOP,  STOP,  OK),
    Field("l2",                _of(lambda r: r.protocol.l2_state),               STOP,  STOP,  OK),
    Field("sparsity",          _setting("sparsity"),                             STOP,  STOP,  OK),
    Field("typing",            _setting("typing"),                               STOP,  STOP,  OK),
    Field("optimization_level", _setting("optimization_level"),                  STOP,  STOP,  OK),
    Field("gpu",               _of(_gpu),                                        DOUBT, OK,    DOUBT),
    Field("place",             _of(lambda r: r.runtime.place.kind),              DOUBT, DOUBT, DOUBT),
    Field("virtualised",       _of(lambda r: r.runtime.place.virtualised),       DOUBT, DOUBT, DOUBT, DOUBT),
    Field("driver",            _of(lambda r: r.runtime.release.driver),          DOUBT, DOUBT, DOUBT),
    Field("cuda",              _of(lambda r: r.runtime.release.cuda),            DOUBT, DOUBT, DOUBT),
    Field("cudnn",             _of(lambda r: r.runtime.release.cudnn),           DOUBT, DOUBT, DOUBT),
    Field("l4t",               _of(lambda r: r.runtime.release.l4t),             DOUBT, DOUBT, DOUBT),
    Field("kernel",            _fact("kernel"),                                  DOUBT, NOTE,  DOUBT),
    Field("governor",          _fact("governor"),                                DOUBT, NOTE,  DOUBT),
    Field("jetson_clocks",     _fact("jetson_clocks"),                           DOUBT, NOTE,  DOUBT),
    Field("power_limit",       _fact("power_limit"),                             DOUBT, NOTE,  DOUBT),
    Field("ecc_mode",          _fact("ecc_mode"),                                DOUBT, NOTE,  DOUBT),
    Field("cpu_model",         _fact("cpu_model"),                               DOUBT, NOTE,  DOUBT),
    Field("cores",             _of(lambda r: r.board.cores),                     DOUBT, NOTE,  DOUBT),
    Field("persistence_mode",  _fact("persistence_mode"),                        NOTE,  NOTE,  NOTE),
    Field("origin",            _of(lambda r: r.origin),                          DOUBT, DOUBT, DOUBT),
    Field("protocol",          _of(lambda r: r.protocol.planned.name),           NOTE,  NOTE,  NOTE),
    Field("warm_up_ms",        _of(lambda r: r.protocol.warm_up_ms),             NOTE,  NOTE,  NOTE),
    Field("image",             _of(_image),                                      NOTE,  NOTE,  NOTE),
    Field("kit",               _of(lambda r: r.kit.tree_sha256[:12]),            NOTE,  NOTE,  NOTE),
)
# fmt: on
RANKS: tuple[Weight, ...] = ("blocking", "suspicious", "intended", "harmless")
# What follows from another power mode, or another model of the same board, is meant with it.
_FOLLOWS_POWER_MODE = frozenset({"sm_count", "clock", "memory_clock"})
SAYS = {
    "intended": "differs, as intended",
    "harmless": "differs",
    "suspicious": "differs and may show in the times",
    "blocking": "these are different experiments",
}


def notice(a: Sequence[Observed], b: Sequence[Observed], across: Across) -> tuple[Noticed, ...]:
    """Return what differs between two sides, or is amiss on either, the weightiest first.

    A side's records are of one variant in several sessions; they must agree among each other, too.
    """
    found = [each for field in FIELDS if (each := _compare(field, a, b, across))]
    found += _state(a, b, across)
    mode = any(each.field == "power_mode" and each.weight == "intended" for each in found)
    if mode:
        found = [
            _with(each, "intended") if each.field in _FOLLOWS_POWER_MODE and each.a and each.b else each
            for each in found
        ]
    order = {field.name: i for i, field in enumerate(FIELDS)}
    return tuple(
        sorted(
            found,
            key=lambda each: (RANKS.index(each.weight), -_size(each.effect), order.get(each.field, -1)),
        )
    )


def _with(noticed: Noticed, weight: Weight) -> Noticed:
    return Noticed(noticed.field, noticed.a, noticed.b, weight, noticed.sentence, noticed.effect)


def _size(effect: float | None) -> float:
    return 0.0 if effect is None or effect <= 0 else max(effect, 1 / effect)


def _compare(field: Field, a: Sequence[Observed], b: Sequence[Observed], across: Across) -> Noticed | None:
    left, right = ({field.read(seen) for seen in side} for side in (a, b))
    if left == right and len(left) == 1:
        (value,) = left
        if field.name == "virtualised" and value not in (None, "none"):
            return Noticed(field.name, str(value), str(value), "suspicious", "they ran in a virtual machine")
        if value is None and field.unread != "harmless":
            return Noticed(field.name, None, None, field.unread, "neither side tells it")
        return None
    weight: Weight = getattr(field, across)
    if weight == "intended" and max(len(left), len(right)) > 1:
        # What is compared must be one thing on each side; other units of one board may be a side.
        weight = "suspicious" if field.name == "gpu" else "blocking"
    if None in left | right:
        # Not told by one side: that alone says nothing of a difference, unless the table says it does.
        known = (left | right) - {None}
        weight = field.unread if len(known) <= 1 else weight
        return Noticed(field.name, _shown(left), _shown(right), weight, "not told by every record")
    effect = None
    if field.name in ("threads", "sm_count") and len(left) == len(right) == 1:
        before, after = (float(next(iter(values)) or 0) for values in (left, right))
        effect = before / after if before > 0 and after > 0 else None
    return Noticed(field.name, _shown(left), _shown(right), weight, SAYS[weight], effect)


def _shown(values: set[Scalar | None]) -> str | None:
    known = sorted(str(value) for value in values if value is not None)
    return " / ".join(known) or None


# --- what is amiss in the state of either side, or between them ------------------------------------


def _state(a: Sequence[Observed], b: Sequence[Observed], across: Across) -> list[Noticed]:
    found: list[Noticed] = []

    def amiss(field: str, weight: Weight, sentence: str, test: Callable[[Observed], str | None]) -> None:
        left, right = (next(filter(None, map(test, side)), None) for side in (a, b))
        if left or right:
            found.append(Noticed(field, left, right, weight, sentence))

    amiss("status", "blocking", "a record without a measurement", _not_measured)
    amiss("output", "blocking", "the output is wrong", _wrong_output)
    amiss("output_unchecked", "suspicious", "the output was not checked", _unchecked)
    amiss("critical", "blocking", "fields of a newer kit that must be understood", _critical)
    amiss("foreign_load", "suspicious", "other processes used the machine", _foreign_load)
    beyond: Weight = "intended" if across == "device" else "blocking"
    left_mhz, right_mhz = ([seen.clock_mhz for seen in side] for side in (a, b))
    # A processor tells the mean of all its cores, which says too little to stop for.
    cpu = any(seen.record.board.compute_capability is None for seen in (*a, *b))
    found += _clocks("clock", left_mhz, right_mhz, "suspicious" if cpu and beyond == "blocking" else beyond)
    if any(seen.record.board.integrated or seen.memory_clock_mhz is not None for seen in (*a, *b)):
        left_mhz, right_mhz = ([seen.memory_clock_mhz for seen in side] for side in (a, b))
        found += _clocks("memory_clock", left_mhz, right_mhz, beyond)
    amiss("power_mode_unread", "suspicious", "the board has power modes", _power_mode_unread)
    amiss("settings_changed", "suspicious", "it was set differently before and after", _settings_changed)
    amiss("clock_moved", "suspicious", "the clock did not stand while it was measured", _clock_moved)
    shares = [seen.throttled_share for seen in (*a, *b) if seen.throttled_share]
    if shares:
        weight: Weight = "blocking" if max(shares) > THROTTLED_MOST else "suspicious"
        if across == "device":
            weight = "intended"
        left, right = (max((seen.throttled_share or 0.0 for seen in side), default=0.0) for side in (a, b))
        found.append(
            Noticed(
                "throttled",
                f"{left:.1%}".replace("%", " %"),
                f"{right:.1%}".replace("%", " %"),
                weight,
                "something held the clocks down while it was measured",
            )
        )
    return found


def _clocks(
    field: str, a: Sequence[float | None], b: Sequence[float | None], beyond: Weight
) -> list[Noticed]:
    left, right = ([value for value in side if value is not None] for side in (a, b))
    if len(left) < len(a) or len(right) < len(b):
        told = [f"{max(side):.0f} MHz" if side else None for side in (left, right)]
        return [Noticed(field, told[0], told[1], "suspicious", "not read on every side")]
    if not left or not right:
        return []
    apart = max(max(x, y) / min(x, y) - 1 for x, y in itertools.combinations((*left, *right), 2))
    weight: Weight = beyond if apart > CLOCKS_APART else "harmless"
    if apart <= CLOCKS_APART / 10:
        return []
    effect = (sum(left) / len(left)) / (sum(right) / len(right))
    return [
        Noticed(
            field,
            " / ".join(f"{value:.0f} MHz" for value in left),
            " / ".join(f"{value:.0f} MHz" for value in right),
            weight,
            f"the clocks are {apart:.1%} apart".replace("%", " %"),
            effect,
        )
    ]


def _not_measured(seen: Observed) -> str | None:
    record = seen.record
    if record.status not in ("measured", "imported"):
        return f"{record.status}: {record.reason or 'no reason recorded'}"
    return None if seen.builds else f"{record.status}, without a time"


def _wrong_output(seen: Observed) -> str | None:
    checks = [build.check for build in seen.record.builds if build.check]
    wrong = [check for check in checks if not check.ok]
    if not wrong:
        return None
    problem = wrong[0].problems[0] if wrong[0].problems else "beyond the tolerance"
    return f"{len(wrong)} of {len(checks)} builds: {problem}"


def _power_mode_unread(seen: Observed) -> str | None:
    board = seen.record.board
    return "not read" if board.integrated and not board.power_mode else None


def _settings_changed(seen: Observed) -> str | None:
    return clocks.settings_changed(seen.record.telemetry)


def _clock_moved(seen: Observed) -> str | None:
    flagged = sum(any(flag.code == "clock_moved" for flag in run.flags) for run in seen.record.runs)
    return f"in {flagged} of {len(seen.record.runs)} runs" if flagged else None


def _unchecked(seen: Observed) -> str | None:
    return None if not seen.builds or all(build.check for build in seen.record.builds) else "not checked"


def _critical(seen: Observed) -> str | None:
    unknown = set(seen.record.critical) - set(seen.record.__struct_fields__)
    return ", ".join(sorted(unknown)) or None


def _foreign_load(seen: Observed) -> str | None:
    flagged = sum(any(flag.code == "foreign_load" for flag in run.flags) for run in seen.record.runs)
    return f"in {flagged} of {len(seen.record.runs)} runs" if flagged else None
