"""The four exports: every release's form, every digit, and what is no such file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.schema import Layer, LayerTensor
from repro.trtexec import exports
from repro.trtexec.layers import Profile, ProfileRow

TRACE = (
    '{ "startEnqMs" : 200.1, "endEnqMs" : 200.2, "startH2dMs" : 200.2, "endH2dMs" : 200.3, '
    '"startComputeMs" : %s, "endComputeMs" : 200.9, "startD2hMs" : 200.9, "endD2hMs" : 201, '
    '"h2dMs" : 0.0312, "computeMs" : %s, "d2hMs" : 1e-05, "latencyMs" : 0.5 }'
)

READERS: dict[str, Callable[[Path], Any]] = {
    "times": exports.times,
    "profile": exports.profile,
    "layers": exports.layers,
    "outputs": exports.outputs,
}


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "export.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def traces(*entries: tuple[str, str]) -> str:
    lines = [(", " if i else "  ") + TRACE % entry for i, entry in enumerate(entries)]
    return "\n".join(["[", *lines, "]", ""])


# --- times --------------------------------------------------------------------------------------------


def test_times_keep_the_printed_digits(tmp_path: Path) -> None:
    path = write(tmp_path, traces(("200.3", "0.123456"), ("201", "12.3457"), ("1202.3", "0.0291855")))
    read = exports.times(path)
    assert read.compute_ms.tolist() == [0.123456, 12.3457, 0.0291855]
    assert read.ns("compute_ms").tolist() == [123_456, 12_345_700, 29_186]
    assert read.start_ms.tolist() == [200.3, 201.0, 1202.3]
    assert read.h2d_ms.tolist() == [0.0312] * 3
    assert read.ns("d2h_ms").tolist() == [10, 10, 10]
    assert read.latency_ms.tolist() == [0.5] * 3


def test_times_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK_BYTES", 700)
    path = write(tmp_path, traces(*((f"{200 + i}", f"0.{100 + i}") for i in range(100))))
    assert exports.times(path).compute_ms.tolist() == [float(f"0.{100 + i}") for i in range(100)]


def test_times_that_somebody_formatted_anew(tmp_path: Path) -> None:
    content = json.loads(traces(("200.3", "0.5"), ("201", "0.25")))
    assert exports.times(write(tmp_path, json.dumps(content, indent=4))).compute_ms.tolist() == [0.5, 0.25]
    assert exports.times(write(tmp_path, json.dumps(content))).compute_ms.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text[: len(text) // 2], "line 3: the file is cut off"),
        (lambda text: text.rstrip("\n]"), "cut off"),
        (lambda text: text.replace("0.25,", "inf,"), "line 3: no JSON"),
        (lambda text: text.replace('"computeMs"', '"compute"'), "computeMs"),
        (lambda text: "[\n]\n", "holds no times"),
        (lambda text: "", "cut off"),
        (lambda text: "no JSON at all", "cut off or no list"),
        (lambda text: "x" * 3_000_000, "cut off or no list"),
    ],
)
def test_times_that_are_none(spoil: Callable[[str], str], says: str, tmp_path: Path) -> None:
    text = traces(("200.3", "0.5"), ("201", "0.25"), ("202", "0.125"))
    with pytest.raises(ReproError, match=says) as caught:
        exports.times(write(tmp_path, spoil(text)))
    assert "export.json" in str(caught.value)


# --- profile --------------------------------------------------------------------------------------------

PROFILE = """[
  { "count" : 320 }
, { "name" : "conv + relu", "timeMs" : 32.76, "averageMs" : 0.102375, "medianMs" : 0.0907, "percentage" : 60 }
, { "name" : "conv2", "timeMs" : 21.84, "averageMs" : 0.06825, "medianMs" : 0.0655, "percentage" : 40 }
]
"""


def test_a_profile(tmp_path: Path) -> None:
    assert exports.profile(write(tmp_path, PROFILE)) == Profile(
        320,
        (
            ProfileRow("conv + relu", 32.76, 0.102375, 0.0907, 60.0),
            ProfileRow("conv2", 21.84, 0.06825, 0.0655, 40.0),
        ),
    )


def test_a_profile_without_medians(tmp_path: Path) -> None:
    content = PROFILE.replace('"medianMs" : 0.0907, ', "").replace('"medianMs" : 0.0655, ', "")
    assert [row.median_ms for row in exports.profile(write(tmp_path, content)).rows] == [None, None]


@pytest.mark.parametrize("name", ['a "quoted" name', "C:\\path", "é"])
def test_names_are_written_unescaped(name: str, tmp_path: Path) -> None:
    rows = exports.profile(write(tmp_path, PROFILE.replace("conv2", name))).rows
    assert [(row.name, row.time_ms) for row in rows] == [("conv + relu", 32.76), (name, 21.84)]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text[:200], "line 4: no JSON, or cut off"),
        (lambda text: text.rstrip("\n]"), "cut off"),
        (lambda text: text.replace('{ "count" : 320 }', "{ }"), "count"),
        (lambda text: text.replace("320", '"many"'), "count"),
        (lambda text: text.replace('"averageMs" : 0.06825, ', ""), "'averageMs' is missing"),
        (lambda text: text.replace("21.84", '"long"'), "layer 1"),
        (lambda text: "", "cut off"),
        (lambda text: "nothing\n", "line 1"),
        (lambda text: "[1, 2]", "line 1"),
    ],
)
def test_a_profile_that_is_none(spoil: Callable[[str], str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ReproError, match=says) as caught:
        exports.profile(write(tmp_path, spoil(PROFILE)))
    assert "export.json" in str(caught.value)


# --- layers ---------------------------------------------------------------------------------------------

HALF = "Channel major FP16 format where channel % 8 == 0"
IN = {"Name": "input", "Location": "Device", "Dimensions": [1, 16, 9, 9]}
CONV = {"Name": "conv1", "LayerType": "CaskConvolution", "TacticName": "sm80_fprop", "TacticValue": "0x1f"}
UNTIL_10 = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
            "LayerType": "Reformat",
            "Inputs": [{**IN, "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{**IN, "Format/Datatype": HALF}],
            "TacticValue": "0x00000000000003ea",
        },
        {**CONV, "Inputs": [{**IN, "Format/Datatype": HALF}], "Outputs": []},
    ],
    "Bindings": ["input", "output"],
}
SINCE_11 = {
    "Layers": [
        {
            **CONV,
            "Inputs": [{**IN, "Format": HALF, "DataType": "Half"}],
            "Outputs": [
                {"Name": "y", "Dimensions": [1, 16, 9, 9], "DataType": "Float", "Strides": [1, 2, 3, 4]}
            ],
        },
        {"Name": "__myl_Tran_myl0_0", "LayerType": "kgen", "TacticName": "__myl_Tran"},
    ],
    "I/O Tensors": [{"Name": "input", "IOMode": "Input", "DataType": "Half"}],
}


def test_layers_until_10(tmp_path: Path) -> None:
    dims = (1, 16, 9, 9)
    assert exports.layers(write(tmp_path, json.dumps(UNTIL_10))) == (
        Layer(
            "Reformatting CopyNode for Input Tensor 0 to conv1",
            "Reformat",
            "0x00000000000003ea",
            (LayerTensor("fp32", "chw", dims),),
            (LayerTensor("fp16", "hwc8", dims),),
            is_reformat=True,
        ),
        Layer("conv1", "CaskConvolution", "sm80_fprop", (LayerTensor("fp16", "hwc8", dims),), (), False),
    )


def test_layers_since_11(tmp_path: Path) -> None:
    dims = (1, 16, 9, 9)
    assert exports.layers(write(tmp_path, json.dumps(SINCE_11, indent=2))) == (
        Layer(
            "conv1",
            "CaskConvolution",
            "sm80_fprop",
            (LayerTensor("fp16", "hwc8", dims),),
            (LayerTensor("fp32", None, dims),),
            False,
        ),
        Layer("__myl_Tran_myl0_0", "kgen", "__myl_Tran", is_reformat=True),
    )


def test_layers_by_name_only(tmp_path: Path) -> None:
    content = json.dumps({"Layers": ["conv1", "conv1", "Reformatting CopyNode for x"], "Bindings": []})
    assert exports.layers(write(tmp_path, content)) == (
        Layer("conv1", None, is_reformat=False),
        Layer("conv1", None, is_reformat=False),
        Layer("Reformatting CopyNode for x", None, is_reformat=True),
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(UNTIL_10, indent=1)[:300], "cut off"),
        ('{"Layers": [\n  inf\n]}', "line 2: no JSON"),
        ("[]", "no list of layers"),
        ('{"Layers": {}}', "no list of layers"),
        ('{"Layers": [{"LayerType": "x"}]}', "layer 0 has no name"),
        ('{"Layers": [3]}', "layer 0 has no name"),
        ("", "cut off"),
    ],
)
def test_layers_that_are_none(content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ReproError, match=says) as caught:
        exports.layers(write(tmp_path, content))
    assert "export.json" in str(caught.value)


def test_a_name_that_is_no_utf_8_is_kept_as_far_as_it_goes(tmp_path: Path) -> None:
    assert exports.layers(write(tmp_path, b'{"Layers": ["conv\xff"]}'))[0].name == "conv\ufffd"


def test_no_list_of_layers_is_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MAX_WHOLE_BYTES", 1 << 20)
    with pytest.raises(ReproError, match="larger than 1 MiB"):
        exports.layers(write(tmp_path, b"[" * (1 << 20) + b"]"))


# --- outputs --------------------------------------------------------------------------------------------


def output(name: str, dims: str, values: str) -> str:
    return f'{{ "name" : "{name}"\n  , "dimensions" : "{dims}"\n  , "values" : [ {values} ]\n  }}\n'


def test_outputs(tmp_path: Path) -> None:
    content = (
        "[\n  "
        + output("y", "1x2x3", "1, 0.5, -1e-05, 3.25e+06, 0, 7")
        + ", "
        + output("z", "2", "4, 5")
        + "]\n"
    )
    read = exports.outputs(write(tmp_path, content))
    assert {name: values.dtype for name, values in read.items()} == {"y": np.float32, "z": np.float32}
    assert read["y"].shape == (1, 2, 3)
    assert read["y"].reshape(-1).tolist() == np.array([1, 0.5, -1e-5, 3.25e6, 0, 7], np.float32).tolist()
    assert read["z"].tolist() == [4.0, 5.0]


def test_outputs_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK_BYTES", 64)
    numbers = [i / 8 for i in range(-500, 500)]
    content = "[\n  " + output("y", "10x100", ", ".join(f"{n:g}" for n in numbers)) + "]\n"
    assert exports.outputs(write(tmp_path, content))["y"].reshape(-1).tolist() == numbers


def test_outputs_that_are_not_finite_are_read(tmp_path: Path) -> None:
    read = exports.outputs(write(tmp_path, "[ " + output("y", "4", "nan, -nan, inf, -inf") + "]"))["y"]
    assert [math.isnan(value) for value in read] == [True, True, False, False]
    assert read[2:].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[ " + output("y", "3", "1, 2") + "]", "holds 2 of 3 values"),
        ("[ " + output("y", "1", "1, 2") + "]", "more than the 1 values"),
        ("[ " + output("y", "9000x9000x9000", "1, 2") + "]", "can't have the dimensions"),
        ("[ " + output("y", "3x-1", "1, 2") + "]", "can't have the dimensions"),
        ("[ " + output("y", "3", "1, two, 3") + "]", "line 3: no list of numbers"),
        (("[ " + output("y", "3", "1, 2, 3"))[:-12], "line 3: the file is cut off"),
        ('[ { "name" : "y"\n', "no output of trtexec"),
        ("[\n]\n", "holds no outputs"),
        ("", "holds no outputs"),
        ("x" * 200_000, "no output of trtexec"),
    ],
)
def test_outputs_that_are_none(content: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ReproError, match=says) as caught:
        exports.outputs(write(tmp_path, content))
    assert "export.json" in str(caught.value)


# --- all of them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_file_that_is_not_there(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="No such file"):
        read(tmp_path / "none.json")


TOKENS = """[ ] { } , " : x 1e-05 inf nan "name": " "timeMs": "values":[ "dimensions":"2x3" "count":3
"Layers":[ {"Name":"a"} "computeMs":1 \x00 é"""
PIECES = st.sampled_from([*TOKENS.split(" "), TRACE % (1, 2), PROFILE])


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@given(content=st.binary() | st.lists(PIECES).map("".join).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything_else_is_refused_in_one_line(
    read: Callable[[Path], Any], content: bytes, tmp_path: Path
) -> None:
    caught = None
    try:
        read(write(tmp_path, content))
    except ReproError as error:
        caught = str(error)
    assert caught is None or ("export.json" in caught and "\n" not in caught)


@pytest.mark.parametrize(
    "content",
    [
        b'"name" : "' * 200_000,
        b"{" * 2_000_000,
        b"[" * 2_000_000,
        b'[{"name":"' + b"a" * 2_000_000,
        b'[{"count" : 1}\n, { "name" : "a\\q", "timeMs" : ' + b'", "timeMs" : ' * 200_000,
    ],
    ids=["names", "braces", "brackets", "one name", "rows"],
)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_large_rubbish_is_refused(read: Callable[[Path], Any], content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ReproError):
        read(write(tmp_path, content))
