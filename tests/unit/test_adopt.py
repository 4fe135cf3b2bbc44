"""A user's ONNX becomes a case's model: the same numbers without a name, and one line for what can't."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repro import adopt, cases, models, work
from repro.backends.onnxruntime import unoptimised
from repro.errors import ReproError, UsageError
from repro.schema import OnnxFile
from tests import nets
from tests.nets import classifier, saved, single, value

SHAPE = {"secret_image": (2, 3, 16, 12)}
PLAIN = [1, 2, 4, 4]
NO_SHAPES: Mapping[str, tuple[int, ...]] = MappingProxyType({})


def adopted(
    made: onnx.ModelProto, folder: Path, shapes: Mapping[str, tuple[int, ...]] = NO_SHAPES, **more: bool
) -> adopt.Adopted:
    return adopt.adopt(saved(made, folder), shapes, **{"private": True, **more})


def one_line(error: ReproError) -> str:
    assert "\n" not in str(error)
    assert error.hint
    return str(error)


# --- what it becomes ----------------------------------------------------------------------------


def test_a_private_network_keeps_its_numbers_and_loses_every_name(tmp_path: Path) -> None:
    made = adopted(classifier(), tmp_path, SHAPE)
    assert made.spec == OnnxFile("model.onnx", "fp32", (2, 3, 16, 12), (2, 10), 2)
    for secret in (*nets.SECRETS, "Ann", "act", "pooled", "author"):
        assert secret.encode() not in made.model
    graph = onnx.load_from_string(made.model).graph
    assert [node.name for node in graph.node] == [
        "Conv_0",
        "Relu_1",
        "GlobalAveragePool_2",
        "Flatten_3",
        "Gemm_4",
    ]
    assert [each.name for each in (*graph.input, *graph.output)] == ["input", "output"]
    for tensor, weight in zip(graph.initializer, nets.weights(), strict=True):
        assert numpy_helper.to_array(tensor).tobytes() == weight.tobytes()


def test_the_outputs_are_those_of_the_original(tmp_path: Path) -> None:
    source = np.random.default_rng(0).normal(size=(2, 3, 16, 12)).astype(np.float32)
    expected = unoptimised(classifier().SerializeToString(), source)
    for private in (True, False):
        made = adopted(classifier(), tmp_path, SHAPE, private=private)
        assert np.array_equal(unoptimised(made.model, source), expected)


def test_a_shared_network_keeps_its_names_but_those_of_the_ends(tmp_path: Path) -> None:
    graph = onnx.load_from_string(adopted(classifier(), tmp_path, SHAPE, private=False).model).graph
    assert graph.node[0].name == "/secret/stem/Conv"
    assert [each.name for each in graph.initializer] == ["secret_stem.weight", "secret_head.weight"]
    assert [each.name for each in (*graph.input, *graph.output)] == ["input", "output"]


def test_an_inner_tensor_may_be_called_like_an_end(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["output"]), helper.make_node("Neg", ["output"], ["input_"])]
    nodes.append(helper.make_node("Abs", ["input_"], ["y"]))
    made = nets.model(helper.make_graph(nodes, "g", [value("x", PLAIN)], [value("y", PLAIN)]))
    graph = onnx.load_from_string(adopted(made, tmp_path, private=False).model).graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    assert (names[0], names[-1]) == ("input", "output")
    assert len(set(names)) == 4


def test_graphs_within_nodes_are_renamed_too(tmp_path: Path) -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["secret_x"], [f"secret_{name}"], name=f"secret {name}")
        return helper.make_graph([node], f"secret_{name}_graph", [], [value(f"secret_{name}", PLAIN)])

    constant = helper.make_tensor("secret_tensor", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("Constant", [], ["secret_choice"], value=constant),
        helper.make_node(
            "If",
            ["secret_choice"],
            ["y"],
            then_branch=branch("then", "Relu"),
            else_branch=branch("else", "Neg"),
        ),
    ]
    made = nets.model(helper.make_graph(nodes, "g", [value("secret_x", PLAIN)], [value("y", PLAIN)]))
    model = adopted(made, tmp_path).model
    assert b"secret" not in model
    source = np.linspace(-1, 1, 32, dtype=np.float32).reshape(PLAIN)
    assert np.array_equal(unoptimised(model, source), np.maximum(source, 0))


def test_functions_of_the_models_own_are_taken_apart(tmp_path: Path) -> None:
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function(
        "secret.domain", "SecretBlock", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opset
    )
    made = single("SecretBlock", value("x", PLAIN), value("y", PLAIN), domain="secret.domain")
    made.functions.append(function)
    model = adopted(made, tmp_path).model
    assert b"ecret" not in model
    assert [node.op_type for node in onnx.load_from_string(model).graph.node] == ["Relu"]


def test_adopting_again_changes_nothing(tmp_path: Path) -> None:
    once = adopted(classifier(), tmp_path, SHAPE)
    path = tmp_path / "again.onnx"
    path.write_bytes(once.model)
    assert adopt.adopt(path, {}, private=True) == once
    adopt.check(once.model, once.spec, private=True)


def test_data_in_a_file_beside_it_is_taken_in(tmp_path: Path) -> None:
    made = classifier()
    raw = made.graph.initializer[0].raw_data
    (tmp_path / "net.data").write_bytes(b"????" + raw)
    moved(made, location="net.data", offset="4", length=str(len(raw)))
    graph = onnx.load_from_string(adopted(made, tmp_path, SHAPE).model).graph
    assert graph.initializer[0].raw_data == raw
    assert not graph.initializer[0].external_data


def moved(made: onnx.ModelProto, **told: str) -> onnx.ModelProto:
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in told.items():
        tensor.external_data.add(key=key, value=text)
    return made


# --- what can't be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location", ["../net.data", "/etc/passwd", "sub/net.data", "", "..", "link.data", "net.data\n"]
)
def test_data_that_lies_elsewhere_is_refused_by_its_tensors_name(tmp_path: Path, location: str) -> None:
    (tmp_path / "target").write_bytes(bytes(10_000))
    (tmp_path / "link.data").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match=r"tensor 'secret_stem\.weight' lies in") as caught:
        adopted(moved(classifier(), location=location), tmp_path, SHAPE)
    assert str(caught.value).endswith("export the model with its data in one file")


@pytest.mark.parametrize("told", [{"offset": "-1"}, {"length": "900"}, {"offset": "x"}, {"offset": "1000"}])
def test_data_beyond_its_file_is_refused(tmp_path: Path, told: dict[str, str]) -> None:
    (tmp_path / "net.data").write_bytes(bytes(864))
    with pytest.raises(UsageError, match=r"reaches beyond 'net\.data'"):
        adopted(moved(classifier(), location="net.data", **told), tmp_path, SHAPE)


def test_data_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match=r"can't read .*net\.data \(No such file"):
        adopted(moved(classifier(), location="net.data"), tmp_path, SHAPE)


@pytest.mark.parametrize(
    "content", [b"", b"no model at all", classifier().SerializeToString()[:200], bytes(64)]
)
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"net\.onnx is no") as caught:
        adopt.adopt(path, {}, private=True)
    one_line(caught.value)


def test_a_model_that_breaks_the_rules_of_onnx_is_refused(tmp_path: Path) -> None:
    made = classifier()
    made.graph.node[1].input[0] = "nowhere"
    with pytest.raises(UsageError, match=r"net\.onnx is no valid ONNX model \(.*nowhere") as caught:
        adopted(made, tmp_path, SHAPE)
    one_line(caught.value)


def test_a_custom_operator_is_refused_by_its_nodes_name(tmp_path: Path) -> None:
    made = single("Magic", value("x", PLAIN), value("y", PLAIN), domain="my.ops")
    with pytest.raises(UsageError, match=r"node 'only' is my\.ops\.Magic, a custom operator") as caught:
        adopted(made, tmp_path)
    one_line(caught.value)


def test_a_model_over_the_cap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="a case's model may have"):
        adopted(classifier(), tmp_path, SHAPE)


def test_data_counts_towards_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.data").write_bytes(bytes(10_000))
    monkeypatch.setattr(adopt, "MAX_BYTES", 5000)
    with pytest.raises(UsageError, match=r"net\.data has .* MiB"):
        adopted(moved(classifier(), location="net.data"), tmp_path, SHAPE)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({}, "input 'secret_image' has the open shape secret_batchx3xhxw: add --shape secret_image:…"),
        ({"picture": (1, 3, 8, 8)}, "unknown input 'picture': did you mean secret_image?"),
        ({"secret_image": (1, 4, 8, 8)}, "and --shape says 1x4x8x8"),
        ({"secret_image": (1, 3, 8)}, "and --shape says 1x3x8"),
    ],
)
def test_a_wrong_binding_is_told(tmp_path: Path, shapes: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        adopted(classifier(), tmp_path, shapes)
    assert says in one_line(caught.value)


def test_a_binding_that_breaks_a_convolution_names_the_node(tmp_path: Path) -> None:
    stem = numpy_helper.from_array(nets.weights()[0], "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="the conv")
    made = nets.model(
        helper.make_graph([node], "g", [value("x", ["n", "c", 8, 8])], [value("y", None)], [stem])
    )
    with pytest.raises(UsageError, match="node 'the conv' has weights for 3 channels and gets 5"):
        adopted(made, tmp_path, {"x": (1, 5, 8, 8)})
    assert adopted(made, tmp_path, {"x": (1, 3, 8, 8)}).spec.output == (1, 8, 6, 6)


def test_a_binding_that_breaks_a_product_names_the_node(tmp_path: Path) -> None:
    head = numpy_helper.from_array(nets.weights()[1], "w")
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="the product", transB=1)
    made = nets.model(helper.make_graph([node], "g", [value("x", [1, "k"])], [value("y", [1, 10])], [head]))
    with pytest.raises(UsageError, match=r"doesn't fit the network .*the product"):
        adopted(made, tmp_path, {"x": (1, 9)})


@pytest.mark.parametrize("text", ["x", "x:", "x:1x0", "x:1,3", ":1x3", "x:1x-3", "x:axb"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no shape: write NAME:1x3x720x1280"):
        adopt.shape(text)


def test_a_name_may_hold_colons() -> None:
    assert adopt.shape("scope/x:0:1x3x8x8") == ("scope/x:0", (1, 3, 8, 8))


@pytest.mark.parametrize(("opset", "ir"), [(99, 8), (17, 99)])
def test_versions_of_the_future_are_refused(tmp_path: Path, opset: int, ir: int) -> None:
    made = classifier(opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    with pytest.raises(UsageError, match=r"has (?:opset|IR version) 99"):
        adopted(made, tmp_path, SHAPE)


def test_more_ends_than_one_are_refused_by_name(tmp_path: Path) -> None:
    made = classifier()
    made.graph.output.append(value("act", None))
    with pytest.raises(UsageError, match=r"has 2 outputs \(secret_logits, act\)"):
        adopted(made, tmp_path, SHAPE)


@pytest.mark.parametrize(
    ("source", "result", "says"),
    [
        (TensorProto.INT64, TensorProto.INT64, "input 'x' is INT64"),
        (TensorProto.FLOAT, TensorProto.FLOAT16, "output 'y' has another type than the input"),
    ],
)
def test_types_that_inputs_are_not_made_in_are_refused(
    tmp_path: Path, source: int, result: int, says: str
) -> None:
    made = single("Cast", value("x", PLAIN, source), value("y", PLAIN, result), to=result)
    with pytest.raises(UsageError, match=says):
        adopted(made, tmp_path)


def test_an_output_whose_size_depends_on_values_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["y"], to=TensorProto.FLOAT),
    ]
    made = nets.model(helper.make_graph(nodes, "g", [value("x", PLAIN)], [value("y", [4, "n"])]))
    with pytest.raises(UsageError, match="the shape of output 'y' doesn't follow from that of the input"):
        adopted(made, tmp_path)


# --- as a case ----------------------------------------------------------------------------------


def new(folder: Path, share: str = "none") -> cases.Case:
    made = adopted(classifier(), folder, SHAPE, private=share == "none")
    cases.new("my-net", made, share, folder / "cases")
    return cases.load("my-net", folder / "cases")


@pytest.mark.parametrize("share", ["none", "model"])
def test_a_new_case_is_valid_and_can_be_counted(tmp_path: Path, share: str) -> None:
    case = new(tmp_path, share)
    assert case.share == share
    for variant in (None, *case.variants):
        experiment = cases.resolve(case, variant)
        assert models.tensors(experiment.model, "fp32")[1].shape == (2, 10)
    counted = work.count(cases.resolve(case, None).onnx["fp32"], "fp32")
    assert counted.flop == 2 * 2 * 8 * 16 * 12 * 27 + 2 * 2 * 10 * 8
    assert counted.unknown_ops == ()


def test_a_quantised_network_is_int8(tmp_path: Path) -> None:
    grid = [
        numpy_helper.from_array(np.array(0.25, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    made = nets.model(helper.make_graph(nodes, "g", [value("x", PLAIN)], [value("y", PLAIN)], grid))
    cases.new("my-net", adopted(made, tmp_path), "none", tmp_path / "cases")
    experiment = cases.resolve(cases.load("my-net", tmp_path / "cases"), None)
    assert (experiment.settings.precision, [*experiment.onnx]) == ("int8", ["fp32"])
    assert "int8" in experiment.case.tolerance


def test_the_words_around_it_tell_nothing(tmp_path: Path) -> None:
    text = (new(tmp_path).folder / "case.toml").read_text()
    assert not [secret for secret in (*nets.SECRETS, "net.onnx") if secret in text]


@pytest.mark.parametrize("name", ["conv16", "my-net"])
def test_a_case_that_is_there_stays(tmp_path: Path, name: str) -> None:
    case = new(tmp_path)
    made = adopted(classifier(), tmp_path, SHAPE)
    with pytest.raises(UsageError, match=f"there is a case {name} already"):
        cases.new(name, made, "none", case.folder.parent)


@pytest.mark.parametrize("name", ["My Net", "../up", "", "a:b"])
def test_a_case_needs_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        cases.new(name, adopted(classifier(), tmp_path, SHAPE), "none", tmp_path)


def edited(case: cases.Case, old: str, text: str) -> cases.Case:
    path = case.folder / "case.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, text))
    return cases.load("my-net", case.folder.parent)


@pytest.mark.parametrize(
    ("old", "text", "says"),
    [
        ("[2, 3, 16, 12]", "[1, 3, 16, 12]", "doesn't have `input` of [1, 3, 16, 12] alone"),
        ("[2, 10]", "[2, 11]", "doesn't have `output` of [2, 11] alone"),
        ("[2, 10]", "[2, 0]", "`output` must be a shape"),
        ("[2, 10]", "[]", "`output` must be a shape"),
        ('"model.onnx"', '"../my-net/model.onnx"', "names the model '../my-net/model.onnx'"),
        ('"model.onnx"', '"other.onnx"', "can't read"),
        ('share = "none"', 'share = "full"', "share is 'none' or 'model'"),
        ("layers = 2", 'layers = "two"', "Expected `int`, got `str` - at `model.layers`"),
        ("layers = 2", "layers = 2\nlayer = 3", "unknown field `layer` - at `model`"),
        ("spin_wait = false", "spin_wait = 1", "Expected `bool`, got `int` - at `settings.spin_wait`"),
    ],
)
def test_a_case_that_was_changed_by_hand_is_told(tmp_path: Path, old: str, text: str, says: str) -> None:
    case = edited(new(tmp_path), old, text)
    with pytest.raises(ReproError) as caught:
        cases.resolve(case, None)
    assert says in str(caught.value)


def test_a_file_with_names_is_not_taken_for_private(tmp_path: Path) -> None:
    case = edited(new(tmp_path, "model"), 'share = "model"', 'share = "none"')
    with pytest.raises(UsageError, match="holds names, and the case is private"):
        cases.resolve(case, None)


def test_tensors_of_other_files_are_refused_in_a_case_too(tmp_path: Path) -> None:
    case = new(tmp_path)
    made = moved(onnx.load(str(case.folder / "model.onnx")), location="net.data")
    saved(made, case.folder, "model.onnx")
    with pytest.raises(UsageError, match="keeps a tensor in another file"):
        cases.resolve(case, None)


def test_a_network_that_the_kit_builds_is_not_private(tmp_path: Path) -> None:
    case = cases.load("conv16")
    with pytest.raises(UsageError, match="has nothing private"):
        cases.resolve(msgspec.structs.replace(case, share="none"), None)
