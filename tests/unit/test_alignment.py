"""Layers of two engines side by side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from repro.alignment import align
from repro.schema import KERNEL, Layer, LayerTensor

HALF = LayerTensor("fp16", "hwc8", (1, 16, 8, 8))
FLAT = LayerTensor("fp16", "chw", (1, 16, 8, 8))


def layer(name: str, kind: str = "Convolution", tactic: str | None = "t1", **changes: object) -> Layer:
    return Layer(name, kind, tactic, **changes)  # type: ignore[arg-type]


def kinds(a: list[Layer], b: list[Layer]) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(one.kind, one.a, one.b) for one in align(a, b)]


def test_layers_of_one_name_are_the_same_or_changed() -> None:
    a = [layer("conv1"), layer("conv2"), layer("conv3", outputs=(FLAT,))]
    b = [layer("conv1"), layer("conv2", tactic="t2"), layer("conv3", outputs=(HALF,))]
    found = align(a, b)
    assert [one.kind for one in found] == ["same", "changed", "changed"]
    assert found[1].tactics == ("t1", "t2")
    assert found[2].formats == ("– → fp16 chw", "– → fp16 hwc8")


def test_parts_that_come_together_are_fused_and_those_that_part_are_split() -> None:
    apart, joined = [layer("conv1"), layer("relu1", "Pointwise")], [layer("conv1 + relu1")]
    assert kinds(apart, joined) == [("fused", ("conv1", "relu1"), ("conv1 + relu1",))]
    assert kinds(joined, apart) == [("split", ("conv1 + relu1",), ("conv1", "relu1"))]


def test_parts_that_are_dealt_out_anew_are_regrouped() -> None:
    a = [layer("x + y"), layer("z")]
    b = [layer("x"), layer("y + z")]
    assert [kind for kind, _, _ in kinds(a, b)] == ["regrouped"]


def test_a_reformat_comes_or_goes_and_stands_where_it_was() -> None:
    copy = layer("Reformatting CopyNode for Input Tensor 0 to conv2", "Reformat", is_reformat=True)
    a, b = [layer("conv1"), layer("conv2")], [layer("conv1"), copy, layer("conv2")]
    assert kinds(a, b) == [
        ("same", ("conv1",), ("conv1",)),
        ("come", (), (copy.name,)),
        ("same", ("conv2",), ("conv2",)),
    ]
    assert align(a, b)[1].is_reformat
    assert [kind for kind, _, _ in kinds(b, a)] == ["same", "gone", "same"]


def test_what_was_named_anew_is_matched_by_type_and_order() -> None:
    a = [layer("/net/0"), layer("/net/1", "Pooling"), layer("/net/2")]
    b = [layer("n0"), layer("n1", "Pooling"), layer("n2")]
    assert kinds(a, b) == [("same", (x.name,), (y.name,)) for x, y in zip(a, b, strict=True)]


def test_times_add_up_only_where_all_are_known() -> None:
    a = [layer("x", time_ns=3), layer("y", time_ns=4), layer("z", time_ns=1)]
    b = [layer("x + y", time_ns=5), layer("z")]
    assert [(one.a_time_ns, one.b_time_ns) for one in align(a, b)] == [(7, 5), (1, None)]


names = st.lists(st.sampled_from(["a", "b", "c", "a + b", "b + c", "c + a", "x", "y"]), unique=True)


@given(names, names)
def test_every_layer_stands_there_exactly_once(a: list[str], b: list[str]) -> None:
    found = align([layer(name) for name in a], [layer(name) for name in b])
    assert sorted(name for one in found for name in one.a) == sorted(a)
    assert sorted(name for one in found for name in one.b) == sorted(b)


@given(names)
def test_an_engine_is_the_same_as_itself(a: list[str]) -> None:
    parts = [name for name in a if "+" not in name]
    assert all(one.kind == "same" for one in align([layer(n) for n in parts], [layer(n) for n in parts]))


def kernels(*tactics: str) -> list[Layer]:
    return [
        Layer(f"kernel {i}", KERNEL, tactic, is_reformat="nhwc" in tactic) for i, tactic in enumerate(tactics)
    ]


def test_kernels_are_matched_by_what_they_are_and_not_by_their_numbers() -> None:
    a = kernels("to_nhwc", "conv", "from_nhwc", "bias", "to_nhwc", "conv", "from_nhwc", "bias")
    b = kernels("conv", "bias", "conv", "bias")
    found = align(a, b)
    assert [one.kind for one in found] == ["gone", "same", "gone", "same"] * 2
    assert [one.kind for one in align(b, a)].count("come") == 4


def test_a_kernel_in_another_s_place_is_a_changed_one() -> None:
    found = align(kernels("conv32", "bias", "conv32"), kernels("conv64", "bias", "conv64"))
    assert [one.kind for one in found] == ["changed", "same", "changed"]
    assert found[0].tactics == ("conv32", "conv64")
