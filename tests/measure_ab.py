"""How often an alternating comparison is wrong on real machines: `make measure-ab`, outside CI.

    python tests/measure_ab.py pool FILE [--backend torch] [--processes 40] [--seconds 450]

measures one *pool* of processes on an NVIDIA GPU: conv16:hwc8 as side A, and as side B the same network
on a map of 5 % more rows. A parent imports the runtime, without touching the GPU, and forks a child for
each sample, so that each has a CUDA context and a choice of kernels of its own and the import is paid
once. Sides alternate A B B A. Each child appends a line to FILE; a later call goes on where this one
stopped. What came of it is written down in docs/measurements.md.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from repro import backends, cases, check, devices, measure, models, plan, turn  # noqa: E402
from repro.backends import cuda  # noqa: E402
from repro.environments import Environment  # noqa: E402
from repro.errors import ReproError  # noqa: E402
from repro.schema import Arm, ConvStack, ModelSpec, Subject  # noqa: E402

PLANTED = 1.05
"""Rows of side B over rows of side A: the slow-down is more of the same work, never a sleep."""
PREHEAT_MS, MEASURE_S, ITERATIONS = 500, 0.3, 20
CHILD_TIMEOUT_S = 120.0
ORDER: tuple[Arm, ...] = ("A", "B", "B", "A")
BEGIN = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGIN:6.1f} s] {text}", flush=True)


# --- a pool of processes ------------------------------------------------------------------------


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process of a pool: one line of its file. Without `log_median`, it failed and `error` says how."""

    backend: str
    device: str
    """Name of the GPU: processes of two kinds are no pool."""
    side: Arm
    number: int
    log_median: float | None = None
    """Of the natural logarithms of times in ns."""
    structure_hash: str | None = None
    n: int | None = None
    error: str | None = None


class Prepared(NamedTuple):
    """What the children of one side share: made once, before they are forked."""

    subject: Subject
    model: bytes
    source: npt.NDArray[np.floating]
    result: npt.NDArray[np.floating]


def longer(model: ModelSpec) -> ModelSpec:
    """Return the network on a map of 5 % more rows."""
    assert isinstance(model, ConvStack)
    return msgspec.structs.replace(model, height=round(model.height * PLANTED))


def prepare(target: plan.Target, case: cases.Case, variant: str | None, side: Arm) -> Prepared:
    """Plan one side as `repro run` would, and make its model and its input."""
    experiment = cases.resolve(case, variant)
    environment = Environment(target.backend.release(gpu=target.device.gpu), None)
    subject = plan._subject(side, plan.Wanted("subject", experiment, environment), target)
    # The case stays the one that is shipped, as its module does: the weights are the same ones.
    shape = longer(experiment.model) if side == "B" else experiment.model
    subject = msgspec.structs.replace(subject, model=shape)
    precision = models.file_precision(str(subject.planned["precision"]))
    source, result = models.tensors(shape, precision)
    return Prepared(
        subject, models.build(shape, precision), models.inputs("measure", source), check.poison(result)
    )


def sample(target: plan.Target, prepared: Prepared, blank: Sample, *, checked: bool) -> Sample:
    """Build, heat and time one side in this very process."""
    gpu = target.device.gpu
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        path.write_bytes(prepared.model)
        engine = target.backend.build(
            path,
            Path(name),
            prepared.subject,
            gpu=gpu,
            threads=1,
            source=prepared.source,
            result=prepared.result,
        )
        structure = engine.structure_hash()
        if checked:
            _check(target, prepared, engine, path)
        measure.preheat(engine.step, warm_up_ms=PREHEAT_MS, max_seconds=0.0)
        if engine.queue is None:
            series = measure.iterate(engine.step, seconds=MEASURE_S, iterations=ITERATIONS)
        else:
            series, _ = measure.iterate_enqueued(
                engine.queue, engine.enqueue, seconds=MEASURE_S, iterations=ITERATIONS
            )
        summary = series.summary()
    return msgspec.structs.replace(
        blank, log_median=summary.log_median, structure_hash=structure, n=summary.n
    )


def _check(target: plan.Target, prepared: Prepared, engine: Any, path: Path) -> None:
    """Raise where the output is wrong; the first process of a side is enough for one and the same input."""
    precision = str(prepared.subject.planned["precision"])
    engine.poison(prepared.result)
    engine.step()
    verdict = check.output(
        path.read_bytes(),
        prepared.source,
        engine.output(),
        models.tensors(prepared.subject.model, models.file_precision(precision))[1],
        check.tolerance(
            prepared.subject.tolerances[precision], models.weighted_layers(prepared.subject.model)
        ),
        seed="measure",
        library=target.backend.unoptimised,
    )
    if not verdict.ok:
        raise turn.Failure("wrong_output", "; ".join(verdict.problems))


