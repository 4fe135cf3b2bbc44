"""Small ONNX networks as users have them: names, comments, open shapes, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SECRETS = (
    "secret_stem.weight",
    "secret_head.weight",
    "secret_stem.out",
    "/secret/stem/Conv",
    "/secret/head",
    "secret_graph",
    "secret_exporter",
    "Ann made this",
    "secret_image",
    "secret_logits",
    "secret_batch",
)


def weights() -> list[Any]:
    """Return the weights of `classifier`, of the stem and of the head."""
    numbers = np.random.default_rng(7)
    return [numbers.normal(size=shape).astype(np.float32) for shape in ((8, 3, 3, 3), (10, 8))]


def classifier(**changes: Any) -> onnx.ModelProto:
    """Return a network full of names: convolution, activation, pooling, and a matrix product."""
    stem, head = weights()
    nodes = [
        helper.make_node(
            "Conv",
            ["secret_image", "secret_stem.weight"],
            ["secret_stem.out"],
            name="/secret/stem/Conv",
            pads=[1, 1, 1, 1],
            doc_string="Ann made this",
        ),
        helper.make_node("Relu", ["secret_stem.out"], ["act"], name="/secret/act"),
        helper.make_node("GlobalAveragePool", ["act"], ["pooled"], name="/secret/pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="/secret/flat"),
        helper.make_node(
            "Gemm", ["flat", "secret_head.weight"], ["secret_logits"], name="/secret/head", transB=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "secret_graph",
        [value("secret_image", ["secret_batch", 3, "h", "w"])],
        [value("secret_logits", ["secret_batch", 10])],
        [
            numpy_helper.from_array(stem, "secret_stem.weight"),
            numpy_helper.from_array(head, "secret_head.weight"),
        ],
        doc_string="Ann made this",
    )
    made = model(graph, producer_name="secret_exporter", **changes)
    made.metadata_props.add(key="author", value="Ann made this")
    return made


def value(name: str, shape: list[Any] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(graph: onnx.GraphProto, **changes: Any) -> onnx.ModelProto:
    return helper.make_model(
        graph, **{"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8, **changes}
    )


def single(
    operator: str,
    source: onnx.ValueInfoProto,
    result: onnx.ValueInfoProto,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a network of one operator."""
    node = helper.make_node(operator, [source.name], [result.name], name="only", domain=domain, **attributes)
    made = model(helper.make_graph([node], "g", [source], [result]))
    if domain:
        made.opset_import.add(domain=domain, version=1)
    return made


def saved(made: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path
