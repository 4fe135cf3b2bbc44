"""The kit's own cost, as ratios of things measured side by side in one run (`make bench`).

Times of a noisy machine mean little; ratios of interleaved medians mean more. Each line has a goal and,
where one is set, a limit far beyond it: only a broken limit makes this exit with 1.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from repro import bundle, cases, check, images, measure, models  # noqa: E402
from repro.backends import onnxruntime as backend  # noqa: E402
from repro.bundle import archive  # noqa: E402
from repro.schema import Record  # noqa: E402
from repro.telemetry import Sampler  # noqa: E402
from repro.trtexec import log  # noqa: E402
from tests.builders import make_files, make_predicate, make_record, make_session, make_subject  # noqa: E402
from tests.docker import engine as engines  # noqa: E402
from tests.e2e.conftest import CASES, command  # noqa: E402

BIG_BYTES = 200 * 2**20
broken: list[str] = []


def line(
    what: str,
    value: float,
    unit: str,
    goal: str,
    limit: float | None = None,
    *,
    least: float | None = None,
) -> None:
    beyond = (limit is not None and value > limit) or (least is not None and value < least)
    if beyond:
        broken.append(what)
    print(
        f"{what:<58}{value:>8.3f} {unit:<4} goal {goal}{'  BEYOND THE LIMIT' if beyond else ''}", flush=True
    )


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def interleaved(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median time of each call, all taken in turns, first round not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for i, call in enumerate(calls):
            seconds = timed(call)
            if number:
                times[i].append(seconds)
    return [statistics.median(each) for each in times]


def bench_sampler(folder: Path) -> None:
    """One thread of conv16, in ABBA blocks with the sampler on and off."""
    experiment = cases.resolve(cases.load("conv16"), None)
    model = folder / "conv16.fp32.onnx"
    model.write_bytes(experiment.onnx["fp32"])
    source, result = models.tensors(experiment.model, "fp32")
    engine = backend.build(
        model,
        folder,
        make_subject(experiment.model),
        gpu=False,
        threads=1,
        source=models.inputs("bench", source),
        result=check.poison(result),
    )
    measure.preheat(engine.step, warm_up_ms=200, max_seconds=5.0)
    samples: dict[bool, list[float]] = {True: [], False: []}
    for number, on in enumerate([True, False, False, True] * 3):
        sampler = Sampler(folder / f"sampler{number}", os.getpid()) if on else None
        time.sleep(0.5)
        series = measure.iterate(engine.step, seconds=2.0, iterations=5)
        samples[on] += (series.duration_ns / 1e9).tolist()
        if sampler:
            sampler.end(0)
    for name, statistic in (("median", np.median), ("mean", np.mean)):
        ratio = float(statistic(samples[True]) / statistic(samples[False]))
        line(f"sampler on / off, {name} of conv16 on one thread", ratio, "x", "1.00", 1.25)


def bench_overhead(folder: Path) -> None:
    """A whole run of a tiny case, less the stages that measure, against `python -c pass`."""
    arguments = ["--builds", "1", "--duration", "0.01s", "--iterations", "3", "--protocol", "forum"]
    places = ["--cases", str(CASES), "--output", str(folder / "b"), "--work", str(folder / "w")]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
    argv = command("run", "tiny", *arguments, *places)
    overheads, seals = [], []
    for _ in range(6):
        before = set((folder / "b").glob("*.zip")) if (folder / "b").is_dir() else set()
        begin_ns = time.time_ns()
        subprocess.run(argv, check=True, capture_output=True, env=environment)
        (path,) = set((folder / "b").glob("*.zip")) - before
        wall = (path.stat().st_mtime_ns - begin_ns) / 1e9
        record: Record = next(iter(bundle.read(path, signers=folder).records.values()))
        stages = sum((s.end_ns or 0) - (s.start_ns or 0) for s in record.stages) / 1e9
        seal = _seal_again(path, folder)
        overheads.append(wall - stages - seal)
        seals.append(seal)
    start = interleaved([lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)], 10)[0]
    overhead = statistics.median(overheads[1:])
    line("kit overhead of a run up to sealing", overhead, "s", "0.5", 3.0)
    line("  the same, in starts of `python -c pass`", overhead / start, "x", "–")
    line("sealing that bundle", statistics.median(seals[1:]), "s", "–", 3.0)


def _seal_again(path: Path, folder: Path) -> float:
    opened = bundle.read(path, signers=folder)
    with archive.opened(path) as zipped:
        files = {n: zipped.read(n) for n in zipped.names if not n.startswith("META/") and n != "README.txt"}
    predicate = opened.statement.predicate
    key = folder / "config" / "trt-repro" / "signing_key"
    target = folder / "again"
    target.mkdir(exist_ok=True)
    return timed(lambda: bundle.seal(files, predicate, key=key, target=target, stem="x"))


def bench_big_bundle(folder: Path) -> None:
    """200 MB: writing and verifying against sha256sum of the same bytes."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    for kind, values in (("incompressible", 256), ("compressible", 4)):
        bench_one_big_bundle(folder / f"{kind}.zip", kind, values, key)


