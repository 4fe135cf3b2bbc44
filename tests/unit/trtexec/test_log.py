"""Logs of trtexec: every form that the repository's own logs have, pasted in every way, and none at all."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.schema import LayerTensor
from repro.trtexec.log import read, read_all
from repro.trtexec.process import MAX_KEPT, MAX_LINE_BYTES
from repro.trtexec.seen import Binding, BuildSeen, Device, RunSeen, Statistics, TrtexecLog, Version

LOGS = Path(__file__).parent / "logs"
STAMP = "[03/14/2026-15:09:26]"
COMPUTE = "GPU Compute Time: min = 1 ms, max = 3 ms, mean = 2 ms, median = 2 ms, percentile(99%) = 3 ms"


def parsed(text: str | bytes) -> TrtexecLog:
    return read(io.BytesIO(text.encode() if isinstance(text, str) else text), "pasted.log")


def fixture(name: str) -> TrtexecLog:
    with (LOGS / name).open("rb") as file:
        return read(file, name)


def why(log: TrtexecLog) -> dict[str, str]:
    return {each.what: each.reason for each in log.missing}


def known(log: TrtexecLog) -> TrtexecLog:
    """Return what a paste must not change."""
    return msgspec.structs.replace(log, name="", lines=0)


# --- every form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(LOGS.iterdir()), ids=lambda path: path.name)
def test_no_line_of_the_repositorys_own_logs_is_unknown(path: Path) -> None:
    log = fixture(path.name)
    assert log.unknown == ()
    assert log.lines == len(path.read_bytes().splitlines())
    assert log.version is not None
    assert path.name.startswith(log.version.text)


def test_a_run_of_8_5() -> None:
    log = fixture("8.5.2-run.log")
    assert log.version == Version("8.5.2", 8502, None)
    assert log.outcome == "passed"
    assert log.command is not None
    assert log.command[1:3] == ("--loadEngine=tiny.plan", "--useCudaGraph")
    assert (log.first_local, log.last_local) == ("2026-03-14T15:09:26", "2026-03-14T15:09:26")
    assert log.device == Device(
        form="until_8.5",
        name="Made-up GPU",
        compute_capability="8.7",
        sm_count=14,
        compute_clock_ghz=0.816,
        memory_clock_ghz=0.816,
        memory_mib=30592,
        shared_memory_per_sm_kib=164,
        bus_width_bits=256,
        ecc=False,
    )
    assert log.enabled("CUDA Graph") is True
    assert log.enabled("Data transfers") is True
    assert log.enabled("no such option") is None
    assert log.option("Streams") == "1"
    assert log.build == BuildSeen(loaded_s=0.0021, deserialized_s=0.0123, engine_mib=0.0)
    assert log.run == RunSeen(10_000, 200.0, 150_000, 2.99964, "ignored")
    assert log.summary is not None
    assert log.summary.throughput_qps == 50005.9
    assert log.summary.gpu_compute == Statistics(
        0.0158691, 0.0244141, 0.0199963, 0.0200195, {"50": 0.0200195, "99.9": 0.0231934}
    )
    assert (log.summary.host_walltime_s, log.summary.gpu_compute_s) == (2.99964, 2.9996)
    assert [warning.partition(" ")[0] for warning in log.warnings] == ["The", "The", "*", "*", "*"]
    assert log.warnings[-1].endswith("5.00894%. If not already in use, locking GPU clock frequency or "
                                     "adding --useSpinWait may improve the stability.")  # fmt: skip
    assert log.profile is not None
    assert (log.profile.order, log.profile.iterations, len(log.profile.rows)) == ("name_first", 150_000, 3)
    assert log.profile.rows[0].name == "Reformatting CopyNode for Input Tensor 0 to conv1"
    assert log.profile.total is not None
    assert log.profile.total.time_ms == 2999.6
    assert set(why(log)) == {"layers"}


def test_a_verbose_build_of_8_5_gives_layers_candidates_and_no_summary() -> None:
    log = fixture("8.5.2-build.log")
    assert log.option("Precision") == "FP32+FP16 (obey precision constraints)"
    assert log.option("Input(s)") or log.option("Input(s)s format")
    assert log.build == BuildSeen(built_s=1.5, generated_s=1.25, activation_bytes=1_048_576)
    assert log.onnx["Opset version"] == "13"
    assert log.layers is not None
    assert [(layer.name, layer.type, layer.is_reformat) for layer in log.layers] == [
        ("Reformatting CopyNode for Input Tensor 0 to conv1", "Reformat", True),
        ("conv1", "CaskConvolution", False),
        ("conv2", "CaskConvolution", False),
    ]
    assert log.layers[1].inputs == (LayerTensor("fp16", "hwc8", (1, 4, 24, 20)),)
    tuning = {each.layer: each for each in log.tuning}
    conv = tuning["conv1"]
    assert conv.timed == 8
    assert [candidate.time_ms for candidate in conv.best] == sorted(
        candidate.time_ms or 0.0 for candidate in conv.best
    )
    assert len(conv.best) == 5
    assert conv.chosen is not None
    assert conv.chosen.tactic == log.layers[1].tactic == "0xd607243d6cfb0f1c"
    assert conv.chosen.runner == "CaskConvolution"
    assert why(log)["summary"] == "inference was skipped"


def test_8_4_has_decimal_tactics_and_a_crash_no_end_line() -> None:
    log = fixture("8.4.1-crash.log")
    assert log.outcome == "unfinished"
    assert log.ending[-1] == "Starting inference"
    assert [each.chosen.tactic for each in log.tuning if each.chosen] == ["1002", "50620", "47861", "0"]
    assert why(log)["summary"] == "the log ends before it"


def test_8_6_has_application_clocks() -> None:
    log = fixture("8.6.1-run.log")
    assert log.device is not None
    assert (log.device.form, log.device.compute_clock_ghz) == ("since_8.6", 0.816)
    assert log.option("Inference Streams") == "1"
    assert log.summary is not None
    assert log.summary.latency is not None
    assert log.summary.latency.percentiles_ms == {"90": 12.5624, "95": 12.573, "99": 12.593}


def test_a_profile_hides_the_summary_on_10() -> None:
    log = fixture("10.16.1-profile.log")
    assert log.version == Version("10.16.1", 101601, "b99")
    assert log.device is not None
    assert (log.device.form, log.device.available) == ("since_10", ("Made-up GPU",))
    assert log.run == RunSeen(graph="captured")
    assert log.summary is None
    assert "--separateProfileRun" in why(log)["summary"]
    assert why(log)["options.build"] == "not echoed where an engine is loaded"
    assert log.profile is not None
    assert log.profile.order == "time_first"
    assert log.bindings == (
        Binding("input", "input", (1, 4, 24, 20), "fp32"),
        Binding("output", "output", (1, 4, 24, 20), "fp32"),
    )


def test_unknown_options_and_the_help_after_them() -> None:
    log = fixture("10.3.0-refused.log")
    assert log.outcome == "failed"
    assert log.errors == ("Unknown option: --buildOnly", "Unknown option: --workspace 2048")
    assert (log.options, log.unknown_lines) == ((), 0)
    assert why(log)["summary"] == "trtexec failed"


def test_11_is_strongly_typed_and_has_a_graph() -> None:
    log = fixture("11.1.0-run.log")
    assert log.version == Version("11.1.0", 110100, "b99")
    assert log.option("Precision") == "Strongly Typed"
    assert log.option("Input(s)") == "+chw16"
    assert log.enabled("CUDA Graph") is True
    assert log.enabled("Data transfers") is False
    assert log.build is not None
    assert (log.build.engine_mib, log.build.weights_bytes) == (0.25, 1105)


# --- pasted ---------------------------------------------------------------------------------------------


def without_prefix(text: str) -> str:
    return "\n".join(line.split("] [I] ", 1)[-1].split("] [W] ", 1)[-1] for line in text.split("\n"))


PASTES: dict[str, Callable[[str], str]] = {
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "blank lines": lambda text: text.replace("\n", "\n\n"),
    "colours": lambda text: "\n".join(f"\x1b[32m{line}\x1b[0m" for line in text.split("\n")),
    "indented": lambda text: "\n".join(f"    {line}" for line in text.split("\n")),
    "quoted": lambda text: "\n".join(f"> {line}" for line in text.split("\n")),
    "trailing blanks lost": lambda text: "\n".join(line.rstrip() for line in text.split("\n")),
    "byte order mark": lambda text: "\ufeff" + text,
    "fenced": lambda text: f"```\n{text}```\n",
}


@pytest.mark.parametrize("how", PASTES)
@pytest.mark.parametrize("path", sorted(LOGS.iterdir()), ids=lambda path: path.name)
def test_a_paste_tells_the_same(path: Path, how: str) -> None:
    assert known(parsed(PASTES[how](path.read_text()))) == known(fixture(path.name))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_what_powershell_writes_is_read(encoding: str) -> None:
    text = "\ufeff" + (LOGS / "8.6.1-run.log").read_text()
    assert known(parsed(text.encode(encoding))) == known(fixture("8.6.1-run.log"))


@pytest.mark.parametrize("name", ["8.6.1-run.log", "11.1.0-run.log", "8.5.2-run.log"])
def test_without_prefixes_version_options_and_figures_stay(name: str) -> None:
    log, whole = parsed(without_prefix((LOGS / name).read_text())), fixture(name)
    assert (log.version, log.options, log.device) == (whole.version, whole.options, whole.device)
    assert (log.summary, log.run and log.run.queries) == (whole.summary, whole.run and whole.run.queries)
    assert (log.profile, log.command) == (whole.profile, whole.command)


@pytest.mark.parametrize("columns", [60, 80, 100, 132])
def test_wrapped_figures_and_commands_are_joined(columns: int) -> None:
    text = (LOGS / "8.6.1-run.log").read_text()
    wrapped = "\n".join(
        "\n".join(line[i : i + columns] for i in range(0, max(len(line), 1), columns))
        for line in text.split("\n")
    )
    log, whole = parsed(wrapped), fixture("8.6.1-run.log")
    assert log.summary == whole.summary
    assert log.version == whole.version
    assert columns < 70 or log.command == whole.command


@pytest.mark.parametrize("prose", ["Hope that helps!", "\nHope that helps!", "1,000 ms, median = 7 ms"])
def test_prose_behind_a_log_is_no_part_of_it(prose: str) -> None:
    log = parsed(f"{COMPUTE}\n{prose}\n&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec --a\n{prose}")
    assert log.command == ("trtexec", "--a")
    assert log.summary is not None
    assert log.summary.gpu_compute == Statistics(1.0, 3.0, 2.0, 2.0, {"99": 3.0})
    assert log.unknown == (prose.strip(), prose.strip())


def test_a_summary_alone_is_a_log() -> None:
    log = parsed(f"Throughput: 97.9 qps\n{COMPUTE}\nTotal Host Walltime: 3 s\n")
    assert log.summary is not None
    assert log.summary.gpu_compute == Statistics(1.0, 3.0, 2.0, 2.0, {"99": 3.0})
    assert log.summary.latency is None
    assert {"version", "command", "outcome", "device", "options.inference"} <= set(why(log))


def test_two_processes_in_one_paste_are_two_logs() -> None:
    text = (LOGS / "8.5.2-build.log").read_bytes() + (LOGS / "8.5.2-run.log").read_bytes()
    build, run = read_all(io.BytesIO(text), "both.log")
    whole = [fixture("8.5.2-build.log"), fixture("8.5.2-run.log")]
    assert list(map(known, (build, run))) == list(map(known, whole))
    assert [build.lines, run.lines] == [log.lines for log in whole]
    with pytest.raises(ReproError, match=r"both\.log holds 2 logs"):
        read(io.BytesIO(text), "both.log")


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_pieces_of_any_size_give_the_same(size: int) -> None:
    content = (LOGS / "8.5.2-build.log").read_bytes()
    pieces: Iterator[bytes] = (content[i : i + size] for i in range(0, len(content), size))
    assert known(read(pieces, "x")) == known(fixture("8.5.2-build.log"))


# --- what is odd ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "value", "reason"),
    [
        ("1e-05 ms", 1e-05, None),
        ("0 ms", 0.0, None),
        ("inf ms", None, "printed as inf"),
        ("-nan ms", None, "printed as -nan"),
        ("0.5", None, "printed as '0.5', without its unit"),
        ("soon ms", None, "printed as 'soon'"),
    ],
)
def test_a_number_is_exact_or_told_as_missing(printed: str, value: float | None, reason: str | None) -> None:
    log = parsed(f"{STAMP} [I] {COMPUTE.replace('median = 2 ms', f'median = {printed}')}\n")
    assert log.summary is not None
    assert log.summary.gpu_compute is not None
    assert log.summary.gpu_compute.median_ms == value
    assert log.summary.gpu_compute.max_ms == 3.0
    assert why(log).get("summary.gpu_compute.median_ms") == reason


def test_a_throughput_without_its_unit_is_told() -> None:
    log = parsed(f"Throughput: 97.9\n{COMPUTE}\n")
    assert log.summary is not None
    assert log.summary.throughput_qps is None
    assert "without its unit" in why(log)["summary.throughput_qps"]


def test_a_summary_cut_off_is_partial() -> None:
    log = parsed(f"{STAMP} [I] === Performance summary ===\n{STAMP} [I] Throughput: 9 qps\n")
    assert log.summary is not None
    assert log.summary.gpu_compute is None
    assert why(log)["summary.gpu_compute"] == "the line is not in the log"


def test_unknown_lines_are_kept_up_to_a_limit_and_counted() -> None:
    strange = "".join(f"strange {i}\n" for i in range(MAX_KEPT + 50))
    log = parsed(f"{STAMP} [I] Starting inference\n{strange}")
    assert len(log.unknown) == MAX_KEPT
    assert log.unknown_lines == MAX_KEPT + 50
    assert log.unknown[-1] == f"strange {MAX_KEPT - 1}"


def test_warnings_beyond_the_limit_are_counted() -> None:
    log = parsed("".join(f"{STAMP} [W] careful {i}\n" for i in range(MAX_KEPT + 3)))
    assert (len(log.warnings), log.not_kept) == (MAX_KEPT, {"warnings": 3})


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    log = parsed(STAMP.encode() + b" [E] caf\xe9\n")
    assert log.errors == ("caf\ufffd",)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"hello\nworld\n", bytes(range(256)) * 4, b'{"a": 1}', b"\x00" * 5000]
)
def test_what_is_no_log_is_refused_by_name_and_lines(content: bytes) -> None:
    with pytest.raises(ReproError, match=r"noise is no log of trtexec: none of its lines \(1 to \d+\)"):
        read(io.BytesIO(content), "noise")


def test_the_standins_mark_is_seen() -> None:
    assert parsed(f"{STAMP} [I] STAND-IN FOR TESTS: nothing is measured\n{COMPUTE}\n").standin


# --- size and time --------------------------------------------------------------------------------------


def verbose_lines(count: int) -> Iterator[bytes]:
    """Give a verbose build with many layers and more candidates, without end."""
    head = f"{STAMP} [V] [TRT] ".encode()
    for i in range(count):
        if i % 50 == 0:
            yield head + b"--------------- Timing Runner: layer%d (CaskConvolution)\n" % (i // 50)
        elif i % 2:
            yield head + b"layer Set Tactic Name: sm80_%d Tactic: 0x%016x\n" % (i, i)
        else:
            yield head + b"Tactic: 0x%016x Time: %.5f\n" % (i, 1 + (i * 7919 % 1000) / 1000)


def test_memory_does_not_grow_with_the_log() -> None:
    """A log without line ends, with ever new layers, unknown lines, warnings and options."""

    def endless() -> Iterator[bytes]:
        for i in range(60):
            yield b"x" * (1 << 20)
            yield b"".join(verbose_lines(2_000)) if i < 30 else b""
            yield (
                f"\n{COMPUTE}\n".encode() + b"&&&& RUNNING TensorRT.trtexec # " + b"y" * 60 + b"\n"
                if i == 9
                else b""
            )
            yield b"z" * 60_000 + b"\n" if i > 9 else b""
            yield f"\n{STAMP} [W] {'w' * 5000}\n{STAMP} [I] {'u' * 5000} {i}\n".encode() * 20

    tracemalloc.start()
    try:
        log, _ = read_all(endless(), "endless")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert log.tuning
    assert peak < 60 << 20
    assert all(len(line) <= 500 for line in (*log.unknown, *log.ending))


@pytest.mark.parametrize(
    "line",
    [
        "Layer(a): {i} " + "n" * 50_000 + ", Tactic: 0x0, (Half[1]) -> (Half[1])",
        "Created input binding for {i}" + "n" * 50_000 + " with dimensions 1x1",
        "option {i}: " + "n" * 50_000,
    ],
    ids=["layers", "bindings", "options"],
)
def test_what_is_kept_of_a_log_is_bounded(line: str) -> None:
    lines = "".join(f"{STAMP} [I] {line.format(i=i)}\n" for i in range(400))
    log = parsed(f"{STAMP} [I] === Build Options ===\n{lines}")
    assert len(msgspec.json.encode(log)) < 20 << 20


def test_more_processes_than_anybody_runs_are_refused() -> None:
    with pytest.raises(ReproError, match=r"x holds more than 1000 logs"):
        read_all(io.BytesIO(b"&&&& RUNNING TensorRT.trtexec # a\n" * 1100), "x")


def test_a_line_without_end_is_cut() -> None:
    log = parsed(f"{STAMP} [E] ".encode() + b"x" * (3 * MAX_LINE_BYTES) + b"\n" + COMPUTE.encode())
    assert log.errors[0].startswith("xxx")
    assert log.summary is not None


# --- no crash -------------------------------------------------------------------------------------------

PIECES = [line for path in sorted(LOGS.iterdir()) for line in dict.fromkeys(path.read_bytes().splitlines())]
NUMBERS = [b"inf", b"-nan", b"1e-05", b"1e999", b"9" * 400, b"", b"-1", b"0x", b"\xff"]


def mangled(line: bytes, at: int, piece: bytes) -> bytes:
    words = line.split(b" ")
    words[at % len(words)] = piece
    return b" ".join(words)


@given(st.binary(max_size=500))
def test_noise_never_crashes(content: bytes) -> None:
    try:
        log = parsed(content)
    except ReproError:
        return
    msgspec.json.encode(log)


@given(
    st.lists(
        st.builds(mangled, st.sampled_from(PIECES), st.integers(0, 30), st.sampled_from(NUMBERS))
        | st.sampled_from(PIECES)
        | st.binary(max_size=40).map(lambda tail: f"{STAMP} [V] [TRT] Tactic".encode() + tail),
        min_size=1,
        max_size=60,
    )
)
def test_lines_in_any_order_with_odd_words_never_crash(lines: list[bytes]) -> None:
    try:
        logs = read_all(io.BytesIO(b"\n".join(lines)), "x")
    except ReproError:
        return
    assert msgspec.json.decode(msgspec.json.encode(logs), type=tuple[TrtexecLog, ...]) == logs


# --- logs of others -------------------------------------------------------------------------------------

MODES = ("Data transfers", "Spin-wait", "CUDA Graph")


def of_others(name: str) -> TrtexecLog:
    (path,) = (Path(os.environ["TRT_REPRO_MATERIAL"]) / "trtexec-logs").glob(f"{name}*")
    with path.open("rb") as file:
        return read(file, path.name)


def modes(log: TrtexecLog) -> tuple[bool | None, ...]:
    return tuple(map(log.enabled, MODES))


def compute(log: TrtexecLog) -> Statistics | None:
    return log.summary.gpu_compute if log.summary else None


@pytest.mark.needs("material")
def test_no_line_of_others_logs_is_unknown_but_the_collectors() -> None:
    for path in sorted((Path(os.environ["TRT_REPRO_MATERIAL"]) / "trtexec-logs").iterdir()):
        log = of_others(path.name)
        # An assertion of the library, and a list of layers cut in its middle.
        strange = [line for line in log.unknown if not line.startswith(("#~", "trtexec: "))]
        assert log.unknown_lines == len(log.unknown)
        assert strange == [] or path.name.startswith("8.5.10"), path.name


@pytest.mark.needs("material")
def test_others_10_16_1_build_and_run() -> None:
    log = of_others("10.16.1-H100-hackathoncn-build-and-run")
    assert (log.version, log.outcome) == (Version("10.16.1", 101601, "b11"), "passed")
    assert log.device is not None
    assert (log.device.name, log.device.form, log.device.sm_count) == ("NVIDIA H100 PCIe", "since_10", 114)
    assert (log.device.bus_width_bits, log.device.ecc, log.device.memory_mib) == (5120, True, 81081)
    assert modes(log) == (True, False, False)
    assert log.option("Precision") == "FP32"
    assert log.build == BuildSeen(
        built_s=8.09138,
        generated_s=7.41113,
        deserialized_s=0.00676279,
        parsed_s=0.0170852,
        engine_mib=12.5744,
        activation_bytes=125_440,
        weights_bytes=13_100_672,
        peak_gpu_mib=13,
    )
    assert log.run == RunSeen(3057, 200.0, 46_125, 3.00013)
    assert log.summary is not None
    assert (log.summary.throughput_qps, log.summary.gpu_compute_s) == (15374.3, 1.6586)
    assert compute(log) == Statistics(
        0.0331421, 0.140381, 0.0359588, 0.0361328, {"90": 0.0368652, "95": 0.0371094, "99": 0.041748}
    )
    assert [warning.split()[0] for warning in log.warnings] == ["ModelImporter.cpp:994:", "Dynamic", "*"]
    assert log.bindings[2] == Binding("output", "z", (1,), "int64")


@pytest.mark.needs("material")
@pytest.mark.parametrize(
    ("name", "build", "iterations"),
    [
        ("10.16.1-H100-hackathoncn-dump", "b11", 18_362),
        ("10.14.1-RTX6000Ada-hackathoncn-dump", "b48", 21_248),
    ],
)
def test_others_profiles_since_10(name: str, build: str, iterations: int) -> None:
    log = of_others(name)
    assert log.version is not None
    assert log.version.build == build
    assert log.summary is None
    assert "--separateProfileRun" in why(log)["summary"]
    assert log.profile is not None
    assert (log.profile.iterations, log.profile.order) == (iterations, "time_first")
    assert log.profile.total is not None
    assert sum(row.percent for row in log.profile.rows) == pytest.approx(log.profile.total.percent, abs=1)


@pytest.mark.needs("material")
def test_others_10_14_1_with_a_graph() -> None:
    log = of_others("10.14.1-RTX6000Ada-hackathoncn-load")
    assert modes(log) == (False, True, True)
    assert log.run == RunSeen(5508, 200.0, 91_556, 3.00006, "captured")
    assert log.summary is not None
    assert log.summary.throughput_qps == 30518.1
    assert log.summary.h2d == Statistics(0.0, 0.0, 0.0, 0.0, {"90": 0.0, "95": 0.0, "99": 0.0})
    figures = compute(log)
    assert figures is not None
    assert (figures.min_ms, figures.median_ms, figures.max_ms) == (0.0285645, 0.029541, 1.43262)
    assert log.warnings[0].startswith(
        "* GPU compute time is unstable, with coefficient of variance = 80.1687%."
    )


@pytest.mark.needs("material")
def test_others_10_3_refused_options() -> None:
    log = of_others("10.3.0-JetsonOrin")
    assert (log.version, log.outcome) == (Version("10.3.0", 100300, None), "failed")
    assert log.errors == (
        "Unknown option: --workspace 2048",
        "Unknown option: --buildOnly",
        "Unknown option: --explicitBatch",
    )
    assert log.command is not None
    assert log.command[4] == "--fp16"
    assert (log.device, log.summary) == (None, None)


@pytest.mark.needs("material")
def test_others_11_1_single_line() -> None:
    log = of_others("11.1.0-vs_temporalfix")
    assert log.errors == ("Invalid TensorFormat fp16:chw",)
    assert {"version", "command", "outcome", "device", "summary"} <= set(why(log))


@pytest.mark.needs("material")
def test_others_8_4_10_crash() -> None:
    log = of_others("8.4.10-OrinDrive")
    assert (log.version, log.outcome) == (Version("8.4.10", 8410, None), "unfinished")
    assert "Unsupported type" in log.ending[-1]
    assert log.option("Precision") == "FP32+FP16+INT8"
    assert why(log)["summary"] == "the log ends before it"


@pytest.mark.needs("material")
def test_others_8_5_10_layers_with_times() -> None:
    log = of_others("8.5.10-RTX2000Ada")
    assert log.version == Version("8.5.10", 8510, None)
    assert modes(log)[0] is False
    assert log.build is not None
    assert (log.build.built_s, log.build.generated_s) == (53.4699, 24.152)
    assert log.run == RunSeen(1257, 200.0, 21_990, 3.00022)
    assert log.profile is not None
    assert (log.profile.iterations, log.profile.order) == (7477, "name_first")
    assert log.layers is not None
    first = log.layers[0]
    assert (first.name, first.type, first.is_reformat, first.time_ns) == (
        "QuantizeLinear_2",
        "Reformat",
        True,
        7_900,
    )
    assert log.layers[1].outputs == (LayerTensor("int8", "chw32", (1, 64, 56, 56)),)
    assert "Skip layer timing collection in CUDA graph capture mode." in log.warnings


@pytest.mark.needs("material")
def test_others_8_5_2_summary_alone() -> None:
    log = of_others("8.5.2-OrinNano")
    assert (log.version, log.outcome) == (Version("8.5.2", 8502, None), "passed")
    assert log.summary is not None
    assert (log.summary.throughput_qps, log.summary.host_walltime_s) == (97.8649, 3.0348)
    assert compute(log) == Statistics(
        10.0343, 10.3575, 10.1824, 10.1851, {"90": 10.3206, "95": 10.338, "99": 10.356}
    )
    assert log.summary.enqueue is not None
    assert log.summary.enqueue.percentiles_ms["99"] == 2.15002
    assert modes(log) == (None, None, None)


@pytest.mark.needs("material")
def test_others_8_5_2_profile() -> None:
    log = of_others("8.5.2-Xavier")
    assert log.device is not None
    assert (log.device.name, log.device.form, log.device.compute_clock_ghz) == ("Xavier", "until_8.5", 1.109)
    assert modes(log) == (True, False, False)
    assert log.build == BuildSeen(loaded_s=0.0397316, deserialized_s=1.85796, engine_mib=28.0)
    assert log.profile is not None
    assert log.profile.rows[0].name == "[HostToDeviceCopy 0]"
    assert log.profile.total is not None
    assert (log.profile.total.time_ms, log.profile.total.median_ms) == (3076.04, 8.9061)
    assert log.summary is None


@pytest.mark.needs("material")
def test_others_8_6_0_run() -> None:
    log = of_others("8.6.0-RTX3090")
    assert log.version == Version("8.6.0", 8600, None)
    assert log.device is not None
    assert (log.device.form, log.device.compute_clock_ghz, log.device.sm_count) == ("since_8.6", 1.695, 82)
    assert modes(log) == (True, False, False)
    assert log.run == RunSeen(4141, 200.0, 63_030, 3.00012)
    assert log.summary is not None
    assert log.summary.latency is not None
    assert (log.summary.latency.median_ms, log.summary.latency.max_ms) == (0.0517578, 0.617065)
    assert log.warnings[0].startswith(
        "* GPU compute time is unstable, with coefficient of variance = 44.3558%."
    )


@pytest.mark.needs("material")
def test_others_8_6_1_profile_alone() -> None:
    log = of_others("8.6.1-RTX3080")
    assert log.version == Version("8.6.1", 8601, None)
    assert log.profile is not None
    assert (log.profile.order, len(log.profile.rows)) == ("time_first", 8)
    row = log.profile.rows[5]
    assert (row.name, row.time_ms, row.average_ms, row.median_ms, row.percent) == (
        "Conv_311 || Conv_308 || Conv_307",
        117.43,
        0.0819,
        0.0819,
        5.1,
    )
    assert log.command is not None
    assert "--inputIOFormats=fp16:chw,int32:chw,int32:chw" in log.command
    assert (log.device, log.summary) == (None, None)
