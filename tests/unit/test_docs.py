"""The documents say what the types and constants say."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from repro import cases, check, comparable, compare, diagnose, measure, power, records, schema, schemas
from repro.backends import bindings
from repro.bundle import archive
from repro.cli import cli
from repro.imported import ImportedRecord
from repro.report import content
from repro.schema import Carried, Comparison, Record, ResolvedCase, Statement

ROOT = Path(__file__).parents[2]
FORMAT = (ROOT / "docs" / "bundle-format.md").read_text()
METHOD = (ROOT / "docs" / "method.md").read_text()
RELEASES = (ROOT / "docs" / "releases.md").read_text()
COMPARISON = (ROOT / "docs" / "comparison.md").read_text()
WRITING = (ROOT / "docs" / "writing-cases.md").read_text()


def carried(kind: object) -> Iterator[type[Carried]]:
    """Give every struct that a type holds, itself included."""
    if isinstance(kind, type) and issubclass(kind, Carried):
        yield kind
        for hint in typing.get_type_hints(kind).values():
            yield from carried(hint)
    for argument in typing.get_args(kind):
        yield from carried(argument)


KINDS = sorted(
    {each for root in (Record, Statement, ResolvedCase) for each in carried(root)}, key=lambda k: k.__name__
)


def documented(text: str = FORMAT, mark: str = "\n### ") -> dict[str, list[str]]:
    """Return the keys of each struct's table."""
    found = {}
    for section in text.split(mark)[1:]:
        name = section.split("\n", 1)[0]
        found[name] = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_key_is_documented_and_no_other(kind: type[Carried]) -> None:
    expected = [field.encode_name for field in msgspec.structs.fields(kind)]
    inherited = {"expected", "note"} if kind.__name__ in claim_kinds() else set()
    assert documented()[kind.__name__] == [name for name in expected if name not in inherited]


def test_every_key_of_an_imported_record_is_explained() -> None:
    table = (ROOT / "docs" / "logs.md").read_text().split("\n## The JSON")[1]
    first = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    explained = re.findall(r"`(\w+)`", " ".join(first))
    assert sorted(explained) == sorted(field.name for field in msgspec.structs.fields(ImportedRecord))


def claim_kinds() -> set[str]:
    return {kind.__name__ for kind in typing.get_args(schema.AnyClaim)}


def test_no_struct_is_documented_that_does_not_travel() -> None:
    assert set(documented()) - {"Claim"} == {kind.__name__ for kind in KINDS}


def test_every_key_of_a_comparison_is_documented_and_no_other() -> None:
    kinds = set(carried(Comparison))
    expected = {
        kind.__name__: [field.encode_name for field in msgspec.structs.fields(kind)] for kind in kinds
    }
    assert documented(COMPARISON, "\n## ") == expected


def test_the_table_of_fields_is_that_of_the_code() -> None:
    section = METHOD.split("### Comparability")[1].split("\n###")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|$", section, re.MULTILINE)
    expected = [
        (each.name, each.release, each.device, each.setting, each.unread) for each in comparable.FIELDS
    ]
    assert rows == expected


def test_enumerated_values_are_named() -> None:
    for alias in ("Precision", "StageName", "Status", "ChannelState", "Sealing"):
        (sentence,) = re.findall(rf"`{alias}` is ([^;.]*)", FORMAT)
        assert set(re.findall(r"`([\w]+)`", sentence)) == set(typing.get_args(getattr(schema, alias)))


def nullable(kind: object, path: str = "") -> Iterator[str]:
    """Give the paths of all keys that may be null, without indices."""
    if isinstance(kind, type) and issubclass(kind, Carried):
        for field in msgspec.structs.fields(kind):
            hint = typing.get_type_hints(kind)[field.name]
            yield from nullable(hint, f"{path}.{field.encode_name}" if path else field.encode_name)
        return
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if type(None) in arguments:
            yield path
        for argument in arguments:
            yield from nullable(argument, path)
    elif typing.get_origin(kind) is tuple:
        yield from nullable(arguments[0], path)


def test_each_null_has_a_reason_or_is_an_answer() -> None:
    section = FORMAT.split("## `null`")[1].split("\n## ")[0]
    answers = set(re.findall(r"^- `([\w.]+)`", section, re.MULTILINE))
    explained = set(records.WHY_MISSING)
    assert answers & explained == set()
    assert answers | explained == set(nullable(Record))


