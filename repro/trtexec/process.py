"""One process of trtexec, line by line: which form a line has, and what it tells.

The forms are those of 8.4 to 11.1. A line is told by its first words; only then a pattern is tried. A
pasted log may have lost prefixes or headings, so that a line counts wherever its words are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from repro.schema import Layer, Missing
from repro.trtexec import forms
from repro.trtexec import layers as words
from repro.trtexec.heard import version
from repro.trtexec.readback import GRAPH_LOST
from repro.trtexec.seen import (
    Binding,
    BuildSeen,
    Device,
    Option,
    Outcome,
    RunSeen,
    Statistics,
    SummarySeen,
    TrtexecLog,
    Version,
)
from repro.trtexec.tuning import Tuning

MAX_LINE_BYTES = 1 << 16
"""Longer lines are cut there; a layer's description takes a few thousand."""
MAX_KEPT = 200
"""Unknown lines, warnings and errors that are kept; further ones are only counted."""
MAX_KEPT_CHARACTERS = 500
MAX_WRAPPED = 20
"""Lines over which a paste may spread one."""
MAX_WRAPPED_CHARACTERS = 10_000
MAX_KEPT_IN_ALL = 8 << 20
"""Characters of layers, options and bindings together."""
MIN_COLUMNS = 70
"""A command that was wrapped filled its line; what follows a shorter one is somebody's prose."""
COMMAND = "&&&&"
MAX_LAYERS = 10_000
MAX_OPTIONS = 1_000
MAX_NUMBER = 2.0**53
"""No figure of a log is as large; `inf` and `nan`, which trtexec prints for what it has not, are none."""


