"""TensorRT's words for types and formats, and layers with their times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.schema import Layer, LayerTensor
from repro.trtexec import layers
from repro.trtexec.layers import Profile, ProfileRow


@pytest.mark.parametrize(
    ("words", "dtype", "layout"),
    [
        ("Row major linear FP32", "fp32", "chw"),
        ("Row major linear FP16 format", "fp16", "chw"),
        ("Row major Int8 format", "int8", "chw"),
        ("Row major linear FP32 format (kLINEAR)", "fp32", "chw"),
        ("Two wide channel vectorized row major FP16 format", "fp16", "chw2"),
        ("Four wide channel vectorized row major Int8 format", "int8", "chw4"),
        ("Sixteen wide channel vectorized row major FP16 format", "fp16", "chw16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8", "chw32"),
        (
            "Thirty-two wide channel vectorized row major FP16 format with 3 spatial dimensions",
            "fp16",
            "cdhw32",
        ),
        ("Channel major FP16 format where channel % 8 == 0", "fp16", "hwc8"),
        ("Channel major FP16 format where C % 8 == 0 and H Stride % 32 == 0", "fp16", "hwc8"),
        ("Channel major FP32 format", "fp32", "hwc"),
        ("Channel major BF16 format where channel % 8 == 0 with 3 spatial dimensions", "bf16", "dhwc8"),
        ("(NHWC) Channel major format ", None, "hwc"),
        ("(Linear) Row major linear format ", None, "chw"),
        ("(NC/32HW32) Thirty-two wide channel vectorized format ", None, "chw32"),
        ("Eight channel FP16 format (kHWC8) where C is padded to a multiple of 8 ", "fp16", "hwc8"),
        ("N/A due to dynamic shapes", None, "N/A due to dynamic shapes"),
        ("", None, None),
    ],
)
def test_words_of_the_inspector(words: str, dtype: str | None, layout: str | None) -> None:
    assert layers.dtype(words) == dtype
    assert layers.layout(words) == layout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Half[1,16:8,9,9]", LayerTensor("fp16", "hwc8", (1, 16, 9, 9))),
        ("Int8[1,64:32,56,56]", LayerTensor("int8", "chw32", (1, 64, 56, 56))),
        ("Float[1,3,224,224]", LayerTensor("fp32", None, (1, 3, 224, 224))),
        ("Int8[1,64:4,56,56]", LayerTensor("int8", None, (1, 64, 56, 56))),
        ("Int32[]", LayerTensor("int32", None, ())),
        ("Unnamed[1]", None),
        ("Half(72,1:8,9,1)", None),
    ],
)
def test_words_of_a_verbose_build(words: str, expected: LayerTensor | None) -> None:
    assert layers.brief(words) == expected


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("Reformatting CopyNode for Input Tensor 0 to conv1", None, True),
        ("anything", "Reformat", True),
        ("anything", "NoOp", True),
        ("__myl_Tran_myl0_0", "kgen", True),
        ("conv1 + relu1", "CaskConvolution", False),
        ("__myl_Resh_myl5_1", None, False),
        ("__myl_MoveReshSlic_myl0_0", "kgen", True),
        ("__myl_ConcReshMove_myl0_6", "kgen", True),
        ("__myl_TranAddMul_myl0_6", "kgen", False),
        ("__myl_MulMinMaxRounCast_myl0_0", "kgen", False),
    ],
)
def test_what_only_moves_data(name: str, kind: str | None, expected: bool) -> None:
    assert layers.is_reformat(name, kind) == expected


def row(name: str, average_ms: float, median_ms: float | None = None) -> ProfileRow:
    return ProfileRow(name, average_ms * 10, average_ms, median_ms, 50.0)


def test_times_go_to_layers_by_name_and_in_order() -> None:
    profile = Profile(10, (row("same", 0.5), row("same", 0.25, 0.24), row("only here", 0.125)))
    named = (Layer("same", "A"), Layer("other", "B"), Layer("same", "C"))
    assert layers.timed(named, profile) == (
        Layer("same", "A", time_ns=500_000),
        Layer("other", "B"),
        Layer("same", "C", time_ns=240_000),
        Layer("only here", None, is_reformat=False, time_ns=125_000),
    )


@given(st.text())
def test_any_words_give_something(words: str) -> None:
    layers.layout(words)
    layers.brief(words)
    layers.is_reformat(words, words)
    assert layers.dtype(words) is None or layers.dtype(words) in set(layers._TYPES.values())


# As TensorRT-RTX 1.7.1 prints it, cut to one layer and without what isn't read.
ENGINE = """Layers:
Name: conv1_myl0_1, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [1,16,9,8], \
Strides: [1152,1,128,16], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], \
Constants: [ { Name: w, Dimensions: [16,16,3,3], Strides: [144,1,48,16], StrideOrder: [3,0,2,1], \
Datatype: Half, Format: (NHWC) Channel major format }], Outputs: [ { Name: b, Dimensions: [1,16,9,8], \
Strides: [1152,1,128,16], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], \
TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: conv1]

I/O Tensors:
 Name: input, IOMode: Input, DataType: Half, Dimensions: [1,16,9,8], Location: Device, \
ProfileInfo: [ { MinShape: [1,16,9,8], Format: Row major linear FP16 format (kLINEAR) }]
 Name: output, IOMode: Output, DataType: Half, Dimensions: [1,16,9,8], Location: Device, \
ProfileInfo: [ { Format: Eight channel FP16 format (kHWC8) where C is padded to a multiple of 8 }]
"""


def test_an_engine_in_text_form_has_layers_without_their_constants_and_the_layout_of_its_ends() -> None:
    tensor = LayerTensor("fp16", "hwc", (1, 16, 9, 8))
    expected = Layer("conv1_myl0_1", "correlation", "__myelin_CASK_STUB", (tensor,), (tensor,), False)
    assert layers.of_engine(ENGINE) == (expected,)
    assert layers.io_layout(ENGINE) == "mixed"
    assert layers.io_layout(ENGINE.replace("kHWC8", "kLINEAR")) == "chw"
    assert layers.io_layout("") is None
    assert layers.of_engine("") == ()
