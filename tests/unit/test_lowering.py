"""Requested, planned, effective: what a backend lacks is listed, and what did not hold is named."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import cases, lowering
from repro.errors import UsageError
from repro.schema import Effective, Mismatch, Scalar, Settings, Substitution
from repro.trtexec import flags
from tests import standin
from tests.builders import SETTINGS
from tests.e2e.conftest import CASES

EVERYTHING = tuple(field.name for field in msgspec.structs.fields(Settings))


def test_a_backend_that_has_everything_is_asked_for_everything() -> None:
    plan = lowering.plan(SETTINGS, {}, "x86", EVERYTHING)
    assert set(EVERYTHING) == set(plan.planned)
    assert (plan.inapplicable, plan.substitutions) == ((), ())
    requested = {**msgspec.structs.asdict(SETTINGS), "percentiles": "90,99"}
    assert plan.planned == requested


def test_settings_that_a_backend_lacks_are_inapplicable_and_not_planned() -> None:
    plan = lowering.plan(SETTINGS, {}, "cpu", {"precision", "warm_up_ms"})
    assert plan.planned == {"precision": "fp32", "warm_up_ms": 10}
    assert set(plan.inapplicable) == set(EVERYTHING) - {"precision", "warm_up_ms"}
    assert plan.substitutions == ()


def test_every_setting_is_planned_or_inapplicable_never_both() -> None:
    plan = lowering.plan(SETTINGS, {}, "cpu", {"precision", "io_layout", "percentiles"})
    assert sorted([*plan.planned, *plan.inapplicable]) == sorted(EVERYTHING)


def test_a_substitution_says_what_was_asked_what_is_planned_and_who_says_so() -> None:
    plan = lowering.plan(SETTINGS, {"precision": "fp16", "spin_wait": True}, "cpu", EVERYTHING)
    assert (plan.planned["precision"], plan.planned["spin_wait"]) == ("fp16", True)
    assert plan.substitutions == (
        Substitution("precision", "fp32", "fp16", "on.cpu"),
        Substitution("spin_wait", False, True, "on.cpu"),
    )


def test_a_substitution_by_the_same_value_is_none() -> None:
    plan = lowering.plan(SETTINGS, {"precision": "fp32"}, "cpu", EVERYTHING)
    assert (plan.planned["precision"], plan.substitutions) == ("fp32", ())


def test_a_substitution_of_a_setting_that_the_backend_lacks_is_none() -> None:
    plan = lowering.plan(SETTINGS, {"cuda_graph": True}, "cpu", {"precision"})
    assert plan.substitutions == ()
    assert "cuda_graph" in plan.inapplicable
    assert "cuda_graph" not in plan.planned


def test_a_substitution_of_what_is_no_setting_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"\[on.cpu\] sets 'flags', which is no setting"):
        lowering.plan(SETTINGS, {"flags": "--fp16"}, "cpu", EVERYTHING)


@pytest.mark.parametrize(
    "on_device",
    [
        {"precision": "fp99"},
        {"precision": 16},
        {"warm_up_ms": "soon"},
        {"warm_up_ms": 1.5},
        {"spin_wait": 1},
        {"percentiles": "90,99"},
    ],
)
def test_a_substitution_by_a_value_of_the_wrong_kind_is_a_usage_error(on_device: dict[str, Scalar]) -> None:
    with pytest.raises(UsageError, match=r"\[on.cpu\] doesn't hold settings") as caught:
        lowering.plan(SETTINGS, on_device, "cpu", EVERYTHING)
    assert "\n" not in str(caught.value)


def seen(**values: Any) -> dict[str, Effective]:
    return {name: Effective(value, "graph") for name, value in values.items()}


def test_what_held_is_no_mismatch() -> None:
    assert lowering.mismatches({"precision": "fp16", "warm_up_ms": 200}, seen(precision="fp16")) == ()


def test_what_did_not_hold_is_named_with_its_source() -> None:
    planned = {"precision": "fp16", "io_layout": "chw"}
    assert lowering.mismatches(planned, seen(precision="fp32", io_layout="chw")) == (
        Mismatch("precision", "fp16", "fp32", "graph"),
    )


def test_a_value_that_could_not_be_read_back_is_a_mismatch() -> None:
    assert lowering.mismatches({"precision": "fp16"}, seen(precision=None)) == (
        Mismatch("precision", "fp16", None, "graph"),
    )


def test_what_was_not_planned_can_not_mismatch() -> None:
    assert lowering.mismatches({}, seen(precision="fp32")) == ()


# --- trtexec ------------------------------------------------------------------------------------

RELEASES = [row.version for row in flags.table().release]
VARIANTS = (None, *cases.load("conv16").variants)
THREAD_BUILD = (
    "--buildOnly --fp16 --inputIOFormats=fp16:chw --outputIOFormats=fp16:chw --precisionConstraints=obey "
    "--layerPrecisions=*:fp16 --layerOutputTypes=*:fp16 --sparsity=disable --onnx=test_model0.onnx "
    "--saveEngine=test_model0.trt --verbose"
)
THREAD_RUN = "--loadEngine=test_model0.trt --verbose"
"""The two commands of https://forums.developer.nvidia.com/t/253924."""


