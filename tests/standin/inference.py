"""Invented times, and everything that trtexec prints and exports of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.standin.engine import Engine
from tests.standin.network import DTYPES, LABELS, Tensor, read_buffer
from tests.standin.options import Options, files
from tests.standin.release import FACTS, MARK, RELEASE, SCENARIO, fail, log, number, pass_time, stage

Floats = npt.NDArray[np.float32]


class Trace(NamedTuple):
    """float32 milliseconds since the start, as trtexec keeps them; warm-up is left out."""

    enq: tuple[Floats, Floats]
    h2d: tuple[Floats, Floats]
    compute: tuple[Floats, Floats]
    d2h: tuple[Floats, Floats]
    warm_ups: int


def simulate(options: Options, engine: Engine, graph: bool) -> Trace:
    """Invent the times of a run by the scenario."""
    random = np.random.default_rng(SCENARIO.seed)
    middle = SCENARIO.gpu_ms * SCENARIO.modes[engine.mode % len(SCENARIO.modes)]
    warm_up, duration = options.number("--warmUp", 200), options.number("--duration", 3)
    count = max(int(options.number("--iterations", 10)), math.ceil(duration * 1000 / middle))
    trend = np.linspace(0.0, SCENARIO.drift, count)
    times = np.maximum(middle * (1 + trend + SCENARIO.noise * random.standard_normal(count)), middle / 100)
    copy = 0.02 if options.transfers else 0.0
    start = warm_up + np.concatenate([[0.0], np.cumsum(times)[:-1]]) + copy
    enqueue = SCENARIO.enqueue_ms * (0.3 if graph else 1.0) * (1 + 0.1 * random.random(count))
    pairs = (
        (start - copy - enqueue, start - copy), (start - copy, start), (start, start + times),
        (start + times, start + times + copy),
    )  # fmt: skip
    enq, h2d, compute, d2h = ((a.astype(np.float32), b.astype(np.float32)) for a, b in pairs)
    return Trace(enq, h2d, compute, d2h, round(warm_up / middle))


def spent(pair: tuple[Floats, Floats]) -> Floats:
    return pair[1] - pair[0]


def statistics(values: Floats, percentiles: Sequence[float]) -> tuple[float, str]:
    """Return the median, and the line's text by trtexec's own float32 rules."""
    ordered = np.sort(values)
    n = len(ordered)
    median = float((ordered[(n - 1) // 2] + ordered[n // 2]) / np.float32(2))
    mean = float(np.cumsum(ordered, dtype=np.float32)[-1] / np.float32(n))
    text = f"min = {number(float(ordered[0]))} ms, max = {number(float(ordered[-1]))} ms, mean = {number(mean)} ms, median = {number(median)} ms"
    for p in percentiles:
        exclude = int((np.float32(1) - np.float32(p) / np.float32(100)) * np.float32(n))
        text += f", percentile({number(p)}%) = {number(float(ordered[max(n - 1 - exclude, 0)]))} ms"
    return median, text


def summary(options: Options, trace: Trace) -> None:
    """Print the performance report."""
    compute, h2d, d2h, enqueue = (spent(p) for p in (trace.compute, trace.h2d, trace.d2h, trace.enq))
    n = len(compute)
    wall_s = float(trace.d2h[1][-1] - trace.h2d[0][0]) / 1000
    log(f"Warmup completed {trace.warm_ups} queries over {number(options.number('--warmUp', 200))} ms")
    log(f"Timing trace has {n} queries over {number(wall_s)} s")
    log()
    log("=== Trace details ===")
    averages = int(options.number("--avgRuns", 10))
    log(f"Trace averages of {averages} runs:")
    shown = n // averages
    for i in range(min(shown, 20)):
        part = slice(i * averages, (i + 1) * averages)
        gpu = float(compute[part].mean())
        host = gpu + float(h2d[part].mean()) + float(d2h[part].mean())
        log(
            f"Average on {averages} runs - GPU latency: {number(gpu)} ms - Host latency: {number(host)} ms (enqueue {number(float(enqueue[part].mean()))} ms)"
        )
    if shown > 20 and RELEASE.version >= (10,):
        log(f"... Omitting {shown - 20} lines")
    log()
    log("=== Performance summary ===")
    log(f"Throughput: {number(n / wall_s)} qps")
    medians = {}
    for name, values in (
        ("Latency", h2d + compute + d2h), ("Enqueue Time", enqueue), ("H2D Latency", h2d),
        ("GPU Compute Time", compute), ("D2H Latency", d2h),
    ):  # fmt: skip
        medians[name], text = statistics(values, options.percentiles)
        log(f"{name}: {text}")
    log(f"Total Host Walltime: {number(wall_s)} s")
    log(f"Total GPU Compute Time: {number(float(compute.mean()) * n / 1000)} s")
    if medians["Enqueue Time"] > 0.8 * medians["GPU Compute Time"]:
        log(
            "* Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may be under-utilized.",
            "W",
        )
        log(
            "  If not already in use, --useCudaGraph (utilize CUDA graphs where possible) may increase the throughput.",
            "W",
        )
    if medians["H2D Latency"] >= medians["GPU Compute Time"]:
        log(
            "* Throughput may be bound by host-to-device transfers for the inputs rather than GPU Compute and the GPU may be under-utilized.",
            "W",
        )
        log("  Add --noDataTransfers flag to disable data transfers.", "W")
    percent = float(compute.std() / compute.mean()) * 100
    if percent > RELEASE.at(FACTS["defaults"]["cv_warning_percent"]):
        log(f"* GPU compute time is unstable, with coefficient of variance = {number(percent)}%.", "W")
        log(
            "  If not already in use, locking GPU clock frequency or adding --useSpinWait may improve the stability.",
            "W",
        )
    log("Explanations of the performance metrics are printed in the verbose logs.")
    log()


def profile(options: Options, engine: Engine, trace: Trace) -> None:
    """Print the table of layers in this release's column order, and export it."""
    compute = spent(trace.compute)
    n, total = len(compute), float(compute.sum())
    rows = [(layer.name, total * layer.share) for layer in engine.layers]
    if "--dumpProfile" in options:
        log()
        log(f"=== Profile ({n} iterations ) ===")
        if RELEASE.version < (8, 6):
            width = max(len(name) for name, _ in rows) + 1
            log(f"{'Layer':>{width}}   Time (ms)   Avg. Time (ms)   Median Time (ms)   Time %")
            for name, ms in [*rows, ("Total", total)]:
                log(f"{name:>{width}}{ms:12.2f}{ms / n:17.4f}{ms / n:19.4f}{100 * ms / total:9.1f}")
        else:
            log("   Time(ms)     Avg.(ms)   Median(ms)   Time(%)   Layer")
            for name, ms in [*rows, ("Total", total)]:
                log(f"{ms:11.2f}{ms / n:13.4f}{ms / n:13.4f}{100 * ms / total:10.1f}   {name}")
        log()
    if "--exportProfile" in options:
        entries = [f'  {{ "count" : {n}, "standin" : "{MARK}" }}\n']
        for name, ms in rows:
            entries.append(
                f', {{ "name" : "{name}", "timeMs" : {number(ms)}, "averageMs" : {number(ms / n)}, '
                f'"medianMs" : {number(ms / n)}, "percentage" : {number(100 * ms / total)} }}\n'
            )
        write(options.values["--exportProfile"], ["[\n", *entries, "]\n"])


