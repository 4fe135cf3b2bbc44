"""Reading a bundle from the outside in: any change is found, and each finding says what it found."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import bundle
from repro.bundle import archive, sign, statement
from repro.errors import ExitCode, Refused, ReproError
from tests.builders import make_failed, make_files, make_predicate, make_record, seal

Members = dict[str, bytes]


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def write(path: Path, members: Members) -> Path:
    with path.open("wb") as file:
        archive.write(file, members)
    return path


def restated(members: Members, change: Callable[[dict[str, Any]], object]) -> Members:
    """Return an unsigned bundle whose statement was changed and written anew."""
    value = json.loads(members[statement.NAME])
    change(value)
    kept = {name: data for name, data in members.items() if not name.startswith("META/")}
    return kept | {statement.NAME: json.dumps(value).encode()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """The members of an unsigned bundle with two records."""
    folder = tmp_path_factory.mktemp("plain")
    return members_of(seal(folder, make_record(), make_failed(record_name="two-ort-1.0")).path)


# --- sealing ------------------------------------------------------------------------------------


def test_what_is_sealed_is_read(tmp_path: Path) -> None:
    record = make_record()
    sealed = seal(tmp_path, record)
    opened = bundle.read(sealed.path)
    assert opened.records == {record.record_name: record}
    assert opened.id == sealed.id
    assert sealed.path.name == f"made-up_{sealed.id[:8]}.zip"
    assert sealed.path.stat().st_size == sealed.size


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = seal(tmp_path / "a"), seal(tmp_path / "b")
    assert first.id == second.id
    assert first.path.read_bytes() == second.path.read_bytes()


def test_nothing_is_left_where_the_limit_is_exceeded(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="and the limit is") as caught:
        bundle.seal(
            make_files(make_record()),
            make_predicate(make_record()),
            key=None,
            target=tmp_path,
            stem="x",
            max_size_bytes=1_000,
        )
    assert "--max-size" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_same_name_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "b.zip"
    target.write_bytes(b"old")
    with pytest.raises(ReproError):
        bundle.seal(make_files(), make_predicate(), key=None, target=target, stem="", max_size_bytes=10)
    assert target.read_bytes() == b"old"
    seal(target)
    assert bundle.read(target).records


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="can't write") as caught:
        seal(tmp_path / "gone")
    assert "--output" in (caught.value.hint or "")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("name", ["META/more.json", "META/sig/other.sshsig", "run.sh", "engine.plan", "a.so"])
def test_a_member_that_no_bundle_holds_is_never_sealed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReproError, match=r"has no place under META|never holds") as caught:
        bundle.seal({name: b""}, make_predicate(), key=None, target=tmp_path, stem="x")
    assert "fault of the kit" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


# --- reading: every change is found -------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(Refused) as caught:
        bundle.read(path)
    found = bundle.inspect(path)
    assert found.code() == ExitCode.NEGATIVE
    return caught.value.what


@given(st.data())
@settings(deadline=None)
def test_any_changed_added_removed_or_renamed_member_is_refused(
    plain: Members, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"changed-{data.draw(st.integers(0, 3))}.zip"
    name = data.draw(st.sampled_from([n for n in sorted(plain) if n != statement.NAME]))
    changed = dict(plain)
    kind = data.draw(st.sampled_from(["change", "append", "empty", "remove", "rename", "add", "swap"]))
    if kind == "change":
        at = data.draw(st.integers(0, len(plain[name]) - 1))
        flipped = plain[name][at] ^ data.draw(st.integers(1, 255))
        changed[name] = plain[name][:at] + bytes([flipped]) + plain[name][at + 1 :]
    elif kind == "append":
        changed[name] = plain[name] + data.draw(st.binary(min_size=1, max_size=4))
    elif kind == "empty":
        changed[name] = b""
    elif kind == "remove":
        del changed[name]
    elif kind == "rename":
        new = data.draw(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.(txt|json|bin)", fullmatch=True))
        changed[new] = changed.pop(name)
    elif kind == "add":
        new = data.draw(st.from_regex(r"[a-z]{9}(/[a-z]{1,8})?\.(txt|json|bin)", fullmatch=True))
        changed[new] = data.draw(st.binary(max_size=10))
    else:
        other = data.draw(st.sampled_from([n for n in sorted(plain) if n != statement.NAME]))
        changed[name], changed[other] = changed[other], changed[name]
    if changed == plain:
        return
    assert "its files are not what its statement lists" in refusal(write(path, changed))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda m: m.update({"telemetry/host.bin": b"x"}), "CHANGED: telemetry/host.bin"),
        (lambda m: m.pop("telemetry/host.bin"), "MISSING: telemetry/host.bin"),
        (lambda m: m.update({"extra.txt": b"x"}), "EXTRA: extra.txt"),
        (
            lambda m: m.update({f"extra{i}.txt": b"x" for i in range(5)}),
            "EXTRA: extra0.txt, extra1.txt, extra2.txt and 2 more",
        ),
        (
            lambda m: m.update({"other.bin": m.pop("telemetry/host.bin")}),
            "MISSING: telemetry/host.bin; EXTRA: other.bin",
        ),
    ],
)
def test_the_finding_names_the_files(
    plain: Members, tmp_path: Path, change: Callable[[Members], object], finding: str
) -> None:
    changed = dict(plain)
    change(changed)
    found = bundle.inspect(write(tmp_path / "b.zip", changed))
    assert found.container.state == "well_formed"
    assert (found.files.state, found.files.text) == ("differ", finding)


@pytest.mark.parametrize(
    "name",
    [
        "META/MANIFEST.json",
        "META/statement.txt",
        "META/sig/attacker.sshsig",
        "META/sig/reporter.sig",
        "META/sig/deep/reporter.sshsig",
        "META/a/statement.json",
    ],
)
def test_an_unknown_member_under_meta_is_refused(plain: Members, tmp_path: Path, name: str) -> None:
    what = refusal(write(tmp_path / "b.zip", plain | {name: b"x"}))
    assert f"'{name}' has no place under META" in what


@pytest.mark.parametrize(
    "name",
    [
        "a.plan",
        "a.engine",
        "a.so",
        "a.pkl",
        "a.pt",
        "a.py",
        "a.sh",
        "a.exe",
        "a.html",
        "a.zip",
        "a.cache",
        "a",
    ],
)
def test_a_kind_that_a_bundle_never_holds_is_refused_even_where_it_is_listed(
    plain: Members, tmp_path: Path, name: str
) -> None:
    def list_it(value: dict[str, Any]) -> None:
        value["subject"].append({"name": name, "digest": {"sha256": "0" * 64}})

    what = refusal(write(tmp_path / "b.zip", restated(plain, list_it) | {name: b"x"}))
    assert f"'{name}' is of a kind that a bundle never holds" in what


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda v: v["subject"].append(v["subject"][0]), "LISTED TWICE", id="subject twice"),
        pytest.param(
            lambda v: v["subject"].append({"name": "\x1b[2J", "digest": {"sha256": ""}}),
            "MISSING: '\\x1b[2J'",
            id="control characters",
        ),
        pytest.param(lambda v: v["subject"].clear(), "EXTRA: README.txt", id="no subject"),
        pytest.param(
            lambda v: v["subject"][0]["digest"].update(sha256="A" * 64), "CHANGED: README.txt", id="digest"
        ),
        pytest.param(
            lambda v: v["subject"].append({"name": statement.NAME, "digest": {"sha256": "0" * 64}}),
            "MISSING: META/statement.json",
            id="the statement itself",
        ),
        pytest.param(
            lambda v: v["predicate"]["records"].append(
                {"name": "../x", "role": "subject", "status": "failed"}
            ),
            "without its record.json",
            id="record without file",
        ),
        pytest.param(
            lambda v: v["predicate"]["records"].append(v["predicate"]["records"][0]),
            "lists the record 'base-ort-1.0' twice",
            id="record twice",
        ),
        pytest.param(
            lambda v: v["predicate"]["records"][0].update(status="failed"),
            "is not as the statement says",
            id="status",
        ),
        pytest.param(lambda v: v["predicate"].pop("records"), "missing required field", id="no records"),
        pytest.param(lambda v: v.update(predicateType="urn:x"), "has the predicate type", id="type"),
    ],
)
def test_a_statement_that_does_not_fit_is_refused(
    plain: Members, tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    what = refusal(write(tmp_path / "b.zip", restated(plain, change)))
    assert reason in what
    assert what.isprintable()


def test_a_record_that_is_no_record_is_refused(plain: Members, tmp_path: Path) -> None:
    name = "records/base-ort-1.0/record.json"
    changed = plain | {name: b'{"a": NaN}'}
    kept = {n: data for n, data in changed.items() if not n.startswith("META/")}
    digests = {n: hashlib.sha256(data).hexdigest() for n, data in kept.items()}
    told = statement.parse(plain[statement.NAME])
    sealed = kept | {statement.NAME: statement.make(digests, told.predicate)}
    path = write(tmp_path / "b.zip", sealed)
    assert f"{name} is not as it must be" in refusal(path)
    assert bundle.inspect(path).contents.state == "refused"


def test_no_bundle_at_all_is_said_so(tmp_path: Path) -> None:
    path = write(tmp_path / "b.zip", {"a.txt": b"x"})
    assert "it is no bundle of this kit" in refusal(path)
    path.write_bytes(b"")
    assert "it is not a zip file" in refusal(path)


def test_fields_of_a_later_version_are_ignored(plain: Members, tmp_path: Path) -> None:
    later = restated(plain, lambda v: v["predicate"].update(later={"x": [1]}))
    assert len(bundle.read(write(tmp_path / "b.zip", later)).records) == 2


# --- the findings and the exit code -------------------------------------------------------------

GOOD = {
    "container": "well_formed",
    "files": "match",
    "signature": "good",
    "signer": "known",
    "time": "claimed",
    "contents": "not_judged",
}


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ({}, ExitCode.DONE),
        ({"signer": "own"}, ExitCode.DONE),
        ({"signer": "unknown"}, ExitCode.UNDECIDED),
        ({"signature": "none", "signer": "none"}, ExitCode.DOES_NOT_APPLY),
        ({"signer": "revoked"}, ExitCode.NEGATIVE),
        ({"signer": "expired"}, ExitCode.NEGATIVE),
        ({"signature": "bad"}, ExitCode.NEGATIVE),
        ({"files": "differ"}, ExitCode.NEGATIVE),
        ({"files": "not_reached"}, ExitCode.NEGATIVE),
        ({"container": "refused"}, ExitCode.NEGATIVE),
        ({"contents": "refused"}, ExitCode.NEGATIVE),
    ],
)
def test_the_exit_code_follows_from_the_findings(states: dict[str, str], code: ExitCode) -> None:
    found = {name: bundle.Finding(state, "") for name, state in {**GOOD, **states}.items()}
    inspection = bundle.Inspection(bundle_id="x", principals=("a@example.org",), **found)
    assert inspection.code() == code
    if code == ExitCode.DONE:
        assert inspection.code("a@example.org") == ExitCode.DONE
        assert inspection.code("b@example.org") == ExitCode.NEGATIVE


def test_findings_not_reached_say_so(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(b"no zip")
    found = bundle.inspect(path)
    assert found.container.text.startswith("REFUSED: ")
    states = [f.state for f in (found.files, found.signature, found.signer, found.time)]
    assert states == ["not_reached"] * 4


@pytest.mark.parametrize("time", ["", "yesterday", "2026-01-01T00:00:00Z\x1b[2J", "٢٠٢٦-01-01T00:00:00Z"])
def test_an_odd_time_is_not_shown(plain: Members, tmp_path: Path, time: str) -> None:
    odd = restated(plain, lambda v: v["predicate"].update(createdUtc=time))
    found = bundle.inspect(write(tmp_path / "b.zip", odd))
    assert found.time.text == "not a time, the reporter's claim"


# --- signatures, with the real tool -------------------------------------------------------------


@pytest.fixture
def key(config_home: Path) -> Path:
    return sign.ensure_key(None)


@pytest.mark.needs("ssh-keygen")
@pytest.mark.parametrize(
    "name", ["README.txt", "records/base-ort-1.0/record.json", statement.NAME, "META/sig/reporter.sshsig"]
)
@pytest.mark.parametrize("kind", ["change", "remove"])
def test_a_signed_bundle_does_not_survive_a_change(key: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = seal(tmp_path, key=key).path
    changed = members_of(path)
    before = bundle.inspect(path)
    assert (before.code(), before.signer.state) == (ExitCode.DONE, "own")
    if kind == "remove":
        del changed[name]
    else:
        at = len(changed[name]) // 2
        other = b"A" if changed[name][at : at + 1] != b"A" else b"B"
        changed[name] = changed[name][:at] + other + changed[name][at + 1 :]
    found = bundle.inspect(write(path, changed))
    if (name, kind) == ("META/sig/reporter.sshsig", "remove"):
        assert (found.code(), found.signature.state) == (ExitCode.DOES_NOT_APPLY, "none")
    else:
        assert found.code() == ExitCode.NEGATIVE


@pytest.mark.needs("ssh-keygen")
def test_a_signature_of_another_bundle_is_bad(key: Path, tmp_path: Path) -> None:
    one = members_of(seal(tmp_path, key=key).path)
    other = members_of(seal(tmp_path, key=key, ticket="another").path)
    name = "META/sig/reporter.sshsig"
    found = bundle.inspect(write(tmp_path / "b.zip", one | {name: other[name]}))
    assert found.signature.state == "bad"
    assert found.signature.text == "BAD: the signature does not fit the statement"


@pytest.mark.needs("ssh-keygen")
def test_a_file_that_is_no_signature_is_bad(key: Path, tmp_path: Path) -> None:
    members = members_of(seal(tmp_path, key=key).path)
    name = "META/sig/reporter.sshsig"
    for content in (b"", b"x", bytes(40_000), members[name] + b"\n", members[name].replace(b"\n", b"\r\n")):
        found = bundle.inspect(write(tmp_path / "b.zip", members | {name: content}))
        assert found.signature.state == "bad", content[:40]
        assert found.code() == ExitCode.NEGATIVE


@pytest.mark.needs("ssh-keygen")
def test_one_bad_signature_beside_a_good_one_is_bad(key: Path, tmp_path: Path) -> None:
    members = members_of(seal(tmp_path, key=key).path)
    found = bundle.inspect(write(tmp_path / "b.zip", members | {"META/sig/vendor.sshsig": b"x"}))
    assert found.signature.state == "bad"


@pytest.mark.needs("ssh-keygen", "unzip", "sha256sum", "linux")
def test_a_stranger_checks_a_bundle_with_stock_tools_only(key: Path, tmp_path: Path) -> None:
    """Every command as the bundle's own README prints it, in the folder where it was unpacked."""
    path = seal(tmp_path, key=key).path
    folder = tmp_path / "unpacked"
    subprocess.run(["unzip", "-q", path, "-d", folder], check=True)
    files = len(members_of(path)) - 2
    public = key.with_name("signing_key.pub").read_text()
    (folder / "ALLOWED_SIGNERS").write_text(f"PRINCIPAL {public}")
    commands = [
        part
        for part in (folder / "README.txt").read_text().split("\n\n")
        if part.startswith(("ssh-keygen ", "python3 "))
    ]

    def run(command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    (validate, said), (verify, told), (digests, listed) = map(run, commands)
    assert (validate, verify, digests) == (0, 0, 0)
    assert said.startswith('Good "trt-repro-bundle@v1" signature with ED25519 key SHA256:')
    assert told.startswith('Good "trt-repro-bundle@v1" signature for PRINCIPAL with ED25519 key SHA256:')
    assert listed.count(": OK\n") == files

    (folder / "telemetry" / "host.bin").write_bytes(b"changed")
    (validate, _), (verify, _), (digests, listed) = map(run, commands)
    assert (validate, verify, digests) == (0, 0, 1)
    assert "telemetry/host.bin: FAILED\n" in listed

    text = folder / "META" / "statement.json"
    text.write_bytes(text.read_bytes().replace(b"reporter", b"reporteR"))
    (validate, _), (verify, _), _ = map(run, commands)
    assert 0 not in (validate, verify)


def test_reading_costs_little_memory_whatever_a_bundle_holds(tmp_path: Path) -> None:
    """A record too big to be JSON of ours is refused by its size, before it is held."""
    record = make_record()
    files = make_files(record)
    files[f"records/{record.record_name}/record.json"] = b" " * (statement.MAX_JSON_BYTES + 1)
    sealed = bundle.seal(files, make_predicate(record), key=None, target=tmp_path, stem="x")
    assert "16777217 bytes; 16777216 are allowed" in refusal(sealed.path)


# --- reading what is not intact -----------------------------------------------------------------


def test_what_is_changed_missing_or_extra_is_noted_where_it_is_read_all_the_same(
    plain: Members, tmp_path: Path
) -> None:
    sample = next(name for name in plain if "/samples/" in name)
    for kind, members in {
        "CHANGED": plain | {sample: b"another"},
        "MISSING": {name: data for name, data in plain.items() if name != sample},
        "EXTRA": plain | {sample + ".bin": b"more"},
    }.items():
        path = write(tmp_path / f"{kind}.zip", members)
        opened = bundle.read(path, verified=False)
        assert kind in (opened.wrong or "")
        assert len(opened.records) == 2
        with pytest.raises(Refused, match=kind):
            bundle.read(path)


def test_a_bad_signature_is_noted_where_it_is_read_all_the_same(key: Path, tmp_path: Path) -> None:
    members = members_of(seal(tmp_path, key=key).path)
    other = members_of(seal(tmp_path, make_failed(), key=key).path)
    signature = next(name for name in members if name.endswith(".sshsig"))
    path = write(tmp_path / "bad.zip", members | {signature: other[signature]})
    opened = bundle.read(path, verified=False)
    assert opened.wrong
    assert opened.inspection.signature.state == "bad"


def test_what_is_intact_has_nothing_wrong(tmp_path: Path) -> None:
    assert bundle.read(seal(tmp_path).path, verified=False).wrong is None


def test_a_record_that_is_gone_is_refused_whatever_is_asked(plain: Members, tmp_path: Path) -> None:
    name = next(name for name in plain if name.endswith("record.json"))
    path = write(tmp_path / "x.zip", {each: data for each, data in plain.items() if each != name})
    with pytest.raises(Refused, match=r"without its record\.json"):
        bundle.read(path, verified=False)


def test_contents_are_those_that_were_listed(tmp_path: Path) -> None:
    path = seal(tmp_path).path
    opened = bundle.read(path)
    assert bundle.contents(opened, ["telemetry/host.bin", "telemetry/none.bin"]) == {
        "telemetry/host.bin": bytes(160)
    }
    write(path, members_of(path) | {"telemetry/host.bin": bytes(168)})
    with pytest.raises(Refused, match="changed while it was read"):
        bundle.contents(opened, ["telemetry/host.bin"])
