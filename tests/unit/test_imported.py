"""Records of what others ran: what a log holds is told, and nothing beyond."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from repro import cases, imported
from repro.cli import cli
from repro.errors import ReproError, UsageError
from repro.imported import ImportedRecord
from repro.schema import Effective, ErrorSeen
from tests import standin
from tests.e2e.conftest import CASES

LOGS = Path(__file__).parent / "trtexec" / "logs"
COMPUTE = "GPU Compute Time: min = 1 ms, max = 3 ms, mean = 2 ms, median = 2 ms, percentile(99%) = 3 ms"


def one(*paths: Path) -> ImportedRecord:
    (record,) = imported.read(paths).records.values()
    return record


def own(name: str) -> ImportedRecord:
    return one(LOGS / name)


def values(record: ImportedRecord) -> dict[str, object]:
    return {name: seen.value for name, seen in record.settings.items()}


def why(record: ImportedRecord) -> dict[str, str]:
    return {each.what: each.reason for each in record.missing}


def repro(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


# --- settings -------------------------------------------------------------------------------------------


def test_how_a_loaded_engine_was_built_is_not_claimed() -> None:
    record = own("8.6.1-run.log")
    assert record.option("Precision") == "FP32"
    assert values(record) == {
        "cuda_graph": False,
        "spin_wait": False,
        "transfers": True,
        "duration_s": 3.0,
        "warm_up_ms": 200,
    }
    for name in ("precision", "typing", "io_layout", "sparsity"):
        assert "the engine was loaded" in why(record)[f"settings.{name}"]


def test_a_build_tells_its_precision_by_its_layers() -> None:
    record = own("8.5.2-build.log")
    assert record.settings["precision"] == Effective("fp16", "graph")
    assert record.settings["typing"] == Effective("weak", "echo")
    assert record.settings["sparsity"] == Effective(False, "echo")


def test_layouts_are_those_that_were_asked_for() -> None:
    assert own("8.5.2-build.log").settings["io_layout"] == Effective("mixed", "echo")
    assert own("8.4.1-crash.log").settings["io_layout"] == Effective("chw", "echo")


def test_what_passed_in_spite_of_an_error_passed(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("[E] odd\n&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=m.onnx\n")
    record = one(path)
    assert (record.outcome, record.error, record.errors) == ("passed", None, ("odd",))
    assert "Red flags  odd" in repro("log", path).output


@pytest.mark.parametrize("percentile", ["100", "999", "1.2.3", "0"])
def test_percentiles_of_any_number_do_no_harm(tmp_path: Path, percentile: str) -> None:
    log, times = tmp_path / "a.log", tmp_path / "t.json"
    log.write_text(COMPUTE.replace("(99%)", f"({percentile}%)"))
    entry = {"startComputeMs": 1, "h2dMs": 0, "d2hMs": 0}
    times.write_text(json.dumps([{**entry, "computeMs": ms, "latencyMs": ms} for ms in (1.0, 2.0, 3.0)]))
    found = one(log, times).times
    assert found is not None
    assert found.gpu_compute.percentiles_ms == {"100": {"100": 3.0}, "0": {"0": 1.0}}.get(percentile, {})


def test_without_layers_the_precision_is_as_wide_as_the_echo(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(
        f"[I] === Build Options ===\n[I] Precision: FP32+FP16 (obey precision constraints)\n{COMPUTE}"
    )
    assert one(path).settings == {
        "precision": Effective("fp32+fp16", "echo"),
        "typing": Effective("weak", "echo"),
    }


def test_a_cuda_graph_that_was_ignored_is_off() -> None:
    record = own("8.5.2-run.log")
    assert record.enabled("CUDA Graph") is True
    assert record.settings["cuda_graph"] == Effective(False, "log")


def test_strong_typing_names_no_precision() -> None:
    record = own("11.1.0-run.log")
    assert record.settings["typing"] == Effective("strong", "echo")
    assert "precision" not in record.settings
    assert "settings.precision" in why(record)


def test_a_summary_alone_claims_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "pasted.txt"
    path.write_text(f"Throughput: 9 qps\n{COMPUTE}\n")
    record = one(path)
    assert record.settings == {}
    assert (record.device, record.version, record.command, record.outcome) == (None, None, None, None)
    assert {"device", "version", "command", "settings.cuda_graph", "machine_state"} <= set(why(record))


# --- failures -------------------------------------------------------------------------------------------


def test_a_failure_has_stage_words_and_signature() -> None:
    error = own("10.3.0-refused.log").error
    assert error == ErrorSeen(
        "prepare", None, None, "Unknown option: --buildOnly", "prepare/unknown: Unknown option: --buildOnly"
    )


def test_a_crash_is_told_by_the_last_line() -> None:
    record = own("8.4.1-crash.log")
    assert record.outcome == "unfinished"
    assert record.error is not None
    assert (record.error.stage, record.error.message) == ("run", "Starting inference")


def test_an_error_code_is_the_librarys(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(
        "[E] [TRT] 10: Error Code 10: Internal Error (no implementation)\n[E] Engine set up failed\n"
    )
    error = one(path).error
    assert error is not None
    assert (error.stage, error.code) == ("build", "10")


@pytest.mark.parametrize("name", ["10.3.0-refused.log", "8.4.1-crash.log"])
def test_a_failed_run_of_somebody_is_no_failure_of_the_reader(name: str) -> None:
    assert repro("log", LOGS / name).exit_code == 0


# --- exports --------------------------------------------------------------------------------------------


class Played:
    """A log of the stand-in, with what it exports."""

    def __init__(self, folder: Path, release: str) -> None:
        program = standin.install(folder, release)
        model = folder / "model.onnx"
        model.write_bytes(cases.resolve(cases.load("tiny", CASES), None).onnx["fp32"])
        names = ("times", "profile", "layers")
        self.log = folder / "run.log"
        self.times, self.profile, self.layers = (folder / f"{name}.json" for name in names)
        flags = [
            "--duration=0.05",
            "--dumpProfile",
            "--separateProfileRun",
            f"--exportTimes={self.times}",
            f"--exportProfile={self.profile}",
            f"--exportLayerInfo={self.layers}",
            "--profilingVerbosity=detailed",
        ]
        done = subprocess.run([program, f"--onnx={model}", *flags], capture_output=True, check=True)
        self.log.write_bytes(done.stdout)


@pytest.fixture(params=["8.5.2", "10.16.1", "11.1.0"])
def played(request: pytest.FixtureRequest, tmp_path: Path) -> Played:
    return Played(tmp_path, request.param)


def test_exports_beside_a_log_belong_to_its_record(played: Played) -> None:
    record = one(played.times, played.log, played.layers, played.profile)
    assert record.standin
    assert record.files == ("run.log", "times.json", "layers.json", "profile.json")
    assert record.times is not None
    assert record.summary is not None
    printed = record.summary.gpu_compute
    assert printed is not None
    assert record.times.gpu_compute.median_ms == pytest.approx(printed.median_ms, rel=2e-5)
    assert record.times.gpu_compute.percentiles_ms == pytest.approx(printed.percentiles_ms, rel=2e-5)
    assert record.run is not None
    assert record.times.n == record.run.queries
    assert record.layers is not None
    assert all(layer.time_ns for layer in record.layers)
    assert not {"times", "profile", "layers"} & set(why(record))


def test_times_of_another_run_are_refused(played: Played) -> None:
    entries = json.loads(played.times.read_text())
    played.times.write_text(json.dumps([{**entry, "computeMs": 9.0} for entry in entries]))
    with pytest.raises(
        ReproError, match=r"times\.json is of another run than run\.log: .* min 9 ms, the log's"
    ):
        imported.read([played.log, played.times])


def test_an_export_cut_in_half_names_its_line(tmp_path: Path) -> None:
    played = Played(tmp_path, "8.6.1")
    for path in (played.times, played.profile, played.layers):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ReproError, match=rf"{path.name}, line \d+"):
            imported.read([played.log, path])


def test_exports_go_to_the_log_whose_command_names_them(tmp_path: Path) -> None:
    played = Played(tmp_path, "8.6.1")
    records = imported.read([LOGS / "8.5.2-build.log", played.log, played.times]).records
    assert [name for name, record in records.items() if record.times] == ["run.log"]
    renamed = played.times.rename(tmp_path / "other.json")
    with pytest.raises(UsageError, match=r"which of the 2 logs .*other\.json is of"):
        imported.read([LOGS / "8.5.2-build.log", played.log, renamed])


def test_two_exports_of_a_kind_are_refused(played: Played, tmp_path: Path) -> None:
    second = tmp_path / "again.json"
    second.write_bytes(played.times.read_bytes())
    with pytest.raises(UsageError, match="are both times of one run"):
        imported.read([played.log, played.times, second])


def test_several_processes_in_a_file_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "both.log"
    path.write_bytes((LOGS / "8.5.2-build.log").read_bytes() + (LOGS / "8.5.2-run.log").read_bytes())
    assert list(imported.read([path]).records) == ["both.log#1", "both.log#2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "x is empty"),
        (b" \n ", "x is empty"),
        (b"\x00\x01\xff" * 100, "x is no log of trtexec"),
        (b"dear all,\nit is slow\n", r"x is no log of trtexec: none of its lines \(1 to 2\)"),
        (b'{"a": 1}', "x, line 1: JSON, but none that trtexec exports"),
        (b"[]", "x, line 1: JSON, but none that trtexec exports"),
        (b'[{"name": "y", "dimensions": "1x2", "values": [1, 2]}]', "x holds outputs"),
        (b'[{"startEnqMs": 1, "computeMs": 2}]', "none of these files is a log"),
    ],
)
def test_what_is_none_of_them_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ReproError, match=said):
        imported.read([path])


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for call in (imported.read, lambda paths: imported.load(paths[0])):
        with pytest.raises(ReproError, match="can't read"):
            call([tmp_path / "none.log"])
    with pytest.raises(UsageError, match="is no file"):
        imported.read([tmp_path])


def test_standard_input_is_a_log_too() -> None:
    text = (LOGS / "8.6.1-run.log").read_text()
    told = CliRunner().invoke(cli, ["log", "--json", "-"], input=text)
    assert told.exit_code == 0
    assert list(json.loads(told.output)["records"]) == ["stdin"]


# --- as JSON and as a page ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.name for path in LOGS.iterdir()))
def test_what_log_writes_show_reads(name: str, tmp_path: Path) -> None:
    told = repro("log", "--json", LOGS / name)
    assert told.exit_code == 0, told.output
    path = tmp_path / "record.json"
    path.write_text(told.output)
    assert imported.load(path) == imported.read([LOGS / name])
    assert repro("show", path).output == repro("log", LOGS / name).output
    assert repro("show", "--markdown", path).output == repro("log", "--markdown", LOGS / name).output
    assert json.loads(repro("show", "--json", path).output) == json.loads(told.output)


def test_figures_in_json_have_units_and_every_printed_digit() -> None:
    told = repro("log", "--json", LOGS / "8.5.2-run.log").output
    record = json.loads(told)["records"]["8.5.2-run.log"]
    assert (record["origin"], record["status"]) == ("imported", "imported")
    assert record["summary"]["gpu_compute"] == {
        "min_ms": 0.0158691,
        "max_ms": 0.0244141,
        "mean_ms": 0.0199963,
        "median_ms": 0.0200195,
        "percentiles_ms": {"50": 0.0200195, "99.9": 0.0231934},
    }
    assert '"median_ms": 0.0200195' in told


def test_the_gpus_uuid_stays_out() -> None:
    assert "GPU-00000000" in (LOGS / "11.1.0-run.log").read_text()
    assert "GPU-00000000" not in repro("log", "--json", LOGS / "11.1.0-run.log").output


def test_the_card_says_what_it_is_and_how_it_ended() -> None:
    shown = repro("log", LOGS / "8.5.2-run.log").output
    card = {line[:11].strip(): line[11:] for line in shown.splitlines()[:12]}
    assert card["Imported"] == "8.5.2-run.log: nothing here was measured by the kit"
    assert card["Time"] == "0.0200195 ms GPU compute, median of 150000 (printed)"
    assert card["Settings"] == "CUDA graph off, spin-wait on, transfers on"
    assert card["Red flags"].startswith("the CUDA graph was asked for and ignored")
    assert max(map(len, shown.splitlines()[:11])) <= 80
    failed = repro("log", LOGS / "10.3.0-refused.log").output
    assert "Time       none: trtexec failed" in failed
    assert "Outcome    failed in prepare: Unknown option: --buildOnly" in failed


def test_text_of_a_log_can_not_steer_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "evil.log"
    path.write_text(f"[E] \x1b]0;title\x07\u202ereversed\n{COMPUTE}\n")
    shown = repro("log", path).output
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@pytest.mark.parametrize("content", ["{}", "[]", '{"kit": 1}', '{"records": {"x": {}}}', "[" * 100_000])
def test_json_that_is_no_imported_record_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ReproError, match="is no imported record"):
        imported.load(path)


@given(st.binary(max_size=300), st.sampled_from([b"", b"[{", b'{"Layers": [', b'[{"count": 3}, {"name": "']))
def test_files_of_any_content_never_crash(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "x"
    path.write_bytes(head + tail)
    try:
        msgspec.json.encode(imported.read([LOGS / "8.6.1-run.log", path]))
    except ReproError:
        return


# --- logs of others -------------------------------------------------------------------------------------


def others() -> Sequence[Path]:
    return sorted((Path(os.environ["TRT_REPRO_MATERIAL"]) / "trtexec-logs").iterdir())


@pytest.mark.needs("material")
def test_every_log_of_others_becomes_a_record() -> None:
    for path in others():
        record = one(path)
        assert repro("log", path).exit_code == 0, path.name
        release = path.name.split("-")[0]
        if record.version is not None:
            assert record.version.text == release
        else:
            assert why(record)["version"]
        assert (record.summary is None) == ("summary" in why(record))
