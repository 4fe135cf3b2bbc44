"""What a user may write for an arm."""

from __future__ import annotations

import pytest

from repro.errors import UsageError
from repro.spec import GRAMMAR, Spec, parse


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("conv16", Spec("conv16", None)),
        ("conv16:base", Spec("conv16", None)),
        ("conv16:hwc8", Spec("conv16", "hwc8")),
        ("conv16@ort-1.30.0", Spec("conv16", None, "ort-1.30.0")),
        ("conv16+threads=2", Spec("conv16", None, threads=2)),
        ("conv16:hwc8@ort-1.30+threads=2", Spec("conv16", "hwc8", "ort-1.30", threads=2)),
        ("conv16@trt-8.6.1.6+cuda12.0", Spec("conv16", None, "trt-8.6.1.6+cuda12.0")),
        (
            "conv16@torch-2.11.0+cu130+cuda_graph=true+l2=flush",
            Spec("conv16", None, "torch-2.11.0+cu130", {"cuda_graph": "true", "l2": "flush"}),
        ),
    ],
)
def test_a_spec_names_case_variant_release_and_settings(text: str, spec: Spec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    "text", ["", "a b", "@ort-1.30.0", "a@", "a+threads", "a@b@c", "a+l2=x=y", "a++l2=x"]
)
def test_what_is_none_gets_the_grammar(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert GRAMMAR in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:b,c", "names 2 variants"),
        ("a+l2=warm+l2=flush", "sets l2 twice"),
        ("a+threads=0", "threads must be a number above 0"),
        ("a+threads=two", "threads must be a number above 0"),
        ("a+threads=-1", "threads must be a number above 0"),
    ],
)
def test_what_makes_no_arm_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text)
