"""Cases: versioned folders with a model description, semantic settings and the claims they examine.

A case is looked up in the folder given, then beside the package (a checkout), then in the package
(an installed wheel). Its digest covers the *resolved experiment*: model and settings after the
variant is applied, and the bytes of the models built from them; prose and claims are outside it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from repro import adopt, models
from repro.errors import ReproError, UsageError, unknown
from repro.schema import (
    AnyClaim,
    CaseRef,
    ConvStack,
    ModelSpec,
    OnnxFile,
    Reference,
    Scalar,
    Settings,
    Share,
    Tolerance,
)

NOT_TO_CHANGE = frozenset({"duration_s", "percentiles"})
"""Settings that the protocol has the last word on, or that change no measurement."""
BASE = "base"
"""What stands for the case itself where variants are named."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named change to a case, and the question that it answers."""

    question: str
    model: dict[str, object] = {}
    settings: dict[str, object] = {}


class CaseFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`case.toml`, decoded."""

    id: str
    version: int
    title: str
    question: str
    source: str
    share: Share
    model: dict[str, object]
    settings: dict[str, object]
    on: dict[str, dict[str, Scalar]] = {}
    tolerance: dict[str, Tolerance]
    references: tuple[Reference, ...] = ()
    claims: tuple[AnyClaim, ...] = ()
    variants: dict[str, Variant] = {}
    sets: dict[str, tuple[str, ...]] = {}
    """Names for several variants together, as `--variants` takes them."""


class Case(CaseFile, frozen=True, kw_only=True):
    """A case and the folder that it was read from."""

    folder: Path


class Experiment(msgspec.Struct, frozen=True):
    """A case with a variant applied: what runs, and what the digest is over."""

    case: Case
    variant: str | None
    model: ModelSpec
    settings: Settings
    onnx: dict[str, bytes]
    """The model files by precision."""

    @property
    def model_digests(self) -> dict[str, str]:
        """sha256 of each model file, by precision."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.onnx.items()}

    @property
    def ref(self) -> CaseRef:
        """The experiment's identity."""
        resolved = {
            "model": msgspec.to_builtins(self.model),
            "settings": msgspec.to_builtins(self.settings),
            "models": self.model_digests,
        }
        canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":")).encode()
        return CaseRef(
            id=self.case.id,
            version=self.case.version,
            variant=self.variant,
            digest=hashlib.sha256(canonical).hexdigest(),
            share=self.case.share,
        )

    def changes(self, setting: str) -> bool:
        """Tell whether the variant gives a setting another value than the case has."""
        base = msgspec.convert({"optimization_level": None, **self.case.settings}, Settings)
        return bool(getattr(base, setting) != getattr(self.settings, setting))

    @property
    def label(self) -> str:
        """`id:variant`, as a user writes it."""
        return f"{self.case.id}:{self.variant}" if self.variant else self.case.id


def folders(extra: Path | None = None) -> list[Path]:
    """Return the folders that hold cases, in the order of look-up; raise `UsageError` without `extra`."""
    if extra is not None and not extra.is_dir():
        # Passing over it would run the shipped case of the same name.
        raise UsageError(f"there is no folder {extra}", "name the folder that holds the cases' folders")
    package = Path(__file__).parent
    candidates = [extra, package.parent / "cases", package / "data" / "cases"]
    return [folder for folder in candidates if folder is not None and folder.is_dir()]


def available(extra: Path | None = None) -> dict[str, Path]:
    """Return the case files by id; the first folder that has an id wins."""
    found: dict[str, Path] = {}
    for folder in folders(extra):
        for path in sorted(folder.glob("*/case.toml")):
            found.setdefault(path.parent.name, path)
    return found


def load(case_id: str, extra: Path | None = None) -> Case:
    """Read a case; raise `UsageError` for an unknown id or a file that isn't a case."""
    known = available(extra)
    if case_id not in known:
        raise unknown("case", case_id, known, "(`repro cases` lists them)")
    path = known[case_id]
    try:
        read = msgspec.toml.decode(path.read_bytes(), type=CaseFile)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{path} is not a case ({error})", "see docs/writing-cases.md") from None
    except OSError as error:
        raise ReproError(f"can't read {path} ({error.strerror})") from None
    case = Case(folder=path.parent, **msgspec.structs.asdict(read))
    for name in (case.id, *case.variants):
        if not NAME.fullmatch(name):
            raise UsageError(f"{path}: '{name}' is no name", f"names match {NAME.pattern}")
    for word, meaning in ((BASE, "the case itself"), (ALL, "all of them")):
        if word in case.variants:
            raise UsageError(f"{path}: no variant can be called '{word}'", f"it means {meaning}")
    for name, members in case.sets.items():
        for member in members:
            if member not in case.variants:
                raise UsageError(f"{path}: sets.{name} names '{member}', which is no variant")
    if case.id != case_id:
        raise UsageError(f"{path} calls itself '{case.id}'", "the folder's name is the case's id")
    return case


