"""What a log of trtexec tells, as data; what it doesn't tell is `None` with an entry in `missing`."""

from __future__ import annotations

from typing import Literal

import msgspec

from repro.schema import Layer, Missing
from repro.trtexec.layers import Profile
from repro.trtexec.tuning import LayerTuning

Outcome = Literal["passed", "failed", "waived", "unfinished"]
Graph = Literal["captured", "ignored"]


class Version(msgspec.Struct, frozen=True):
    """The release, as the banner or the version line tells it."""

    text: str
    """`8.5.2`"""
    integer: int | None
    """The banner's own number, `8502`; from 10 on two digits for the minor: `101601` is 10.16.1."""
    build: str | None
    """The banner's `b48`; printed from 10.4 on."""


class Device(msgspec.Struct, frozen=True):
    """The device block; the names of clocks changed at 8.6, and a list of devices came with 10."""

    form: Literal["until_8.5", "since_8.6", "since_10"] | None
    name: str | None = None
    index: int | None = None
    uuid: str | None = None
    compute_capability: str | None = None
    sm_count: int | None = None
    compute_clock_ghz: float | None = None
    memory_clock_ghz: float | None = None
    """From 8.6 on, both are the application clocks, not those at which the GPU ran."""
    memory_mib: int | None = None
    shared_memory_per_sm_kib: int | None = None
    bus_width_bits: int | None = None
    ecc: bool | None = None
    available: tuple[str, ...] = ()


class Option(msgspec.Struct, frozen=True):
    """A line of the echoed options."""

    group: str | None
    """`model`, `build`, `system`, `inference` or `reporting`; `None` where the heading is lost."""
    label: str
    value: str


class Binding(msgspec.Struct, frozen=True):
    """An input or output as the run allocates it."""

    kind: Literal["input", "output"]
    name: str
    dims: tuple[int, ...]
    dtype: str | None
    """Printed from 10.16 on."""


class BuildSeen(msgspec.Struct, frozen=True):
    """What the log tells of building or loading the engine."""

    built_s: float | None = None
    generated_s: float | None = None
    loaded_s: float | None = None
    deserialized_s: float | None = None
    parsed_s: float | None = None
    engine_mib: float | None = None
    activation_bytes: int | None = None
    weights_bytes: int | None = None
    peak_gpu_mib: int | None = None


class RunSeen(msgspec.Struct, frozen=True):
    """What the log tells of the measured run, beside its summary."""

    warm_up_queries: int | None = None
    warm_up_ms: float | None = None
    queries: int | None = None
    seconds: float | None = None
    graph: Graph | None = None
    """Whether a CUDA graph was captured; releases before 10 tell only that it was not."""


class Statistics(msgspec.Struct, frozen=True):
    """A line of the performance summary, exact to the printed digits; `None` where it can't be told."""

    min_ms: float | None
    max_ms: float | None
    mean_ms: float | None
    median_ms: float | None
    percentiles_ms: dict[str, float]
    """By percentile as printed, such as `99` or `99.9`."""


class SummarySeen(msgspec.Struct, frozen=True):
    """The performance summary; a line that isn't there is `None`."""

    throughput_qps: float | None = None
    latency: Statistics | None = None
    end_to_end: Statistics | None = None
    """Up to 8.4 only."""
    enqueue: Statistics | None = None
    h2d: Statistics | None = None
    gpu_compute: Statistics | None = None
    d2h: Statistics | None = None
    host_walltime_s: float | None = None
    gpu_compute_s: float | None = None


class TrtexecLog(msgspec.Struct, frozen=True, kw_only=True):
    """One process of trtexec, as far as its log tells."""

    name: str
    standin: bool
    """A test's program wrote this, and nothing was measured."""
    version: Version | None
    command: tuple[str, ...] | None
    """The banner's words; trtexec prints them unquoted, so that a blank inside one is lost."""
    outcome: Outcome | None
    """`unfinished`: it begins and doesn't end; `None`: neither is in the log."""
    first_local: str | None
    last_local: str | None
    """First and last time stamp that was looked at, in the writer's own time zone."""
    device: Device | None
    options: tuple[Option, ...]
    onnx: dict[str, str]
    """What the parser says of the model's file."""
    bindings: tuple[Binding, ...]
    build: BuildSeen | None
    run: RunSeen | None
    summary: SummarySeen | None
    profile: Profile | None
    layers: tuple[Layer, ...] | None
    tuning: tuple[LayerTuning, ...]
    """Timed candidates of a verbose build."""
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    ending: tuple[str, ...]
    """The last lines of a log that ends without an end line."""
    lines: int
    unknown: tuple[str, ...]
    unknown_lines: int
    not_kept: dict[str, int]
    """How many warnings, errors, layers and candidates' layers were beyond the limits."""
    missing: tuple[Missing, ...]

    def option(self, label: str) -> str | None:
        """Return the first echoed value of `label` (without its colon), `None` where it isn't echoed."""
        return next((option.value for option in self.options if option.label == label), None)

    def echo(self) -> dict[str, str]:
        """Return the first value of each label."""
        return {option.label: option.value for option in reversed(self.options)}

    def enabled(self, label: str) -> bool | None:
        """Return whether an option such as `CUDA Graph` is echoed as enabled; `None`: not echoed."""
        return {"Enabled": True, "Disabled": False}.get(self.option(label) or "")