def write(path: str, parts: Iterable[str]) -> None:
    with open(path, "w") as file:
        file.writelines(parts)


def export_times(path: str, trace: Trace) -> None:
    spans = (*trace.enq, *trace.h2d, *trace.compute, *trace.d2h)
    h2d, compute, d2h = spent(trace.h2d), spent(trace.compute), spent(trace.d2h)
    names = (
        "startEnq",
        "endEnq",
        "startH2d",
        "endH2d",
        "startCompute",
        "endCompute",
        "startD2h",
        "endD2h",
        "h2d",
        "compute",
        "d2h",
        "latency",
    )
    line = ", ".join(f'"{name}Ms" : %g' for name in names) + " }\n"
    columns = np.column_stack([*spans, h2d, compute, d2h, h2d + compute + d2h]).tolist()
    head = f'  {{ "standin" : "{MARK}", '
    write(
        path, ["[\n", *((", { " if i else head) + line % tuple(row) for i, row in enumerate(columns)), "]\n"]
    )


def export_layers(path: str, engine: Engine) -> None:
    """Write the inspector's JSON: names only, or in detail in the form before or since 11.0."""
    since_11 = RELEASE.version >= (11,)

    def tensor(t: Tensor) -> dict[str, Any]:
        described = {"Name": t.name, "Location": "Device", "Dimensions": list(t.dims)}
        if since_11:
            return {**described, "Format": t.described(), "DataType": LABELS[t.dtype]}
        return {**described, "Format/Datatype": t.described()}

    layers: list[Any] = [layer.name for layer in engine.layers]
    if engine.detailed:
        layers = [
            {
                "Name": layer.name, "LayerType": layer.kind,
                "Inputs": [tensor(layer.source)], "Outputs": [tensor(layer.target)],
                **({"TacticName": layer.tactic} if layer.tactic else {}),
                "TacticValue": f"0x{layer.value:016x}",
                **({"StreamId": 0, "Metadata": ""} if RELEASE.version >= (8, 6) else {}),
            }
            for layer in engine.layers
        ]  # fmt: skip
    ends: dict[str, Any] = {"Bindings": [engine.source.name, engine.target.name]}
    if since_11:
        ends = {
            "I/O Tensors": [
                {
                    "Name": t.name, "IOMode": mode, "DataType": LABELS[t.dtype], "Dimensions": list(t.dims),
                    "Location": "Device", "IsShapeInferenceIO": False,
                    "ProfileInfo": [{"MinShape": list(t.dims), "OptShape": list(t.dims), "MaxShape": list(t.dims), "Format": t.described()}],
                }
                for t, mode in ((engine.source, "Input"), (engine.target, "Output"))
            ]
        }  # fmt: skip
    write(path, [json.dumps({"Layers": layers, **ends, "Standin": MARK}, indent=1) + "\n"])