ALL = "all"
"""What stands for the case itself and every variant."""


def select(case: Case, text: str) -> tuple[str | None, ...]:
    """Return the variants that `--variants` names: a set of the case's, `all`, or names with commas."""
    if text == ALL:
        return (None, *case.variants)
    if text in case.sets:
        return case.sets[text]
    return parse(f"{case.id}:{text}")[1]


def resolve(
    case: Case, variant: str | None, changes: Mapping[str, str] | Settings | None = None
) -> Experiment:
    """Apply `variant` (`None`: the case itself) and build the models.

    `changes` are settings on top, as words of a user, or all settings as a record has them.
    """
    change = Variant(case.question)
    if variant is not None:
        if variant not in case.variants:
            raise unknown(f"variant of {case.id}", variant, [*case.variants, *case.sets])
        change = case.variants[variant]
    part = "model"
    try:
        model: ModelSpec = msgspec.convert({**case.model, **change.model}, ModelSpec)
        part = "settings"
        settings = msgspec.convert({"optimization_level": None, **case.settings, **change.settings}, Settings)
        part = "values"
        check_values(model, settings)
    except (msgspec.ValidationError, ValueError) as error:
        label = f"{case.id}:{variant}" if variant else case.id
        # The error's path begins at `$`, which is a part of the file.
        why = str(error) if part == "values" else _placed(str(error), part)
        raise UsageError(
            f"case {label} is not complete ({why})", f"mend {case.folder / 'case.toml'}"
        ) from None
    if changes is not None:
        settings = _changed(settings, changes)
    if isinstance(model, OnnxFile):
        onnx: dict[str, bytes] = {model.precision: _own_model(case, model)}
    elif case.share == "full":
        onnx = {precision: models.build(model, precision) for precision in models.file_precisions(model)}
    else:
        raise UsageError(
            f"case {case.id} has nothing private: the kit builds its model", 'say share = "full"'
        )
    return Experiment(case, variant, model, settings, onnx)


