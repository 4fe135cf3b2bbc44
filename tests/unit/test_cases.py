"""Cases are found in order, read strictly, and identified by what runs, not by how it is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import cases
from repro.cases import Case
from repro.errors import ExitCode, ReproError, UsageError
from repro.schema import ConvStack
from tests.conftest import ROOT

TEXT = """
id = "made"
version = 3
title = "A made-up case"
question = "Is it?"
source = "nowhere"
share = "full"

[model]
network = "conv_stack"
seed = "made"
batch = 1
height = 12
width = 10
channels = [4, 4, 4]
kernel = 3
bias = true

[settings]
precision = "fp32"
typing = "weak"
io_layout = "chw"
sparsity = false
cuda_graph = false
spin_wait = false
transfers = true
l2 = "warm"
warm_up_ms = 10
duration_s = 0.5
percentiles = [90, 99]

[on.cpu]
precision = "fp32"

[tolerance]
fp32 = { error = 1e-5 }

[variants.wide]
question = "And when it is wider?"
model = { width = 20 }

[variants.half]
question = "And in half precision?"
settings = { precision = "fp16", optimization_level = 2 }
model = { channels = [4, 8] }
"""


def put(folder: Path, text: str = TEXT, name: str = "made") -> Path:
    """Write a case file; return the folder of cases."""
    home = folder / "cases"
    (home / name).mkdir(parents=True, exist_ok=True)
    (home / name / "case.toml").write_text(text)
    return home


def made(folder: Path, old: str = "", new: str = "") -> Case:
    """Load the made-up case with `old` replaced by `new`."""
    assert old in TEXT
    return cases.load("made", put(folder, TEXT.replace(old, new, 1) if old else TEXT))


def one_line(error: UsageError) -> str:
    text = str(error)
    assert "\n" not in text
    assert error.code is ExitCode.USAGE
    return text


# --- look-up ------------------------------------------------------------------------------------


def test_the_shipped_case_is_found_and_read() -> None:
    case = cases.load("conv16")
    assert (case.id, case.version, case.share) == ("conv16", 1, "full")
    assert "conv16" in cases.available()


def test_the_given_folder_comes_before_the_shipped_one(tmp_path: Path) -> None:
    home = put(tmp_path, TEXT.replace('id = "made"', 'id = "conv16"'), "conv16")
    assert cases.load("conv16", home).title == "A made-up case"
    assert cases.available(home)["conv16"] == home / "conv16" / "case.toml"


def test_shipped_cases_stay_reachable_beside_a_given_folder(tmp_path: Path) -> None:
    home = put(tmp_path)
    assert {"made", "conv16"} <= set(cases.available(home))
    assert cases.load("conv16", home).title == cases.load("conv16").title


def test_a_folder_that_is_not_there_is_told_and_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        cases.load("conv16", tmp_path / "nowhere")
    assert f"there is no folder {tmp_path / 'nowhere'}" in one_line(caught.value)


def test_a_folder_without_a_case_file_is_no_case(tmp_path: Path) -> None:
    home = put(tmp_path)
    (home / "empty").mkdir()
    (home / "notes.txt").write_text("hello")
    assert set(cases.available(home)) - set(cases.available()) == {"made"}


def test_an_unknown_case_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        cases.load("conv61")
    assert one_line(caught.value).startswith("unknown case 'conv61': did you mean conv16?")


@pytest.mark.parametrize("name", ["", ".", "../conv16", "conv16/", "CONV16"])
def test_a_name_is_not_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="unknown case"):
        cases.load(name)


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("id = ", id="no value"),
        pytest.param("= 3", id="no key"),
        pytest.param("[model\n", id="open bracket"),
        pytest.param("id = 'a'\nid = 'b'", id="twice"),
        pytest.param("", id="empty"),
        pytest.param(TEXT + "\nsurprise = 1", id="unknown key in a variant"),
        pytest.param("surprise = 1\n" + TEXT, id="unknown key"),
        pytest.param(TEXT.replace('title = "A made-up case"', ""), id="no title"),
        pytest.param(TEXT.replace("version = 3", 'version = "three"'), id="a text for a number"),
        pytest.param(TEXT.replace('share = "full"', 'share = "some"'), id="unknown share"),
        pytest.param(TEXT.replace("error = 1e-5", "errors = 1e-5"), id="unknown key of a tolerance"),
        pytest.param(TEXT + '\n[[claims]]\nkind = "surprise"', id="unknown kind of claim"),
        pytest.param(TEXT + '\n[[claims]]\nkind = "absolute"\nrecord = "a"', id="incomplete claim"),
        pytest.param(
            TEXT + f'\n[[claims]]\nkind = "absolute"\nrecord = "a"\nms = 1\nnote = "{"x" * 501}"', id="note"
        ),
        pytest.param(TEXT + '\n[[references]]\nid = "a"', id="incomplete reference"),
    ],
)
def test_a_file_that_is_no_case_is_a_usage_error_of_one_line(tmp_path: Path, text: str) -> None:
    home = put(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        cases.load("made", home)
    assert one_line(caught.value).startswith(f"{home / 'made' / 'case.toml'} is not a case (")


def test_a_file_that_is_no_text_is_a_usage_error(tmp_path: Path) -> None:
    home = put(tmp_path)
    (home / "made" / "case.toml").write_bytes(b'id = "\xff\xfe"')
    with pytest.raises(UsageError, match="is not a case"):
        cases.load("made", home)


@pytest.mark.parametrize("name", ["Wide", "a b", "a:b", "-a", "x" * 33, "ä"])
def test_a_variant_needs_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        made(tmp_path, "[variants.wide]", f'[variants."{name}"]')


def test_no_variant_can_take_the_name_of_the_case_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no variant can be called 'base'"):
        made(tmp_path, "[variants.wide]", "[variants.base]")


def test_a_case_is_called_what_its_folder_is_called(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="calls itself 'other'"):
        made(tmp_path, 'id = "made"', 'id = "other"')


# --- variants -----------------------------------------------------------------------------------


def test_without_a_variant_the_case_stands_as_written(tmp_path: Path) -> None:
    experiment = cases.resolve(made(tmp_path), None)
    assert isinstance(experiment.model, ConvStack)
    assert (experiment.model.width, experiment.model.channels) == (10, (4, 4, 4))
    assert (experiment.settings.precision, experiment.settings.optimization_level) == ("fp32", None)
    assert experiment.label == "made"


def test_a_variant_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    case = made(tmp_path)
    plain, wide, half = (cases.resolve(case, name) for name in (None, "wide", "half"))
    assert wide.model == msgspec.structs.replace(plain.model, width=20)
    assert wide.settings == plain.settings
    assert half.model == msgspec.structs.replace(plain.model, channels=(4, 8))
    assert half.settings == msgspec.structs.replace(plain.settings, precision="fp16", optimization_level=2)
    assert (wide.label, half.label) == ("made:wide", "made:half")
    assert (half.ref.id, half.ref.version, half.ref.variant) == ("made", 3, "half")


def test_an_unknown_variant_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        cases.resolve(made(tmp_path), "wied")
    assert one_line(caught.value) == "unknown variant of made 'wied': did you mean wide?"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("channels = [4, 4, 4]", "channels = [4]", "at least two"),
        ("channels = [4, 4, 4]", "channels = []", "at least two"),
        ("channels = [4, 4, 4]", "channels = [4, 0, 4]", "`channels` must be at least 1"),
        ("batch = 1", "batch = 0", "`batch` must be at least 1"),
        ("height = 12", "height = -12", "`height` must be at least 1"),
        ("width = 10", "width = 0", "`width` must be at least 1"),
        ("kernel = 3", "kernel = -3", "`kernel` must be at least 1"),
        ("kernel = 3", "kernel = 4", "`kernel` must be odd"),
        ("kernel = 3", 'kernel = "3"', "Expected `int`"),
        ("kernel = 3", "kernel = 3\nstride = 2", "unknown field `stride`"),
        ("kernel = 3", "", "missing required field `kernel`"),
        ('network = "conv_stack"', 'network = "unet"', "network"),
        ('precision = "fp32"', 'precision = "fp64"', "precision"),
        ("warm_up_ms = 10", "warm_up_ms = -1", "`warm_up_ms` must be at least 0"),
        ("duration_s = 0.5", "duration_s = 0", "`duration_s` must be above 0"),
        ("duration_s = 0.5", "duration_s = nan", "`duration_s` must be above 0"),
        ("duration_s = 0.5", "duration_s = inf", "`duration_s` must be above 0"),
        ("percentiles = [90, 99]", "percentiles = [90, 100]", "`percentiles` must lie"),
        ("percentiles = [90, 99]", "percentiles = [0]", "`percentiles` must lie"),
        ("spin_wait = false", "spin_wait = false\nflags = '--fp16'", "unknown field `flags`"),
    ],
)
def test_values_that_describe_nothing_are_usage_errors(tmp_path: Path, old: str, new: str, why: str) -> None:
    case = made(tmp_path, old, new)
    with pytest.raises(UsageError, match=re.escape(why)) as caught:
        cases.resolve(case, None)
    assert one_line(caught.value).startswith("case made is not complete (")


def test_a_variant_with_wrong_values_is_named(tmp_path: Path) -> None:
    case = made(tmp_path, "model = { width = 20 }", "model = { width = 0 }")
    cases.resolve(case, None)
    with pytest.raises(UsageError, match="case made:wide is not complete"):
        cases.resolve(case, "wide")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv16", ("conv16", (None,))),
        ("conv16:", ("conv16", (None,))),
        ("conv16:base", ("conv16", (None,))),
        ("conv16:wide", ("conv16", ("wide",))),
        ("conv16:base,wide,half", ("conv16", (None, "wide", "half"))),
        ("conv16:wide,", ("conv16", ("wide", ""))),
    ],
)
def test_what_is_asked_for_is_a_case_and_its_variants(
    text: str, expected: tuple[str, tuple[str | None, ...]]
) -> None:
    assert cases.parse(text) == expected


@pytest.mark.parametrize("text", ["a:b,b", "a:base,base", "a:b,c,b"])
def test_a_variant_is_named_once(text: str) -> None:
    with pytest.raises(UsageError, match="names a variant twice"):
        cases.parse(text)


# --- sets ---------------------------------------------------------------------------------------

SETS = '[sets]\ncore = ["wide"]\n"sweep:width" = ["wide", "half"]\n[variants.wide]'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("core", ("wide",)),
        ("sweep:width", ("wide", "half")),
        ("all", (None, "wide", "half")),
        ("half", ("half",)),
        ("base,half", (None, "half")),
    ],
)
def test_variants_are_named_by_set_or_one_by_one(
    tmp_path: Path, text: str, expected: tuple[str | None, ...]
) -> None:
    assert cases.select(made(tmp_path, "[variants.wide]", SETS), text) == expected


def test_a_set_of_no_case_is_told_with_the_nearest(tmp_path: Path) -> None:
    case = made(tmp_path, "[variants.wide]", SETS)
    (name,) = cases.select(case, "coer")
    with pytest.raises(UsageError, match="did you mean core"):
        cases.resolve(case, name)


def test_a_set_names_variants_of_its_case(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sets.core names 'other', which is no variant"):
        made(tmp_path, "[variants.wide]", SETS.replace('core = ["wide"]', 'core = ["other"]'))


def test_no_variant_can_take_the_name_of_them_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no variant can be called 'all'"):
        made(tmp_path, "[variants.wide]", "[variants.all]")


def test_the_shipped_case_has_the_sets_that_its_readers_ask_for() -> None:
    case = cases.load("conv16")
    assert case.sets["core"] == ("chw", "hwc8", "c64x4", "graph")
    assert len(case.sets["sweep:channels"]) == 10
    asked = """chw hwc8 chw16 chw32 fp32 tf32 int8 sparse dense24 c3 c8 c16 c24 c32 c48 c64 c96 c128 c256
        c16x16 c64x4 c16to32 k1 k5 graph nobias hd 4k"""
    assert set(asked.split()) <= set(case.variants)
    assert all(variant.question for variant in case.variants.values())
    assert cases.resolve(case, "sparse").model == cases.resolve(case, "dense24").model
    assert cases.resolve(case, "sparse").settings.sparsity
    for name in ("chw", "c16"):
        assert digest(case, name) == digest(case)


def test_sparse_weights_need_fours(tmp_path: Path) -> None:
    case = made(tmp_path, "bias = true", 'bias = true\nweights = "2:4"')
    assert cases.resolve(case, None).ref.digest != digest(made(tmp_path / "b"))
    odd = made(tmp_path / "c", "channels = [4, 4, 4]", 'channels = [6, 4, 4]\nweights = "2:4"')
    with pytest.raises(UsageError, match="multiples of 4"):
        cases.resolve(odd, None)


# --- publishing ---------------------------------------------------------------------------------


def test_a_version_is_published_once_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    case = made(tmp_path)
    assert cases.lock(case, path) == ("made@3", "made@3:wide", "made@3:half")
    published = path.read_text()
    assert cases.lock(case, path) == ()
    with pytest.raises(UsageError, match="made@3 is published as another experiment: give the case a new"):
        cases.lock(made(tmp_path, "height = 12", "height = 14"), path)
    assert path.read_text() == published
    new = made(tmp_path, "version = 3", "version = 4")
    assert cases.lock(new, path) == ("made@4", "made@4:wide", "made@4:half")
    assert json.loads(published).items() <= json.loads(path.read_text()).items()


def test_a_lock_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text("[]")
    with pytest.raises(ReproError, match="can't read"):
        cases.lock(made(tmp_path), tmp_path / "lock.json")


# --- digest -------------------------------------------------------------------------------------


def digest(case: Case, variant: str | None = None) -> str:
    return cases.resolve(case, variant).ref.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('title = "A made-up case"', 'title = "Another title"'),
        ('question = "Is it?"', 'question = "Is it not?"'),
        ('source = "nowhere"', 'source = "elsewhere"'),
        ("[variants.wide]", "[variants.broad]"),
        ('question = "And when it is wider?"', 'question = "?"'),
        ("error = 1e-5", "error = 1e-4"),
        ('[on.cpu]\nprecision = "fp32"', '[on.cpu]\nprecision = "fp16"'),
        (
            "[variants.wide]",
            '[[claims]]\nkind = "absolute"\nrecord = "base"\nms = 1.0\n[variants.wide]',
        ),
    ],
)
def test_prose_claims_and_variant_lists_are_outside_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert digest(made(tmp_path / "a")) == digest(made(tmp_path / "b", old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("height = 12", "height = 13"),
        ('seed = "made"', 'seed = "other"'),
        ("bias = true", "bias = false"),
        ("channels = [4, 4, 4]", "channels = [4, 4]"),
        ('precision = "fp32"', 'precision = "fp16"'),
        ("warm_up_ms = 10", "warm_up_ms = 11"),
        ("duration_s = 0.5", "duration_s = 0.6"),
        ("percentiles = [90, 99]", "percentiles = [90]"),
        ("percentiles = [90, 99]", "percentiles = [90, 99]\noptimization_level = 3"),
    ],
)
def test_model_and_settings_are_inside_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert digest(made(tmp_path / "a")) != digest(made(tmp_path / "b", old, new))


def test_each_variant_has_a_digest_of_its_own(tmp_path: Path) -> None:
    case = made(tmp_path)
    assert len({digest(case, name) for name in (None, "wide", "half")}) == 3


def test_a_variant_is_identified_by_what_it_resolves_to(tmp_path: Path) -> None:
    written_out = made(tmp_path / "b", "width = 10", "width = 20")
    assert digest(made(tmp_path / "a"), "wide") == digest(written_out)


def test_the_bytes_of_the_models_are_inside_the_digest(tmp_path: Path) -> None:
    experiment = cases.resolve(made(tmp_path), None)
    other = msgspec.structs.replace(experiment, onnx={**experiment.onnx, "fp16": b"other bytes"})
    assert other.ref.digest != experiment.ref.digest


# --- what was published -------------------------------------------------------------------------


def shipped() -> dict[str, Any]:
    """Return the digest of every experiment in the checkout's cases, by its published name."""
    found = {}
    for path in sorted((ROOT / "cases").glob("*/case.toml")):
        case = cases.load(path.parent.name)
        for variant in (None, *case.variants):
            name = f"{case.id}@{case.version}" + (f":{variant}" if variant else "")
            found[name] = digest(case, variant)
    return found