def bench_one_big_bundle(target: Path, kind: str, values: int, key: Path) -> None:
    random = np.random.default_rng(1)
    record = make_record()
    files = make_files(record)
    for i in range(4):
        data = random.integers(0, values, BIG_BYTES // 4, dtype=np.uint8)
        files[f"records/{record.record_name}/samples/big{i}.bin"] = data.tobytes()
    plain = target.with_suffix(".bin")
    plain.write_bytes(b"".join(files.values()))
    predicate = make_predicate(record)

    def write() -> None:
        bundle.seal(files, predicate, key=key, target=target, stem="x", max_size_bytes=2 * BIG_BYTES)

    def verify() -> None:
        bundle.inspect(target, signers=target.parent)

    def sha256sum(path: Path) -> None:
        subprocess.run(["sha256sum", str(path)], check=True, capture_output=True)

    written = timed(write)
    verified, of_zip, of_content = interleaved(
        [verify, lambda: sha256sum(target), lambda: sha256sum(plain)], 5
    )
    line(f"write 200 MB, {kind} / sha256sum of its content", written / of_content, "x", "–", 100)
    line(f"verify 200 MB, {kind} / sha256sum of its content", verified / of_content, "x", "1.3", 8)
    size = f"{target.stat().st_size / 2**20:.0f} MiB"
    line(f"  the same / sha256sum of the zip file ({size})", verified / of_zip, "x", "–")


def bench_log(folder: Path) -> None:
    """A verbose build's log of 100 MB, read on one core, beside `grep -c` of the same file."""
    path = folder / "verbose.log"
    with path.open("wb") as file:
        file.writelines(verbose_log(100_000_000))

    def read() -> None:
        with path.open("rb") as file:
            assert log.read(file, path.name).tuning

    reading, grep = interleaved(
        [read, lambda: subprocess.run(["grep", "-c", "Tactic", path], check=True, capture_output=True)], 5
    )
    size_mb = path.stat().st_size / 1e6
    line("read a verbose log of trtexec, 100 MB", size_mb / reading, "MB/s", "100", least=20)
    line("  the same / grep -c", reading / grep, "x", "–")


def verbose_log(size: int) -> Iterator[bytes]:
    """Give the log of a build with two runners and four formats a layer, until `size` bytes are full."""
    prefix = b"[01/02/2026-03:04:05] [V] [TRT] "
    formats = b"Half(262144,1:8,512,1) -> Half(262144,1:8,512,1)"
    kernel = (
        b"sm80_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x64_stage3_g1_tensor16x8x16"
    )
    random = np.random.default_rng(1)
    yield b"&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=model.onnx --verbose\n"
    written, layer = 0, 0
    while written < size:
        layer += 1
        name = b"/model/layer%d/conv/Conv + /model/layer%d/act/Relu" % (layer, layer)
        lines = []
        for _ in range(4):
            lines.append(b"*************** Autotuning format combination: %b ***************" % formats)
            for runner in (b"CaskConvolution", b"CudnnConvolution"):
                lines.append(b"--------------- Timing Runner: %b (%b)" % (name, runner))
                times = random.uniform(0.01, 0.1, 60).tolist()
                for tactic, time_ms in enumerate(times):
                    if runner == b"CaskConvolution":
                        lines.append(b"%b Set Tactic Name: %b Tactic: 0x%016x" % (name, kernel, tactic))
                    lines.append(b"Tactic: 0x%016x Time: %.6g" % (tactic, time_ms))
                best = times.index(min(times))
                lines.append(b"Fastest Tactic: 0x%016x Time: %.6g" % (best, times[best]))
                lines.append(b">>>>>>>>>>>>>>> Chose Runner Type: %b Tactic: 0x%016x" % (runner, best))
        block = b"".join(b"%b%b\n" % (prefix, each) for each in lines)
        written += len(block)
        yield block
    yield b"&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=model.onnx --verbose\n"


def bench_compare(folder: Path) -> None:
    """Two signed bundles of five builds each, as a process of its own."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    paths = []
    for number, release in enumerate(("1.0", "1.1")):
        record = make_session((10.0, 10.02, 9.98, 10.01, 9.99), f"session-{number}", release)
        files = make_files(record)
        random = np.random.default_rng(number)
        for run in record.runs:
            # As many iterations as a record keeps, as hard to pack as real ones.
            times = random.integers(9_000_000, 11_000_000, 2 * measure.KEPT_ROWS)
            files[f"records/{record.record_name}/{run.samples.file}"] = times.tobytes()
        target = folder / f"{release}.zip"
        paths.append(bundle.seal(files, make_predicate(record), key=key, target=target, stem="x").path)
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}

    def compare(*more: str) -> None:
        argv = command("compare", *paths, "--fail-on", "none", *more)
        subprocess.run(argv, check=True, capture_output=True, env=environment)

    plain, page = interleaved([compare, lambda: compare("--html", str(folder / "page.html"))], 10)
    line("repro compare of two bundles of five builds each", plain, "s", "1.0", 3.0)
    line("  the same, with its page", page, "s", "–", 6.0)


def bench_container(folder: Path) -> None:
    """The same case on the host and in a container, in ABBA order; engine warm, image present."""
    if not engines.answers(os.environ.get(engines.VARIABLE, "")):
        print(f"container / host: left out, {engines.VARIABLE} names no engine")
        return
    environment = {
        **os.environ,
        "DOCKER_HOST": os.environ[engines.VARIABLE],
        images.STANDIN_SWITCH: "1",
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    release = backend.release(gpu=False).name
    build = command("images", "build", release, "--device", "cpu", "--base", engines.BASE)
    subprocess.run(build, check=True, capture_output=True, env=environment)
    arguments = ["--device", "cpu", "--release", release, "--protocol", "forum", "--duration", "3s", "--yes"]
    wall: dict[str, list[float]] = {"host": [], "docker": []}
    medians: dict[str, list[float]] = {"host": [], "docker": []}
    for number, place in enumerate(["host", "docker", "docker", "host"] * 3):
        out = folder / str(number)
        places = ["--place", place, "--output", str(out), "--work", str(folder / "w")]
        argv = command("run", "conv16", *arguments, *places)
        seconds = timed(lambda: subprocess.run(argv, check=True, capture_output=True, env=environment))  # noqa: B023
        (path,) = out.glob("*.zip")
        (record,) = bundle.read(path, signers=folder).records.values()
        # What measuring itself took is no cost of the place.
        stages = sum((s.end_ns or 0) - (s.start_ns or 0) for s in record.stages) / 1e9
        wall[place].append(seconds - stages)
        medians[place].append(record.runs[0].summary.median_ns)
    more = statistics.median(wall["docker"]) - statistics.median(wall["host"])
    line("container, wall time of a run beyond the host's", more, "s", "2.0", 10.0)
    ratio = statistics.median(medians["docker"]) / statistics.median(medians["host"])
    line("container / host, median of conv16", ratio, "x", "1.00", 1.25)
    spread = max(max(each) / min(each) for each in medians.values())
    line("  the same, largest / smallest within one place", spread, "x", "–")


def bench_start(folder: Path) -> None:
    """How soon the command line answers."""
    script = Path(sys.executable).with_name("repro")
    helped, nothing = interleaved(
        [
            lambda: subprocess.run([script, "--help"], check=True, capture_output=True),
            lambda: subprocess.run([sys.executable, "-c", "pass"], check=True, capture_output=True),
        ],
        20,
    )
    line("repro --help / python -c pass", helped / nothing, "x", "6.4", 30)


def main() -> None:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores; interleaved medians, in one run")
    parts = (
        bench_start,
        bench_compare,
        bench_log,
        bench_overhead,
        bench_container,
        bench_sampler,
        bench_big_bundle,
    )
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            part(Path(folder))
    if broken:
        print(f"beyond the limit: {', '.join(broken)}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
