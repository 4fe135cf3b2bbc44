"""The table of fields: what a difference means, by what is compared; and what is amiss in a state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from repro import comparable, observed
from repro.comparable import FIELDS, notice
from repro.observed import Observed
from repro.schema import (
    Across,
    Board,
    Effective,
    Fact,
    Flag,
    Noticed,
    OutputCheck,
    PowerMode,
    Privacy,
    Record,
    Settings,
    StateChange,
    Weight,
)
from tests.builders import make_failed, make_record

replace = msgspec.structs.replace
ALL: tuple[Across, ...] = ("release", "device", "setting")


def seen(record: Record | None = None, **changes: Any) -> Observed:
    """Return a record on a GPU whose clocks were read, with `changes` to what was observed."""
    watched = observed.observe(record or on_gpu(), "id", "f", {})
    return watched._replace(
        **{"clock_mhz": 1980.0, "memory_clock_mhz": 2619.0, "throttled_share": 0.0, **changes}
    )


def on_gpu(**changes: Any) -> Record:
    return at(make_record(**changes), "board", compute_capability="9.0", sm_count=132, name="A GPU", gpu="g1")


def at(record: Record, path: str, **changes: Any) -> Record:
    """Return the record with a nested struct changed."""
    first, _, rest = path.partition(".")
    inner = getattr(record, first)
    inner = at(inner, rest, **changes) if rest else replace(inner, **changes)
    return replace(record, **{first: inner})


def setting(record: Record, name: str, value: Any) -> Record:
    effective = {**record.settings.effective, name: Effective(value, "graph")}
    planned = {**record.settings.planned, name: value}
    return at(record, "settings", effective=effective, planned=planned)


def fact(record: Record, name: str, value: str) -> Record:
    return at(record, "telemetry", facts=(*record.telemetry.facts, Fact("host", name, None, "value", value)))


def private(record: Record, key: str) -> Record:
    return replace(record, privacy=Privacy("p", 0, key))


def found(a: Observed, b: Observed, across: Across = "release") -> dict[str, Noticed]:
    return {each.field: each for each in notice([a], [b], across)}


BASE = on_gpu()
HERE = fact(fact(private(BASE, "k"), "kernel", "5.15"), "governor", "performance")
MODE = at(HERE, "board", power_mode=PowerMode("MAXN", {}))
CHANGES: list[tuple[str, Record, Record, tuple[Weight, Weight, Weight]]] = [
    ("model", HERE, at(HERE, "model", digests={"fp32": "b" * 64}), ("blocking",) * 3),
    ("product", HERE, at(HERE, "runtime", product="TensorRT-RTX"), ("blocking",) * 3),
    ("precision", HERE, setting(HERE, "precision", "fp16"), ("blocking", "blocking", "intended")),
    ("io_layout", HERE, setting(HERE, "io_layout", "hwc8"), ("blocking", "blocking", "intended")),
    (
        "queue",
        setting(HERE, "queue", "full"),
        setting(HERE, "queue", "synchronised"),
        ("blocking", "blocking", "intended"),
    ),
    (
        "cuda_graph",
        setting(HERE, "cuda_graph", False),
        setting(HERE, "cuda_graph", True),
        ("blocking", "blocking", "intended"),
    ),
    ("timer", HERE, at(HERE, "protocol", timer="another"), ("blocking",) * 3),
    ("threads", HERE, at(HERE, "board", threads=2), ("blocking", "blocking", "intended")),
    ("board", HERE, at(HERE, "board", name="Another GPU"), ("blocking", "intended", "blocking")),
    ("mig", at(HERE, "board", mig=False), at(HERE, "board", mig=True), ("blocking", "intended", "blocking")),
    (
        "emulated",
        at(HERE, "board", emulated="x"),
        at(HERE, "board", emulated="y"),
        ("blocking", "intended", "blocking"),
    ),
    ("power_mode", MODE, at(MODE, "board.power_mode", name="15W"), ("blocking", "intended", "intended")),
    (
        "release",
        HERE,
        at(HERE, "runtime.release", version="1.1"),
        ("intended", "blocking", "blocking"),
    ),
    ("gpu", HERE, at(HERE, "board", gpu="g2"), ("suspicious", "intended", "suspicious")),
    (
        "driver",
        at(HERE, "runtime.release", driver="580.1"),
        at(HERE, "runtime.release", driver="580.2"),
        ("suspicious",) * 3,
    ),
    (
        "cuda",
        at(HERE, "runtime.release", cuda="12"),
        at(HERE, "runtime.release", cuda="13"),
        ("suspicious",) * 3,
    ),
    (
        "l4t",
        at(HERE, "runtime.release", l4t="35.1"),
        at(HERE, "runtime.release", l4t="36.4"),
        ("suspicious",) * 3,
    ),
    ("place", HERE, at(HERE, "runtime.place", kind="docker"), ("suspicious",) * 3),
    ("kernel", HERE, fact(private(BASE, "k"), "kernel", "6.1"), ("suspicious", "harmless", "suspicious")),
    ("origin", HERE, replace(HERE, origin="imported"), ("suspicious",) * 3),
    ("kit", HERE, at(HERE, "kit", tree_sha256="1" * 64), ("harmless",) * 3),
    ("protocol", HERE, at(HERE, "protocol.planned", name="standard"), ("harmless",) * 3),
]


def test_equal_sides_have_nothing_to_notice() -> None:
    assert notice([seen(HERE)], [seen(HERE)], "release") == ()


@pytest.mark.parametrize("across", ALL)
@pytest.mark.parametrize(("field", "a", "b", "weights"), CHANGES, ids=[each[0] for each in CHANGES])
def test_a_difference_weighs_as_the_table_says(
    field: str, a: Record, b: Record, weights: tuple[Weight, Weight, Weight], across: Across
) -> None:
    one = found(seen(a), seen(b), across)[field]
    assert one.weight == weights[ALL.index(across)]
    assert one.a != one.b


def test_every_field_is_there_once_and_can_be_read() -> None:
    names = [field.name for field in FIELDS]
    assert len(set(names)) == len(names)
    for field in FIELDS:
        field.read(seen(HERE))


def test_every_setting_and_every_property_of_a_board_has_its_row() -> None:
    # How long is measured and what is printed changes no time.
    free = {"duration_s", "percentiles", "matched_id", "name", "compute_capability", "integrated"}
    known = {name for kind in (Settings, Board) for name in kind.__struct_fields__}
    assert known - free <= {field.name for field in FIELDS}


@pytest.mark.parametrize("field", ["precision", "io_layout", "board", "virtualised"])
def test_what_neither_side_tells_is_suspicious_where_it_matters(field: str) -> None:
    bare = at(HERE, "settings", planned={}, effective={})
    bare = at(at(bare, "board", name=None), "runtime.place", virtualised=None)
    assert found(seen(bare), seen(bare))[field].weight == "suspicious"


def test_a_virtual_machine_is_suspicious_on_both_sides_too() -> None:
    virtual = at(HERE, "runtime.place", virtualised="kvm")
    assert found(seen(virtual), seen(virtual))["virtualised"].weight == "suspicious"


def test_a_side_that_is_two_things_is_none() -> None:
    other = seen(at(HERE, "runtime.release", version="1.2"))
    newer = seen(at(HERE, "runtime.release", version="1.1"))
    weights = {each.field: each.weight for each in notice([seen(HERE)], [newer, other], "release")}
    assert weights["release"] == "blocking"


def test_another_power_mode_brings_other_clocks_along() -> None:
    a, b = seen(MODE, clock_mhz=1300.0), seen(at(MODE, "board.power_mode", name="15W"), clock_mhz=420.0)
    assert found(a, b, "setting")["clock"].weight == "intended"
    assert found(a, b, "release")["clock"].weight == "blocking"


# --- the state ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mhz", "weight"), [(1980.0, None), (1976.0, None), (1940.0, "harmless"), (1900.0, "blocking")]
)
def test_clocks_apart(mhz: float, weight: Weight | None) -> None:
    one = found(seen(HERE), seen(HERE, clock_mhz=mhz)).get("clock")
    assert (one.weight if one else None) == weight
    if one:
        assert one.effect == pytest.approx(1980.0 / mhz)


def test_clocks_apart_are_meant_across_devices() -> None:
    assert found(seen(HERE), seen(HERE, clock_mhz=1000.0), "device")["clock"].weight == "intended"


@pytest.mark.parametrize("field", ["clock_mhz", "memory_clock_mhz"])
def test_a_clock_that_was_not_read_is_suspicious(field: str) -> None:
    one = found(seen(HERE), seen(HERE, **{field: None}))[field.removesuffix("_mhz")]
    assert (one.weight, one.b) == ("suspicious", None)


def test_the_mean_clock_of_all_cores_is_too_little_to_stop_for() -> None:
    record = make_record()
    a, b = seen(record, clock_mhz=3000.0), seen(record, clock_mhz=2000.0)
    assert found(a, b)["clock"].weight == "suspicious"


@pytest.mark.parametrize(
    ("share", "weight"), [(0.005, "suspicious"), (0.01, "suspicious"), (0.02, "blocking")]
)
def test_held_down_clocks(share: float, weight: Weight) -> None:
    assert found(seen(HERE), seen(HERE, throttled_share=share))["throttled"].weight == weight
    assert found(seen(HERE), seen(HERE, throttled_share=share), "device")["throttled"].weight == "intended"


def test_a_failed_record_blocks_and_names_its_reason() -> None:
    one = found(seen(HERE), seen(make_failed("no kernel")))["status"]
    assert (one.weight, one.b) == ("blocking", "failed: no kernel")


def test_a_wrong_output_blocks() -> None:
    wrong = OutputCheck("fp64_at_sampled_positions", "made up", 256, 1.0, 1e-5, False, False, ("all zeros",))
    builds = (replace(HERE.builds[0], check=wrong), *HERE.builds[1:])
    one = found(seen(HERE), seen(replace(HERE, builds=builds)))["output"]
    assert (one.weight, one.b) == ("blocking", "1 of 3 builds: all zeros")


def test_an_unchecked_output_is_suspicious() -> None:
    builds = tuple(replace(build, check=None) for build in HERE.builds)
    assert found(seen(HERE), seen(replace(HERE, builds=builds)))["output_unchecked"].weight == "suspicious"


def test_foreign_load_is_suspicious() -> None:
    runs = (replace(HERE.runs[0], flags=(Flag("foreign_load", "busy"),)), *HERE.runs[1:])
    one = found(seen(HERE), seen(replace(HERE, runs=runs)))["foreign_load"]
    assert (one.weight, one.b) == ("suspicious", "in 1 of 3 runs")


def test_a_mode_of_the_same_name_with_other_content_is_another_mode() -> None:
    mode = at(MODE, "board.power_mode", content={"gpu_clock_max_mhz": 816.0, "cores": 8})
    one = found(seen(mode), seen(at(mode, "board.power_mode", content={"gpu_clock_max_mhz": 612.0})))
    assert one["power_mode"].weight == "blocking"
    assert one["power_mode"].a == "MAXN (cores 8, gpu_clock_max_mhz 816.0)"


def test_a_setting_that_changed_meanwhile_is_suspicious_on_either_side() -> None:
    change = StateChange("jetson", "power_mode", "MODE_40W", "MAXN")
    changed = replace(HERE, telemetry=replace(HERE.telemetry, state_changed=(change,)))
    one = found(seen(changed), seen(HERE))["settings_changed"]
    assert (one.weight, one.b) == ("suspicious", None)
    assert one.a == "power_mode was MODE_40W before and MAXN after the session"


def test_a_clock_that_moved_is_suspicious() -> None:
    runs = (replace(HERE.runs[0], flags=(Flag("clock_moved", "why"),)), *HERE.runs[1:])
    one = found(seen(HERE), seen(replace(HERE, runs=runs)))["clock_moved"]
    assert (one.weight, one.a, one.b) == ("suspicious", None, "in 1 of 3 runs")


def test_a_board_with_power_modes_must_tell_its_own() -> None:
    board = at(HERE, "board", integrated=True)
    assert found(seen(board), seen(board))["power_mode_unread"].weight == "suspicious"


def test_the_weightiest_stand_first_then_the_likeliest() -> None:
    b = at(at(HERE, "board", threads=8, name="Another GPU"), "runtime.place", kind="docker")
    b = at(b, "kit", tree_sha256="1" * 64)
    noticed = notice([seen(HERE)], [seen(b, clock_mhz=1000.0)], "release")
    assert [each.weight for each in noticed] == sorted(
        (each.weight for each in noticed), key=comparable.RANKS.index
    )
    # Threads could account for 8 times, the clock for twice; the board tells no factor.
    assert [each.field for each in noticed][:3] == ["threads", "clock", "board"]
