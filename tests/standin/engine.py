"""Building and loading: an engine file that only the stand-in can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.standin.network import DTYPES, WIDTHS, Layer, Network, Tensor
from tests.standin.options import Options
from tests.standin.release import MARK, PLAN, RELEASE, SCENARIO, fail, log, number, stage

ENGINE_MAGIC = b"trt-repro stand-in engine\n"


class Engine(NamedTuple):
    """What the stand-in keeps in an engine file."""

    network: Network
    source: Tensor
    target: Tensor
    layers: tuple[Layer, ...]
    mode: int
    detailed: bool

    @classmethod
    def of(cls, header: dict[str, Any], content: bytes) -> Engine:
        network = Network(content)
        (tensor_in,), (tensor_out,) = network.inputs, network.outputs
        source = tensor_in._replace(dtype=header["input"][0], layout=header["input"][1])
        target = tensor_out._replace(dtype=header["output"][0], layout=header["output"][1])
        layers = network.layers(source, target, header["precision"], header["mode"])
        return cls(network, source, target, layers, header["mode"], header["detailed"])


def next_mode() -> int:
    """Return the mode of the next build: builds beside one scenario take the modes in turns."""
    if PLAN is None or len(SCENARIO.modes) == 1:
        return 0
    counter = Path(PLAN).with_name("builds")
    count = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(count + 1))
    return count % len(SCENARIO.modes)


def build(options: Options) -> Engine:
    """Read the model, choose made-up tactics, and tell it as a build does."""
    path = Path(options.values["--onnx"])
    log("Start parsing network model" + ("." if RELEASE.version >= (10,) else ""))
    try:
        content = path.read_bytes()
        network = Network(content)
    except Exception as error:  # noqa: BLE001 - whatever onnx raises for a file that is no model
        log(f"Failed to parse onnx file ({type(error).__name__})", "E", library=True)
        fail(
            "Failed to parse onnx file",
            "Parsing model failed",
            "Failed to create engine from model or file.",
            "Engine set up failed",
        )
    log("-" * 64, library=True)
    model = network.model
    for label, value in (
        ("Input filename:   ", path), ("ONNX IR version:  ", f"0.0.{model.ir_version}"),
        ("Opset version:    ", model.opset_import[0].version), ("Producer name:    ", model.producer_name),
        ("Producer version: ", model.producer_version), ("Domain:           ", model.domain),
        ("Model version:    ", model.model_version), ("Doc string:       ", ""),
    ):  # fmt: skip
        log(f"{label}{value}", library=True)
    log("-" * 64, library=True)
    log(
        "Finished parsing network model. Parse time: 0.0123"
        if RELEASE.version >= (10,)
        else "Finish parsing network model"
    )
    types = network.inputs[0].dtype
    half = any(name in options for name in ("--fp16", "--best"))
    plain = types if options.strong else "fp16" if half else "fp32"
    precision = SCENARIO.precision or ("int8" if network.quantised else plain)
    if network.quantised and not options.strong and not {"--int8", "--best"} & options.values.keys():
        log(
            "Error Code 4: Internal Error (Int8 precision has been set for a layer or layer output, but int8 is not configured in the builder)",
            "E",
            library=True,
        )
        fail("Engine could not be created from network", "Building engine failed", "Engine set up failed")
    ends = []
    for name, tensor in (("--inputIOFormats", network.inputs[0]), ("--outputIOFormats", network.outputs[0])):
        kind, layout = (options.formats(name) or [(None, "chw")])[0]
        kind = kind or (tensor.dtype if options.strong else "fp32")
        if options.strong and kind != tensor.dtype and RELEASE.version >= (10, 16):
            fail(
                f"I/O type {kind} of {tensor.name} is not the type {tensor.dtype} of a strongly typed network"
            )
        if layout not in WIDTHS or kind not in DTYPES:
            log(
                "[optimizer.cpp::computeCosts] Error Code 10: Internal Error (Could not find any implementation for node)",
                "E",
                library=True,
            )
            fail("Engine could not be created from network", "Building engine failed", "Engine set up failed")
        ends.append((kind, layout))
    log("Local timing cache in use. Profiling results in this builder pass will not be stored.", library=True)
    stage("build")
    header = {
        "version": RELEASE.text, "precision": precision, "input": ends[0], "output": ends[1],
        "mode": next_mode(), "detailed": options.detailed, "mark": MARK,
    }  # fmt: skip
    engine = Engine.of(header, content)
    if "--verbose" in options:
        verbose(engine)
    log("Total Activation Memory: 1048576" + (" bytes" if RELEASE.version >= (10,) else ""), library=True)
    if RELEASE.version >= (10,):
        log(f"Total Weights Memory: {len(content)} bytes", library=True)
    log(
        "Engine generation completed in 1.25 seconds.",
        "I" if RELEASE.version >= (8, 6) else "V",
        library=True,
    )
    if "--verbose" in options:
        log("Engine Layer Information:", "V", library=True)
        for layer in engine.layers:
            print(
                f"Layer({layer.kind}): {layer.name}, Tactic: {_tactic(layer.value)}, {layer.source.name} ({layer.source.brief()}) -> {layer.target.name} ({layer.target.brief()})"
            )
    if RELEASE.version >= (10,):
        log("Created engine with size: 0.25 MiB")
    log("Engine built in 1.5 sec.")
    if "--saveEngine" in options:
        target = Path(options.values["--saveEngine"])
        try:
            target.write_bytes(ENGINE_MAGIC + json.dumps(header).encode() + b"\n" + content)
        except OSError:
            fail(
                f"Could not open engine file: {target}",
                "Saving engine to file failed.",
                "Engine set up failed",
            )
    if "--timingCacheFile" in options:
        Path(options.values["--timingCacheFile"]).write_text(f"{MARK}\n")
    return engine


def _tactic(value: int) -> str:
    return str(value % 100_000) if RELEASE.version < (8, 5) else f"0x{value:016x}"


def verbose(engine: Engine) -> None:
    """Print timed candidates of each layer; the chosen one is the fastest."""
    for layer in engine.layers:
        kind = "Reformat" if layer.kind == "Reformat" else "format combination"
        log(
            f"{'*' * 15} Autotuning {kind}: {layer.source.strides()} -> {layer.target.strides()} {'*' * 15}",
            "V",
            library=True,
        )
        runner = layer.kind + ("[0x80000009]" if RELEASE.version >= (8, 6) else "")
        log(f"{'-' * 15} Timing Runner: {layer.name} ({runner})", "V", library=True)
        best_ms = SCENARIO.gpu_ms * layer.share
        for i in range(8):
            value = layer.value if i == 3 else (layer.value * (i + 3)) % 2**64
            ms = best_ms if i == 3 else best_ms * (1.02 + 0.03 * i)
            name = f"Tactic Name: {layer.tactic}{'' if i == 3 else f'_v{i}'} " if layer.tactic else ""
            log(f"{name}Tactic: {_tactic(value)} Time: {number(ms)}", "V", library=True)
        log(f"Fastest Tactic: {_tactic(layer.value)} Time: {number(best_ms)}", "V", library=True)
        log(f"{'>' * 15} Chose Runner Type: {layer.kind} Tactic: {_tactic(layer.value)}", "V", library=True)


def load(options: Options) -> Engine:
    """Read an engine file of this release's stand-in."""
    path = Path(options.values["--loadEngine"])
    try:
        content = path.read_bytes()
    except OSError:
        fail(f"Error opening engine file: {path}", "Engine set up failed")
    log("Loaded engine size: 0 MiB", library=True)
    head, _, rest = content.removeprefix(ENGINE_MAGIC).partition(b"\n")
    header = json.loads(head) if content.startswith(ENGINE_MAGIC) else {}
    if header.get("version") != RELEASE.text:
        log(
            "Error Code 1: Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match.)",
            "E",
            library=True,
        )
        fail("Engine deserialization failed", "Got invalid engine!", "Inference set up failed")
    log("Engine loaded in 0.0021 sec." if RELEASE.version < (10,) else "Engine deserialized in 0.0123 sec.")
    if RELEASE.version < (10,):
        log("Engine deserialized in 0.0123 sec.")
    return Engine.of(header, rest)
