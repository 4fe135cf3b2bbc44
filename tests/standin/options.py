"""The arguments as a release takes, refuses and echoes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.standin.release import FACTS, MARK, RELEASE, Stop, fail, log, number


class Options:
    """The arguments as this release takes them."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.values: dict[str, str] = {}
        unknown = RELEASE.at(FACTS["unknown"])
        refused = []
        for argument in arguments:
            name, _, value = argument.partition("=")
            spec = RELEASE.at(FACTS["options"].get(name, []))
            if spec is None or (name in self.values and not spec.get("repeat")):
                refused.append(f"Unknown option: {name} {value}")
                continue
            if spec["value"] == "value" and not value:
                refused.append(f"Unknown option: {name} {value}")
                continue
            self.values[name] = value
            if spec.get("warns"):
                word = "deprecated" if spec["status"] == "deprecated" else "deprecated and has no effect"
                log(f"{name} flag is {word}.", "W")
            if "alias_of" in spec:
                self.values.setdefault(spec["alias_of"], value)
            if spec["status"] == "no-op" and name not in ("--stronglyTyped", "--explicitBatch"):
                del self.values[name]
        if "--help" in self.values or "-h" in self.values or not arguments:
            self.help()
            raise Stop(passed=True, end_line=unknown["end_line"] or bool(arguments))
        if refused:
            for show in (self.help, None) if unknown["help_first"] else (None, self.help):
                if show:
                    show()
                for line in refused if not show else ():
                    log(line, "E")
            raise Stop(passed=False, end_line=unknown["end_line"])
        self.refuse()

    def help(self) -> None:
        print(f"=== {MARK} ===\n=== Options ===")
        for name in FACTS["options"]:
            if RELEASE.at(FACTS["options"][name]):
                print(f"  {name}")
        sys.stdout.flush()

    def refuse(self) -> None:
        """End as the release does where options contradict each other or a value is not known."""
        if "--loadEngine" in self and "--saveEngine" in self:
            fail("Incompatible load and save engine options selected")
        if "--loadEngine" not in self and "--onnx" not in self:
            fail("Model missing or format not recognized")
        if "--fp8" in self and "--int8" in self:
            fail("Invalid usage, fp8 and int8 aren't allowed to be enabled together.")
        for name, known in (
            ("--precisionConstraints", ("obey", "prefer", "none")),
            ("--sparsity", ("disable", "enable", "force")),
            ("--profilingVerbosity", ("layer_names_only", "none", "detailed", "default", "verbose")),
        ):
            if name in self and self.values[name] not in known:
                fail(f"Unknown {name.strip('-')}: {self.values[name]}")
        for name in ("--inputIOFormats", "--outputIOFormats"):
            self.formats(name)
        if self.strong and RELEASE.version < (11,):
            for name in ("--fp16", "--bf16", "--int8", "--fp8", "--int4"):
                if self.values.pop(name, None) is not None:
                    log(
                        f"Invalid usage, setting {name.strip('-')} mode is not allowed if graph is strongly typed.",
                        "W",
                    )

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def number(self, name: str, default: float) -> float:
        return float(self.values.get(name, default))

    def formats(self, name: str) -> list[tuple[str | None, str]]:
        """Return (type, layout) of each entry; the type is `None` from 11.0 on."""
        entries = []
        for entry in filter(None, self.values.get(name, "").split(",")):
            kind, colon, layout = entry.rpartition(":")
            if RELEASE.version >= (11,):
                if colon or not RELEASE.at([*FACTS["formats"].get(entry, [])]):
                    fail(f"Invalid TensorFormat {entry}")
            elif not colon:
                fail(f"Invalid IOFormat {entry}")
            elif not RELEASE.at(FACTS["types"].get(kind, [])):
                fail(f"Invalid DataType {kind}")
            elif not RELEASE.at(FACTS["formats"].get(layout, [])):
                fail(f"Invalid TensorFormat {layout}")
            entries.append((kind or None, layout or entry))
        return entries

    @property
    def strong(self) -> bool:
        return bool(RELEASE.at(FACTS["defaults"]["stronglyTyped"])) or "--stronglyTyped" in self

    def mode(self, default: str, on: str, off: str) -> bool:
        """Return whether a measurement mode holds: its default, or what a flag makes of it."""
        usual = bool(RELEASE.at(FACTS["defaults"][default]))
        return off not in self if usual else on in self

    @property
    def graph(self) -> bool:
        return self.mode("cudaGraph", "--useCudaGraph", "--noCudaGraph")

    @property
    def spin(self) -> bool:
        return self.mode("spinWait", "--useSpinWait", "--noSpinWait")

    @property
    def transfers(self) -> bool:
        return self.mode("dataTransfers", "--includeDataTransfers", "--noDataTransfers")

    @property
    def separate(self) -> bool:
        return "--separateProfileRun" in self or bool(RELEASE.at(FACTS["defaults"]["separateProfileRun"]))

    @property
    def skip(self) -> bool:
        return "--skipInference" in self or "--buildOnly" in self

    @property
    def profile(self) -> bool:
        return "--dumpProfile" in self or "--exportProfile" in self

    @property
    def detailed(self) -> bool:
        return self.values.get("--profilingVerbosity", self.values.get("--nvtxMode")) in (
            "detailed",
            "verbose",
        )

    @property
    def percentiles(self) -> list[float]:
        given = self.values.get("--percentile")
        return (
            [float(p) for p in given.split(",")]
            if given
            else list(RELEASE.at(FACTS["defaults"]["percentiles"]))
        )

    @property
    def stage(self) -> str:
        if "--loadEngine" not in self:
            return "build"
        return "output" if "--exportOutput" in self else "profile" if self.profile else "run"