def planned(variant: str | None = None, case: str = "conv16", **changes: Any) -> dict[str, Scalar | None]:
    settings = cases.resolve(cases.load(case), variant).settings
    return {**lowering.plan(settings, {}, "x86", EVERYTHING).planned, **changes}


def lowered(release: str, device: str = "x86", *, wanted: Any = None, **more: Any) -> lowering.Commands:
    found = lowering.lower(wanted or planned(), release, device, **more)
    assert isinstance(found, lowering.Commands), found
    return found


def refusal(release: str, device: str = "x86", **changes: Any) -> str:
    found = lowering.lower(planned(**changes), release, device)
    assert isinstance(found, lowering.Unsupported)
    return found.reason


def options(argv: tuple[str, ...]) -> dict[str, str]:
    """Return options with their values, but for files, whose names are the kit's own."""
    pairs = (argument.partition("=")[::2] for argument in argv if argument.startswith("--"))
    return {name: value for name, value in pairs if name not in ("--onnx", "--saveEngine", "--loadEngine")}


@pytest.mark.parametrize(("stage", "said"), [("build", THREAD_BUILD), ("run", THREAD_RUN)])
def test_the_threads_own_commands_come_out_and_what_is_added_has_a_source(stage: Any, said: str) -> None:
    found = lowered("8.5.2", "orin")
    own, thread = options(found.argv(stage)), options(tuple(said.split()))
    assert thread.items() <= own.items()
    added = {note.about for note in found.notes if note.kind == "added" and note.source}
    assert set(own) - set(thread) <= added
    assert found.substitutions == ()


