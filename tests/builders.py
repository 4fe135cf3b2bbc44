"""Made-up values for tests: complete, valid and plainly not measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from repro import bundle, measure
from repro.schema import (
    Board,
    Build,
    CaseRef,
    Channel,
    Clock,
    Column,
    ConvStack,
    Coverage,
    Effective,
    ErrorSeen,
    Fact,
    Kit,
    Library,
    ModelSeen,
    ModelSpec,
    OutputCheck,
    Phase,
    Place,
    Predicate,
    Preheat,
    ProtocolSeen,
    Record,
    RecordEntry,
    ReleaseSeen,
    ResolvedCase,
    Run,
    Runtime,
    SamplerSeen,
    Samples,
    Settings,
    SettingsSeen,
    Stage,
    Subject,
    Summary,
    Telemetry,
    TensorSpec,
    TimerCheck,
    Tolerance,
    Turn,
)

MODEL = ConvStack("made-up", 1, 12, 10, (4, 4, 4), 3, True)
SETTINGS = Settings("fp32", "weak", "chw", False, False, False, True, "warm", 10, 0.05, None, (90, 99))


def make_subject(spec: ModelSpec = MODEL, precision: str = "fp32", **planned: Any) -> Subject:
    """Return what a backend is asked to build."""
    settings = msgspec.structs.replace(SETTINGS, precision=precision)
    asked: dict[str, Any] = {
        "precision": precision,
        "io_layout": "chw",
        "cuda_graph": False,
        "l2": "warm",
        "queue": "full",
    }
    return Subject(
        record_name="base-ort-1.0",
        role="subject",
        case=CaseRef("made-up", 1, None, "d" * 64, "full"),
        model=spec,
        settings=settings,
        planned={**asked, "warm_up_ms": 10, "duration_s": 0.05, "percentiles": "90,99", **planned},
        inapplicable=("typing",),
        substitutions=(),
        model_file=f"model.{precision}.onnx",
        model_digests={"fp32": "a" * 64},
        tolerances={"fp32": Tolerance(1e-5), "fp16": Tolerance(2e-3, "sqrt_layers")},
    )


def make_run(build: int, median_ms: float, **changes: Any) -> Run:
    """Return a run of 3 samples about `median_ms`."""
    median = median_ms * 1e6
    times = [round(median * f) for f in (0.99, 1.0, 1.01)]
    run = Run(
        id=f"b{build}r0",
        build=f"b{build}",
        round=build,
        samples=Samples(
            f"samples/b{build}r0.bin", (Column("start_ns", "ns"), Column("duration_ns", "ns")), 3
        ),
        summary=Summary(3, median, median, times[0], times[-1], median, median, math.log(median)),
        preheat=Preheat(True, 2.0),
        timer_check=TimerCheck(30, 30 / median),
        involuntary_switches_per_iteration=0.5,
        phases=(Phase("preheat", 0, 10), Phase("measure", 10, 20)),
        flags=(),
    )
    return msgspec.structs.replace(run, **changes)


def make_record(medians_ms: tuple[float, ...] = (10.0, 10.1, 9.9), **changes: Any) -> Record:
    """Return a measured record with one build for each of `medians_ms`."""
    tensors = (
        TensorSpec("input", (1, 4, 12, 10), "fp32", "chw"),
        TensorSpec("output", (1, 4, 12, 10), "fp32", "chw"),
    )
    check = OutputCheck("fp64_at_sampled_positions", "made up", 256, 1e-7, 1e-5, True, False, ())
    record = Record(
        kit=Kit("0.0.0", "0" * 64),
        run_id="20260101T000000Z-abcdef",
        session_id="20260101T000000Z-abcdef",
        boot="boot-aaaaaaaaaaaa",
        record_name="base-ort-1.0",
        origin="measured",
        started_utc="2026-01-01T00:00:00Z",
        clock=Clock("made up", 1),
        role="subject",
        status="measured",
        reason=None,
        stages=tuple(Stage(name, "ok", 0, 1, None) for name in ("prepare", "build", "check", "run")),
        cut_short=None,
        case=CaseRef("made-up", 1, None, "d" * 64, "full"),
        model=ModelSeen({"fp32": "a" * 64}, "fp32", (tensors[0],), (tensors[1],)),
        settings=SettingsSeen(
            SETTINGS,
            {"precision": "fp32", "io_layout": "chw"},
            {"precision": Effective("fp32", "graph"), "io_layout": Effective("chw", "graph")},
            ("typing",),
        ),
        substitutions=(),
        mismatches=(),
        commands=(),
        runtime=Runtime(
            "cpu",
            "onnxruntime",
            "ONNX Runtime",
            ReleaseSeen("ort-1.0", "1.0"),
            "CPUExecutionProvider",
            (Library("onnxruntime", "1.0"),),
            {"intra_op_num_threads": 1},
            Place("host", virtualised="none"),
        ),
        board=Board(name="Made-up CPU", cores=2, threads=1),
        protocol=ProtocolSeen(
            measure.PROTOCOLS["brief"],
            1,
            tuple(Turn(i, 0, "base-ort-1.0", i, 0) for i in range(len(medians_ms))),
            len(medians_ms),
            200,
            "not_controlled",
            "made up",
        ),
        builds=tuple(Build(f"b{i}", i, 0.1, "e" * 64, "f" * 64, check=check) for i in range(len(medians_ms))),
        runs=tuple(make_run(i, median) for i, median in enumerate(medians_ms)),
        layers=None,
        work=None,
        telemetry=Telemetry(
            (
                Channel(
                    "host",
                    "load_1min",
                    "1",
                    "value",
                    None,
                    False,
                    10.0,
                    Coverage(10, 0, 0, 900_000_000, 100_000_000, 1.0),
                    "telemetry/host.bin",
                    1,
                ),
                Channel(
                    "host",
                    "cpu_frequency",
                    "MHz",
                    "unsupported",
                    "no cpufreq here",
                    False,
                    10.0,
                    None,
                    None,
                    None,
                ),
            ),
            (Fact("host", "cpu_model", None, "value", "Made-up CPU"),),
            (),
            (),
            SamplerSeen(0.01, 0.001, None, "ok"),
        ),
        privacy=None,
        logs=(),
        overhead_ns={},
        missing=(),
    )
    return msgspec.structs.replace(record, **changes)


def make_failed(message: str = "something broke", **changes: Any) -> Record:
    """Return a record that failed in its build."""
    error = ErrorSeen("build", "Fail", None, message, f"build/Fail: {message}")
    stages = (
        Stage("prepare", "ok", 0, 1, None),
        Stage("build", "failed", 1, 2, error),
        Stage("check", "not_reached", None, None, None),
        Stage("run", "not_reached", None, None, None),
    )
    return make_record((), status="failed", reason=message, stages=stages, **changes)


def make_case(record: Record) -> ResolvedCase:
    """Return the resolved case of a record."""
    return ResolvedCase(
        record.case, "A made-up case", "Is it?", "nowhere", MODEL, SETTINGS, {"fp32": Tolerance(1e-5)}
    )


def make_files(*records: Record) -> dict[str, bytes]:
    """Return the files of a bundle with `records`."""
    files = {"telemetry/host.bin": bytes(160)}
    for record in records:
        home = f"records/{record.record_name}"
        files[f"{home}/record.json"] = msgspec.json.encode(record)
        files[f"{home}/case/case.json"] = msgspec.json.encode(make_case(record))
        for run in record.runs:
            files[f"{home}/{run.samples.file}"] = bytes(48)
    return files


def make_predicate(*records: Record, **changes: Any) -> Predicate:
    """Return what a statement says about `records`."""
    predicate = Predicate(
        kit=Kit("0.0.0", "0" * 64),
        created_utc="2026-01-01T00:00:00Z",
        sealed="at_once",
        signer_role="reporter",
        records=tuple(RecordEntry(r.record_name, r.role, r.status) for r in records),
        claims=(),
        references=(),
        parent_bundle_id=None,
        ticket=None,
    )
    return msgspec.structs.replace(predicate, **changes)


def seal(target: Path, *records: Record, key: Path | None = None, **changes: Any) -> bundle.Sealed:
    """Seal `records` (default: one made-up record) into a bundle under `target`."""
    chosen = records or (make_record(),)
    return bundle.seal(
        make_files(*chosen), make_predicate(*chosen, **changes), key=key, target=target, stem="made-up"
    )


def make_session(medians_ms: tuple[float, ...], name: str, release: str = "1.0", **changes: Any) -> Record:
    """Return the record of a session of its own, called `name`, with this release of the runtime."""
    record = make_record(medians_ms, run_id=name, session_id=name, **changes)
    runtime = msgspec.structs.replace(
        record.runtime, release=ReleaseSeen(f"ort-{release}", release, driver=record.runtime.release.driver)
    )
    return msgspec.structs.replace(record, runtime=runtime)


def make_arms(
    a_ms: tuple[float, ...], b_ms: tuple[float, ...], name: str = "alternating"
) -> tuple[Record, ...]:
    """Return the two arms of an alternating session: a round has two builds of each, A B B A or B A A B."""
    turns, taken = [], {"A": 0, "B": 0}
    for number in range(len(a_ms) // 2):
        for position, arm in enumerate("ABBA" if number % 2 else "BAAB"):
            turns.append(Turn(number, position, f"{arm.lower()}-base-ort-1.0", taken[arm], 0, arm))
            taken[arm] += 1
    records = []
    for arm, times, release in (("A", a_ms, "1.0"), ("B", b_ms, "1.1")):
        record = make_session(times, name, release, record_name=f"{arm.lower()}-base-ort-1.0")
        runs = tuple(msgspec.structs.replace(run, round=i // 2) for i, run in enumerate(record.runs))
        protocol = msgspec.structs.replace(record.protocol, order=tuple(turns))
        records.append(msgspec.structs.replace(record, runs=runs, protocol=protocol))
    return tuple(records)