def echo(options: Options) -> None:
    """Print the options as this release does."""
    values = options.values
    loads = "--loadEngine" in options
    hidden = loads and RELEASE.version >= (10,)
    block = ""
    for label, *spans in FACTS["echo"]:
        if not RELEASE.at(spans) or label == "Prototxt:":
            continue
        if label.startswith("==="):
            block = label
            if not (block == "=== Build Options ===" and hidden):
                log(label)
            continue
        if block == "=== Build Options ===" and hidden:
            continue
        if label.startswith(("Input(s)s", "Output(s)s")):
            _echo_formats(options, label)
        elif label == "Dump refittable layers:":
            log(f"{label}{_enabled('--dumpRefit' in options)}")
        else:
            text = _echoed(options, label, values)
            log(f"{label} {text}")
        if label == "Inputs:":
            for name, file in files(options).items():
                log(f"{name}<-{file}")
    log()


def _enabled(value: bool) -> str:
    return "Enabled" if value else "Disabled"


def _echo_formats(options: Options, label: str) -> None:
    which = label.partition("(")[0].lower()
    given = options.formats(f"--{which}IOFormats")
    typed = RELEASE.version < (11,)
    if not given:
        log(f"{label} {'fp32:CHW' if typed else 'CHW'}")
    for kind, layout in given:
        plus = "" if layout == "chw" else "+"
        log(f"{label.partition('(')[0]}(s): {kind + ':' if typed and kind else ''}{plus}{layout}")


def _precision(options: Options) -> str:
    version = RELEASE.version
    if options.strong:
        return "Strongly Typed" if version >= (10, 2) else "FP32 (Strongly Typed)"
    text = "FP32"
    for name, part in (("--fp16", "+FP16"), ("--bf16", "+BF16"), ("--int8", "+INT8"), ("--fp8", "+FP8")):
        if part in RELEASE.at(FACTS["precision"]) and (name in options or "--best" in options):
            text += part
    constraint = options.values.get("--precisionConstraints", "none")
    return text + ("" if constraint == "none" else f" ({constraint} precision constraints)")


