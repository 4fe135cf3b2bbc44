"""From what an experiment means to what a backend is told, and the proof that it held.

*Requested* is the case's word. *Planned* is what this device and backend are asked for: a case may
declare substitutions per device, and settings that a backend doesn't have are listed as
inapplicable. *Effective* is read back from the backend. Planned ≠ requested is a red flag;
effective ≠ planned is a failure that names the setting.

`lower` turns planned settings into the commands of one release of trtexec: build, profile, check and
run, each a process of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from repro.errors import UsageError
from repro.schema import Command, Effective, Mismatch, Scalar, Settings, StageName, Substitution
from repro.trtexec import flags


class Plan(NamedTuple):
    """What a backend is asked for."""

    planned: dict[str, Scalar | None]
    inapplicable: tuple[str, ...]
    substitutions: tuple[Substitution, ...]


def plan(requested: Settings, on_device: Mapping[str, Scalar], device: str, has: Collection[str]) -> Plan:
    """Plan `requested` for a backend that `has` these settings, with the case's `on.<device>` table."""
    wanted: dict[str, Scalar | None] = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in msgspec.structs.asdict(requested).items()
    }
    for name in on_device:
        if name not in wanted:
            raise UsageError(f"[on.{device}] sets '{name}', which is no setting", "mend its case.toml")
    try:
        msgspec.convert({**msgspec.to_builtins(requested), **on_device}, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"[on.{device}] doesn't hold settings ({error})", "mend its case.toml") from None
    substitutions = tuple(
        Substitution(name, wanted[name], value, f"on.{device}")
        for name, value in on_device.items()
        if name in has and wanted[name] != value
    )
    planned = {name: on_device.get(name, value) for name, value in wanted.items() if name in has}
    return Plan(planned, tuple(name for name in wanted if name not in has), substitutions)


def mismatches(
    planned: Mapping[str, Scalar | None], effective: Mapping[str, Effective]
) -> tuple[Mismatch, ...]:
    """Return every planned setting that was read back as something else."""
    return tuple(
        Mismatch(name, planned[name], seen.value, seen.source)
        for name, seen in effective.items()
        if name in planned and seen.value != planned[name]
    )


# --- trtexec ------------------------------------------------------------------------------------

INPUT = "input"
"""Name of the network's input in the kit's models."""
INPUT_FILE, ENGINE_FILE, LAYERS_FILE = "input.bin", "engine.plan", "layers.json"
PROFILE_FILE, OUTPUT_FILE, TIMES_FILE = "profile.json", "output.json", "times.json"
FP16_LAYOUTS = ("hwc8", "chw16")
"""Layouts that hold FP16 only, of those that a case can ask for (TensorRT developer guide, I/O formats)."""


class Note(NamedTuple):
    """Something that the commands say beside the case's words, or don't say, with its source."""

    about: str
    """An option of trtexec, or a setting."""
    kind: Literal["added", "absent", "emulated", "documented"]
    why: str
    source: str


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """The commands of one experiment on one release, for a folder with the model and the input."""

    release: str
    model_precision: Literal["fp32", "fp16"]
    """Which of the case's model files is built from."""
    planned: dict[str, Scalar | None]
    substitutions: tuple[Substitution, ...]
    commands: tuple[Command, ...]
    notes: tuple[Note, ...]

    def argv(self, stage: StageName) -> tuple[str, ...]:
        """Return the command of a stage."""
        return next(command.argv for command in self.commands if command.stage == stage)


class Unsupported(msgspec.Struct, frozen=True):
    """Why a release can't run the experiment on this device."""

    release: str
    reason: str


