"""What trtexec of each release accepts: the table `flags.toml`, with the source of each row."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from repro.errors import UsageError
from repro.schema import Scalar

Version = tuple[int, ...]
Typing = Literal["weak", "strong"]


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One release's way of saying things; `flags.toml` explains the fields."""

    version: str
    skip_run: str
    streams: str
    typing: tuple[Typing, ...]
    io_formats: Literal["type:layout", "layout"]
    modes: Literal["opt_in", "opt_out"]
    optimization_level: bool
    percentiles: Literal["list", "one"]
    source: str
    documented_only: bool = False


class Hole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Releases, from `first` to below `before`, that do not exist on a device."""

    device: str
    first: str
    before: str
    reason: str
    source: str


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole table, releases ascending."""

    release: tuple[Row, ...]
    hole: tuple[Hole, ...]


class Mode(NamedTuple):
    """How a mode is turned on where that is an option, and off where that is."""

    setting: str
    value: Scalar
    """The value of the setting that `option` stands for."""
    option: str


MODES = {
    "opt_in": (
        Mode("cuda_graph", True, "--useCudaGraph"),
        Mode("spin_wait", True, "--useSpinWait"),
        Mode("transfers", False, "--noDataTransfers"),
    ),
    "opt_out": (
        Mode("cuda_graph", False, "--noCudaGraph"),
        Mode("spin_wait", False, "--noSpinWait"),
        Mode("transfers", True, "--includeDataTransfers"),
    ),
}
"""From 11.0 on the defaults are the other way round, and the old options change nothing."""

_NAME = re.compile(r"(?:trt-)?(\d+(?:\.\d+){1,3})(?:\+cuda[\d.]+)?")


@functools.cache
def table() -> Table:
    """Return the table."""
    return msgspec.toml.decode(Path(__file__).with_name("flags.toml").read_bytes(), type=Table)


def version(name: str) -> Version:
    """Return the numbers of a release such as `trt-8.5.2.2+cuda11.4` or `10.3`; raise `UsageError`."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"'{name}' is no release of TensorRT", "write it as 8.5.2, or trt-8.5.2.2+cuda11.4")
    return numbers(match[1])


def numbers(text: str) -> Version:
    """Return `8.5.2` as (8, 5, 2)."""
    return tuple(map(int, text.split(".")))


def row(wanted: Version) -> Row | None:
    """Return the row of a version, `None` where it is older or newer than the table."""
    rows = table().release
    if wanted[:2] > numbers(rows[-1].version)[:2]:
        return None
    return next((each for each in reversed(rows) if numbers(each.version) <= wanted), None)


def hole(wanted: Version, device: str) -> Hole | None:
    """Return why a version does not exist on a device, `None` where nothing is known against it."""
    for each in table().hole:
        if each.device == device and numbers(each.first) <= wanted < numbers(each.before):
            return each
    return None


COMMON = (
    "--onnx --saveEngine --loadEngine --loadInputs --inputIOFormats --outputIOFormats --sparsity "
    "--iterations --duration --warmUp --percentile "
    "--exportTimes --exportProfile --exportLayerInfo --exportOutput"
).split()
"""Options that the kit writes whatever the release."""


def relied_on(text: str) -> dict[str, bool]:
    """Return the options that the kit relies on in a release, and whether it must have each."""
    known = row(version(text))
    if known is None:
        return {}
    found = dict.fromkeys([*COMMON, known.skip_run, known.streams], True)
    found |= {mode.option: True for mode in MODES[known.modes]}
    if known.modes == "opt_in":
        # The other way round is not so: later releases still take the old options, and ignore them.
        found |= {mode.option: False for mode in MODES["opt_out"]}
    found["--fp16"] = "weak" in known.typing
    found["--builderOptimizationLevel"] = known.optimization_level
    return found
