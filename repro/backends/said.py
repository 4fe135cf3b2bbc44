"""What TensorRT says through its Python API: its log, and the errors of its ONNX parser by node."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from repro.backends.api import Bindings, Network
from repro.backends.bindings import find
from repro.trtexec.heard import cause

_SEVERITIES = {"INTERNAL_ERROR": "F", "ERROR": "E", "WARNING": "W", "INFO": "I"}
_PLUGIN = "Plugin not found"


class Failed(Exception):
    """The library refused; `code` is its own where it has one."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Said:
    """What the library said, kept apart by what it is good for."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.engine = ""
        """The engine's layers in text form, which a verbose builder prints."""

    def hear(self, severity: str, text: str) -> None:
        """Take a message; what isn't verbose goes to the turn's log, in trtexec's form."""
        if severity == "VERBOSE":
            if "LayerType: " in text:
                self.engine = text
            return
        letter = _SEVERITIES.get(severity, "I")
        if letter in "EF":
            self.errors.append(_one_line(text))
        stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
        sys.stdout.write(f"[{stamp}] [{letter}] [TRT] {_one_line(text)}\n")
        sys.stdout.flush()

    def failed(self, code: str, what: str) -> Failed:
        """Return the failure of a step, by its errors, or as `code` and `what` where it printed none."""
        if known := cause(self.errors):
            return Failed(*known)
        return Failed(code, "\n".join(self.errors) or what)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def logger(trt: Bindings, said: Said) -> Any:
    """Return a logger of the library that `said` listens to."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined] # the base is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            said.hear(name_of(severity), message)

    return Logger()


def parse(trt: Bindings, network: Network, model: bytes, log: Any) -> None:
    """Read an ONNX model into `network`; raise `Failed` with all of the parser's errors, by node."""
    parser = trt.OnnxParser(network, log)
    whole = parser.parse(model)
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if whole and not errors:
        if network.num_inputs != 1 or network.num_outputs != 1:
            ends = f"{network.num_inputs} inputs and {network.num_outputs} outputs"
            raise Failed("no_network", f"the parser found {ends} in the model; the kit's have one each")
        return
    if not errors:
        raise Failed("parser", "the parser refused the model and gave no reason")
    named = bool(find(trt, "ParserError.node_name") and find(trt, "ParserError.node_operator"))
    nodes = [] if named else _nodes(model)
    raise Failed(name_of(errors[0].code()), "\n".join(_told(error, nodes, named=named) for error in errors))


def _told(error: Any, nodes: list[tuple[str, str]], *, named: bool) -> str:
    """Return an error of the parser in one line: `node 'conv1' (Conv): words`."""
    index = error.node()
    if named:
        name, operator = error.node_name(), error.node_operator()
    else:
        name, operator = nodes[index] if 0 <= index < len(nodes) else ("", "")
    words = _one_line(error.desc())
    if _PLUGIN in words:
        words += "; the kit loads no plugins"
    if name or operator:
        return f"node '{name}' ({operator}): {words}"
    return f"node {index}: {words}" if index >= 0 else words


def _nodes(model: bytes) -> list[tuple[str, str]]:
    """Return name and operator of each node of a model; none where it is no ONNX."""
    import onnx
    from google.protobuf.message import DecodeError

    with contextlib.suppress(DecodeError):
        return [(node.name, node.op_type) for node in onnx.load_from_string(model).graph.node]
    return []


def name_of(enumerator: Any) -> str:
    """Return the name of a value of one of the library's enumerations, whatever its `str` is."""
    return str(enumerator.name)