@pytest.mark.parametrize("release", RELEASES)
def test_each_release_accepts_the_commands_of_every_variant(release: str, tmp_path: Path) -> None:
    tiny = cases.resolve(cases.load("tiny", CASES), None)
    for precision, data in tiny.onnx.items():
        (tmp_path / f"model.{precision}.onnx").write_bytes(data)
    (tmp_path / "input.bin").write_bytes(bytes(24 * 20 * 4 * 2))
    program = standin.install(tmp_path / "bin", release)
    accepted = set()
    # The base comes last: its engine takes the input above.
    for variant in reversed(VARIANTS):
        for command in lowered(release, wanted=planned(variant)).commands:
            if variant and (command.argv in accepted or command.stage == "check"):
                continue
            argv = [str(program), *command.argv[1:]]
            ended = subprocess.run(
                argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
            accepted.add(command.argv)
    for name in ("engine.plan", "layers.json", "profile.json", "output.json", "times.json"):
        assert (tmp_path / name).stat().st_size


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("modes", list(itertools.product((False, True), repeat=3)))
def test_modes_are_said_in_each_release_s_own_way(release: str, modes: tuple[bool, bool, bool]) -> None:
    graph, spin, transfers = modes
    wanted = planned(cuda_graph=graph, spin_wait=spin, transfers=transfers)
    argv = lowered(release, wanted=wanted).argv("run")
    if int(release.split(".")[0]) < 11:
        on = ("--useCudaGraph" in argv, "--useSpinWait" in argv, "--noDataTransfers" not in argv)
    else:
        on = ("--noCudaGraph" not in argv, "--noSpinWait" not in argv, "--includeDataTransfers" in argv)
        assert not {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"} & set(argv)
    assert on == modes


def test_the_output_check_always_moves_data_and_the_profile_has_no_graph() -> None:
    wanted = planned(cuda_graph=True, transfers=False)
    assert not {"--noDataTransfers", "--useCudaGraph"} & set(lowered("10.3", wanted=wanted).argv("check"))
    assert {"--includeDataTransfers", "--noCudaGraph"} <= set(lowered("11.1", wanted=wanted).argv("check"))
    assert "--useCudaGraph" not in lowered("10.3", wanted=wanted).argv("profile")
    assert "--noCudaGraph" in lowered("11.1", wanted=wanted).argv("profile")


@pytest.mark.parametrize(
    ("release", "asked", "got"),
    [
        ("8.6.1", "strong", "weak"),
        ("9.0", "strong", "strong"),
        ("10.16", "weak", "weak"),
        ("11.0", "weak", "strong"),
    ],
)
def test_the_case_chooses_the_typing_where_the_release_leaves_a_choice(
    release: str, asked: str, got: str
) -> None:
    found = lowered(release, wanted=planned(typing=asked))
    argv = found.argv("build")
    assert found.planned["typing"] == got
    assert bool(found.substitutions) is (asked != got)
    assert found.model_precision == ("fp16" if got == "strong" else "fp32")
    assert ("--fp16" in argv) is (got == "weak")
    assert ("--stronglyTyped" in argv) is (got == "strong" and not release.startswith("11"))


@pytest.mark.parametrize(("precision", "plain"), [("fp32", True), ("tf32", False)])
def test_fp32_forbids_tf32(precision: str, plain: bool) -> None:
    argv = lowered("8.5.2", wanted=planned(precision=precision)).argv("build")
    assert ("--noTF32" in argv) is plain
    assert "--inputIOFormats=fp32:chw" in argv
    assert "--fp16" not in argv


def test_a_duration_other_than_the_case_s_is_a_substitution() -> None:
    found = lowered("8.5.2", seconds=0.5, iterations=200)
    assert {"--duration=0.5", "--iterations=200"} <= set(found.argv("run"))
    assert found.substitutions == (Substitution("duration_s", 3.0, 0.5, "protocol"),)
    assert lowered("8.5.2", seconds=3.0).substitutions == ()


def test_8_4_prints_one_percentile_only() -> None:
    found = lowered("8.4")
    assert "--percentile=99" in found.argv("run")
    assert [note.about for note in found.notes if note.kind == "emulated"] == ["percentiles"]


@pytest.mark.parametrize(
    ("release", "device", "changes", "reason"),
    [
        ("8.5", "cpu", {}, "NVIDIA GPU"),
        ("11.1", "orin", {}, "JetPack"),
        ("11.4", "orin", {}, "JetPack"),
        ("10.3", "x86", {"precision": "fp32", "io_layout": "hwc8"}, "hwc8 holds fp16"),
        ("8.5.2", "x86", {"optimization_level": 4}, "8.6"),
        ("8.5.2", "x86", {"l2": "flush"}, "L2"),
        ("8.5.2", "x86", {"queue": "synchronised"}, "ahead"),
        ("8.2", "x86", {}, "8.4 to 11.4.1"),
        ("11.5", "x86", {}, "8.4 to 11.4.1"),
    ],
)
def test_what_can_t_be_said_is_unsupported_with_its_reason(
    release: str, device: str, changes: Any, reason: str
) -> None:
    assert reason in refusal(release, device, **changes)


@pytest.mark.parametrize(
    ("release", "typing", "said"),
    [("8.5.2", "weak", True), ("10.3", "weak", True), ("10.3", "strong", False), ("11.1", "weak", False)],
)
def test_int8_is_said_where_the_graph_s_types_do_not_hold_by_themselves(
    release: str, typing: str, said: bool
) -> None:
    found = lowered(release, wanted={**planned("int8"), "typing": typing})
    argv = found.argv("build")
    assert ("--int8" in argv) is said
    assert found.model_precision == "fp32"
    assert not {"--fp16", "--noTF32"} & set(argv)
    assert "--inputIOFormats=chw" in argv or "--inputIOFormats=fp32:chw" in argv


@pytest.mark.parametrize(
    ("release", "precision", "files", "built_from"),
    [
        ("8.5.2", "fp16", ("fp16",), "fp16"),
        ("8.5.2", "fp16", ("fp32",), "fp32"),
        ("11.1", "fp16", ("fp16",), "fp16"),
        ("11.1", "fp16", ("fp32",), None),
        ("8.5.2", "fp32", ("fp16",), None),
    ],
)
def test_a_case_of_one_file_is_built_from_it_where_that_is_the_same_experiment(
    release: str, precision: str, files: tuple[str, ...], built_from: str | None
) -> None:
    found = lowering.lower(planned(precision=precision), release, "x86", files=files)
    if built_from is None:
        assert isinstance(found, lowering.Unsupported)
        assert "and the case has none" in found.reason
    else:
        assert isinstance(found, lowering.Commands)
        assert f"--onnx=model.{built_from}.onnx" in found.argv("build")


def test_what_a_release_has_is_lowered() -> None:
    assert "--builderOptimizationLevel=4" in lowered("8.6", wanted=planned(optimization_level=4)).argv(
        "build"
    )
    assert "--sparsity=enable" in lowered("8.6", wanted=planned(sparsity=True)).argv("build")
    assert lowered("11.4.1", "orin").argv("build")
    assert lowered("11.1", wanted=planned(io_layout="chw16")).argv("build")[4] == "--inputIOFormats=chw16"


@pytest.mark.parametrize("name", ["8.5.2", "trt-8.5.2", "trt-8.5.2.2+cuda11.4"])
def test_a_release_is_known_by_any_of_its_names(name: str) -> None:
    assert lowered(name).commands == lowered("8.5").commands


@pytest.mark.parametrize("name", ["ort-1.31.1", "8", "8.5.x", "trtrtx-1.7.1", ""])
def test_what_is_no_release_of_tensorrt_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="is no release of TensorRT"):
        lowering.lower(planned(), name, "x86")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", ["calib-copy", "calib-gemm"])
def test_the_calibration_cases_run_on_every_release(case: str, release: str) -> None:
    assert lowered(release, wanted=planned(case=case)).commands


def test_documented_releases_say_so() -> None:
    documented = {r for r in RELEASES if any(n.kind == "documented" for n in lowered(r).notes)}
    assert documented == {"11.2", "11.3", "11.4", "11.4.1"}


def test_rows_ascend_and_each_names_its_source() -> None:
    assert sorted(RELEASES, key=flags.numbers) == RELEASES
    assert all(row.source for row in flags.table().release)


@pytest.mark.parametrize(
    ("typings", "files", "typing", "file"),
    [
        (("weak",), ("fp32", "fp16"), "weak", "fp32"),
        (("weak", "strong"), ("fp32", "fp16"), "weak", "fp32"),
        (("weak",), ("fp16",), "weak", "fp16"),
        (("strong",), ("fp32", "fp16"), "strong", "fp16"),
    ],
)
def test_an_api_types_as_the_case_says_or_as_it_can(
    typings: tuple[str, ...], files: tuple[str, ...], typing: str, file: str
) -> None:
    wanted = lowering.plan(msgspec.structs.replace(SETTINGS, precision="fp16"), {}, "x86", EVERYTHING)
    plan, built_from = lowering.typed(wanted, typings, "trt-11.1.0", files)
    assert (plan.planned["typing"], built_from) == (typing, file)
    changed = (Substitution("typing", "weak", "strong", "trt-11.1.0"),)
    assert plan.substitutions == (changed if typing == "strong" else ())