@pytest.mark.parametrize("name", schemas.FILES)
def test_the_schema_files_are_those_of_the_types(name: str) -> None:
    assert (schemas.FOLDER / name).read_text() == schemas.text(schemas.FILES[name])


def test_the_limits_of_the_container_are_those_of_the_code() -> None:
    assert f"At most {archive.MAX_MEMBERS:,} members" in FORMAT
    assert f"{archive.MAX_MEMBER_BYTES >> 20} MiB each, {archive.MAX_TOTAL_BYTES >> 20} MiB in all" in FORMAT
    assert f"at most {archive.MAX_NAME_BYTES} bytes" in FORMAT
    assert f"At most {measure.KEPT_ROWS:,} rows" in FORMAT


def test_the_commands_are_those_of_the_bundle_itself() -> None:
    from repro.bundle import _readme

    block = FORMAT.split("## Checking with stock tools")[1].split("```")[1]
    readme = _readme("reporter").decode()
    for line in filter(None, block.splitlines()):
        assert line in readme


@pytest.mark.parametrize(
    "words",
    [
        f"{plan.builds} build{'s' if plan.builds > 1 else ''} × {plan.runs} run"
        for plan in measure.PROTOCOLS.values()
    ]
    + [
        f"{measure.STANDARD_BUILDS_IN_PROCESS} builds × 1 run",
        f"{measure.FLAT_SHARE:.0%} over {measure.FLAT_WINDOW_S:g} s".replace("%", " %"),
        f"{check.POSITIONS} positions",
        f"{records.FOREIGN_SHARE:.0%} of a core".replace("%", " %"),
        f"{measure.PROTOCOLS['brief'].budget_s:g} s",
        f"{comparable.CLOCKS_APART:.0%} apart".replace("%", " %"),
        f"more than {comparable.THROTTLED_MOST:.0%} of the readings".replace("%", " %"),
        f"two one-sided tests at the margin ({compare.MARGIN:.0%}".replace("%", " %"),
        f"≥ {power.SESSIONS} sessions a side",
        f"otherwise {100 * power.SESSION_SD:g} % is assumed",
        f"in {power.POWER:.0%} of cases".replace("%", " %"),
    ],
)
def test_the_method_names_the_numbers_of_the_code(words: str) -> None:
    assert words in METHOD


def test_every_flag_of_a_run_is_explained_and_ranked() -> None:
    source = "".join(path.read_text() for path in (ROOT / "repro").glob("*.py"))
    codes = set(re.findall(r'Flag\(\s*"(\w+)"', source))
    table = METHOD.split("what is odd is flagged")[1].split("\n## ")[0]
    assert codes == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert codes - set(content.FLAG_RANKS) == {"odd_samples"}


def test_the_example_of_a_case_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", WRITING, re.DOTALL)
    (tmp_path / "example").mkdir()
    (tmp_path / "example" / "case.toml").write_text(example)
    case = cases.load("example", tmp_path)
    for variant in (None, *case.variants):
        assert cases.resolve(case, variant).ref.id == "example"


@pytest.mark.parametrize(
    "kind",
    [cases.CaseFile, *typing.get_args(schema.ModelSpec), schema.Settings],
    ids=lambda kind: kind.__name__,
)
def test_every_key_of_a_case_is_explained(kind: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        assert f"`{field.name}`" in WRITING


@pytest.mark.parametrize("device", ["x86", "orin"])
def test_the_tables_of_releases_are_what_the_command_prints(device: str) -> None:
    command = f"lower conv16 --all --device {device}"
    printed = CliRunner().invoke(cli, command.split())
    assert printed.exit_code == 0, printed.output
    assert f"`repro {command}`\n\n{printed.output}" in RELEASES


def test_every_rule_of_diagnose_is_listed_by_what_it_finds() -> None:
    table = METHOD.split("## Findings")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    told = [
        (name, (rule.__doc__ or "").removeprefix("Find ").rstrip("."))
        for name, rule in diagnose.RULES.items()
    ]
    assert listed == told


def test_the_table_of_the_python_api_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \| (.*?) \| (yes|no) \| (.*) \|$", RELEASES, re.MULTILINE)
    expected = []
    for path, row in bindings.DIFFERENCES.items():
        since = "never" if row.since == "none" else row.since
        until = f"below {row.before}" if row.before else "–" if since == "never" else "still there"
        expected.append((path, since, until, "yes" if row.rtx else "no", row.rule))
    assert rows == expected
