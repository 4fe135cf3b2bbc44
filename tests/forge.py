"""Bundles of somebody who means no good: well-formed, signed, and other than they seem."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
from onnx import TensorProto, helper

from repro import bundle, cases
from repro.bundle import archive, statement
from repro.schema import Record, ResolvedCase

replace = msgspec.structs.replace


def contents(path: Path) -> dict[str, bytes]:
    with archive.opened(path) as zipped:
        return {name: zipped.read(name) for name in zipped.names}


def forge(
    path: Path,
    target: Path,
    *,
    key: Path | None = None,
    model: Callable[[bytes], bytes] | None = None,
    record: Callable[[Record], Record] | None = None,
    case: Callable[[ResolvedCase], ResolvedCase] | None = None,
    consistent: bool = True,
    **predicate: Any,
) -> Path:
    """Seal the bundle at `path` anew with changes; `consistent`: all digests in it are made to fit them."""
    opened = bundle.read(path)
    files = {n: d for n, d in contents(path).items() if not n.startswith("META/") and n != "README.txt"}
    for name, old in opened.records.items():
        home = f"records/{name}"
        resolved = opened.cases[name]
        resolved = case(resolved) if case else resolved
        onnx_files = {n: d for n, d in files.items() if n.startswith(f"{home}/case/") and n.endswith(".onnx")}
        for each in onnx_files if model else ():
            assert model is not None
            files[each] = onnx_files[each] = model(onnx_files[each])
        seen = old
        if consistent:
            by_precision = {n.split(".")[-2]: d for n, d in onnx_files.items()}
            digests = {p: hashlib.sha256(d).hexdigest() for p, d in by_precision.items()}
            made = cases.Experiment(
                _case(resolved), resolved.case.variant, resolved.model, resolved.settings, by_precision
            )
            seen = replace(seen, model=replace(seen.model, digests=digests), case=made.ref)
            seen = replace(seen, settings=replace(seen.settings, requested=resolved.settings))
            resolved = replace(resolved, case=made.ref)
        seen = record(seen) if record else seen
        files[f"{home}/record.json"] = msgspec.json.encode(seen)
        files[f"{home}/case/case.json"] = msgspec.json.encode(resolved)
    told = replace(opened.statement.predicate, **predicate)
    return bundle.seal(files, told, key=key, target=target, stem="forged").path


def _case(resolved: ResolvedCase) -> cases.Case:
    return cases.Case(
        id=resolved.case.id,
        version=resolved.case.version,
        title="",
        question="",
        source="",
        share=resolved.case.share,
        model={},
        settings={},
        tolerance={},
        folder=Path(),
    )


def unsigned_copy(path: Path, target: Path) -> Path:
    """Write the bundle without its signature: the same id."""
    members = {n: d for n, d in contents(path).items() if not n.startswith(statement.SIGNATURES)}
    with target.open("wb") as file:
        archive.write(file, members)
    return target


# --- models that mean no good -------------------------------------------------------------------


def instead(*nodes: onnx.NodeProto, weights: tuple[TensorProto, ...] = ()) -> Callable[[bytes], bytes]:
    """Return a change of a model: the same input and output, these operators between them."""

    def change(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        del model.graph.node[:]
        del model.graph.initializer[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(weights)
        return bytes(model.SerializeToString())

    return change


def external(data: bytes) -> bytes:
    """Keep a weight in a file far away."""
    model = onnx.load_from_string(data)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    return bytes(model.SerializeToString())


def declared(data: bytes) -> bytes:
    """Declare a weight of 2 GB, in a file of a kilobyte."""
    model = onnx.load_from_string(data)
    model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**29]))
    return bytes(model.SerializeToString())


def doubling(times: int = 30) -> Callable[[bytes], bytes]:
    """Double a tensor again and again: a bomb of a few operators."""
    nodes = [helper.make_node("Concat", ["input", "input"], ["x0"], axis=2)]
    nodes += [helper.make_node("Concat", [f"x{i}", f"x{i}"], [f"x{i + 1}"], axis=2) for i in range(times)]
    nodes.append(helper.make_node("ReduceMean", [f"x{times}"], ["mean"], axes=[2], keepdims=1))
    nodes.append(helper.make_node("Add", ["input", "mean"], ["output"]))
    return instead(*nodes)


def growing(side: int) -> Callable[[bytes], bytes]:
    """Fill `side`³ numbers, a size that only the input's values tell."""
    weights = (
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("side", TensorProto.INT64, [3], [side] * 3),
        helper.make_tensor("all", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("none", TensorProto.INT64, [1], [0]),
    )
    nodes = (
        helper.make_node("Reshape", ["input", "all"], ["flat"]),
        helper.make_node("Slice", ["flat", "none", "one"], ["first"]),
        helper.make_node("Mul", ["first", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["side", "whole"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Add", ["input", "most"], ["output"]),
    )
    return instead(*nodes, weights=weights)


def looping(data: bytes) -> bytes:
    """Do nothing, a thousand million times."""
    kind = TensorProto.FLOAT
    model = onnx.load_from_string(data)
    value = helper.make_tensor_value_info("v", kind, None)
    keep = helper.make_tensor_value_info("keep", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["v"], ["w"]), helper.make_node("Identity", ["keep"], ["going"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), keep, value],
        [
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", kind, None),
        ],
    )
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Loop", ["times", "", "input"], ["output"], body=body))
    model.graph.initializer.append(helper.make_tensor("times", TensorProto.INT64, [], [10**9]))
    return bytes(model.SerializeToString())