def _own_model(case: Case, spec: OnnxFile) -> bytes:
    path = case.folder / spec.file
    if case.share == "full":
        raise UsageError(
            f"case {case.id} has a model of its own, so share is 'none' or 'model'", "mend its case.toml"
        )
    try:
        if path.parent != case.folder or path.is_symlink():
            raise UsageError(f"case {case.id} names the model '{spec.file}', which is not beside it")
        data = path.read_bytes()
        adopt.check(data, spec, private=case.share == "none")
    except OSError as error:
        raise ReproError(f"can't read {path} ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"case {case.id}: {error}", "make it anew by `repro case new`") from None
    return data


def _placed(message: str, part: str) -> str:
    """Name the key path of a message as it stands in the file."""
    what, _, place = message.partition(" - at `$")
    return f"{what} - at `{part}{place.rstrip('`')}`"


_NEW = """# Whatever is written here but the model is in every bundle of the case.
id = "{id}"
version = 1
title = "A network of its owner's"
question = "How fast is it here?"
source = "its owner"
share = "{share}"

# Made by `repro case new`; to change it, make the case anew.
[model]
network = "onnx"
file = "{spec.file}"
precision = "{spec.precision}"
input = {input}
output = {output}
layers = {spec.layers}

[settings]
precision = "{precision}"
typing = "weak"
io_layout = "chw"
sparsity = false
cuda_graph = false
spin_wait = false
transfers = true
l2 = "warm"
warm_up_ms = 200
duration_s = 3.0
percentiles = [90, 95, 99]

# As in the kit's own cases: a few units of rounding a layer, growing as independent errors do.
[tolerance]
fp32 = {{ error = 1e-5, grows = "sqrt_layers" }}
fp16 = {{ error = 2e-3, grows = "sqrt_layers" }}
tf32 = {{ error = 2e-3, grows = "sqrt_layers" }}
int8 = {{ error = 2e-3, grows = "sqrt_layers" }}

[variants.hwc8]
question = "What does the layout of input and output cost?"
settings = {{ io_layout = "hwc8" }}

[variants.graph]
question = "Does launching the kernels one by one cost anything?"
settings = {{ cuda_graph = true }}
"""


def new(case_id: str, made: adopt.Adopted, share: str, parent: Path) -> Path:
    """Write the folder of a new case of somebody's own network; return it."""
    if not NAME.fullmatch(case_id):
        raise UsageError(f"'{case_id}' is no name", f"names match {NAME.pattern}")
    folder = parent / case_id
    if folder.exists() or case_id in available():
        raise UsageError(f"there is a case {case_id} already", "choose another id")
    text = _NEW.format(
        id=case_id,
        share=share,
        spec=made.spec,
        input=list(made.spec.input),
        output=list(made.spec.output),
        precision="int8" if made.quantised else made.spec.precision,
    )
    part = parent / f".{case_id}.part"
    try:
        part.mkdir(parents=True)
        (part / made.spec.file).write_bytes(made.model)
        (part / "case.toml").write_text(text, encoding="utf-8")
        part.rename(folder)
    except OSError as error:
        raise ReproError(f"can't write {folder} ({error.strerror})", "name another --cases") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def lock(case: Case, path: Path) -> tuple[str, ...]:
    """Publish a case's experiments in the file `path`; return the names that are new there.

    Raise `UsageError` where a published experiment is another one now: bundles out in the world name it.
    """
    try:
        locked: dict[str, str] = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        locked = {}
    except (OSError, msgspec.DecodeError) as error:
        raise ReproError(f"can't read {path} ({error})") from None
    new: dict[str, str] = {}
    for variant in (None, *case.variants):
        name = f"{case.id}@{case.version}" + (f":{variant}" if variant else "")
        digest = resolve(case, variant).ref.digest
        if locked.get(name, digest) != digest:
            raise UsageError(f"{name} is published as another experiment", "give the case a new version")
        if name not in locked:
            new[name] = digest
    if new:
        text = json.dumps(locked | new, indent=2, sort_keys=True) + "\n"
        part = path.with_name(f"{path.name}.part")
        part.write_text(text)
        part.replace(path)
    return tuple(new)


def module(ref: CaseRef, settings: Settings) -> Path:
    """Return the torch module of a case that the kit ships; raise `UsageError` for any other.

    It is about to be executed, so nothing but the shipped case with this very digest will do, whatever
    its `settings`: those are data.
    """
    known = available()
    path = known[ref.id].parent / "model.py" if ref.id in known else None
    if path is None or not path.is_file() or resolve(load(ref.id), ref.variant, settings).ref != ref:
        raise UsageError(
            f"case {ref.id} is not one that this kit ships with a torch module", "use --backend onnxruntime"
        )
    return path


def _changed(settings: Settings, changes: Mapping[str, str] | Settings) -> Settings:
    wanted = {} if isinstance(changes, Settings) else changes
    known = {field.name for field in msgspec.structs.fields(Settings)} - NOT_TO_CHANGE
    for name in wanted:
        if name not in known:
            raise unknown("setting", name, [*known, "threads"])
    try:
        # Not strict: words such as `true` and `4` become what the setting holds.
        base = msgspec.to_builtins(changes if isinstance(changes, Settings) else settings)
        changed = msgspec.convert({**base, **wanted}, Settings, strict=False)
        _check_settings(changed)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"a setting can't have this value ({error})", "see docs/writing-cases.md") from None
    return changed


def check_values(model: ModelSpec, settings: Settings) -> None:
    """Raise `ValueError` for a value of the right type that means nothing."""
    _check_model(model)
    _check_settings(settings)


def _check_model(model: ModelSpec) -> None:
    """Raise `ValueError` for a value of the right type that describes nothing."""
    for name, value in msgspec.structs.asdict(model).items():
        if name in ("input", "output") and min(value, default=0) < 1:
            raise ValueError(f"`{name}` must be a shape, of numbers that are at least 1")
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise ValueError(f"`{name}` must be at least 1")
    if isinstance(model, ConvStack):
        if len(model.channels) < 2:
            raise ValueError("`channels` needs at least two numbers, one more than there are layers")
        if min(model.channels) < 1:
            raise ValueError("`channels` must be at least 1 each")
        if model.kernel % 2 == 0:
            raise ValueError("`kernel` must be odd, so that the padding keeps the size of the map")
        if model.weights == "2:4" and any(count % 4 for count in model.channels[:-1]):
            raise ValueError("with `weights` of 2:4, all but the last of `channels` must be multiples of 4")


def _check_settings(settings: Settings) -> None:
    """Raise `ValueError` for a setting of the right type that means nothing."""
    if settings.warm_up_ms < 0:
        raise ValueError("`warm_up_ms` must be at least 0")
    if not 0 < settings.duration_s < math.inf:
        raise ValueError("`duration_s` must be above 0")
    if not all(0 < percentile < 100 for percentile in settings.percentiles):
        raise ValueError("`percentiles` must lie between 0 and 100")


def parse(text: str) -> tuple[str, tuple[str | None, ...]]:
    """Split `CASE[:VARIANT[,VARIANT…]]` into the case and its variants; `base` is the case itself."""
    case_id, _, rest = text.partition(":")
    names = tuple(None if name == BASE else name for name in rest.split(",")) if rest else (None,)
    if len(set(names)) != len(names):
        raise UsageError(f"'{text}' names a variant twice", "name each one once")
    return case_id, names
