"""What the machine is: the board of a record, from what its driver and its kernel tell.

CUDA names every Orin "Orin" and knows nothing of modules, so on a Jetson the device tree and the table
of power modes say which one it is, and which one it was made to be. How many multiprocessors are on is
the driver's answer where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from repro import boards
from repro.backends.cuda import Gpu
from repro.probes.jetson import MODE_CONTENT
from repro.schema import Board, Fact, PowerMode, ReleaseSeen
from repro.telemetry import fact_value


def board(facts: Sequence[Fact], found: Gpu | None, *, gpu: bool, cores: int, threads: int) -> Board:
    """Return the board: `found` is the GPU under test as its driver describes it, `gpu` whether one is."""
    jetson = [fact for fact in facts if fact.probe == "jetson"]
    if not gpu or (found is None and not jetson):
        name = fact_value(jetson, "model") or fact_value(facts, "cpu_model")
        seen = Board(name=None if name is None else str(name), cores=cores, threads=threads)
    elif found is None:
        seen = Board(cores=cores)
    else:
        mig = fact_value(facts, "mig_mode")
        row = boards.match(found.name, found.compute_capability, found.sm_count)
        seen = Board(
            matched_id=row.id if row else None,
            name=found.name,
            compute_capability=found.compute_capability,
            sm_count=found.sm_count,
            integrated=found.integrated,
            mig=None if mig is None else mig == "on",
            gpu=found.uuid,
            cores=cores,
        )
    return _of_jetson(seen, jetson, gpu=gpu) if jetson else seen


def _of_jetson(seen: Board, facts: Sequence[Fact], *, gpu: bool) -> Board:
    emulated = fact_value(facts, "emulated")
    seen = msgspec.structs.replace(
        seen,
        emulated=None if emulated is None else str(emulated),
        power_mode=power_mode(facts),
    )
    if not gpu:
        return seen
    row = boards.match(_module(facts), seen.compute_capability, seen.sm_count)
    model, sm_count = fact_value(facts, "model"), fact_value(facts, "sm_count")
    return msgspec.structs.replace(
        seen,
        matched_id=row.id if row else seen.matched_id,
        name=seen.name if model is None else str(model),
        # Without a driver's word, what the module is known to have.
        compute_capability=seen.compute_capability or (row.compute_capability if row else None),
        sm_count=seen.sm_count or (sm_count if isinstance(sm_count, int) else None),
        integrated=True,
    )


def _module(facts: Sequence[Fact]) -> str | None:
    """Return the module that the board is, or was made to be, in the words of the table of boards."""
    name = fact_value(facts, "emulated") or fact_value(facts, "module_name")
    more_clock = "super" in str(fact_value(facts, "power_mode_table") or "")
    return None if name is None else f"{name} Super" if more_clock else str(name)


def power_mode(facts: Sequence[Fact]) -> PowerMode | None:
    """Return the power mode by name with what it sets, `None` where it was not told."""
    name = fact_value(facts, "power_mode")
    if name is None:
        return None
    content = {
        fact.name.removeprefix(MODE_CONTENT) + ("_mhz" if fact.unit == "MHz" else ""): fact.value
        for fact in facts
        if fact.name.startswith(MODE_CONTENT) and fact.value is not None
    }
    return PowerMode(str(name), content)


def on_board(release: ReleaseSeen, facts: Sequence[Fact]) -> ReleaseSeen:
    """Return the release with the board's Jetson Linux, where there is one."""
    l4t = fact_value([fact for fact in facts if fact.probe == "jetson"], "l4t")
    return release if l4t is None else msgspec.structs.replace(release, l4t=str(l4t))
