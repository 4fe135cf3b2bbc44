"""The whole path with real processes: run, verify, show."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from repro import bundle, measure
from repro.bundle import archive
from repro.schema import Record
from tests.e2e.conftest import Call, bundle_of

pytestmark = pytest.mark.needs("ssh-keygen", "linux")


def record_of(path: Path) -> Record:
    return next(iter(bundle.read(path).records.values()))


def test_a_run_gives_a_bundle_that_verifies_and_shows(run_case: Call, call: Call, tmp_path: Path) -> None:
    done = run_case("tiny", "--builds", "2")
    assert done.returncode == 0, done.stderr
    path = bundle_of(tmp_path)
    assert str(path.relative_to(tmp_path)) in done.stdout
    assert path.name.startswith("tiny_cpu_ort-")
    verified = call("verify", path)
    assert verified.returncode == 0
    assert "match the statement" in verified.stdout
    assert "known: your own key" in verified.stdout
    shown = call("show", path)
    assert shown.returncode == 0
    assert "95 % over 2 builds" in shown.stdout


def test_the_newest_bundle_is_the_default(run_case: Call, call: Call, tmp_path: Path) -> None:
    assert call("verify").returncode == 2
    run_case("tiny")
    assert call("verify").returncode == 0
    assert call("show").returncode == 0


def test_a_record_holds_what_was_measured(run_case: Call, tmp_path: Path) -> None:
    run_case("tiny", "--builds", "2", "--threads", "1")
    record = record_of(bundle_of(tmp_path))
    assert record.status == "measured"
    assert [stage.status for stage in record.stages] == ["ok"] * 4
    assert record.board.threads == 1
    assert len(record.builds) == len(record.runs) == 2
    assert len({build.input_hash for build in record.builds}) == 2, "fresh inputs for every build"
    assert all(build.check and build.check.ok for build in record.builds)
    assert record.settings.effective["precision"].source == "graph"
    with archive.opened(bundle_of(tmp_path)) as zipped:
        for run in record.runs:
            data = zipped.read(f"records/{record.record_name}/{run.samples.file}")
            columns = measure.unpack(data, run.samples.columns, run.samples.n)
            assert run.summary.n == run.samples.n >= 5
            assert columns["start_ns"][0] == 0
            assert run.summary.max_ns == columns["duration_ns"].max()


def test_telemetry_is_on_the_clock_of_the_runs(run_case: Call, tmp_path: Path) -> None:
    run_case("tiny", "--duration", "1s")
    record = record_of(bundle_of(tmp_path))
    channels = {channel.name: channel for channel in record.telemetry.channels}
    own = channels["own_cpu"]
    assert own.state == "value"
    assert own.coverage is not None
    assert own.coverage.n >= 5
    window = record.runs[0].phases[-1]
    with archive.opened(bundle_of(tmp_path)) as zipped:
        data = zipped.read("telemetry/host.bin")
    width = 8 * (1 + sum(channel.column is not None for channel in channels.values()))
    rows = len(data) // width
    times = memoryview(data)[: 8 * rows].cast("q")
    inside = [i for i, t in enumerate(times) if window.start_ns <= t <= window.end_ns]
    assert len(inside) >= 5
    assert own.column is not None
    values = memoryview(data)[8 * rows * own.column : 8 * rows * (own.column + 1)].cast("d")
    assert values[inside[-1]] - values[inside[0]] > 0.3, "the worker's own processor time is seen"


def test_variants_run_interleaved_in_one_session(run_case: Call, tmp_path: Path) -> None:
    done = run_case("tiny:base,wide", "--builds", "3")
    assert done.returncode == 0, done.stderr
    opened = bundle.read(bundle_of(tmp_path))
    base, wide = opened.records.values()
    assert base.session_id == wide.session_id
    assert base.case.digest != wide.case.digest
    order = [(turn.round, turn.subject) for turn in base.protocol.order]
    assert [round_ for round_, _ in order] == [0, 0, 1, 1, 2, 2]
    assert all({s for r, s in order if r == n} == set(opened.records) for n in range(3))


def test_fp16_is_read_back_as_fp32_and_fails_by_name(run_case: Call, tmp_path: Path) -> None:
    done = run_case("tiny:half")
    assert done.returncode == 1
    record = record_of(bundle_of(tmp_path))
    assert record.status == "failed"
    assert [(m.setting, m.planned, m.effective) for m in record.mismatches] == [("precision", "fp16", "fp32")]
    assert "precision is fp32, planned was fp16" in done.stdout


def test_conv16_itself_runs(call: Call, tmp_path: Path) -> None:
    arguments = ["--protocol", "forum", "--duration", "0.1s", "--iterations", "2"]
    done = call("run", "conv16", "--device", "cpu", *arguments)
    assert done.returncode == 0, done.stderr
    record = record_of(bundle_of(tmp_path))
    assert [(s.setting, s.requested, s.planned) for s in record.substitutions] == [
        ("precision", "fp16", "fp32")
    ]
    check = record.builds[0].check
    assert check is not None
    assert (check.method, check.positions, check.ok) == ("fp64_at_sampled_positions", 256, True)


def test_unsigned_on_request(run_case: Call, call: Call, tmp_path: Path) -> None:
    assert run_case("tiny", "--unsigned").returncode == 0
    verified = call("verify", bundle_of(tmp_path))
    assert verified.returncode == 4
    assert "unsigned" in verified.stderr


def test_verify_in_json_has_six_findings_and_no_verdict_word(
    run_case: Call, call: Call, tmp_path: Path
) -> None:
    run_case("tiny")
    findings = json.loads(call("verify", bundle_of(tmp_path), "--json").stdout)
    six = {"container", "files", "signature", "signer", "time", "contents"}
    assert six <= set(findings)
    assert not {"ok", "trusted", "verified"} & set(findings)


def test_show_as_json_and_markdown(run_case: Call, call: Call, tmp_path: Path) -> None:
    run_case("tiny", "--claim", "absolute record=base-x ms=1.5 note='a | b'")
    path = bundle_of(tmp_path)
    told = json.loads(call("show", path, "--json").stdout)
    assert told["statement"]["predicate"]["claims"][0]["ms"] == 1.5
    assert msgspec.convert(next(iter(told["records"].values())), Record) == record_of(path)
    page = call("show", path, "--markdown").stdout
    assert r"a \| b" in page


def test_the_output_may_be_a_file(call: Call, run_case: Call, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "mine.zip"
    assert run_case("tiny", "--output", str(target)).returncode == 0
    assert call("verify", target).returncode == 0


def test_nothing_private_is_in_a_bundle(run_case: Call, tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    run_case("tiny", env={"USER": "planted-user-name", "TRT_PLANTED": "planted-value"})
    with archive.opened(bundle_of(tmp_path)) as zipped:
        for name in zipped.names:
            content = zipped.read(name)
            for private in (boot, str(tmp_path), "planted-user-name", "TRT_PLANTED", "planted-value"):
                assert private.encode() not in content, (name, private)


def test_work_folders_and_keys_are_the_owners_alone(
    run_case: Call, config_home: Path, tmp_path: Path
) -> None:
    run_case("tiny")
    (work,) = (tmp_path / "work").iterdir()
    assert oct(work.stat().st_mode & 0o777) == "0o700"
    assert oct((config_home / "signing_key").stat().st_mode & 0o777) == "0o600"
    assert oct((config_home / "pseudonym.key").stat().st_mode & 0o777) == "0o600"
    assert (config_home / "signing_key.pub").read_text().split()[2:] == []


def test_the_work_is_in_the_json_as_whole_numbers(run_case: Call, call: Call, tmp_path: Path) -> None:
    run_case("tiny")
    shown = json.loads(call("show", bundle_of(tmp_path), "--json").stdout)
    (record,) = shown["records"].values()
    flop = record["work"]["flop"]
    assert isinstance(flop, int)
    assert flop == 2 * 2 * 24 * 20 * 4 * 4 * 9


def test_a_bundle_is_diagnosed_and_shown_as_a_page(run_case: Call, call: Call, tmp_path: Path) -> None:
    run_case("tiny:base,half")
    path = bundle_of(tmp_path)
    done = call("diagnose", path, "--json")
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), list)
    assert call("show", path, "--html", "page.html").returncode == 0
    assert "<h2>Findings</h2>" in (tmp_path / "page.html").read_text()
    done = call("show", path, "--html", "nowhere/page.html")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_case_is_diagnosed_before_any_run(call: Call) -> None:
    done = call("diagnose", "conv16")
    assert done.returncode == 0
    proven = [line for line in done.stdout.splitlines() if line.startswith("proven")]
    assert any(line.endswith("[sparse_peak]") for line in proven)
    assert any("its figures give 6.74 %, and it says 5.46 %" in line for line in proven)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [("no-such", 2, "repro: unknown case 'no-such'"), ("nowhere.zip", 1, "repro: "), ("", 2, "repro: ")],
)
def test_what_can_not_be_diagnosed_is_one_line(call: Call, name: str, code: int, says: str) -> None:
    done = call("diagnose", *([name] if name else []))
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert done.stderr.startswith(says)
