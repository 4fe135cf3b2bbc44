"""The types that travel, and the words of the project.

A *job* is a pure description; the same *worker* runs it in some *place* and gives pure *records*, one
for each *subject* (a variant of a case, or a calibration case). A *bundle* is records, listed and
signed. Within a session on one board there are *builds* of an engine, *runs* (processes) of a build
and *iterations* (inferences) of a run; a *turn* is one entry of the order in which builds and runs
take place, each in a fresh process.

Everything here is frozen and carried as JSON. What is unknown is `None` with an entry in
`Record.missing`, never 0 or "". Durations and times are integers in nanoseconds, relative to the
session's start where they are points in time.

History of the record's schema (major in the predicate type, minor here):

- 1: first.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

# Names that can't change later: files out in the world carry them.
DISTRIBUTION = "trt-repro"
SSHSIG_NAMESPACE = "trt-repro-bundle@v1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
RUN_PREDICATE = "urn:trt-repro:run:v1"
REPLAY_PREDICATE = "urn:trt-repro:replay:v1"
SCHEMA_VERSION = 1
COMPARISON_VERSION = 1

RECORD_NAME_PATTERN = r"[a-z0-9._+-]{1,64}"
NOTE_MAX_CHARACTERS = 500

Scalar: TypeAlias = bool | int | float | str
Precision: TypeAlias = Literal["fp32", "tf32", "fp16", "int8"]
StageName: TypeAlias = Literal["prepare", "build", "profile", "check", "run"]
Share: TypeAlias = Literal["full", "model", "none"]
"""`full`: the kit builds the model; `model`: a user's own, in the bundle on their word; `none`: private."""
Status: TypeAlias = Literal["measured", "built", "failed", "unavailable", "imported"]
Arm: TypeAlias = Literal["A", "B"]
"""A side of an alternating comparison."""


class Carried(msgspec.Struct, frozen=True):
    """A value that is written to a file; unknown fields of later versions are ignored on reading."""


# --- the experiment -----------------------------------------------------------------------------


class ConvStack(
    Carried,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="network",
    tag="conv_stack",
):
    """A chain of 2-D convolutions, stride 1, padding `kernel // 2`.

    The input has shape [`batch`, `channels[0]`, `height`, `width`]; layer i maps `channels[i]` to
    `channels[i + 1]`. Weights follow from `seed` (see `models.py`). What came later has a default and
    is left out where it holds, so that digests stay.
    """

    seed: str
    batch: int
    height: int
    width: int
    channels: tuple[int, ...]
    kernel: int
    bias: bool
    weights: Literal["dense", "2:4"] = "dense"
    """`2:4`: of four weights in a row along the input channels, two are 0."""
    quantised: bool = False
    """INT8 by QuantizeLinear and DequantizeLinear around each layer, scales being powers of two."""


class Square(Carried, frozen=True, forbid_unknown_fields=True, tag_field="network", tag="square"):
    """The product of a `size` × `size` matrix with itself: 2 `size`³ operations and no weights."""

    size: int


class Negate(Carried, frozen=True, forbid_unknown_fields=True, tag_field="network", tag="negate"):
    """Every element read once and written once, as [1, `channels`, `height`, `width`]."""

    channels: int
    height: int
    width: int


class OnnxFile(Carried, frozen=True, forbid_unknown_fields=True, tag_field="network", tag="onnx"):
    """A user's own network: the ONNX `file` beside the case, with one input and one output of one type."""

    file: str
    precision: Literal["fp32", "fp16"]
    input: tuple[int, ...]
    output: tuple[int, ...]
    layers: int
    """Operators with weights, with which the allowed error may grow."""


ModelSpec: TypeAlias = ConvStack | Square | Negate | OnnxFile
"""A network by description."""