def forked(work: Callable[[], Sample], blank: Sample, timeout_s: float = CHILD_TIMEOUT_S) -> Sample:
    """Return what `work` gives in a child of its own; whatever becomes of the child is a sample too."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, msgspec.json.encode(work()))
        except BaseException as error:  # noqa: BLE001 - nothing may get past here: this is a copy of the parent
            traceback.print_exc()
            told = msgspec.structs.replace(blank, error=f"{type(error).__name__}: {error}"[:300])
            os.write(writing, msgspec.json.encode(told))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            # One write of less than a pipe's capacity: it is there as a whole, or the child has gone.
            answered, _, _ = select.select([pipe], [], [], timeout_s)
            data = pipe.read() if answered else b""
    finally:
        if not data:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if data:
        return msgspec.json.decode(data, type=Sample)
    how = f"ended by signal {os.WTERMSIG(status)}" if answered else f"no answer in {timeout_s:g} s"
    return msgspec.structs.replace(blank, error=how)


def read(file: Path) -> list[Sample]:
    """Return the samples of a file; a last line that was cut off is left out."""
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=Sample) for line in lines[:-1]]


def whole(file: Path) -> None:
    """Cut off a last line that an end without notice left unfinished."""
    data = file.read_bytes() if file.exists() else b""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data[: data.rfind(b"\n") + 1])


def pool(
    file: Path,
    target: plan.Target,
    device: str,
    *,
    case: cases.Case,
    variant: str | None,
    processes: int,
    seconds: float,
) -> bool:
    """Go on with a pool until it has `processes` a side or `seconds` are over; tell whether it is full."""
    importlib.import_module(target.name)
    importlib.import_module("onnx")
    whole(file)
    before = [each for each in read(file) if (each.backend, each.device) == (target.name, device)]
    sides = {side: prepare(target, case, variant, side) for side in plan.ARMS}
    say(f"{target.name} on {device}: {len(before)} of {2 * processes} processes are there")
    longest, failed = 0.0, 0
    for position in range(len(before), 2 * processes):
        if time.monotonic() - BEGIN + longest > seconds:
            say(f"{seconds:g} s are over; the same call goes on from here")
            return False
        side = ORDER[position % len(ORDER)]
        blank = Sample(backend=target.name, device=device, side=side, number=position // 2)
        begin = time.monotonic()
        work = functools.partial(sample, target, sides[side], blank, checked=position < 2)
        done = forked(work, blank)
        with file.open("ab") as lines:
            lines.write(msgspec.json.encode(done) + b"\n")
        failed = failed + 1 if done.error else 0
        if failed == len(ORDER):
            raise ReproError(f"{failed} processes in a row failed ({done.error})", "mend that first")
        shown = done.error or f"{np.exp(done.log_median or 0) / 1e6:.4f} ms, n {done.n}"
        took = time.monotonic() - begin
        longest = max(longest, took)
        say(f"{side}{blank.number}: {shown}, {(done.structure_hash or '')[:8]}, {took:.1f} s")
    say("the pool is full")
    return True


def part_pool(asked: argparse.Namespace) -> int:
    """Measure a pool on the GPU, or, to try the plumbing, a small one on the processor."""
    device = devices.DEVICES["cpu" if asked.cpu else "x86"]
    name = "onnxruntime" if asked.cpu else asked.backend
    target = plan.Target(device, name, backends.load(name))
    case = cases.load("conv16")
    if asked.cpu:
        # A 36th of the map: the plumbing doesn't need more.
        case = msgspec.structs.replace(case, model={**case.model, "height": 320, "width": 180})
    full = pool(
        asked.file,
        target,
        "cpu" if asked.cpu else cuda.look().name,
        case=case,
        variant=None if asked.cpu else "hwc8",
        processes=asked.processes,
        seconds=asked.seconds,
    )
    return 0 if full else 75


# --- the command line ---------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Run a part; 0 when it is complete, 75 when the same call goes on with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("pool", help="measure a pool of processes on the GPU")
    one.add_argument("file", type=Path)
    one.add_argument("--backend", choices=("torch", "onnxruntime"), default="torch")
    one.add_argument("--processes", type=int, default=40, help="of each side")
    one.add_argument("--seconds", type=float, default=450.0, help="end cleanly before so many")
    one.add_argument("--cpu", action="store_true", help="try the plumbing on the processor")
    one.set_defaults(part=part_pool)
    asked = parser.parse_args(argv)
    try:
        return int(asked.part(asked))
    except ReproError as error:
        say(f"{error.what}; {error.hint}")
        return int(error.code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