class Process:
    """One process of trtexec while its log is read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lines = 0
        self.known = False
        """A line of trtexec's was seen."""
        self.tuning = Tuning()
        self._standin = False
        self._banner: tuple[str | None, str | None] = (None, None)
        self._version_line: str | None = None
        self._command: str | None = None
        self._outcome: Outcome | None = None
        self._begun = False
        self._stamps: list[str] = []
        self._device: dict[str, str] = {}
        self._application_clocks = False
        self._available: list[str] = []
        self._options: list[Option] = []
        self._onnx: dict[str, str] = {}
        self._bindings: list[Binding] = []
        self._build: dict[str, float] = {}
        self._run: dict[str, float | str] = {}
        self._has_summary = False
        self._summary: dict[str, Statistics | float | None] = {}
        self._profile: words.Table | None = None
        self._layers: dict[str, list[Layer]] = {}
        self._tactics: dict[str, str] = {}
        self._kept: dict[str, list[str]] = {"warnings": [], "errors": [], "unknown": []}
        self._counts = {"warnings": 0, "errors": 0, "unknown": 0, "layers": 0}
        self._problems: list[Missing] = []
        self._left = MAX_KEPT_IN_ALL
        self._hidden = self._skipped = False
        self._section: str | None = None
        self._hint = False
        """The line before was a warning without its prefix; its hint is indented."""
        self._open: list[str] = []
        """A line that may go on in the next one, because a paste wrapped it: a command, or a statistic."""
        self._columns = 0

    # --- one line -----------------------------------------------------------------------------------------

    def line(self, raw: bytes) -> bool:
        """Take a line; return whether it begins another process, and was therefore not taken."""
        text = _plain(raw)
        # An indented paste: the table of layers and hints of warnings keep their blanks.
        bare = text.lstrip()
        prefix = forms.PREFIX.match(bare)
        if prefix is None:
            return self._unprefixed(text)
        self._close_open()
        self.known = True
        stamp, severity, library = prefix.groups()
        if stamp:
            self._stamps[1:] = [stamp]
        said = bare[prefix.end() :]
        self._said(said, severity, library is not None)
        return False

    def _unprefixed(self, text: str) -> bool:
        bare = text.strip()
        if bare.startswith("&&&& "):
            self._close_open()
            if (match := forms.BANNER.match(bare)) is None:
                self._unknown(text)
                return False
            if match[1] == "RUNNING" and self.known:
                return True
            self._banner_line(match)
            return False
        if not bare:
            return False
        if bare.startswith("[TRT] "):
            self._close_open()
            self._said(bare[6:], "I", library=True)
        elif bare.startswith(forms.WARNS) or (self._hint and text.startswith("  ")):
            self._close_open()
            self._keep("warnings", bare if bare.startswith("* ") else text)
            self._hint = bare.startswith("* ")
        else:
            self._loose(text, bare)
        return False

    def _loose(self, text: str, bare: str) -> None:
        """Take a line that lost its prefix, or that a paste wrapped around."""
        opened = self._open
        if opened and bare.startswith("--"):
            self._continue(text)
        elif self._fact(text):
            if self._open is opened:
                self._close_open()
        elif opened and (opened[0] != COMMAND or self._columns >= MIN_COLUMNS):
            self._continue(text)
        else:
            self._close_open()
            self._unknown(text)

    def _continue(self, text: str) -> None:
        self._open.append(text)
        self._columns = len(text)
        if len(self._open) > MAX_WRAPPED or sum(map(len, self._open)) > MAX_WRAPPED_CHARACTERS:
            self._close_open()

    def _said(self, said: str, severity: str, library: bool) -> None:
        """Take what stands behind a prefix."""
        if severity in "WEF":
            if GRAPH_LOST.search(said):
                self._run["graph"] = "ignored"
            self._keep("warnings" if severity == "W" else "errors", said)
        elif severity == "V":
            if library:
                self._fact(said)
        elif not self._fact(said) and said.strip() and not library:
            self._unknown(said)

    def _banner_line(self, match: re.Match[str]) -> None:
        word, number, build, command = match.groups()
        self.known = True
        if number:
            self._banner = (number, build)
        if word == "RUNNING":
            self._begun = True
        elif word in ("PASSED", "FAILED", "WAIVED"):
            self._outcome = {"PASSED": "passed", "FAILED": "failed", "WAIVED": "waived"}[word]  # type: ignore[assignment]
        if command and (self._command is None or word == "RUNNING"):
            self._command = None
            self._open = [COMMAND, command]
            self._columns = len(match[0])
        self._section = None

    # --- facts --------------------------------------------------------------------------------------------

    def _fact(self, text: str) -> bool:
        """Take a line without its prefix; return whether its form is known."""
        bare = text.strip()
        if heading := forms.HEADING.fullmatch(bare):
            return self._heading(heading[1])
        if forms.STANDIN_MARK in bare:
            self._standin = True
            return True
        if self._section == "Profile" and self._profile is not None and self._profile.row(text):
            return True
        if not bare:
            return True
        label, colon, value = bare.partition(":")
        value = value.strip()
        if colon:
            if self._figures(label, value):
                return True
            if self._labelled(label, value, bare):
                return True
        return self._sentence(bare) or self._of_section(label, colon, value, bare)

    def _heading(self, title: str) -> bool:
        self._close_open()
        self._section = title
        if title == "Performance summary":
            self._has_summary = True
        elif match := forms.PROFILE.fullmatch(title):
            self._section = "Profile"
            self._profile = words.Table(int(match[1]))
        elif title not in forms.GROUPS and title not in (
            "Device Information",
            "Trace details",
            "Explanations of the performance metrics",
            "Options",
        ):
            return False
        self.known = True
        return True

    def _figures(self, label: str, value: str) -> bool:
        """Take a line of the performance summary; explanations begin with the same words."""
        if label in forms.METRICS:
            if not value.startswith("min"):
                return self._section == "Explanations of the performance metrics"
            self._close_open()
            self._has_summary = self.known = True
            self._open = [forms.METRICS[label], value]
            return True
        if label in forms.TOTALS:
            field, unit = forms.TOTALS[label]
            match = forms.VALUE.fullmatch(value)
            if not match:
                if value and value[0].isalpha():
                    return self._section == "Explanations of the performance metrics"
                self._problem(f"summary.{field}", f"printed as '{value[:40]}', without its unit")
                return True
            self._has_summary = self.known = True
            self._summary[field] = self._number(match[1], f"summary.{field}") if match[2] == unit else None
            return True
        return False

    def _labelled(self, label: str, value: str, bare: str) -> bool:
        if label in forms.DEVICE:
            self.known = True
            self._application_clocks |= label.startswith("Application")
            self._device.setdefault(forms.DEVICE[label][0], value.removesuffix(forms.DEVICE[label][1]))
        elif label == "Memory Bus Width" and (match := forms.BUS.fullmatch(value)):
            self._device["bus_width_bits"], self._device["ecc"] = match.groups()
        elif label.startswith("Device ") and (match := forms.AVAILABLE.fullmatch(bare)):
            self._available.append(match[2])
        elif label == "TensorRT version":
            self.known = True
            self._version_line = value.split()[0] if value else None
        elif label in forms.ONNX:
            self._onnx.setdefault(label, value)
        elif bare in ("Output Tensors:", "Input Tensors:"):
            self._section = "Tensors"
        elif label in ("Layer Information", "Engine Layer Information") or (
            label in ("Layers", "Bindings") and self._section in ("Layer Information", "Layers")
        ):
            self._section = label
        else:
            return False
        return True

    def _sentence(self, bare: str) -> bool:
        """Take a line that is told by its first words."""
        for words_, field, unit in forms.BUILD:
            if bare.startswith(words_):
                text = bare[len(words_) :].removesuffix(unit)
                number = self._number(text, f"build.{field}")
                # The size is told exactly when the engine is made, and in whole MiB when it is loaded.
                if number is not None and not (field == "engine_mib" and field in self._build):
                    self._build[field] = int(number) if field.endswith("_bytes") else number
                return True
        if match := forms.WARM_UP.match(bare):
            self._run["warm_up_queries"] = int(match[1])
            self._run_number("warm_up_ms", match[2])
        elif match := forms.TRACE.match(bare):
            self._run["queries"] = int(match[1])
            self._run_number("seconds", match[2])
        elif match := forms.CREATED.match(bare) or forms.BINDING.match(bare):
            dims = tuple(int(size[:9]) for size in match[3].split("x") if size)
            dtype = match[4] if match.re is forms.BINDING else None
            if len(self._bindings) < MAX_OPTIONS and self._fits(bare):
                kind: Literal["input", "output"] = "input" if match[1].lower() == "input" else "output"
                self._bindings.append(Binding(kind, match[2], dims, dtype))
        elif layer := words.of_build(bare):
            if self._add("build", layer, bare) and layer.tactic:
                self._tactics[layer.name] = layer.tactic
        elif layer := words.of_text(bare):
            self._add("text", layer, bare)
        elif bare.startswith("Successfully captured CUDA graph"):
            self._run.setdefault("graph", "captured")
        elif bare.startswith("[MemUsageStats]") and (match := forms.PEAK.search(bare)):
            self._build["peak_gpu_mib"] = int(match[1])
        elif bare.startswith(forms.HIDDEN):
            self._hidden = True
        elif bare.startswith(forms.SKIPPED):
            self._skipped = True
        elif not bare.startswith((*forms.CHATTER, "To show e2e network timing")):
            return self.tuning.said(bare)
        return True

    def _of_section(self, label: str, colon: str, value: str, bare: str) -> bool:
        """Take a line whose form follows from the heading above it."""
        section = self._section
        if bare.startswith("--") or section == "Help":
            # trtexec's help has headings like those of the echo, and option names below them.
            self._section = "Help"
            return True
        if section in forms.GROUPS or (colon and label in forms.LABELS):
            name, arrow, file = bare.partition("<-")
            if len(self._options) >= MAX_OPTIONS or not (colon or arrow) or not self._fits(bare):
                return False
            group = forms.GROUPS.get(section or "")
            self._options.append(Option(group, label, value) if not arrow else Option(group, name, file))
            self.known = True
            return True
        if section == "Layers":
            self._add("names", Layer(bare, None, is_reformat=words.is_reformat(bare, None)), bare)
            return True
        return section in ("Bindings", "Tensors")

    def _add(self, form: str, layer: Layer, text: str) -> bool:
        self._counts["layers"] += 1
        known = self._layers.setdefault(form, [])
        kept = len(known) < MAX_LAYERS and self._fits(text)
        if kept:
            known.append(layer)
        return kept

    def _fits(self, text: str) -> bool:
        """Return whether what a line tells may be kept, so that memory stays bounded."""
        self._left -= len(text)
        return self._left > 0

    # --- numbers and words --------------------------------------------------------------------------------

    def _number(self, text: str, what: str) -> float | None:
        """Return a printed number; what is none, or not finite, is a problem and `None`."""
        try:
            value = float(text)
        except ValueError:
            self._problem(what, f"printed as '{text[:40]}'")
            return None
        if not abs(value) < MAX_NUMBER:
            self._problem(what, f"printed as {text[:40]}")
            return None
        return value

    def _problem(self, what: str, reason: str) -> None:
        if len(self._problems) < MAX_KEPT:
            self._problems.append(Missing(what, reason))

    def _run_number(self, field: str, text: str) -> None:
        if (value := self._number(text, f"run.{field}")) is not None:
            self._run[field] = value

    def _close_open(self) -> None:
        """Take the line that was open for continuation, joined as it tells most."""
        if not self._open:
            return
        (kind, first, *more), self._open = self._open, []
        if kind == COMMAND:
            # Wrapped at the last column, whatever stands there; only a new option is surely a new word.
            new = (" " if part.startswith((" ", "--")) else "" for part in more)
            self._command = first + "".join(
                f"{gap}{part.strip()}" for gap, part in zip(new, more, strict=True)
            )
            return
        # Wrapped within a word or between two; and what follows the last figure is no part of it.
        tries = [
            (forms.PAIR.findall(glue.join([first, *more[:taken]])), taken)
            for taken in range(len(more) + 1)
            for glue in ("", " ")
        ]
        pairs, taken = max(tries, key=lambda each: sum(bool(unit) for *_, unit in each[0]))
        for text in more[taken:]:
            self._unknown(text)
        found: dict[str, float] = {}
        percentiles: dict[str, float] = {}
        for name, percentile, text, unit in pairs:
            what = f"summary.{kind}.{name if not percentile else f'p{percentile}'}_ms"
            if not unit:
                self._problem(what, f"printed as '{text[:40]}', without its unit")
            elif (value := self._number(text, what)) is not None:
                (percentiles if percentile else found)[percentile or name] = value
        self._summary[kind] = Statistics(
            found.get("min"), found.get("max"), found.get("mean"), found.get("median"), percentiles
        )

    def _keep(self, where: str, said: str) -> None:
        """Keep a warning or error; an indented line belongs to the one before it."""
        kept = self._kept[where]
        if not said.strip():
            return
        if said.startswith("  ") and kept and self._counts[where] == len(kept):
            kept[-1] = f"{kept[-1]} {said.strip()}"[: 2 * MAX_KEPT_CHARACTERS]
            return
        self._counts[where] += 1
        if len(kept) < MAX_KEPT:
            kept.append(said.strip()[:MAX_KEPT_CHARACTERS])

    def _unknown(self, text: str) -> None:
        self._counts["unknown"] += 1
        if len(self._kept["unknown"]) < MAX_KEPT:
            self._kept["unknown"].append(text.strip()[:MAX_KEPT_CHARACTERS])

    # --- the result ---------------------------------------------------------------------------------------

    def end(self, tail: list[bytes]) -> TrtexecLog:
        """Return the log; `tail` is the last lines of the file, where this process is the last."""
        self._close_open()
        outcome = self._outcome or ("unfinished" if self._begun else None)
        ending: list[str] = []
        if outcome == "unfinished":
            shown = [_bare(line[:MAX_KEPT_CHARACTERS]) for line in tail]
            ending = [line for line in shown if line.strip("`")][-3:]
        layers = self._layers.get("text") or self._layers.get("build") or self._layers.get("names")
        profile = self._profile.profile() if self._profile else None
        tuning = self.tuning.found(tuple(self._layers.get("build", ())), self._tactics)
        found = tuple(layers) if layers else None
        if found and profile:
            found = words.timed(found, profile)
        log = TrtexecLog(
            name=self._name,
            standin=self._standin,
            version=self._version(),
            command=tuple(self._command.split()) if self._command else None,
            outcome=outcome,
            first_local=_iso(self._stamps[0]) if self._stamps else None,
            last_local=_iso(self._stamps[-1]) if self._stamps else None,
            device=self._found_device(),
            options=tuple(self._options),
            onnx=self._onnx,
            bindings=tuple(self._bindings),
            build=msgspec.convert(self._build, BuildSeen) if self._build else None,
            run=msgspec.convert(self._run, RunSeen) if self._run else None,
            summary=SummarySeen(**self._summary) if self._has_summary else None,  # type: ignore[arg-type]
            profile=profile,
            layers=found,
            tuning=tuning,
            warnings=tuple(self._kept["warnings"]),
            errors=tuple(self._kept["errors"]),
            ending=tuple(ending),
            lines=self.lines,
            unknown=tuple(self._kept["unknown"]),
            unknown_lines=self._counts["unknown"],
            not_kept=self._not_kept(),
            missing=(),
        )
        return msgspec.structs.replace(log, missing=(*self._absent(log), *self._problems))

    def _not_kept(self) -> dict[str, int]:
        beyond = {
            "warnings": self._counts["warnings"] - len(self._kept["warnings"]),
            "errors": self._counts["errors"] - len(self._kept["errors"]),
            "layers": self._counts["layers"] - sum(map(len, self._layers.values())),
            "tuning": self.tuning.not_kept,
        }
        return {name: count for name, count in beyond.items() if count}

    def _version(self) -> Version | None:
        number, build = self._banner
        if number is None:
            return Version(self._version_line, None, None) if self._version_line else None
        return Version(self._version_line or version(int(number)), int(number), build)

    def _found_device(self) -> Device | None:
        if not self._device and not self._available:
            return None
        whole = {"index", "sm_count", "memory_mib", "shared_memory_per_sm_kib", "bus_width_bits"}
        values: dict[str, object] = {}
        for field, text in self._device.items():
            if field in whole or field.endswith("_ghz"):
                number = self._number(text, f"device.{field}")
                values[field] = number if number is None or field not in whole else int(number)
            else:
                values[field] = text == "enabled" if field == "ecc" else text
        form: Literal["until_8.5", "since_8.6", "since_10"] | None = None
        if self._available or "uuid" in self._device:
            form = "since_10"
        elif "compute_clock_ghz" in self._device:
            form = "since_8.6" if self._application_clocks else "until_8.5"
        return Device(form, available=tuple(self._available), **values)  # type: ignore[arg-type]

    def _absent(self, log: TrtexecLog) -> Iterator[Missing]:
        """Give what the log doesn't tell, each with the reason as far as it is known."""
        if log.version is None:
            yield Missing("version", "neither banner nor version line is in the log")
        if log.command is None:
            yield Missing("command", "no banner is in the log")
        if log.outcome is None:
            yield Missing("outcome", "neither begin nor end is in the log")
        if log.device is None:
            yield Missing("device", "no device block is in the log")
        groups = {option.group for option in log.options}
        for group in ("build", "inference"):
            if group not in groups:
                loads = group == "build" and any(
                    each.startswith("--loadEngine") for each in log.command or ()
                )
                why = "not echoed where an engine is loaded" if loads and groups else "not in the log"
                yield Missing(f"options.{group}", why)
        if log.summary is None:
            yield Missing("summary", self._why_no_summary(log))
        elif log.summary.gpu_compute is None:
            yield Missing("summary.gpu_compute", "the line is not in the log")
        if log.profile is None:
            asked = log.enabled("Profile") or "--dumpProfile" in (log.command or ())
            yield Missing("profile", "asked for, but not in the log" if asked else "no profile was printed")
        if log.layers is None:
            yield Missing("layers", "the log lists no layers; --dumpLayerInfo or a verbose build prints them")

    def _why_no_summary(self, log: TrtexecLog) -> str:
        if self._hidden:
            return "trtexec prints none where the same run is profiled (no --separateProfileRun)"
        if self._skipped:
            return "inference was skipped"
        if log.outcome == "failed" or log.errors:
            return "trtexec failed"
        if log.outcome == "unfinished":
            return "the log ends before it"
        return "not in the log"


def _plain(raw: bytes) -> str:
    """Return a line without colours and without the marks of a quotation."""
    text = raw[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
    if "\x1b" in text:
        text = forms.COLOUR.sub("", text)
    quote = forms.QUOTE.match(text)
    return text[quote.end() :] if quote else text


def _bare(line: bytes) -> str:
    """Return a line without its prefix."""
    text = _plain(line).strip()
    return text[prefix.end() :].strip() if (prefix := forms.PREFIX.match(text)) else text


def _iso(stamp: str) -> str:
    """Return `10/21/2025-16:07:42` as 2025-10-21T16:07:42."""
    day, _, time = stamp.partition("-")
    month, date, year = day.split("/")
    return f"{year}-{month}-{date}T{time}"