def lower(
    planned: Mapping[str, Scalar | None],
    release: str,
    device: str,
    *,
    files: Collection[str] = ("fp32", "fp16"),
    seconds: float | None = None,
    iterations: int = 10,
) -> Commands | Unsupported:
    """Return the commands for `planned`, which has every setting, on a release of trtexec.

    `files` are the precisions of the case's model files. `seconds` takes the place of the setting
    `duration_s`; `iterations` is the least number of a run, by default trtexec's own. Raises
    `UsageError` where `release` is none of TensorRT.
    """
    version = flags.version(release)
    row = flags.row(version)
    if row is None:
        first, last = (flags.table().release[i].version for i in (0, -1))
        return Unsupported(release, f"the table of trtexec's options goes from {first} to {last}")
    if reason := _obstacle(planned, row, version, device):
        return Unsupported(release, reason)
    changed: dict[str, tuple[Scalar, str]] = {}
    if planned["typing"] not in row.typing:
        changed["typing"] = (row.typing[0], f"trtexec {row.version}")
    if seconds is not None and seconds != planned["duration_s"]:
        changed["duration_s"] = (seconds, "protocol")
    wanted = {**planned, **{name: value for name, (value, _) in changed.items()}}
    precision = _model_precision(wanted, files)
    if precision not in files:
        return Unsupported(release, f"it takes a model in {precision}, and the case has none")
    return Commands(
        release=release,
        model_precision=precision,
        planned=wanted,
        substitutions=tuple(
            Substitution(name, planned[name], value, by) for name, (value, by) in changed.items()
        ),
        commands=(
            Command("build", _build(wanted, row, f"model.{precision}.onnx")),
            Command("profile", _profile(wanted, row)),
            Command("check", _check(row)),
            Command("run", _run(wanted, row, iterations)),
        ),
        notes=tuple(_notes(wanted, row)),
    )


def _model_precision(planned: Mapping[str, Scalar | None], files: Collection[str]) -> Literal["fp32", "fp16"]:
    """Return which of the case's model files is built from.

    Weak typing narrows what the FP32 file says, as in the thread; one that has only FP16 will do as well.
    """
    half = planned["precision"] == "fp16"
    return "fp16" if half and (planned["typing"] == "strong" or "fp32" not in files) else "fp32"


def typed(
    plan: Plan, typings: Collection[str], release: str, files: Collection[str]
) -> tuple[Plan, Literal["fp32", "fp16"]]:
    """Return `plan` with a typing that `release` has, and the model file that it is built from."""
    typing = plan.planned["typing"]
    if typing not in typings:
        (only,) = typings
        change = Substitution("typing", typing, only, release)
        plan = Plan({**plan.planned, "typing": only}, plan.inapplicable, (*plan.substitutions, change))
    return plan, _model_precision(plan.planned, files)


def _obstacle(
    planned: Mapping[str, Scalar | None], row: flags.Row, version: flags.Version, device: str
) -> str | None:
    precision, layout = planned["precision"], planned["io_layout"]
    if device == "cpu":
        return "TensorRT needs an NVIDIA GPU"
    if hole := flags.hole(version, device):
        return hole.reason
    if layout in FP16_LAYOUTS and precision != "fp16":
        return f"the layout {layout} holds fp16, not {precision}"
    if planned["optimization_level"] is not None and not row.optimization_level:
        return "an optimization level can be set from 8.6 on"
    if planned["l2"] != "warm":
        return "trtexec can't flush the L2 cache between inferences"
    if planned["queue"] != "full":
        return "trtexec always enqueues one inference ahead"
    return None


def _build(planned: Mapping[str, Scalar | None], row: flags.Row, model: str) -> tuple[str, ...]:
    precision, layout = planned["precision"], planned["io_layout"]
    kind = "fp16" if precision == "fp16" else "fp32"
    io = f"{kind}:{layout}" if row.io_formats == "type:layout" else f"{layout}"
    argv = ["trtexec", f"--onnx={model}", f"--saveEngine={ENGINE_FILE}", row.skip_run]
    if planned["typing"] == "strong":
        argv += ["--stronglyTyped"] if "weak" in row.typing else []
    elif precision == "fp16":
        argv += ["--fp16", "--precisionConstraints=obey"]
        argv += ["--layerPrecisions=*:fp16", "--layerOutputTypes=*:fp16"]
    elif precision == "int8":
        argv.append("--int8")
    if precision == "fp32":
        argv.append("--noTF32")
    argv += [f"--inputIOFormats={io}", f"--outputIOFormats={io}"]
    argv.append(f"--sparsity={'enable' if planned['sparsity'] else 'disable'}")
    if planned["optimization_level"] is not None:
        argv.append(f"--builderOptimizationLevel={planned['optimization_level']}")
    return (*argv, "--profilingVerbosity=detailed", f"--exportLayerInfo={LAYERS_FILE}", "--verbose")