def test_published_experiments_never_change_and_shipped_ones_are_published() -> None:
    """A digest that differs here means: give the case a new version, or take the change back.

    Lines of versions that are no longer shipped stay in the file, so that old bundles keep their name.
    """
    locked = json.loads((ROOT / "cases" / "lock.json").read_text())
    now = shipped()
    assert {name: locked.get(name) for name in now} == now


def test_the_lock_is_sorted_and_well_formed() -> None:
    text = (ROOT / "cases" / "lock.json").read_text()
    locked = json.loads(text)
    assert json.dumps(locked, indent=2, sort_keys=True) + "\n" == text
    for name, value in locked.items():
        assert re.fullmatch(r"[a-z0-9._-]+@[1-9]\d*(:[a-z0-9._-]+)?", name)
        assert re.fullmatch(r"[0-9a-f]{64}", value)
    assert locked["conv16@1"] == "91a6a9719ce546e27d9a1ec3883a2fe84e9d2d2433ae5670029c9b9a16a40a68"


# --- settings on top ----------------------------------------------------------------------------


def test_settings_on_top_make_another_experiment_of_the_same_model() -> None:
    case = cases.load("conv16")
    plain = cases.resolve(case, "hwc8")
    changed = cases.resolve(case, "hwc8", {"l2": "flush", "cuda_graph": "true", "optimization_level": "4"})
    assert (changed.settings.l2, changed.settings.cuda_graph) == ("flush", True)
    assert changed.settings.optimization_level == 4
    assert changed.settings.io_layout == "hwc8"
    assert changed.model_digests == plain.model_digests
    assert changed.ref.digest != plain.ref.digest


def test_no_settings_on_top_change_nothing() -> None:
    case = cases.load("conv16")
    plain = cases.resolve(case, None)
    assert cases.resolve(case, None, {}).ref == plain.ref
    assert cases.resolve(case, None, plain.settings).ref == plain.ref


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precsion": "fp16"}, "unknown setting 'precsion': did you mean precision"),
        ({"precision": "fp13"}, "can't have this value"),
        ({"warm_up_ms": "-1"}, "can't have this value"),
        ({"cuda_graph": "maybe"}, "can't have this value"),
        ({"duration_s": "1"}, "unknown setting 'duration_s'"),
    ],
)
def test_settings_that_are_none_are_told(changes: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cases.resolve(cases.load("conv16"), None, changes)


def test_a_shipped_module_is_the_one_of_its_case_under_any_settings() -> None:
    case = cases.load("conv16")
    changed = cases.resolve(case, None, {"l2": "flush"})
    assert cases.module(changed.ref, changed.settings).name == "model.py"
    foreign = msgspec.structs.replace(changed.ref, digest="0" * 64)
    with pytest.raises(UsageError, match="is not one that this kit ships"):
        cases.module(foreign, changed.settings)