class Settings(Carried, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the experiment means, in no runtime's language; `lowering.py` turns it into flags.

    A setting that came later has a default and is left out where it holds, so that digests stay.
    """

    precision: Precision
    typing: Literal["weak", "strong"]
    """`weak`: the runtime may choose narrower types (`--fp16`); `strong`: the graph's types hold."""
    io_layout: Literal["chw", "hwc8", "chw16", "chw32"]
    sparsity: bool
    cuda_graph: bool
    spin_wait: bool
    transfers: bool
    """Copies between host and device run along, as trtexec's default has it."""
    l2: Literal["warm", "flush"]
    warm_up_ms: int
    duration_s: float
    optimization_level: int | None
    """`None`: the runtime's default."""
    percentiles: tuple[int, ...]
    queue: Literal["full", "synchronised"] = "full"
    """On a GPU: the next inference is enqueued while one runs, or only after it has ended."""


class Effective(Carried, frozen=True):
    """What a setting really was, and what says so."""

    value: Scalar | None
    source: Literal["echo", "graph", "kernels", "log", "assumed"]


class SettingsSeen(Carried, frozen=True):
    """The settings at three moments; `planned` and `effective` hold only what the backend has."""

    requested: Settings
    planned: dict[str, Scalar | None]
    effective: dict[str, Effective]
    inapplicable: tuple[str, ...]


class Substitution(Carried, frozen=True):
    """A planned setting that differs from the requested one, declared by the case for a device."""

    setting: str
    requested: Scalar | None
    planned: Scalar | None
    declared_by: str


class Mismatch(Carried, frozen=True):
    """An effective setting that differs from the planned one: a failure that names the setting."""

    setting: str
    planned: Scalar | None
    effective: Scalar | None
    source: str


class Tolerance(Carried, frozen=True, forbid_unknown_fields=True):
    """Largest allowed relative error of the output, optionally growing with the depth of the net."""

    error: float
    grows: Literal["sqrt_layers"] | None = None


class CaseRef(Carried, frozen=True):
    """Which experiment a record is of; `digest` covers the resolved model and settings."""

    id: str
    version: int
    variant: str | None
    digest: str
    """sha256; of a private case a pseudonym, by which nobody can try whether they have the same model."""
    share: Share


# --- claims -------------------------------------------------------------------------------------


class Reference(Carried, frozen=True, forbid_unknown_fields=True):
    """Figures from elsewhere (a thread, a data sheet) that a claim may name instead of a record."""

    id: str
    device: str
    board: str
    release: str
    statistics: dict[str, float]
    source: str


class Claim(Carried, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """A typed statement of what is said to be wrong."""

    expected: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.note is not None and len(self.note) > NOTE_MAX_CHARACTERS:
            raise ValueError(f"a claim's note has at most {NOTE_MAX_CHARACTERS} characters")


class Absolute(Claim, frozen=True, tag="absolute"):
    """`record` takes `ms` milliseconds."""

    record: str
    ms: float


class Ratio(Claim, frozen=True, tag="ratio"):
    """`record_b` takes `factor` times the time of `record_a`, within the relative `tolerance`."""

    record_a: str
    record_b: str
    factor: float
    tolerance: float


class BelowRoof(Claim, frozen=True, tag="below_roof"):
    """`record` reaches only `fraction` of the named roof."""

    record: str
    roof: str
    fraction: float


class Fails(Claim, frozen=True, tag="fails"):
    """The experiment fails in `stage` with this error `signature`."""

    stage: StageName
    signature: str


class WrongOutput(Claim, frozen=True, tag="wrong_output"):
    """The output of `record` is off by the relative `norm_error`."""

    record: str
    norm_error: float


class StatedEfficiency(Claim, frozen=True, tag="stated_efficiency"):
    """Somebody printed `percent` for `flop` / (`peak_flops` × `time_ms`); the arithmetic is checkable."""

    record: str
    flop: float
    peak_flops: float
    peak_is_sparse: bool
    time_ms: float
    percent: float


AnyClaim: TypeAlias = Absolute | Ratio | BelowRoof | Fails | WrongOutput | StatedEfficiency


# --- the job ------------------------------------------------------------------------------------


class Protocol(Carried, frozen=True):
    """How often to repeat at each level, and when to stop."""

    name: str
    builds: int
    runs: int
    seconds: float
    """Least measured time of a run."""
    iterations: int
    """Least number of measured iterations of a run."""
    preheat_max_s: float
    budget_s: float | None
    """Whole rounds are cut when the session would take longer than this; `None`: no limit."""


class Kit(Carried, frozen=True):
    """Which kit made this; `tree_sha256` is over the kit's own source files."""

    version: str
    tree_sha256: str


class Command(Carried, frozen=True):
    """What is executed in a stage, as data; files are named relative to a folder with the model."""

    stage: StageName
    argv: tuple[str, ...]


class Subject(Carried, frozen=True):
    """One experiment of a job; gives one record."""

    record_name: str
    role: Literal["subject", "calibration"]
    case: CaseRef
    model: ModelSpec
    settings: Settings
    planned: dict[str, Scalar | None]
    inapplicable: tuple[str, ...]
    substitutions: tuple[Substitution, ...]
    model_file: str
    """The ONNX file to build from, relative to the job's folder."""
    model_digests: dict[str, str]
    tolerances: dict[str, Tolerance]
    commands: tuple[Command, ...] = ()
    """What the backend executes, where it is a program of its own."""
    work: Work | None = None
    """As counted from the graph, before anything has run."""
    refused: str | None = None
    """Why it can't run here: its record is `unavailable`. `None`: it can."""
    # What differs between the arms of an alternating comparison, or was chosen for this run.
    arm: Arm | None = None
    release: str | None = None
    """The release that its turns must find; `None`: whatever is there."""
    interpreter: str | None = None
    """Path of the Python that has the release; `None`: the worker's own. Private: in no record."""
    threads: int | None = None
    """In place of the job's."""


class ReleaseSeen(Carried, frozen=True):
    """A runtime by version; parts that don't apply to it are `None`."""

    name: str
    version: str
    build: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    driver: str | None = None
    l4t: str | None = None


class Limits(Carried, frozen=True):
    """What the place allows; `None`: no limit, or none that can be read (then in `missing`)."""

    cpus: float | None
    memory_bytes: int | None
    pids: int | None = None
    """Processes and threads."""


class Place(Carried, frozen=True):
    """Where the worker ran."""

    kind: Literal["host", "docker"]
    image_id: str | None = None
    repo_digest: str | None = None
    base_digest: str | None = None
    labels: dict[str, str] = {}
    limits: Limits | None = None
    virtualised: str | None = None
    """`none` on bare metal, else the hypervisor's name; `None`: unknown."""
    remote: bool = False
    standin: bool = False
    """A stand-in of the kit's tests took the place of the runtime, or of the image that it is in."""
    engine: str | None = None
    """Version of the container engine."""


class Job(Carried, frozen=True, kw_only=True):
    """What to run, complete: the folder with this file and its models is all that a place needs."""

    schema_version: int = SCHEMA_VERSION
    kit: Kit
    run_id: str
    session_id: str
    seed: int
    device: str
    backend: str
    release: str
    protocol: Protocol
    threads: int | None
    """Threads of a CPU backend; `None`: one less than the cores that the worker may use."""
    timeout_build_s: float
    timeout_run_s: float
    keep_log: bool = False
    """The whole log of the first build goes into the bundle, redacted."""
    place: Place
    """As far as the launcher knows it; the worker adds what it sees from inside."""
    subjects: tuple[Subject, ...]
    parent: str | None = None
    """Id of the bundle whose experiment is repeated."""


# --- the record ---------------------------------------------------------------------------------


class Clock(Carried, frozen=True):
    """The clock of all durations."""

    name: str
    resolution_ns: int


class ErrorSeen(Carried, frozen=True):
    """A failure as data; `signature` names the same failure on any machine."""

    stage: StageName
    code: str | None
    """The library's own error code or exception type."""
    signal: str | None
    message: str
    signature: str


class Stage(Carried, frozen=True):
    """One step towards the record, with its own outcome."""

    name: StageName
    status: Literal["ok", "failed", "not_reached"]
    start_ns: int | None
    end_ns: int | None
    error: ErrorSeen | None


class CutShort(Carried, frozen=True):
    """Fewer rounds than the protocol asks for, and why."""

    reason: str
    rounds_done: int


class TensorSpec(Carried, frozen=True):
    """An input or output of the network."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str


class ModelSeen(Carried, frozen=True):
    """The model by content: sha256 of each file, and what goes in and out at the built precision."""

    digests: dict[str, str]
    built_from: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Library(Carried, frozen=True):
    """A library that took part."""

    name: str
    version: str


class Runtime(Carried, frozen=True):
    """With what it ran."""

    device: str
    backend: str
    product: str
    release: ReleaseSeen
    provider: str | None
    libraries: tuple[Library, ...]
    options: dict[str, Scalar]
    """The backend's own options, as it was told them."""
    place: Place


class PowerMode(Carried, frozen=True):
    """The board's power mode by name, with what it sets."""

    name: str
    content: dict[str, Scalar]


class Board(Carried, frozen=True):
    """What the probes found the machine to be."""

    matched_id: str | None = None
    """The row of `devices.json`, where one fits."""
    name: str | None = None
    compute_capability: str | None = None
    sm_count: int | None = None
    integrated: bool | None = None
    emulated: str | None = None
    power_mode: PowerMode | None = None
    mig: bool | None = None
    gpu: str | None = None
    """Pseudonym of the GPU."""
    cores: int | None = None
    threads: int | None = None


class Turn(Carried, frozen=True):
    """One entry of the order: a fresh process for one build, one run, or both."""

    round: int
    position: int
    subject: str
    """The record's name."""
    build: int
    run: int | None
    """`None`: the turn only builds."""
    arm: str | None = None
    """`A` or `B` in an alternating comparison."""


class Preheat(Carried, frozen=True):
    """Whether the time per iteration became flat before measuring, and after how long."""

    reached: bool | None
    """`None`: the protocol asks for no pre-heating."""
    seconds: float


class TimerCheck(Carried, frozen=True):
    """The smallest step that the clock was seen to take, against the median duration."""

    step_ns: int
    step_share_of_median: float
    second_clock_ratio: float | None = None
    """Time of the whole run by the device's clock, over the same by the host's; `None`: one clock only."""


class ProtocolSeen(Carried, frozen=True):
    """The protocol, and what became of it."""

    planned: Protocol
    seed: int
    order: tuple[Turn, ...]
    builds_done: int
    warm_up_ms: int
    l2_state: Literal["warm", "flush", "not_controlled"]
    timer: str


class OutputCheck(Carried, frozen=True):
    """Comparison of sampled outputs with a reference of higher precision."""

    method: Literal["fp64_at_sampled_positions", "same_library"]
    reference: str
    positions: int
    error: float | None
    """‖y − r‖₂ / ‖r‖₂ over the sampled outputs; `None` where y is not finite."""
    tolerance: float
    ok: bool
    nan: bool
    problems: tuple[str, ...]


class Build(Carried, frozen=True):
    """One engine."""

    id: str
    process: int
    """Number of the process that made it, counted in the session; not an operating system's pid."""
    seconds: float
    structure_hash: str | None
    """sha256 over what the runtime made of the graph; equal hashes are the same kernels and layouts."""
    input_hash: str
    """sha256 over the seeded inputs."""
    plan_sha256: str | None = None
    recipe_hash: str | None = None
    """sha256 over what was asked for: models, command, release, GPU; equal hashes differ by chance only."""
    timing_cache: str | None = None
    layers: str | None = None
    check: OutputCheck | None = None
    jit_seconds: float | None = None
    """To load it onto the GPU, where that compiles its kernels: apart from `seconds` and from any run."""


class Column(Carried, frozen=True):
    """A column of a samples file."""

    name: str
    unit: str
    dtype: Literal["<i8"] = "<i8"


class Samples(Carried, frozen=True):
    """The raw times of a run: columns of equal length, one after another, little-endian."""

    file: str
    columns: tuple[Column, ...]
    n: int
    thinned_from: int | None = None
    """Number of iterations measured, where the file keeps only an even selection."""


class Summary(Carried, frozen=True):
    """Of all iterations, before any thinning; times in nanoseconds."""

    n: int
    median_ns: float
    mean_ns: float
    min_ns: int
    max_ns: int
    p90_ns: float
    p99_ns: float
    log_median: float
    """Median of the natural logarithm of the durations in nanoseconds: the run's value."""


class Phase(Carried, frozen=True):
    """A named stretch of the session, on the clock of the telemetry."""

    name: str
    start_ns: int
    end_ns: int


class Flag(Carried, frozen=True):
    """Something about a run that a reader must know; nothing is dropped for it."""

    code: str
    detail: str


class ClockSpread(Carried, frozen=True):
    """How far the readings of a clock lay apart while a run was measured."""

    probe: str
    channel: str
    n: int
    low_mhz: float
    """The lowest reading."""
    high_mhz: float
    """The highest reading."""
    below_share: float
    """Readings below 97 % of their median, of all."""
    above_share: float
    """Readings above 103 % of their median, of all."""


class Run(Carried, frozen=True):
    """One process measuring one build."""

    id: str
    build: str
    round: int
    samples: Samples
    summary: Summary
    preheat: Preheat
    timer_check: TimerCheck
    involuntary_switches_per_iteration: float | None
    phases: tuple[Phase, ...]
    flags: tuple[Flag, ...]
    enqueue_median_ns: float | None = None
    """Host time to enqueue one inference, where that is apart from its execution."""
    mean_power_w: float | None = None
    """Mean power of the GPU over the measured phase, by its energy counter."""
    sm_clock_mhz: float | None = None
    """Median of the readings of the SM clock over the measured phase."""
    memory_clock_mhz: float | None = None
    """Median of the readings of the memory clock over the measured phase."""
    sm_clock_spread: ClockSpread | None = None
    memory_clock_spread: ClockSpread | None = None
    throttled_share: float | None = None
    """Readings at which something held clocks down, of all that could tell; its flags name what."""


class LayerTensor(Carried, frozen=True):
    """An input or output of a layer in the engine."""

    dtype: str | None
    format: str | None
    dims: tuple[int, ...] | None


KERNEL = "kernel"
"""Type of a layer that is a kernel seen by a profiler: its name is its place in the order."""


class Layer(Carried, frozen=True):
    """A layer of the engine as the runtime reports it."""

    name: str
    type: str | None
    """`None`: the runtime was asked for names only."""
    tactic: str | None = None
    inputs: tuple[LayerTensor, ...] = ()
    outputs: tuple[LayerTensor, ...] = ()
    is_reformat: bool | None = None
    time_ns: int | None = None


class LayerWork(Carried, frozen=True):
    """Operations and least bytes of one operator of the graph."""

    name: str
    type: str
    flop: int
    other_ops: int
    """Elements of bias, activation, pooling and the like."""
    bytes: int
    """Inputs, weights and outputs, each once."""
    passed_bytes: int
    """Of its outputs, what only the very next operator reads."""


class Work(Carried, frozen=True):
    """Operations and bytes of one inference, counted from the graph (see `work.py`)."""

    flop: int
    """Of convolutions and matrix products; a multiply-add is two."""
    bytes_low: int
    """Fused: the net's inputs, weights and outputs, each once."""
    bytes_high: int
    """Unfused: every operator reads its inputs and weights and writes its outputs."""
    unknown_ops: tuple[str, ...]
    """Operators without a rule, by name: they are in no count."""
    bytes_l2: int | None = None
    """Unfused, without the tensors that may stay in the L2 cache; `None`: its size is not known."""
    bytes_reformats: int | None = None
    """Read and written on top by layers that only change a layout; `None`: the runtime doesn't tell."""
    bytes_ends: int | None = None
    """The net's inputs and outputs."""
    other_ops: int | None = None
    layers: tuple[LayerWork, ...] = ()


class Coverage(Carried, frozen=True):
    """How well a channel covers the session; points in time relative to the session's start."""

    n: int
    missed: int
    first_ns: int | None
    last_ns: int | None
    longest_gap_ns: int | None
    share: float
    """Readings got, of those due at the channel's rate."""


ChannelState: TypeAlias = Literal["value", "unsupported", "denied", "missed"]


class Channel(Carried, frozen=True):
    """One quantity that a probe reads again and again."""

    probe: str
    name: str
    unit: str
    state: ChannelState
    reason: str | None
    private: bool
    rate_hz: float
    coverage: Coverage | None
    file: str | None
    column: int | None
    """Position in the file's columns; column 0 is the time."""


class Fact(Carried, frozen=True):
    """One quantity that a probe reads once."""

    probe: str
    name: str
    unit: str | None
    state: ChannelState
    value: Scalar | None
    reason: str | None = None
    private: bool = False


class Counter(Carried, frozen=True):
    """A counter of the machine before and after the session."""

    probe: str
    name: str
    unit: str
    before: int
    after: int


class StateChange(Carried, frozen=True):
    """A fact that was another one after the session."""

    probe: str
    name: str
    before: Scalar | None
    after: Scalar | None


class SamplerSeen(Carried, frozen=True):
    """What watching cost."""

    cpu_seconds: float | None
    cpu_share: float | None
    """Processor time over wall time of the session."""
    pinned_to: tuple[int, ...] | None
    ended: Literal["ok", "early"]


class Telemetry(Carried, frozen=True):
    """In which state the machine was."""

    channels: tuple[Channel, ...]
    facts: tuple[Fact, ...]
    counters: tuple[Counter, ...]
    state_changed: tuple[StateChange, ...]
    sampler: SamplerSeen | None


class Privacy(Carried, frozen=True):
    """What was withheld; `pseudonym_key_id` tells whether pseudonyms of two bundles are comparable."""

    policy: str
    redactions: int
    pseudonym_key_id: str


class Log(Carried, frozen=True):
    """What a turn printed; only lines of known form leave the machine."""

    turn: str
    lines: int
    lines_kept: int
    file: str | None


class Missing(Carried, frozen=True):
    """A field that is `None`, and why."""

    what: str
    reason: str


class Record(Carried, frozen=True, kw_only=True):
    """One experiment in one session, with everything needed to judge it."""

    schema_version: int = SCHEMA_VERSION
    critical: tuple[str, ...] = ()
    """Names of fields that a reader must understand before comparing."""
    kit: Kit
    run_id: str
    session_id: str
    boot: str | None
    record_name: str
    origin: Literal["measured", "imported"]
    started_utc: str
    clock: Clock
    role: Literal["subject", "calibration"]

    status: Status
    reason: str | None
    """Why it is not `measured`."""
    stages: tuple[Stage, ...]
    cut_short: CutShort | None

    case: CaseRef
    model: ModelSeen
    settings: SettingsSeen
    substitutions: tuple[Substitution, ...]
    mismatches: tuple[Mismatch, ...]
    commands: tuple[Command, ...]

    runtime: Runtime
    board: Board
    protocol: ProtocolSeen
    builds: tuple[Build, ...]
    runs: tuple[Run, ...]
    layers: tuple[Layer, ...] | None
    work: Work | None
    telemetry: Telemetry

    privacy: Privacy | None
    """`None` only between the worker and sealing."""
    logs: tuple[Log, ...]
    overhead_ns: dict[str, int]
    missing: tuple[Missing, ...]


class ResolvedCase(Carried, frozen=True):
    """`case/case.json`: the experiment with its variant applied, enough to build and run it again."""

    case: CaseRef
    title: str
    question: str
    source: str
    model: ModelSpec
    settings: Settings
    tolerances: dict[str, Tolerance]


# --- the answer of a replay ----------------------------------------------------------------------

Outcome: TypeAlias = Literal[
    "reproduced", "not_reproduced", "undecided", "different_experiment", "could_not_run"
]
"""What came of replaying, the strongest first; of several answers the weakest is the overall one."""


class Figure(Carried, frozen=True):
    """A number that an answer rests on, with its 95 % interval; bounds are `None` where nothing repeats."""

    value: float
    unit: Literal["ms", "ratio", "share", "error"]
    low: float | None = None
    high: float | None = None


class Answer(Carried, frozen=True, kw_only=True):
    """What a replay says of one claim, and the comparison behind it as data; prose is made when shown."""

    claim: AnyClaim | None
    """`None`: nothing was claimed of these records, so their times are set against each other."""
    records: tuple[str, ...]
    """Of the original bundle."""
    outcome: Outcome
    code: str
    """The rule that gave the outcome."""
    there: Figure | None = None
    here: Figure | None = None
    because: tuple[Noticed, ...] = ()
    """What makes it another experiment."""
    reason: str | None = None
    """What a machine said: an error's signature, a record's reason."""
    counts: bool = True
    """Whether it bears on the overall answer; claims on figures from elsewhere don't."""


class Reply(Carried, frozen=True, kw_only=True):
    """What came of replaying a bundle."""

    outcome: Outcome
    answers: tuple[Answer, ...]
    reason: str | None = None
    """Why it could not run, or is another experiment before anything ran; `None`: it ran."""


# --- the bundle ---------------------------------------------------------------------------------


Sealing: TypeAlias = Literal["at_once", "later", "after_reboot", "elsewhere"]
"""When a bundle was sealed: by the run itself, or from the work folder that it left behind."""


class RecordEntry(Carried, frozen=True):
    """A record of the bundle; its files lie under `records/<name>/`."""

    name: str
    role: Literal["subject", "calibration"]
    status: Status


class Predicate(Carried, frozen=True, kw_only=True, rename="camel"):
    """What the statement says about its files."""

    schema_version: int = SCHEMA_VERSION
    critical: tuple[str, ...] = ()
    kit: Kit
    created_utc: str
    sealed: Sealing
    signer_role: Literal["reporter", "vendor"]
    records: tuple[RecordEntry, ...]
    claims: tuple[AnyClaim, ...]
    references: tuple[Reference, ...]
    parent_bundle_id: str | None
    ticket: str | None
    allowed_findings: tuple[str, ...] = ()
    """Ids of places that looked like secrets and were sealed on the user's word."""
    reply: Reply | None = None
    """The answer to the bundle that `parent_bundle_id` names; `None`: this bundle is no reply."""


class DigestSet(Carried, frozen=True):
    """The digests of a file; sha256 is the one that counts."""

    sha256: str


class FileDigest(Carried, frozen=True):
    """One file of the bundle, an in-toto subject."""

    name: str
    digest: DigestSet


class Statement(Carried, frozen=True):
    """The in-toto Statement v1 that lists and describes every other file of a bundle."""

    type: str = msgspec.field(name="_type")
    subject: tuple[FileDigest, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: Predicate


# --- a comparison -------------------------------------------------------------------------------
#
# What `repro compare --json` prints. It travels by itself, not inside a bundle.

Across: TypeAlias = Literal["release", "device", "setting"]
"""What is meant to differ between two sides."""
Weight: TypeAlias = Literal["intended", "harmless", "suspicious", "blocking"]
VerdictName: TypeAlias = Literal[
    "faster", "slower", "below_margin", "equivalent", "inconclusive", "not_comparable"
]
Estimand: TypeAlias = Literal["configuration", "engine", "same_structure"]
"""`configuration`: a build of this; `engine`: these engines; `same_structure`: builds of equal structure."""


class BundleSeen(Carried, frozen=True):
    """A bundle that was compared."""

    file: str
    id: str
    release: str
    board: str | None
    signer: str
    unverified: str | None
    """What is wrong with the file, where it was read all the same; `None`: it is intact."""
    standin: bool = False
    """A test's stand-in took the runtime's place: nothing was measured."""


class Noticed(Carried, frozen=True):
    """A field that bears on whether two sides are comparable, with its values on both."""

    field: str
    a: str | None
    b: str | None
    weight: Weight
    sentence: str
    effect: float | None = None
    """The ratio of times b / a that it could account for alone, where that is known."""


class BuildValue(Carried, frozen=True):
    """The time of one build, exp of the mean of its runs' log medians, and of each run."""

    session: str
    build: str
    round: int | None
    structure_hash: str | None
    value_ns: float
    runs_ns: tuple[float, ...]


class Side(Carried, frozen=True):
    """One side of a comparison."""

    name: str
    bundles: tuple[str, ...]
    """Ids of the bundles."""
    sessions: int
    builds: tuple[BuildValue, ...]
    value_ns: float | None
    low_ns: float | None
    high_ns: float | None
    """95 % interval over the top level that was repeated; `None` where nothing was."""
    p99_ns: float | None
    """Median of the runs' 99th percentiles; printed with `iterations`, never judged."""
    iterations: int


class Estimate(Carried, frozen=True):
    """The ratio of times b / a, and what is known of it."""

    estimand: Estimand
    unit: Literal["builds", "runs", "sessions", "rounds"]
    """What was repeated and is counted in `n_a` and `n_b`; a round is a quad A B B A or B A A B."""
    n_a: int
    n_b: int
    df: float
    ratio: float
    low: float
    high: float
    """95 % interval."""
    low_90: float
    high_90: float
    """90 % interval: within the margin means equivalent."""
    p: float
    p_adjusted: float
    """By Holm over all that is compared at once."""
    p_equivalent: float
    verdict: VerdictName


class Verdict(Carried, frozen=True):
    """What can be said, why in one word and in one sentence, and with which reservations."""

    name: VerdictName
    code: str
    sentence: str
    these_sessions: bool
    """It holds for the sessions seen; other sessions may differ by themselves."""
    unconfirmed: tuple[str, ...]
    """Fields that leave a doubt."""


class Mode(Carried, frozen=True):
    """Builds of equal structure: how many on each side, and their time."""

    structure_hash: str
    a: int
    b: int
    a_ns: float | None
    b_ns: float | None


class LayerChange(Carried, frozen=True):
    """Layers of two engines that do the same work."""

    kind: Literal["same", "changed", "fused", "split", "regrouped", "gone", "come"]
    a: tuple[str, ...]
    b: tuple[str, ...]
    type: str | None
    """`None`: the runtime was asked for names only."""
    is_reformat: bool
    a_time_ns: int | None
    b_time_ns: int | None
    tactics: tuple[str | None, str | None]
    formats: tuple[str | None, str | None]
    """Formats and types of inputs and outputs, as text."""


class Compared(Carried, frozen=True, kw_only=True):
    """One variant of a case on two sides."""

    case: str
    variant: str | None
    role: Literal["subject", "calibration"]
    a: Side
    b: Side
    noticed: tuple[Noticed, ...]
    """The weightiest first, and of equal weight what is likeliest to show in the times."""
    estimates: tuple[Estimate, ...]
    """The first one decides."""
    hodges_lehmann: float | None
    """Ratio by the median of all differences; a robust second opinion."""
    cycles: Estimate | None
    """The same in clock cycles, where clocks were read."""
    rounds: tuple[float, ...]
    """Ratio b / a of each round of an alternating session."""
    modes: tuple[Mode, ...]
    modes_p: float | None
    """Fisher's exact p of both sides mixing the structures alike."""
    layers: tuple[LayerChange, ...] | None
    verdict: Verdict


class Comparison(Carried, frozen=True, kw_only=True):
    """What came of comparing bundles."""

    schema_version: int = COMPARISON_VERSION
    across: Across
    across_given: bool
    margin: float
    """Ratios from 1 / (1 + margin) to 1 + margin count as equivalent."""
    alternating: bool
    bundles: tuple[BundleSeen, ...]
    compared: tuple[Compared, ...]
    calibration: tuple[Compared, ...]
    """The negative control: cases that run along and should not change."""
    geometric_mean: Estimate | None
    notes: tuple[str, ...]