def _modes(planned: Mapping[str, Scalar | None], row: flags.Row) -> list[str]:
    return [mode.option for mode in flags.MODES[row.modes] if planned[mode.setting] == mode.value]


def _profile(planned: Mapping[str, Scalar | None], row: flags.Row) -> tuple[str, ...]:
    # In a CUDA graph no layer can be timed.
    modes = _modes({**planned, "cuda_graph": False}, row)
    separate = ["--separateProfileRun"] if row.modes == "opt_in" else []
    argv = ["trtexec", f"--loadEngine={ENGINE_FILE}", "--warmUp=200", "--duration=1", "--iterations=20"]
    return (*argv, *modes, *separate, "--dumpProfile", f"--exportProfile={PROFILE_FILE}")


def _check(row: flags.Row) -> tuple[str, ...]:
    # Without transfers the input would not reach the device, nor the output come back.
    modes = _modes({"cuda_graph": False, "spin_wait": False, "transfers": True}, row)
    argv = ["trtexec", f"--loadEngine={ENGINE_FILE}", f"--loadInputs={INPUT}:{INPUT_FILE}"]
    return (*argv, "--warmUp=0", "--duration=0", "--iterations=1", *modes, f"--exportOutput={OUTPUT_FILE}")


def _run(planned: Mapping[str, Scalar | None], row: flags.Row, iterations: int) -> tuple[str, ...]:
    return (
        "trtexec",
        f"--loadEngine={ENGINE_FILE}",
        f"--warmUp={planned['warm_up_ms']}",
        f"--duration={float(planned['duration_s'] or 0):g}",
        f"--iterations={iterations}",
        f"{row.streams}=1",
        f"--percentile={_percentiles(planned, row)}",
        *_modes(planned, row),
        f"--exportTimes={TIMES_FILE}",
        "--verbose",
    )


def _percentiles(planned: Mapping[str, Scalar | None], row: flags.Row) -> str:
    wanted = str(planned["percentiles"])
    return wanted if row.percentiles == "list" else wanted.rpartition(",")[2]


def _notes(planned: Mapping[str, Scalar | None], row: flags.Row) -> Iterator[Note]:
    defaults = f"sampleOptions.h, {row.source}"
    yield Note(
        "--profilingVerbosity",
        "added",
        "an engine tells tactics and formats only when it was built so",
        "TensorRT developer guide, IEngineInspector",
    )
    yield Note("--exportLayerInfo", "added", "the layers, read back after the build", row.source)
    yield Note("--exportTimes", "added", "the time of every inference", row.source)
    yield Note(row.streams, "added", "one stream, trtexec's default, written out", defaults)
    for option in ("--warmUp", "--duration", "--percentile"):
        yield Note(option, "added", "the case's value, written out", defaults)
    yield Note("--iterations", "added", "the protocol's least number of inferences", defaults)
    if planned["precision"] == "fp32":
        yield Note("--noTF32", "added", "fp32 means no TF32, which trtexec allows by itself", defaults)
    if planned["precision"] == "int8":
        why = "Q/DQ nodes of the graph say where; the rest keeps the graph's type"
        if planned["typing"] == "weak":
            yield Note("--int8", "added", why, "TensorRT developer guide, explicit quantization")
        else:
            yield Note("precision", "absent", why, "TensorRT developer guide, explicit quantization")
    for mode in flags.MODES[row.modes]:
        if planned[mode.setting] != mode.value:
            state = "on" if planned[mode.setting] else "off"
            yield Note(mode.setting, "absent", f"{state} by leaving {mode.option} out", defaults)
        elif row.modes == "opt_out":
            yield Note(mode.option, "added", "the default is the other way round from 11.0 on", defaults)
    if planned["typing"] == "strong" and "weak" not in row.typing:
        yield Note("typing", "absent", "this release knows no other than strong typing", row.source)
    if planned["optimization_level"] is None and row.optimization_level:
        yield Note("optimization_level", "absent", "TensorRT's default, by leaving the option out", defaults)
    if _percentiles(planned, row) != planned["percentiles"]:
        yield Note(
            "percentiles", "emulated", "one can be printed; all are recomputed from the times", row.source
        )
    if row.documented_only:
        yield Note("release", "documented", "known from documentation only; no source was seen", row.source)
