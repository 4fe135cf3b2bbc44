"""How often a comparison is wrong on real machines: `make measure-ab`, outside CI, in parts.

    python tests/measure_ab.py cpu FOLDER [--seconds 450] [--releases ort-1.30.0 ort-1.32.0]

runs `repro ab` on the processor: trials whose arms are the same, and trials whose arm B works on 5 % more
rows, half of each with either release; and once the two releases against each other. A trial is a bundle
in FOLDER; a later call goes on with those that are missing.

    python tests/measure_ab.py pool FILE [--seconds 450] [--backend torch] [--processes 40]

measures a *pool* of processes on an NVIDIA GPU: conv16:hwc8 as side A, and as side B the same network on
a map of 5 % more rows. A parent imports the runtime, without touching the GPU, and forks a child for
each sample, so that each has a CUDA context and a choice of kernels of its own and the import is paid
once. Sides alternate A B B A. Each child appends a line to FILE; a later call goes on where it ends.

    python tests/measure_ab.py report FOLDER|FILE [--seed 1] [--builds 5] [--rounds 12 24] [--trials 20]

compares by the kit's own rule and counts verdicts. From a pool it draws trials, so these are resampled;
from trials with `--rounds` it draws further ones, of so many of their quads.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import math
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from repro import cases, check, compare, devices, measure, models, observed, plan, turn  # noqa: E402
from repro.backends import cuda  # noqa: E402
from repro.environments import Environment  # noqa: E402
from repro.errors import ReproError, UsageError  # noqa: E402
from repro.observed import Source  # noqa: E402
from repro.places import Where  # noqa: E402
from repro.schema import Arm, Comparison, ConvStack, Estimate, ModelSpec, Subject, Verdict  # noqa: E402
from tests.builders import make_record  # noqa: E402

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


def prepare(where: Where, case: cases.Case, variant: str | None, side: Arm) -> Prepared:
    """Plan one side as `repro run` would, and make its model and its input."""
    experiment = cases.resolve(case, variant)
    environment = Environment(where.runtime.release(gpu=where.device.gpu), None)
    wanted = plan.Wanted("subject", experiment, environment)
    subject = plan._subject(side, wanted, where, measure.PROTOCOLS["standard"])
    # The case stays the one that is shipped, as its module does: the weights are the same ones.
    shape = longer(experiment.model) if side == "B" else experiment.model
    subject = msgspec.structs.replace(subject, model=shape)
    precision = models.file_precision(str(subject.planned["precision"]))
    source, result = models.tensors(shape, precision)
    return Prepared(
        subject, models.build(shape, precision), models.inputs("measure", source), check.poison(result)
    )


def sample(where: Where, prepared: Prepared, blank: Sample, *, checked: bool) -> Sample:
    """Build, heat and time one side in this very process."""
    gpu = where.device.gpu
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        path.write_bytes(prepared.model)
        engine = where.runtime.build(
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
            _check(where, prepared, engine, path)
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


def _check(where: Where, prepared: Prepared, engine: Any, path: Path) -> None:
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
        library=where.runtime.unoptimised,
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
    data = b""
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
    ended = f"ended with status {os.waitstatus_to_exitcode(status)}"
    how = ended if answered else f"no answer in {timeout_s:g} s"
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
    where: Where,
    device: str,
    *,
    case: cases.Case,
    variant: str | None,
    processes: int,
    seconds: float,
) -> bool:
    """Go on with a pool until it has `processes` a side or `seconds` are over; tell whether it is full."""
    importlib.import_module(where.backend)
    importlib.import_module("onnx")
    whole(file)
    before = [each for each in read(file) if (each.backend, each.device) == (where.backend, device)]
    sides = {side: prepare(where, case, variant, side) for side in plan.ARMS}
    say(f"{where.backend} on {device}: {len(before)} of {2 * processes} processes are there")
    longest, failed = 0.0, 0
    for position in range(len(before), 2 * processes):
        if time.monotonic() - BEGIN + longest > seconds:
            say(f"{seconds:g} s are over; the same call goes on from here")
            return False
        side = ORDER[position % len(ORDER)]
        blank = Sample(backend=where.backend, device=device, side=side, number=position // 2)
        begin = time.monotonic()
        work = functools.partial(sample, where, sides[side], blank, checked=position < 2)
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
    where = Where(device=device, backend=name)
    case = cases.load("conv16")
    if asked.cpu:
        # A 36th of the map: the plumbing doesn't need more.
        case = msgspec.structs.replace(case, model={**case.model, "height": 320, "width": 180})
    full = pool(
        asked.file,
        where,
        "cpu" if asked.cpu else cuda.look().name,
        case=case,
        variant=None if asked.cpu else "hwc8",
        processes=asked.processes,
        seconds=asked.seconds,
    )
    return 0 if full else 75


# --- whole comparisons on the processor ---------------------------------------------------------

CASE = "conv16-small"
CASE_TOML = """
id = "conv16-small"
version = 1
title = "conv16 on a map of 400 x 240"
question = "How often is a comparison wrong?"
source = "measurements of the kit"
share = "full"

