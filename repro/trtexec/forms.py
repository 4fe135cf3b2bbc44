"""The forms of the lines that trtexec prints, 8.4 to 11.1: patterns, labels and their fields, chatter."""

from __future__ import annotations

import re

STANDIN_MARK = "STAND-IN FOR TESTS"
"""What the tests' own program says of itself in its second line."""

# [10/21/2025-16:07:42] [V] [TRT] message; a pasted line may have lost the time, or all of it.
PREFIX = re.compile(r"(?:\[(\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d)\] ?)?\[([VIWEF])\](?: |$)(\[TRT\] ?)?")
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
QUOTE = re.compile(r"(?:>(?!>>) ?|\| )+")
BANNER = re.compile(r"&&&& (\w+) TensorRT\.trtexec(?: \[TensorRT v(\d{3,7})\])?(?: \[(b\d+)\])?(?: # (.*))?")
HEADING = re.compile(r"=== (.+?) ===")
PROFILE = re.compile(r"Profile \((\d{1,15}) iterations ?\)")
PAIR = re.compile(r"(min|max|mean|median|percentile\((\d{1,3}(?:\.\d{1,6})?)%?\)) = (\S+?)( ms)?\s*(?:,|$)")
VALUE = re.compile(r"(\S+) (qps|s)")
AVAILABLE = re.compile(r'Device (\d+): "(.*)" UUID: (\S+)')
BUS = re.compile(r"(\d{1,15}) bits \(ECC (enabled|disabled)\)")
WARM_UP = re.compile(r"Warmup completed (\d{1,15}) queries over (\S+) ms")
TRACE = re.compile(r"Timing trace has (\d{1,15}) queries over (\S+) s")
CREATED = re.compile(r"Created (input|output) binding for (.+) with dimensions ([\dx]+)")
BINDING = re.compile(
    r"(Input|Output) binding for (.+?) with dimensions ([\dx]+)(?: and type (\w+))? is created"
)
PEAK = re.compile(r"allocators: CPU \d+ MiB, GPU (\d{1,15}) MiB")

LOG_LINES = (
    # [05/25/2023-18:31:49] [I] [TRT] words; what is verbose names files and layers, and is left out.
    re.compile(r"\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[[IWEF]\] .*"),
    re.compile(r"&&&& (?:RUNNING|PASSED|FAILED|WAIVED) TensorRT\.trtexec .*"),
)
"""The forms of lines in a turn's log that may be published."""

GROUPS = {
    "Model Options": "model",
    "Build Options": "build",
    "System Options": "system",
    "Inference Options": "inference",
    "Reporting Options": "reporting",
}
METRICS = {
    "Latency": "latency",
    "End-to-End Host Latency": "end_to_end",
    "Enqueue Time": "enqueue",
    "H2D Latency": "h2d",
    "GPU Compute Time": "gpu_compute",
    "D2H Latency": "d2h",
}
TOTALS = {
    "Throughput": ("throughput_qps", "qps"),
    "Total Host Walltime": ("host_walltime_s", "s"),
    "Total GPU Compute Time": ("gpu_compute_s", "s"),
}
# Labels that are known where the heading above them was not pasted along.
LABELS = frozenset(
    "Precision,Data transfers,Spin-wait,CUDA Graph,Streams,Inference Streams,Duration,Iterations,Percentiles,"
    "Percentile,Sparsity,Skip inference,Build only,Separate profiling,BuilderOptimizationLevel,Averages,"
    "Input(s)s format,Output(s)s format,Input(s),Output(s),ExposeDMA,Multithreading,Memory Pools,avgTiming,"
    "LayerPrecisions,Profiling verbosity,timingCacheMode,MaxAuxStreams,Load engine,Save engine,"
    "Tactic sources".split(",")
)
DEVICE: dict[str, tuple[str, str]] = {
    "Selected Device": ("name", ""),
    "Selected Device ID": ("index", ""),
    "Selected Device UUID": ("uuid", ""),
    "Compute Capability": ("compute_capability", ""),
    "SMs": ("sm_count", ""),
    "Compute Clock Rate": ("compute_clock_ghz", " GHz"),
    "Memory Clock Rate": ("memory_clock_ghz", " GHz"),
    "Application Compute Clock Rate": ("compute_clock_ghz", " GHz"),
    "Application Memory Clock Rate": ("memory_clock_ghz", " GHz"),
    "Device Global Memory": ("memory_mib", " MiB"),
    "Shared Memory per SM": ("shared_memory_per_sm_kib", " KiB"),
}
ONNX = frozenset(
    "Input filename,ONNX IR version,Opset version,Producer name,Producer version,Domain,Model version,"
    "Doc string".split(",")
)
# What a line of the build begins with, the field, and the unit behind the number.
BUILD: tuple[tuple[str, str, str], ...] = (
    ("Engine built in ", "built_s", " sec."),
    ("Engine generation completed in ", "generated_s", " seconds."),
    ("Engine loaded in ", "loaded_s", " sec."),
    ("Engine deserialized in ", "deserialized_s", " sec."),
    ("Finished parsing network model. Parse time: ", "parsed_s", ""),
    ("Created engine with size: ", "engine_mib", " MiB"),
    ("Loaded engine size: ", "engine_mib", " MiB"),
    ("Loaded engine with size: ", "engine_mib", " MiB"),
    ("Total Activation Memory: ", "activation_bytes", " bytes"),
    ("Total Weights Memory: ", "weights_bytes", " bytes"),
)
# Known lines without a fact of their own.
CHATTER = (
    "Loading standard plugins",
    "Start parsing network model",
    "Finish parsing network model",
    "Starting inference",
    "Using random values for ",
    "Using values loaded from ",
    "Setting persistentCacheLimit",
    "Created execution context",
    "Set shape of input tensor",
    "Explanations of the performance metrics",
    "TF32 is enabled by default",
    "Trace averages of ",
    "Average on ",
    "... Omitting ",
    "Note: The application clock rates",
    "Available Devices:",
    "Capturing CUDA graph",
    "Loading engine",
    "Using enqueueV",
    "Building engine",
    "```",
)
WARNS = ("* Throughput may be bound", "* GPU compute time is unstable", "* Multiple inference streams")
"""What the performance summary warns of, told apart without its prefix too."""
HIDDEN = "The e2e network timing is not reported"
SKIPPED = "Skipped inference phase since"
