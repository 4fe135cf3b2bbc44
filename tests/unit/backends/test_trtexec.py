"""Which trtexec it is, how it failed, and whether what it printed is what it exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from repro import proc
from repro.backends import trtexec
from repro.errors import Unavailable
from repro.proc import Finished
from repro.schema import TensorSpec
from repro.trtexec.heard import Outcome, Printed
from tests import standin
from tests.builders import make_subject


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTEXEC", raising=False)
    monkeypatch.setattr(trtexec, "USUAL_PATH", tmp_path / "usual" / "trtexec")
    trtexec._ask.cache_clear()


def program(path: Path, text: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_it_is_looked_for_by_variable_then_path_then_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "on"))
    with pytest.raises(Unavailable, match="there is no trtexec here"):
        trtexec.find()
    usual = program(tmp_path / "usual" / "trtexec")
    assert trtexec.find() == usual
    on_path = program(tmp_path / "on" / "trtexec")
    assert trtexec.find() == on_path
    named = program(tmp_path / "named")
    monkeypatch.setenv("TRTEXEC", str(named))
    assert trtexec.find() == named
    monkeypatch.setenv("TRTEXEC", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="can't be executed"):
        trtexec.find()


@pytest.mark.parametrize(
    ("release", "name", "build"),
    [("8.5.2", "trt-8.5.2", None), ("10.16.1", "trt-10.16.1.99", "99"), ("11.1.0", "trt-11.1.0.99", "99")],
)
def test_a_release_is_named_by_its_banner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, name: str, build: str | None
) -> None:
    monkeypatch.setenv("TRTEXEC", str(standin.install(tmp_path / "bin", release)))
    monkeypatch.setenv(trtexec.STANDIN_SWITCH, "1")
    assert trtexec.is_standin()
    found = trtexec.release(gpu=True)
    assert (found.name, found.version, found.build) == (name, release, build)


def test_a_stand_in_is_none_without_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTEXEC", str(standin.install(tmp_path / "bin", "8.5.2")))
    monkeypatch.delenv(trtexec.STANDIN_SWITCH, raising=False)
    with pytest.raises(Unavailable, match="stand-in"):
        trtexec.release(gpu=True)


@pytest.mark.parametrize(
    "text", ["exit 0", "echo 'trtexec: error while loading shared libraries' >&2; exit 127"]
)
def test_a_program_that_names_no_release_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("TRTEXEC", str(program(tmp_path / "trtexec", text)))
    with pytest.raises(Unavailable, match="does not say which release it is"):
        trtexec.release(gpu=True)


def test_it_measures_on_gpus_only() -> None:
    with pytest.raises(Unavailable, match="NVIDIA GPUs only"):
        trtexec.release(gpu=False)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("8.5.2.2-1+cuda11.4", ("8.5.2.2", "11.4")),
        ("8.5.2-1+cuda11.4", ("8.5.2", "11.4")),
        ("10.3.0.30-1+cuda12.5", None),
        ("1:2.3", None),
        ("", None),
    ],
)
def test_the_debian_package_tells_the_whole_version(
    monkeypatch: pytest.MonkeyPatch, said: str, found: tuple[str, str] | None
) -> None:
    def answer(argv: list[str], **options: object) -> Finished:
        return Finished(0, b"libnvinfer-bin: /x/trtexec\n" if "-S" in argv else said.encode(), b"")

    monkeypatch.setattr(proc, "run", answer)
    assert trtexec._package(trtexec.Tool(Path("/x/trtexec"), "8.5.2", None, False)) == found


@pytest.mark.parametrize(
    ("status", "outcome", "errors", "oom", "code", "message"),
    [
        (-6, "unfinished", [], False, "crash", "trtexec was ended by SIGABRT after: last words"),
        (-9, "unfinished", [], True, "out_of_memory", "the kernel ended trtexec: out of memory"),
        (-9, "unfinished", [], False, "crash", "trtexec was ended by SIGKILL after: last words"),
        (1, "failed", ["first", "CUDA out of memory"], True, "out_of_memory", "CUDA out of memory"),
        (1, "failed", ["a: Error Code 4: b", "c"], False, "Error Code 4", "a: Error Code 4: b"),
        (1, "failed", ["Engine set up failed"], False, "failed", "Engine set up failed"),
        (1, "unfinished", ["Unknown option: --x 1"], False, "unknown_option", "Unknown option: --x 1"),
        (1, "unfinished", [], False, "exit 1", "last words"),
        (
            0,
            "failed",
            ["bad"],
            False,
            "unfinished",
            "trtexec ended without saying that it passed, after: bad",
        ),
    ],
)
def test_each_end_is_told_in_the_log_s_own_words(
    status: int, outcome: Outcome, errors: list[str], oom: bool, code: str, message: str
) -> None:
    failed = trtexec._failure(status, outcome, errors, "last words", oom=oom)
    assert (failed.code, str(failed)) == (code, message)
    assert failed.signal == proc.signal_name(status)


TIMES = np.arange(1, 101) / 10
PRINTED = Printed(0.1, 10.0, 5.05, 5.05, {90.0: 9.0, 99.0: 10.0})
"""Of a hundred values, the 99th percentile is the largest by trtexec's rule."""


def test_printed_figures_of_the_exported_times_agree() -> None:
    trtexec._agree(TIMES, PRINTED)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"minimum": 0.1001}, "min"),
        ({"maximum": 10.01}, "max"),
        ({"median": 5.06}, "median"),
        ({"mean": 5.06}, "mean"),
        ({"percentiles": {99.0: 9.9}}, "percentile 99"),
        ({"median": float("nan")}, "median"),
    ],
)
def test_a_figure_of_other_times_is_named(changes: dict[str, object], name: str) -> None:
    with pytest.raises(trtexec.Failed, match=f"the {name} of the exported times") as caught:
        trtexec._agree(TIMES, PRINTED._replace(**changes))  # type: ignore[arg-type]
    assert caught.value.code == "summary_disagrees"


@pytest.mark.parametrize(("free_mib", "enough"), [(500, True), (100, False)])
def test_the_work_folder_must_have_room_for_the_output_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int, enough: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free_mib << 20))
    subject = make_subject()
    engine = trtexec.Engine(tmp_path, subject)
    # Of 10 million values: 40 MB of input, 160 MB of output as text.
    tensors = (TensorSpec("input", (1, 10, 1000, 1000), "fp16", "chw"),) * 2
    if enough:
        engine._room(tensors)
    else:
        with pytest.raises(trtexec.Failed, match="has 100 MiB; input and output take 190 MiB") as caught:
            engine._room(tensors)
        assert caught.value.code == "no_space"


def test_a_run_without_a_summary_has_failed() -> None:
    with pytest.raises(trtexec.Failed, match="printed no summary"):
        trtexec._agree(TIMES, None)