[model]
network = "conv_stack"
seed = "conv16"
batch = 1
height = 400
width = 240
channels = [16, 16, 16, 16]
kernel = 3
bias = true

[settings]
precision = "fp32"
typing = "weak"
io_layout = "chw"
sparsity = false
cuda_graph = false
spin_wait = false
transfers = true
l2 = "warm"
warm_up_ms = 200
duration_s = 0.3
percentiles = [90, 99]

[tolerance]
fp32 = { error = 1e-5 }

[variants.longer]
question = "Is 5 % more of the same work found?"
model = { height = 420 }
"""
PLANTED_VARIANT = "longer"


def trials(count: int, releases: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the arms of each trial by its name, in the order in which to run them."""
    found = {"releases-00": (f"{CASE}@{releases[0]}", f"{CASE}@{releases[1]}")}
    for number in range(count):
        release = releases[number % 2]
        a = f"{CASE}@{release}"
        found[f"same-{number:02}"] = (a, a)
        found[f"planted-{number:02}"] = (a, f"{CASE}:{PLANTED_VARIANT}@{release}")
    return found


def part_cpu(asked: argparse.Namespace) -> int:
    """Run what is missing of the trials, as long as there is time."""
    case = asked.folder / "cases" / CASE / "case.toml"
    case.parent.mkdir(parents=True, exist_ok=True)
    case.write_text(CASE_TOML)
    places = ["--cases", str(case.parent.parent), "--work", str(asked.folder / "work"), "--device", "cpu"]
    # Short and without pre-heating beyond the warm-up: a processor's caches are warm by then.
    how = ["--protocol", "forum", "--rounds", str(asked.rounds), "--duration", "0.3s", "--iterations", "20"]
    longest = 0.0
    for name, (a, b) in trials(asked.trials, asked.releases).items():
        target = asked.folder / f"{name}.zip"
        if target.exists():
            continue
        begin = time.monotonic()
        if begin - BEGIN + longest > asked.seconds:
            say(f"{asked.seconds:g} s are over; the same call goes on from here")
            return 75
        argv = [sys.executable, "-m", "repro", "ab", a, b, *places, *how, "--threads", "1"]
        done = subprocess.run(
            [*argv, "--output", str(target), "--unsigned", "--yes"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        longest = max(longest, time.monotonic() - begin)
        if not target.exists():
            raise ReproError(f"{name} gave no bundle", done.stderr.strip()[-500:])
        say(f"{name}: {a} and {b}, exit {done.returncode}, {time.monotonic() - begin:.0f} s")
    say("all trials are there")
    return 0


# --- verdicts -----------------------------------------------------------------------------------


def judged(source: Source) -> tuple[Verdict, Estimate | None]:
    """Compare the arms of a bundle as if they had the same model: the longer one is the planted fault."""
    a = next(seen for seen in source.observed if seen.arm == "A")
    hidden = tuple(
        seen._replace(record=msgspec.structs.replace(seen.record, model=a.record.model, case=a.record.case))
        for seen in source.observed
    )
    return only(compare.compare([source._replace(observed=hidden)]))


def only(comparison: Comparison) -> tuple[Verdict, Estimate | None]:
    """Return what came of a comparison of one variant."""
    (compared,) = comparison.compared
    return compared.verdict, compared.estimates[0] if compared.estimates else None


def as_source(samples: Sequence[Sample], name: str) -> Source:
    """Return processes of a pool as the bundle of a session: their times, and all else made up alike."""
    record = make_record(tuple(math.exp(each.log_median or 0.0) / 1e6 for each in samples))
    builds = tuple(
        msgspec.structs.replace(build, structure_hash=each.structure_hash)
        for build, each in zip(record.builds, samples, strict=True)
    )
    record = msgspec.structs.replace(record, builds=builds, session_id=name, run_id=name)
    return Source(
        f"{name}.zip", name, (observed.observe(record, name, f"{name}.zip", {}),), "nobody", None, None
    )


def draws(
    samples: Mapping[Arm, Sequence[Sample]], kind: str, builds: int, count: int, seed: int
) -> Iterator[tuple[Sequence[Sample], Sequence[Sample]]]:
    """Draw `count` trials of `builds` processes a side.

    The sides of a trial share no process, nor do the trials of one shuffling; each shuffling goes
    through the pool once, and there are as many as it takes.
    """
    shuffle = random.Random(f"{seed}/{kind}").shuffle
    drawn = 0
    while drawn < count:
        a, b = list(samples["A"]), list(samples["B"])
        shuffle(a)
        shuffle(b)
        if kind == "same":
            a, b = a[: len(a) // 2], a[len(a) // 2 :]
        most = min(len(a), len(b)) // builds
        if not most:
            raise ReproError(
                f"{len(samples['A'])} processes don't give a trial", "measure more, or draw fewer"
            )
        for i in range(min(most, count - drawn)):
            yield a[i * builds : (i + 1) * builds], b[i * builds : (i + 1) * builds]
            drawn += 1


def count(title: str, found: Sequence[tuple[Verdict, Estimate | None]]) -> None:
    """Print how often there was which verdict, and what was estimated."""
    names = Counter(verdict.name for verdict, _ in found)
    called = names["slower"] + names["faster"]
    ratios = [estimate.ratio for _, estimate in found if estimate]
    print(f"{title}: {dict(names.most_common())}; faster or slower: {called} of {len(found)}")
    if ratios:
        low, middle, high = (f(ratios) - 1 for f in (min, statistics.median, max))
        print(f"  ratios {low:+.2%} to {high:+.2%}, median {middle:+.2%}")
    for reason, times in Counter(verdict.code for verdict, _ in found).most_common():
        print(f"  {reason}: {times}")


def mixed(sources: Sequence[Source], rounds: int, count: int, seed: int) -> Iterator[Source]:
    """Draw `count` trials of `rounds` quads out of all quads of these trials, as `draws` does processes."""
    shuffle = random.Random(f"{seed}/rounds").shuffle
    quads = [
        (source, number)
        for source in sources
        for number in sorted({n for seen in source.observed for build in seen.builds for n in build.rounds})
    ]
    most = len(quads) // rounds
    if not most:
        raise ReproError(f"{len(quads)} quads don't give a trial of {rounds}", "run more, or draw fewer")
    for drawn in range(count):
        if drawn % most == 0:
            shuffle(quads)
        yield joined(quads[drawn % most * rounds : (drawn % most + 1) * rounds])


def joined(quads: Sequence[tuple[Source, int]]) -> Source:
    """Return these rounds of these trials as one trial; a round keeps its session, and so its partner."""
    first = quads[0][0]
    return first._replace(
        observed=tuple(
            arm._replace(
                builds=tuple(
                    build
                    for source, number in quads
                    for seen in source.observed
                    if seen.arm == arm.arm
                    for build in seen.builds
                    if build.rounds == (number,)
                )
            )
            for arm in first.observed
        )
    )


def spread(sources: Sequence[Source]) -> None:
    """Print how the runs of all trials lie about the median of their like: noise may have one side only."""
    alike: dict[tuple[str, int], list[float]] = {}
    for source in sources:
        for seen in source.observed:
            rows = seen.record.model.outputs[0].shape[2]
            logs = alike.setdefault((seen.record.runtime.release.name, rows), [])
            logs += [value for build in seen.builds for value in build.runs]
    for (release, rows), logs in sorted(alike.items()):
        middle = statistics.median(logs)
        low, high = (math.exp(float(each)) / 1e6 for each in np.quantile(logs, (0.05, 0.95)))
        above, below = (
            sum(sign * (value - middle) > math.log1p(compare.MARGIN) for value in logs) / len(logs)
            for sign in (1, -1)
        )
        print(
            f"{release}, {rows} rows: {len(logs)} runs, median {math.exp(middle) / 1e6:.2f} ms, "
            f"90 % within {low:.2f} to {high:.2f} ms; "
            f"beyond the margin above it {above:.1%}, below {below:.1%}"
        )


def report_trials(folder: Path, rounds: Sequence[int], trials: int, seed: int) -> None:
    """Compare the trials of a folder, each a session that alternates."""
    sources = {path.stem: observed.load(path) for path in sorted(folder.glob("*-[0-9][0-9].zip"))}
    for kind in ("same", "planted", "releases"):
        here = {name: source for name, source in sources.items() if name.startswith(kind)}
        found = {name: judged(source) for name, source in here.items()}
        if found:
            count(kind, list(found.values()))
        for name, (verdict, _) in found.items():
            print(f"    {name}: {verdict.name}: {verdict.sentence}")
        for number in rounds if found and kind != "releases" else ():
            title = f"{kind}, resampled, {trials} draws of {number} quads, seed {seed}"
            count(title, [judged(each) for each in mixed(list(here.values()), number, trials, seed)])
    spread(list(sources.values()))


def report_pool(file: Path, builds: int, trials: int, seed: int) -> None:
    """Draw trials from each pool of a file."""
    every = read(file)
    for backend, device in sorted({(each.backend, each.device) for each in every}):
        here = [each for each in every if (each.backend, each.device) == (backend, device)]
        good = {arm: [e for e in here if e.side == arm and e.log_median is not None] for arm in plan.ARMS}
        failed = Counter(each.error for each in here if each.error)
        print(
            f"{backend} on {device}: {len(good['A'])} and {len(good['B'])} processes; failed: {dict(failed)}"
        )
        for arm, samples in good.items():
            structures: dict[str, list[float]] = {}
            for each in samples:
                structures.setdefault((each.structure_hash or "unknown")[:8], []).append(
                    each.log_median or 0.0
                )
            for name, logs in sorted(structures.items(), key=lambda pair: -len(pair[1])):
                low, middle, high = (math.exp(f(logs)) / 1e6 for f in (min, statistics.median, max))
                print(
                    f"  {arm}, kernels {name}: {len(logs)} processes, "
                    f"{low:.4f} to {high:.4f} ms, median {middle:.4f}"
                )
        for kind in ("same", "planted"):
            found = [
                only(compare.compare([as_source(a, "a"), as_source(b, "b")], across="setting"))
                for a, b in draws(good, kind, builds, trials, seed)
            ]
            count(f"{kind}, resampled, {trials} draws of {builds} + {builds}, seed {seed}", found)


def part_report(asked: argparse.Namespace) -> int:
    """Compare what is there."""
    if asked.path.is_dir():
        report_trials(asked.path, asked.rounds, asked.trials, asked.seed)
    elif asked.path.is_file():
        report_pool(asked.path, asked.builds, asked.trials, asked.seed)
    else:
        raise UsageError(f"there is no {asked.path}", "name a folder of trials or the file of a pool")
    return 0


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
    one = parts.add_parser("cpu", help="run whole comparisons on the processor")
    one.add_argument("folder", type=Path)
    one.add_argument("--releases", nargs=2, default=("ort-1.30.0", "ort-1.32.0"), metavar="RELEASE")
    one.add_argument("--trials", type=int, default=20, help="of each kind")
    one.add_argument("--rounds", type=int, default=measure.ROUNDS, help="of a trial")
    one.add_argument("--seconds", type=float, default=450.0, help="end cleanly before so many")
    one.set_defaults(part=part_cpu)
    one = parts.add_parser("report", help="compare, and count verdicts")
    one.add_argument("path", type=Path)
    one.add_argument("--builds", type=int, default=5, help="of each side of a draw from a pool")
    one.add_argument("--rounds", type=int, nargs="*", default=(), help="quads of a draw from trials")
    one.add_argument("--trials", type=int, default=20, help="draws of each kind")
    one.add_argument("--seed", type=int, default=1)
    one.set_defaults(part=part_report)
    asked = parser.parse_args(argv)
    try:
        return int(asked.part(asked))
    except ReproError as error:
        say(f"{error.what}; {error.hint}")
        return int(error.code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
