"""What `repro lower` tells."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from repro import plan
from repro.backends import trtexec
from repro.cli import cli, main
from tests import standin


def lower(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["lower", *arguments])


def test_one_release_is_told_with_commands_and_reasons() -> None:
    told = lower("conv16:hwc8", "--release", "trt-11.1", "--device", "x86")
    assert told.exit_code == 0
    assert "trtexec --onnx=model.fp16.onnx" in told.output
    assert "instead: typing is strong, not weak (trtexec 11.1)" in told.output
    assert "absent: typing: this release knows no other" in told.output


def test_the_commands_are_those_that_a_run_executes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTEXEC", str(standin.install(tmp_path / "bin", "10.3.0")))
    monkeypatch.setenv(trtexec.STANDIN_SWITCH, "1")
    job, *_ = plan.make(plan.Request(case="conv16:hwc8", device="x86", place="host", calibrate=False))
    told = lower("conv16:hwc8", "--release", "10.3.0", "--device", "x86").output.splitlines()
    assert [shlex.join(command.argv) for command in job.subjects[0].commands] == [
        line for line in told if line.startswith("trtexec ")
    ]


def test_what_a_release_can_t_run_has_a_reason_and_an_exit_code() -> None:
    told = lower("conv16", "--release", "11.1", "--device", "orin")
    assert told.exit_code == 4
    assert "unsupported: JetPack is not supported" in told.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["conv16"], "name one release"),
        (["conv16", "--all", "--release", "8.5"], "name one release"),
        (["conv16", "--release", "ort-1.31.1"], "no release of TensorRT"),
        (["conv99", "--all"], "unknown case"),
        (["conv16:none", "--all"], "unknown variant"),
        (["conv16", "--all", "--device", "moon"], "unknown device"),
    ],
)
def test_a_wrong_call_says_what_to_do(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["repro", "lower", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