def _echoed(options: Options, label: str, values: dict[str, str]) -> str:
    """Return what stands behind a label."""
    flags = {
        "Refit:": "--refit", "Version Compatible:": "--versionCompatible", "Safe mode:": "--safe",
        "DirectIO mode:": "--directIO", "Restricted mode:": "--restricted", "Build only:": "--buildOnly",
        "Strip weights:": "--stripWeights", "Exclude Lean Runtime:": "--excludeLeanRuntime",
        "Heuristic:": "--heuristic", "ExposeDMA:": "--exposeDMA", "Multithreading:": "--threads",
        "Time Deserialize:": "--timeDeserialize", "Time Refit:": "--timeRefit", "Verbose:": "--verbose",
        "Dump output:": "--dumpOutput", "errorOnTimingCacheMiss:": "--errorOnTimingCacheMiss",
        "Allow GPU fallback for DLA:": "--allowGPUFallback", "Enable Monitor Memory:": "--monitorMemory",
        "CPU Only Mode:": "--cpuOnly", "Distributive Independence:": "--distributiveIndependence",
        "Weight Streaming:": "--allowWeightStreaming", "ONNX Plugin InstanceNorm:": "--pluginInstanceNorm",
        "Build DLA standalone loadable:": "--buildDLAStandalone",
        "Mark Unfused Tensors As Debug Tensors:": "--markUnfusedTensorsAsDebugTensors",
    }  # fmt: skip
    if label in flags:
        return _enabled(flags[label] in options)
    if label.startswith("ONNX k"):
        return "Disabled"
    pools = ("workspace", "dlaSRAM", "dlaLocalDRAM", "dlaGlobalDRAM", "tacticSharedMem")
    sizes = dict(item.split(":", 1) for item in values.get("--memPoolSize", "").split(",") if ":" in item)
    shown = pools if RELEASE.version >= (10,) else pools[:4]
    verbosity = values.get("--profilingVerbosity", "layer_names_only")
    texts = {
        "Format:": "*" if "--loadEngine" in options else "ONNX",
        "Model:": values.get("--onnx", ""),
        "Max batch:": "explicit batch" if "--onnx" in options else "1",
        "Memory Pools:": ", ".join(f"{p}: {sizes[p] + ' MiB' if p in sizes else 'default'}" for p in shown),
        "minTiming:": values.get("--minTiming", "1"),
        "avgTiming:": values.get("--avgTiming", "8"),
        "Precision:": _precision(options),
        "LayerPrecisions:": values.get("--layerPrecisions", ""),
        "Calibration:": "Dynamic" if "--int8" in options or "--best" in options else "",
        "TensorRT runtime:": values.get("--useRuntime", "full"),
        "Tempfile Controls:": "{ in_memory: allow, temporary: allow }",
        "Sparsity:": {"enable": "Enabled", "force": "Force"}.get(values.get("--sparsity", ""), "Disabled"),
        "Skip inference:": _enabled(options.skip),
        "Save engine:": values.get("--saveEngine", ""),
        "Load engine:": values.get("--loadEngine", ""),
        "Profiling verbosity:": {"none": "1", "detailed": "2", "verbose": "2"}.get(verbosity, "0"),
        "Tactic sources:": values.get("--tacticSources", "Using default tactic sources"),
        "timingCacheMode:": "global" if "--timingCacheFile" in options else "disable" if "--noBuilderCache" in options else "local",
        "timingCacheFile:": values.get("--timingCacheFile", ""),
        "Enable Compilation Cache:": _enabled("--noCompilationCache" not in options),
        "Preview Features:": values.get("--preview", "Use default preview flags."),
        "MaxAuxStreams:": values.get("--maxAuxStreams", "-1"),
        "BuilderOptimizationLevel:": values.get(
            "--builderOptimizationLevel", str(RELEASE.at(FACTS["defaults"]["builderOptimizationLevel"]))
        ),
        "MaxTactics:": values.get("--maxTactics", "-1"),
        "Calibration Profile Index:": "0",
        "Runtime Platform:": "Same As Build",
        "Input build shapes:": "model", "Input calibration shapes:": "model", "Input inference shapes:": "model",
        "Device:": values.get("--device", "0"),
        "DLACore:": values.get("--useDLACore", ""),
        "ignoreParsedPluginLibs:": "0",
        "Batch:": "1" if "--loadEngine" in options and RELEASE.version < (8, 6) else "Explicit",
        "Iterations:": values.get("--iterations", "10"),
        "Duration:": f"{values.get('--duration', '3')}s (+ {values.get('--warmUp', '200')}ms warm up)",
        "Sleep time:": f"{values.get('--sleepTime', '0')}ms",
        "Idle time:": f"{values.get('--idleTime', '0')}ms",
        "Streams:": values.get("--streams", "1"),
        "Inference Streams:": values.get("--infStreams", "1"),
        "Data transfers:": _enabled(options.transfers),
        "Spin-wait:": _enabled(options.spin),
        "CUDA Graph:": _enabled(options.graph),
        "Separate profiling:": _enabled(options.separate),
        "NVTX verbosity:": {"none": "1", "detailed": "2"}.get(verbosity, "0"),
        "Persistent Cache Ratio:": "0",
        "Optimization Profile Index:": "0",
        "Weight Streaming Budget:": "Disabled" if RELEASE.row == "10.0" else "100.000000%",
        "Accuracy Algorithm:": "l0",
        "Averages:": f"{values.get('--avgRuns', '10')} inferences",
        "Percentile:": ",".join(map(number, options.percentiles)),
        "Percentiles:": ",".join(map(number, options.percentiles)),
        "Profile:": _enabled("--dumpProfile" in options),
        "Export timing to JSON file:": values.get("--exportTimes", ""),
        "Export output to JSON file:": values.get("--exportOutput", ""),
        "Export profile to JSON file:": values.get("--exportProfile", ""),
    }  # fmt: skip
    return texts.get(label, "")


def files(options: Options) -> dict[str, str]:
    entries = options.values.get("--loadInputs", "").split(",")
    return {name.strip("'"): file.strip("'") for name, _, file in (e.partition(":") for e in entries) if file}
