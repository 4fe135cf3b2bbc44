"""What the kit measures on a real NVIDIA GPU: `make measure-gpu PART=n/6`, each at most eight minutes.

It needs the repository, torch or onnxruntime-gpu, and no network. Bundles are unsigned where OpenSSH is
missing; then the work folders, packed beside the results, are sealed elsewhere with `repro seal`.
What came of it is written down in docs/measurements.md.

`python tests/measure_gpu.py claim OUT` measures a bundle with a claim, and `python tests/measure_gpu.py
replay BUNDLE OUT`, in another sitting, replays it; each takes about three minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import math
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from repro import bundle, cases, check, devices, measure, models, telemetry, work  # noqa: E402
from repro.backends import cuda  # noqa: E402
from repro.bundle import archive, statement  # noqa: E402
from repro.observed import key_figure  # noqa: E402
from repro.proc import Child  # noqa: E402
from repro.schema import Phase, Record, Subject  # noqa: E402

BUILDS = 10
try:
    HAS_ORT = bool(importlib.metadata.version("onnxruntime-gpu"))
except importlib.metadata.PackageNotFoundError:
    HAS_ORT = False


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGIN:6.1f} s] {text}", flush=True)


# --- whole runs ---------------------------------------------------------------------------------


def run(
    out: Path,
    case: str,
    backend: str,
    *more: str,
    code: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Path | None:
    """Run a case through the command line; print its record's figures; return the bundle."""
    signed = [] if shutil.which("ssh-keygen") else ["--unsigned"]
    argv = [sys.executable, "-m", "repro", "run", case, "--device", "x86", "--backend", backend, *signed]
    places = ["--output", str(out / "bundles"), "--work", str(out / "work"), "--yes"]
    before = set((out / "bundles").glob("*.zip"))
    done = subprocess.run(
        [*argv, *places, *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    say(f"{case} with {backend} {' '.join(more)}: exit {done.returncode}")
    if done.returncode != code:
        print(done.stderr[-3000:], flush=True)
    made = set((out / "bundles").glob("*.zip")) - before
    for path in made:
        for record in bundle.read(path).records.values():
            figures(record)
    return next(iter(made), None)


def figures(record: Record) -> None:
    """Print what docs/measurements.md has of a record."""
    figure = key_figure(record)
    name = f"{record.runtime.backend} {record.record_name}"
    if figure is None:
        print(f"  {name}: {record.status}, {record.reason}", flush=True)
        return
    medians = [run.summary.median_ns for run in record.runs]
    inside = [run.summary.p90_ns / run.summary.median_ns - 1 for run in record.runs]
    low, high = figure.low_ns or 0, figure.high_ns or 0
    print(
        f"  {name}: {figure.value_ns / 1e6:.4f} ms ({low / 1e6:.4f} to {high / 1e6:.4f}), builds "
        f"{min(medians) / 1e6:.4f} to {max(medians) / 1e6:.4f}, p90 inside {statistics.median(inside):+.3%}",
        flush=True,
    )
    work = record.work
    if record.role == "calibration" and work is not None:
        rate, bandwidth = work.flop / figure.value_ns / 1e3, work.bytes_low / figure.value_ns
        print(f"    {rate:.1f} TFLOP/s, {bandwidth:.0f} GB/s", flush=True)
    for one in record.runs:
        checked = next((b.check for b in record.builds if b.id == one.build), None)
        structure = next((b.structure_hash or "" for b in record.builds if b.id == one.build), "")
        print(
            f"    {one.id}: {one.summary.median_ns / 1e6:.4f} ms, n {one.summary.n}, enqueue "
            f"{(one.enqueue_median_ns or 0) / 1e3:.1f} us, {one.mean_power_w or 0:.0f} W, clocks "
            f"{one.timer_check.second_clock_ratio}, step {one.timer_check.step_ns} ns, pre-heat "
            f"{one.preheat.seconds:.1f} s, error {checked.error if checked else None}, {structure[:8]} "
            f"{[f.code for f in one.flags]}",
            flush=True,
        )
    print(f"    layers {[layer.tactic or layer.type for layer in record.layers or ()]}", flush=True)
    print(f"    options {record.runtime.options}", flush=True)
    told = {fact.name: fact.value for fact in record.telemetry.facts if not fact.private}
    shown = (
        "driver_version",
        "gpu_name",
        "power_limit",
        "sm_clock_max",
        "memory_clock_max",
        "persistence_mode",
    )
    print(f"    { ({name: told.get(name) for name in shown}) }", flush=True)
    states = {f"{c.name}": c.state for c in record.telemetry.channels if c.state != "value"}
    print(f"    channels without a value: {states}", flush=True)


def part_torch(out: Path) -> None:
    """conv16 in both layouts with torch."""
    run(out, "conv16:base,hwc8", "torch", "--builds", str(BUILDS), "--duration", "1s", "--no-calibrate")


def part_onnxruntime(out: Path) -> None:
    """conv16 in both layouts with ONNX Runtime."""
    run(out, "conv16:base,hwc8", "onnxruntime", "--builds", str(BUILDS), "--duration", "1s", "--no-calibrate")


def part_calibration(out: Path) -> None:
    """The calibration cases with both, and conv16 without bias."""
    run(out, "conv16:nobias,hwc8-nobias", "torch", "--builds", "2", "--duration", "1s")
    run(out, "conv16:hwc8-nobias", "onnxruntime", "--builds", "2", "--duration", "1s")


# --- one process, looked at closely -------------------------------------------------------------


def subject_of(variant: str | None, case: str = "conv16") -> tuple[Subject, bytes]:
    from repro.environments import Environment
    from repro.places import Where
    from repro.plan import Wanted, _subject

    experiment = cases.resolve(cases.load(case), variant)
    where = Where(device=devices.DEVICES["x86"], backend="torch")
    environment = Environment(where.runtime.release(gpu=True), None)
    subject = _subject("x", Wanted("subject", experiment, environment), where, measure.PROTOCOLS["standard"])
    return subject, experiment.onnx["fp16"]


@contextlib.contextmanager
def engine(variant: str | None) -> Iterator[Any]:
    """Give torch's engine of conv16 in this process."""
    from repro.backends import torch as backend

    subject, model = subject_of(variant)
    source, result = models.tensors(subject.model, "fp16")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.fp16.onnx"
        path.write_bytes(model)
        yield backend.build(
            path,
            Path(name),
            subject,
            gpu=True,
            threads=1,
            source=models.inputs("measure", source),
            result=check.poison(result),
        )


def timed(made: Any, seconds: float) -> float:
    series, _ = measure.iterate_enqueued(made.queue, made.enqueue, seconds=seconds, iterations=20)
    return series.summary().median_ns


def mode(variant: str | None, benchmark: str) -> None:
    """In a process of its own: the median, and each kernel's time and what it reads and writes."""
    with engine(variant) as made:
        import torch

        torch.backends.cudnn.benchmark = benchmark == "on"
        for _ in range(5):
            made.step()
        measure.preheat(made.step, warm_up_ms=200, max_seconds=4.0)
        median = timed(made, 1.0)
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities, acc_events=True) as profile:
            for _ in range(20):
                made.step()
        times: dict[str, list[float]] = {}
        for event in profile.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                times.setdefault(event.name, []).append(event.device_time)
        kernels = {name: (len(each) // 20, statistics.median(each)) for name, each in times.items()}
        pointers = [made._input.data_ptr(), made._output.data_ptr()]
        again = timed(made, 1.0)
        # The same module again, with its tensors at other addresses.
        moved = []
        for size in (1, 3, 7):
            keep = torch.empty(size * 2**20 + 512 * size, dtype=torch.uint8, device="cuda")
            made._input = made._input.clone(memory_format=torch.preserve_format)
            moved.append(timed(made, 0.5))
            del keep
    print(
        json.dumps(
            {
                "median_ms": median / 1e6,
                "again_ms": again / 1e6,
                "moved_ms": [each / 1e6 for each in moved],
                "pointers": [hex(each) for each in pointers],
                "kernels_us": kernels,
            }
        )
    )


def part_closely(out: Path) -> None:
    """The modes between processes; what the sampler costs; power against energy."""
    for variant, benchmark, count in (
        ("hwc8", "on", 4),
        ("hwc8", "off", 2),
        ("hwc8-nobias", "on", 2),
        ("base", "on", 1),
    ):
        for number in range(count):
            argv = [sys.executable, __file__, "mode", variant, benchmark]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            told = done.stdout.strip() or done.stderr[-800:]
            say(f"{variant}, benchmark {benchmark}, process {number}: {told}")
    with engine("hwc8") as made:
        measure.preheat(made.step, warm_up_ms=200, max_seconds=5.0)
        sampler_cost(made, out)
        power_and_energy(made, out)


@contextlib.contextmanager
def sampler(folder: Path, rate_hz: float) -> Iterator[int]:
    """Run the sampler with the NVML probe alone, at a rate of its own; give its process."""
    folder.mkdir(parents=True)
    uuid = cuda.look().uuid
    script = (
        "import sys; from pathlib import Path; from repro import sampling\n"
        "from repro.probes.nvml import Nvml\n"
        "probe = Nvml(int(sys.argv[2]), sys.argv[3]); probe.rate_hz = float(sys.argv[4])\n"
        "sampling.sample(Path(sys.argv[1]), [probe])"
    )
    argv = [sys.executable, "-c", script, str(folder), str(os.getpid()), uuid, str(rate_hz)]
    with Child(argv, cwd=ROOT) as child:
        while not list(folder.glob("*.rows")):
            time.sleep(0.05)
        time.sleep(0.2)
        yield child.pid
        child.end(3.0)


def alternating(made: Any, pid: int, window_s: float, seconds: float) -> npt.NDArray[np.float64]:
    """Return the log medians of windows on-off-off-on of one series that never pauses, [quad, 4].

    The sampler's process is stopped and continued by signals; a pause of the load, as starting a process
    for each window would be, moves the median more than the sampler does.
    """
    windows: list[int] = []
    begin = time.perf_counter()

    def switch() -> None:
        index = int((time.perf_counter() - begin) / window_s)
        if not windows or windows[-1] != index:
            os.kill(pid, signal.SIGCONT if index % 4 in (0, 3) else signal.SIGSTOP)
        windows.append(index)

    series, _ = measure.iterate_enqueued(
        made.queue, made.enqueue, seconds=seconds, iterations=20, before=switch
    )
    os.kill(pid, signal.SIGCONT)
    logs, numbers = np.log(series.duration_ns), np.array(windows)
    medians = [float(np.median(logs[numbers == i])) for i in range(windows[-1] // 4 * 4)]
    return np.array(medians).reshape(-1, 4)


def sampler_cost(made: Any, out: Path) -> None:
    """The median with the sampler against without, at three rates; what a tick takes."""
    for rate_hz, window_s, seconds in ((1.0, 2.0, 34.0), (10.0, 0.25, 17.0), (50.0, 0.25, 17.0)):
        with sampler(out / f"sampler-{rate_hz:g}", rate_hz) as pid:
            table = alternating(made, pid, window_s, seconds)
        change = (table[:, 0] + table[:, 3] - table[:, 1] - table[:, 2]) / 2
        error = float(change.std(ddof=1)) / math.sqrt(len(change))
        off = float((table[:, 1] - table[:, 2]).std(ddof=1)) / math.sqrt(2 * len(change))
        say(
            f"sampler at {rate_hz:g} Hz: {change.mean():+.4%}, standard error {error:.4%} over {len(change)} "
            f"quads of {window_s:g} s windows; off against off alone would give {off:.4%}"
        )
    from repro.probes.nvml import Nvml

    probe = Nvml(os.getpid(), cuda.look().uuid)
    probe.read()
    for load in ("idle", "loaded"):
        times = []
        for _ in range(30):
            if load == "loaded":
                for _ in range(40):
                    made.enqueue()
            begin = time.perf_counter()
            probe.read()
            times.append((time.perf_counter() - begin) * 1e3)
            made.queue.wait()
        say(f"a tick, {load}: median {statistics.median(times):.2f} ms, worst {max(times):.2f} ms")


def power_and_energy(made: Any, out: Path, seconds: float = 60.0) -> None:
    """Sampled power × time against the energy counter, over a minute of full load."""
    folder = out / "energy"
    begin = time.perf_counter_ns()
    with sampler(folder, 10.0):
        start = time.perf_counter_ns()
        timed(made, seconds)
        end = time.perf_counter_ns()
    recording = telemetry.collect(folder, ["nvml"], (begin, time.perf_counter_ns()), begin, clean=True)
    nvml = recording.probes["nvml"]
    window = Phase("load", start - begin, end - begin)
    power = np.array(nvml.during("power", window))
    energy = np.array(nvml.during("energy", window))
    sampled = float(np.trapezoid(power[:, 1], power[:, 0]) / 1e9)
    counted = float(energy[-1, 1] - energy[0, 1])
    span = (energy[-1, 0] - energy[0, 0]) / 1e9
    say(
        f"over {span:.1f} s: power x time {sampled:.0f} J, energy counter {counted:.0f} J, ratio "
        f"{sampled / counted:.4f}; power {power[:, 1].min():.0f} to {power[:, 1].max():.0f} W"
    )
    clock = [value for _, value in nvml.during("sm_clock", window)]
    bits = {int(value) for _, value in nvml.during("event_reasons", window)}
    steps = np.diff(energy[:, 1])
    say(f"SM clock {min(clock):.0f} to {max(clock):.0f} MHz, event bits {[hex(b) for b in bits]}, ")
    say(f"energy counter stood still in {int((steps == 0).sum())} of {steps.size} ticks")


# --- failures -----------------------------------------------------------------------------------


def part_failures(out: Path) -> None:
    """What can go wrong on purpose: each gives its bundle or its line."""
    quick = ("--builds", "1", "--duration", "0.5s", "--protocol", "forum", "--no-calibrate")
    hog = (
        "import sys, torch; free, _ = torch.cuda.mem_get_info(); "
        "x = torch.empty(free - 120 * 2**20, dtype=torch.uint8, device='cuda'); print('full', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hog], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        say(f"another process holds the memory: {other.stdout.readline().strip()}")
        run(out, "conv16:hwc8", "torch", *quick, code=1)
        if HAS_ORT:
            run(out, "conv16", "onnxruntime", *quick, code=1)
        other.kill()
    if HAS_ORT:
        wrong_provider(out, *quick)
    nan_weights(out)
    killed_worker(out)
    for name, environment in (
        ("no visible device", {"CUDA_VISIBLE_DEVICES": ""}),
        ("a device that is not there", {"CUDA_VISIBLE_DEVICES": "7"}),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "repro", "run", "conv16", "--device", "x86", "--unsigned"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            cwd=out,
        )
        say(f"{name}: exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    for verb in (["devices"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-m", "repro", *verb], capture_output=True, text=True, check=False, cwd=out
        )
        print(done.stdout + done.stderr, flush=True)


def wrong_provider(out: Path, *quick: str) -> None:
    """An ONNX Runtime whose CUDA provider is gone must fail, and not fall back to the processor."""
    installed = Path(str(importlib.metadata.distribution("onnxruntime-gpu").locate_file("")))
    crippled = out / "crippled"
    for path in installed.glob("onnxruntime*"):
        shutil.copytree(path, crippled / path.name, copy_function=os.symlink)
    (crippled / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so").unlink()
    paths = os.pathsep.join([str(crippled), os.environ.get("PYTHONPATH", "")])
    run(out, "conv16", "onnxruntime", *quick, code=1, environment={"PYTHONPATH": paths})


def nan_weights(out: Path) -> None:
    """A job whose model has a NaN among its weights, carried out by the worker and sealed."""
    import onnx
    from onnx import numpy_helper

    from repro import plan

    for backend in ("torch", "onnxruntime") if HAS_ORT else ("torch",):
        request = plan.Request(
            case="conv16",
            device="x86",
            backend=backend,
            protocol="forum",
            builds=1,
            duration_s=0.2,
            calibrate=False,
            unsigned=True,
        )
        job, experiments, _ = plan.make(request)
        folder = out / "work" / f"nan-{backend}"
        plan.write_job(job, experiments, (), folder / "job")
        path = folder / "job" / job.subjects[0].model_file
        model = onnx.load(str(path))
        values = numpy_helper.to_array(model.graph.initializer[0]).copy()
        values[0, 0, 0, 0] = np.nan
        model.graph.initializer[0].raw_data = values.tobytes()
        onnx.save(model, str(path))
        (folder / "out").mkdir()
        with Child([sys.executable, "-m", "repro.worker", str(folder / "job"), str(folder / "out")]) as child:
            child.wait()
        for found in (folder / "out" / "records").glob("*/record.json"):
            record = msgspec.json.decode(found.read_bytes(), type=Record)
            say(f"NaN among the weights, {backend}: {record.status}: {record.reason}")


def killed_worker(out: Path) -> None:
    argv = [sys.executable, "-m", "repro", "run", "conv16:hwc8", "--device", "x86", "--backend", "torch"]
    more = ["--unsigned", "--yes", "--builds", "3", "--duration", "2s", "--no-calibrate"]
    places = ["--output", str(out / "bundles"), "--work", str(out / "killed")]
    with subprocess.Popen(
        [*argv, *more, *places], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list((out / "killed").glob("*/out/turns/1/found.json")):
            time.sleep(0.05)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"repro.worker" in words and str(out).encode() in b" ".join(words):
                    os.kill(int(path.parent.name), signal.SIGKILL)
        printed, errors = process.communicate(timeout=120)
    say(f"a killed worker: exit {process.returncode}: {(printed + errors).strip().splitlines()[-4:]}")


# --- the thread's questions ---------------------------------------------------------------------

SWEEP_BUDGET_S = 110.0
SWEEP_AT_ONCE = 4
"""Processes that make inputs or check outputs; only one at a time is on the GPU."""


class Point(NamedTuple):
    """One thing to measure: conv16 in a variant, with tensors in `layout` whatever the variant says."""

    variant: str | None
    layout: str = "chw"
    case: str = "conv16"
    closely: bool = False
    """Name its kernels too."""

    @property
    def label(self) -> str:
        return f"{self.variant or self.case} {self.layout}"


WIDTHS = cases.load("conv16").sets["sweep:channels"]
POINTS = (
    Point(None, case="calib-copy"),
    Point(None, case="calib-gemm"),
    Point(None, closely=True),
    Point(None, "hwc8", closely=True),
    Point("nobias", closely=True),
    Point("nobias", "hwc8", closely=True),
    Point("c16x16", "hwc8", closely=True),
    Point("c64x4", "hwc8", closely=True),
    *(Point(width, "hwc8") for width in WIDTHS if width not in ("c3", "c16")),
    Point("c16x16"),
    Point("c64x4"),
    *(Point(width) for width in WIDTHS if width != "c16"),
)


def measure_point(point: Point, out: Path) -> None:
    """In a process of its own: make the input, wait for the GPU, measure, let it go, check the output."""
    from repro.backends import torch as backend

    subject, model = subject_of(point.variant, point.case)
    planned = {**subject.planned, "io_layout": point.layout}
    counted = work.count(model, "fp16", point.layout)
    subject = msgspec.structs.replace(subject, planned=planned, work=counted)
    spec, result = models.tensors(subject.model, "fp16")
    source, poison = models.inputs("measure", spec), check.poison(result)
    path = out / f"{point.label}.onnx"
    path.write_bytes(model)
    with (out / "gpu.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if time.monotonic() - BEGIN > SWEEP_BUDGET_S:
            return
        made = backend.build(path, out, subject, gpu=True, threads=1, source=source, result=poison)
        measure.preheat(made.step, warm_up_ms=200, max_seconds=0.7)
        series, _ = measure.iterate_enqueued(made.queue, made.enqueue, seconds=0.5, iterations=20)
        kernels = made.kernels() if point.closely else None
        made.poison(poison)
        made.step()
        output = made.output()
    limit = check.tolerance(subject.tolerances["fp16"], models.weighted_layers(subject.model))
    checked = check.output(model, source, output, result, limit, seed="measure", library=backend.unoptimised)
    told = {
        "median_ms": series.summary().median_ns / 1e6,
        "n": series.summary().n,
        "flop": counted.flop,
        "bytes_high": counted.bytes_high,
        "bytes_low": counted.bytes_low,
        "error": checked.error,
        "ok": checked.ok,
        "problems": checked.problems,
        "kernels": kernels,
    }
    part = out / f"{point.label}.part"
    part.write_text(json.dumps(told))
    part.replace(out / f"{point.label}.json")


def part_sweep(out: Path) -> None:
    """Channels, layouts, bias, and 16 layers of 16 channels against 4 of 64, with torch."""
    import torch

    # Each child makes a context of its own, which a parent that has one would spoil.
    assert not torch.cuda.is_initialized()
    folder = out / "work" / "sweep"
    folder.mkdir(parents=True)
    fork = multiprocessing.get_context("fork")
    alive: list[tuple[Point, Any]] = []

    def reap(most: int) -> None:
        while len(alive) > most:
            for entry in list(alive):
                point, child = entry
                if child.is_alive() and time.monotonic() - BEGIN > 2 * SWEEP_BUDGET_S:
                    child.kill()
                child.join(0.02)
                if not child.is_alive():
                    alive.remove(entry)
                    told = folder / f"{point.label}.json"
                    say(f"{point.label}: {told.read_text() if told.is_file() else f'exit {child.exitcode}'}")

    for point in POINTS:
        reap(SWEEP_AT_ONCE - 1)
        child = fork.Process(target=measure_point, args=(point, folder))
        child.start()
        alive.append((point, child))
    reap(0)
    sweep_table(folder)


def sweep_table(folder: Path) -> None:
    """Print every point with the fractions of what the calibration cases reached."""
    found = {
        point.label: json.loads((folder / f"{point.label}.json").read_text())
        for point in POINTS
        if (folder / f"{point.label}.json").is_file()
    }
    copy, gemm = found.get(POINTS[0].label), found.get(POINTS[1].label)
    bandwidth = copy["bytes_low"] / copy["median_ms"] / 1e6 if copy else math.nan
    rate = gemm["flop"] / gemm["median_ms"] / 1e9 if gemm else math.nan
    say(f"calib-copy {bandwidth:.0f} GB/s, calib-gemm {rate:.1f} TFLOP/s")
    print("point, median ms, n, FLOP, unfused bytes, of bandwidth, of rate, output error", flush=True)
    for label, told in found.items():
        ms = told["median_ms"]
        print(
            f"{label:<16} {ms:9.4f} {told['n']:6d} {told['flop']:16,d} {told['bytes_high']:14,d} "
            f"{told['bytes_high'] / ms / 1e6 / bandwidth:7.1%} {told['flop'] / ms / 1e9 / rate:7.1%} "
            f"{told['error']} {'ok' if told['ok'] else told['problems']}",
            flush=True,
        )


# --- a claim in one sitting, its replay in another ----------------------------------------------

CLAIM = "ratio record_a=base record_b=hwc8 factor=0.535 tolerance=0.05"
"""What NHWC takes of the time of NCHW, by docs/measurements.md."""


def claim(out: Path) -> None:
    """Measure conv16 in both layouts, and claim their ratio."""
    few = ("--builds", "5", "--duration", "1s", "--no-calibrate")
    run(out, "conv16:base,hwc8", "torch", *few, "--claim", CLAIM)


def replay(path: Path, out: Path) -> None:
    """Replay a bundle through the command line; without OpenSSH here, as an unsigned one of the same id."""
    with archive.opened(path) as zipped:
        members = {name: zipped.read(name) for name in zipped.names}
    signed = [] if shutil.which("ssh-keygen") else ["--unsigned"]
    if signed:
        members = {name: data for name, data in members.items() if not name.startswith(statement.SIGNATURES)}
    original = out / path.name
    with original.open("wb") as file:
        archive.write(file, members)
    argv = [sys.executable, "-m", "repro", "replay", str(original), "--replay-unknown-signer", *signed]
    places = ["--output", str(out / "bundles"), "--work", str(out / "work"), "--yes"]
    done = subprocess.run([*argv, *places], capture_output=True, text=True, check=False)
    say(f"replay: exit {done.returncode}")
    print(done.stdout + done.stderr[-6000:], flush=True)
    for made in (out / "bundles").glob("*.zip"):
        for record in bundle.read(made).records.values():
            figures(record)
        print(
            subprocess.run(
                [sys.executable, "-m", "repro", "show", str(made)],
                capture_output=True,
                text=True,
                check=False,
            ).stdout[:6000],
            flush=True,
        )


PARTS = (part_torch, part_onnxruntime, part_calibration, part_closely, part_failures, part_sweep)


def main(part: str, out: Path) -> None:
    number, _, of = part.partition("/")
    if not number.isdigit() or not 1 <= int(number) <= len(PARTS) or of != str(len(PARTS)):
        sys.exit(f"PART is n/{len(PARTS)}")
    sitting(f"part-{number}", PARTS[int(number) - 1], out)


def sitting(name: str, part: Callable[[Path], None], out: Path) -> None:
    """Take one part, and pack what it left."""
    out.mkdir(parents=True, exist_ok=True)
    say(f"{name}: {(part.__doc__ or '').strip()}")
    say(f"{cuda.look()}, driver {cuda.driver_version()}")
    try:
        part(out)
    finally:
        with tarfile.open(out / f"{name}.tar.gz", "w:gz") as packed:
            for folder in ("bundles", "work", "killed"):
                if (out / folder).is_dir():
                    packed.add(out / folder, folder)
    say("done")


BEGIN = time.monotonic()
if __name__ == "__main__":
    if sys.argv[1:2] == ["mode"]:
        mode(None if sys.argv[2] == "base" else sys.argv[2], sys.argv[3])
    elif sys.argv[1:2] == ["claim"]:
        sitting("claim", claim, Path(sys.argv[2]))
    elif sys.argv[1:2] == ["replay"]:
        sitting("replay", lambda out: replay(Path(sys.argv[2]), out), Path(sys.argv[3]))
    else:
        main(sys.argv[1], Path(sys.argv[2]))