def values_text(values: npt.NDArray[Any]) -> Iterator[str]:
    """Give numbers of six significant digits with `, ` between them, in pieces."""
    import msgspec

    flat = values.reshape(-1)
    for begin in range(0, len(flat), 1 << 20):
        part = flat[begin : begin + (1 << 20)].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 10.0 ** (5 - np.floor(np.log10(np.abs(part))))
            rounded = np.where(np.isfinite(scale), np.rint(part * scale) / scale, part)
        text = msgspec.json.encode(rounded.tolist())[1:-1].replace(b".0,", b",").replace(b",", b", ")
        yield (", " if begin else "") + text.replace(b"null", b"nan").decode()


def export_output(options: Options, engine: Engine) -> None:
    """Compute what the network really gives and write it, or something wrong if the scenario says so."""
    source = engine.source
    file = files(options).get(source.name)
    if file is None:
        values = np.random.default_rng(1).uniform(-1, 1, source.dims).astype(DTYPES[source.dtype])
    else:
        values = read_buffer(Path(file), source)
    result = engine.network.run({source.name: values})[engine.target.name].astype(DTYPES[engine.target.dtype])
    if SCENARIO.output == "wrong":
        result = result * DTYPES[engine.target.dtype].type(1.1)
    elif SCENARIO.output in ("nan", "zeros"):
        result[...] = np.nan if SCENARIO.output == "nan" else 0
    dims = "x".join(map(str, engine.target.dims))
    with open(options.values["--exportOutput"], "w") as out:
        out.write(
            f'[\n  {{ "name" : "{engine.target.name}"\n  , "standin" : "{MARK}"\n  , "dimensions" : "{dims}"\n  , "values" : [ '
        )
        out.writelines(values_text(result))
        out.write(" ]\n  }\n]\n")


def capture(options: Options) -> bool:
    """Return whether a CUDA graph is really used."""
    if not options.graph:
        return False
    if RELEASE.version >= (10,):
        log("Capturing CUDA graph for the current execution context")
    if not SCENARIO.graph_fails:
        if RELEASE.version >= (10,):
            log("Successfully captured CUDA graph for the current execution context")
        return True
    log(
        "The built TensorRT engine contains operations that are not permitted under CUDA graph capture mode.",
        "W",
    )
    if RELEASE.version >= (11,):
        log("CUDA graph capture failed. The inference will be launched without using CUDA graph launch.", "W")
    else:
        log(
            "The specified --useCudaGraph flag has been ignored. The inference will be launched without using CUDA graph launch.",
            "W",
        )
    return False


def infer(options: Options, engine: Engine) -> None:
    """Run, print and export."""
    verb = "is created." if RELEASE.version >= (10,) else ""
    for which, tensor in (("Input", engine.source), ("Output", engine.target)):
        dims = "x".join(map(str, tensor.dims))
        typed = f" and type {tensor.dtype}" if RELEASE.version >= (10, 16) else ""
        if which == "Input" and tensor.name in (given := files(options)):
            log(f"Using values loaded from {given[tensor.name]} for input {tensor.name}")
            try:
                read_buffer(Path(given[tensor.name]), tensor)
            except OSError:
                fail(f"Cannot open file {given[tensor.name]}!")
            except ValueError as error:
                fail(str(error))
        elif which == "Input" or RELEASE.version < (10,):
            log(f"Using random values for {which.lower()} {tensor.name}")
        if verb:
            log(f"{which} binding for {tensor.name} with dimensions {dims}{typed} {verb}")
        else:
            log(f"Created {which.lower()} binding for {tensor.name} with dimensions {dims}")
    log("Starting inference")
    name = "output" if "--exportOutput" in options else "profile" if options.profile else "run"
    stage(name)
    if name == "run":
        pass_time()
    graph = capture(options)
    trace = simulate(options, engine, graph)
    if options.profile and not options.separate:
        log(
            "The e2e network timing is not reported since it is inaccurate due to the extra synchronizations when the profiler is enabled."
        )
        log(
            "To show e2e network timing report, add --separateProfileRun to profile layer timing in a separate run or remove --dumpProfile to disable the profiler."
        )
    else:
        summary(options, trace)
    if "--exportTimes" in options:
        export_times(options.values["--exportTimes"], trace)
    if "--exportOutput" in options:
        export_output(options, engine)
    if options.profile:
        if graph and RELEASE.version < (10,):
            log("Skip layer timing collection in CUDA graph capture mode.", "W", library=True)
        profile(options, engine, trace)
