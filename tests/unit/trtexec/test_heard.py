"""What a process of trtexec says, line by line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repro.trtexec.heard import Heard, cause, version

AT = "[01/02/2026-03:04:05]"


def heard(*lines: str) -> Heard:
    found = Heard()
    for line in lines:
        found.line(line)
    return found


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (8410, "8.4.10"),
        (8502, "8.5.2"),
        (8510, "8.5.10"),
        (8601, "8.6.1"),
        (100300, "10.3.0"),
        (101601, "10.16.1"),
        (110100, "11.1.0"),
    ],
)
def test_a_banner_s_number_is_a_version(number: int, text: str) -> None:
    assert version(number) == text


def test_banners_tell_version_build_and_outcome() -> None:
    begun = heard("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --help")
    assert (begun.version, begun.build, begun.outcome) == ("10.16.1", "11", "unfinished")
    assert heard("&&&& PASSED TensorRT.trtexec [TensorRT v8502] # x").outcome == "passed"
    assert heard("&&&& FAILED TensorRT.trtexec [TensorRT v8502] # x").outcome == "failed"


def test_the_echo_is_the_first_line_of_a_label() -> None:
    found = heard(f"{AT} [I] Precision: FP32+FP16", f"{AT} [I] Precision: later", f"{AT} [I] SMs: 14")
    assert found.echo["Precision"] == "FP32+FP16"
    assert found.device() == {"SMs": "14"}


def test_verbose_lines_and_lines_without_a_form_are_no_echo() -> None:
    found = heard(
        f"{AT} [V] [TRT] Precision: FP8", "Precision: FP8", f"{AT} [V] useCudaGraph flag has been ignored"
    )
    assert found.echo == {}
    assert not found.graph_lost


def test_a_summary_is_read_to_its_digits() -> None:
    found = heard(
        f"{AT} [I] GPU Compute Time: min = 8.94312 ms, max = 16.5773 ms, mean = 9.02886 ms, "
        "median = 8.97861 ms, percentile(90%) = 8.98486 ms, percentile(99.9%) = 1e-05 ms"
    )
    printed = found.printed["GPU Compute Time"]
    assert printed == (8.94312, 16.5773, 9.02886, 8.97861, {90.0: 8.98486, 99.9: 1e-05})


def test_errors_warnings_and_the_last_words() -> None:
    found = heard(f"{AT} [E] [TRT] a", f"{AT} [W] * b.", f"{AT} [W]   hint", f"{AT} [I] ", "", "and then")
    assert (found.errors, found.warnings, found.last) == (["a"], ["b."], "and then")


@pytest.mark.parametrize(
    "words",
    [
        "The built TensorRT engine contains operations that are not permitted under CUDA graph capture mode.",
        "The specified --useCudaGraph flag has been ignored. The inference will be launched without it.",
        "CUDA graph capture failed. The inference will be launched without using CUDA graph launch.",
    ],
)
def test_a_lost_graph_is_heard_in_every_form(words: str) -> None:
    assert heard(f"{AT} [W] {words}").graph_lost


def test_a_profile_without_a_graph_has_lost_none() -> None:
    assert not heard(f"{AT} [W] Skip layer timing collection in CUDA graph capture mode.").graph_lost


@pytest.mark.needs("material")
def test_real_runs_are_heard() -> None:
    folder = Path(os.environ["TRT_REPRO_MATERIAL"]) / "trtexec-logs"
    found = {}
    for path in folder.glob("*.txt"):
        found[path.name.split("-")[0], path.stem] = heard(*path.read_text(errors="replace").splitlines())
    versions = {name: each.version for (name, _), each in found.items() if each.version}
    assert versions["10.16.1"] == "10.16.1"
    assert versions["8.6.0"] == "8.6.0"
    run = next(each for (_, stem), each in found.items() if "build-and-run" in stem)
    assert run.outcome == "passed"
    assert run.echo["CUDA Graph"] in ("Enabled", "Disabled")
    assert run.printed["GPU Compute Time"].median > 0


@pytest.mark.parametrize(
    ("errors", "code", "words"),
    [
        (["first: Error Code 10: a", "second: Error Code 2: b"], "Error Code 10", "first: Error Code 10: a"),
        (["context", "x: Error Code 2: b"], "Error Code 2", "context"),
        (["Error Code 1: a", "Error Code 2: OutOfMemory (9 bytes)"], "out_of_memory", "OutOfMemory"),
    ],
)
def test_the_cause_is_a_code_and_the_first_words_but_memory_comes_first(
    errors: list[str], code: str, words: str
) -> None:
    found = cause(errors)
    assert found is not None
    assert found[0] == code
    assert words in found[1]
    assert cause(["no code at all"]) is None
