"""Bundles replayed with real processes: by friends, on other ground, and by whoever means no good."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import bundle
from repro.launch import confine
from repro.schema import Command, Fails, Outcome, Reply
from tests import forge, nets, standin
from tests.e2e.conftest import CASES, QUICK, Call, Finished, bundle_of, command
from tests.twins import twin

pytestmark = pytest.mark.needs("ssh-keygen", "linux")

replace = msgspec.structs.replace
TRUST = ("--replay-unknown-signer", "--yes")
LIKELY: tuple[Outcome, ...] = ("reproduced", "undecided", "not_reproduced")
"""What a few milliseconds give is chance, and not what is tested here."""
RATIO = "ratio record_a=base record_b=wide factor=1.2 tolerance=0.9"


@pytest.fixture
def original(call: Call, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that measures a bundle as its reporter would, with a key of the reporter's own."""

    def make(case: str = "tiny", *more: str, code: int = 0, **options: Any) -> Path:
        folder = tmp_path / "reporter"
        places = ("--cases", CASES, "--output", folder, "--work", folder / "work", "--device", "cpu")
        # So that the vendor's own key is another one.
        env = {"XDG_CONFIG_HOME": str(folder / "config")}
        done = call("run", case, *places, *QUICK, *more, env=env, **options)
        assert done.returncode == code, done.stderr
        (path,) = folder.glob("*.zip")
        return path

    return make


@pytest.fixture
def replay(call: Call, tmp_path: Path) -> Call:
    """Return a function that replays a bundle as a vendor would."""

    def run(path: Path, *more: str | Path, **options: Any) -> Finished:
        places = ("--output", tmp_path / "replies", "--work", tmp_path / "work")
        return call("replay", path, *places, *more, **options)

    return run


def reply_of(folder: Path) -> tuple[Path, Reply]:
    (path,) = (folder / "replies").glob("*.zip")
    reply = bundle.read(path).statement.predicate.reply
    assert reply is not None
    return path, reply


def test_from_a_file_to_a_signed_reply_in_two_commands(
    original: Callable[..., Path], replay: Call, call: Call, tmp_path: Path
) -> None:
    path = original("tiny:base,wide", "--builds", "3", "--claim", RATIO)
    assert call("verify", path).returncode == 3, "intact, and the signer is unknown"
    done = replay(path, *TRUST)
    assert done.returncode in (0, 3), done.stderr
    made, reply = reply_of(tmp_path)
    sealed = bundle.read(made)
    told = sealed.statement.predicate
    assert sealed.statement.predicate_type == "urn:trt-repro:replay:v1"
    assert (told.signer_role, told.parent_bundle_id) == ("vendor", bundle.read(path).id)
    assert told.claims == bundle.read(path).statement.predicate.claims
    assert sealed.inspection.signer.state == "own"
    assert [each.claim for each in reply.answers] == list(told.claims)
    assert list(sealed.records) == list(bundle.read(path).records)
    for record in sealed.records.values():
        assert record.status == "measured"
        confined = record.runtime.place.labels["confined"].split(", ")
        assert set(confined) == confine.able(gpu=False)
    # What the answer rests on can be read in every form.
    shown = call("show", made).stdout
    assert shown.startswith(f"Reply to   {told.parent_bundle_id}\nAnswer     ")
    assert "wide takes 1.2 times the time of base" in shown
    assert "\nComparison\n" in shown
    assert len(call("show", made, "--card").stdout.splitlines()) <= 12
    assert "### Answers" in call("show", made, "--markdown").stdout
    assert call("show", made, "--html", "page.html").returncode == 0
    assert "<h1>Reply:" in (tmp_path / "page.html").read_text()
    # And the chain holds, from both ends.
    checked = call("verify", made, path)
    assert checked.returncode == 3, "the reporter is unknown"
    assert f"it answers {path.name}" in checked.stdout
    assert "follow from the records of both" in checked.stdout
    signers = tmp_path / "config" / "trt-repro"
    key = next((tmp_path / "reporter" / "config").rglob("signing_key.pub")).read_text()
    (signers / "allowed_signers").write_text(f"reporter@example.org {key}")
    assert call("verify", made, path).returncode == 0


def test_a_reply_answers_one_bundle_only(
    original: Callable[..., Path], replay: Call, call: Call, tmp_path: Path
) -> None:
    path = original()
    assert replay(path, *TRUST).returncode in (0, 1, 3)
    made, _ = reply_of(tmp_path)
    other = forge.forge(path, tmp_path / "other.zip", ticket="another")
    done = call("verify", made, other)
    assert done.returncode == 1
    assert f"it answers {bundle.read(path).id}, and other.zip is {bundle.read(other).id}" in done.stdout
    assert call("verify", path, made).returncode == 2, "the original is no reply"


def test_a_reply_that_says_otherwise_than_its_records_is_told(
    original: Callable[..., Path], replay: Call, call: Call, tmp_path: Path
) -> None:
    path = original("strict", code=1)
    assert replay(path, *TRUST).returncode == 0
    made, reply = reply_of(tmp_path)
    (one,) = reply.answers
    lie = replace(reply, answers=(replace(one, outcome="not_reproduced", code="ran"),))
    lying = forge.forge(made, tmp_path / "lying.zip", reply=lie)
    done = call("verify", lying, path)
    assert "this kit would answer otherwise" in done.stdout
    other = forge.forge(made, tmp_path / "claims.zip", claims=())
    done = call("verify", other, path)
    assert done.returncode == 1
    assert "it answers other claims than the original makes" in done.stdout


# --- who may, and who is asked ------------------------------------------------------------------


def test_an_unknown_signer_needs_a_word(original: Callable[..., Path], replay: Call, tmp_path: Path) -> None:
    done = replay(original(), "--yes")
    assert (done.returncode, done.stdout) == (3, "")
    assert "is unknown: --replay-unknown-signer replays it all the same" in done.stderr
    assert not (tmp_path / "work").exists()


def test_nobody_s_bundle_needs_it_too(original: Callable[..., Path], replay: Call, tmp_path: Path) -> None:
    path = forge.unsigned_copy(original(), tmp_path / "unsigned.zip")
    done = replay(path, "--yes")
    assert done.returncode == 4
    assert "nobody signed unsigned.zip" in done.stderr
    assert replay(path, *TRUST).returncode in (0, 1, 3)


def test_one_s_own_needs_none(run_case: Call, replay: Call, tmp_path: Path) -> None:
    assert run_case("tiny").returncode == 0
    assert replay(bundle_of(tmp_path), "--yes").returncode in (0, 1, 3)


def test_a_revoked_signer_is_not_replayed(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    path = original()
    config = tmp_path / "config" / "trt-repro"
    config.mkdir(parents=True)
    key = next((tmp_path / "reporter" / "config").rglob("signing_key.pub"))
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", config / "revoked_keys", key], check=True)
    done = replay(path, *TRUST)
    assert done.returncode == 1
    assert "its signer is REVOKED" in done.stderr


def test_without_a_terminal_nobody_can_agree(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    done = replay(original(), "--replay-unknown-signer")
    assert done.returncode == 2
    assert "nobody is there to agree: add --yes" in done.stderr
    assert "Builds      tiny, 2 operators (Conv), from the bundle's ONNX" in done.stdout, "it is shown first"
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(("typed", "code"), [(b"n\n", 130), (b"\n", 130), (b"y\n", 0)])
def test_on_a_terminal_it_asks(
    original: Callable[..., Path], tmp_path: Path, typed: bytes, code: int
) -> None:
    path = original("strict", code=1)
    # What is sealed was looked over once before, so that only running is asked for.
    config = tmp_path / "config" / "trt-repro"
    config.mkdir(parents=True)
    (config / "preview_seen").touch()
    ours, theirs = pty.openpty()
    argv = command("replay", path, "--replay-unknown-signer", "--output", "replies", "--place", "host")
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path) as process:
        os.close(theirs)
        late = threading.Timer(120, process.kill)
        late.start()
        os.write(ours, typed)
        said = b""
        with contextlib.suppress(OSError):  # The terminal closes with its last user.
            while more := os.read(ours, 4096):
                said += more
        late.cancel()
    os.close(ours)
    assert process.returncode == code, said.decode()
    assert b"Run it? [y/N]" in said
    assert (tmp_path / "work").exists() == (code == 0)


# --- on other ground ----------------------------------------------------------------------------


def test_another_release(original: Callable[..., Path], replay: Call, tmp_path: Path) -> None:
    path = original(
        "tiny:base,wide", "--builds", "2", "--claim", RATIO, "--claim", "absolute record=base ms=1"
    )
    done = replay(path, "--python", twin(tmp_path / "twin", "9.9.9"), *TRUST)
    assert done.returncode == 4, done.stderr
    _, reply = reply_of(tmp_path)
    ratio, absolute = reply.answers
    assert ratio.outcome in LIKELY, "a ratio can be answered with any release"
    assert (absolute.outcome, [each.field for each in absolute.because]) == (
        "different_experiment",
        ["release"],
    )
    assert reply.outcome == "different_experiment"
    assert "DIFFERENT EXPERIMENT because release: " in done.stdout


def test_a_release_that_is_not_here_is_not_fetched(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    def older(record: Any) -> Any:
        seen = replace(record.runtime.release, name="ort-1.29.0", version="1.29.0")
        return replace(record, runtime=replace(record.runtime, release=seen))

    path = forge.forge(original(), tmp_path / "older.zip", record=older)
    done = replay(path, *TRUST)
    assert done.returncode == 4
    assert (
        "ort-1.29.0 is not here: `repro releases install ort-1.29.0` brings it; --release ort-" in done.stderr
    )
    assert not list((tmp_path / "cache").rglob("releases"))
    _, reply = reply_of(tmp_path)
    assert (reply.outcome, reply.reason) == ("could_not_run", "ort-1.29.0 is not here")


def test_a_device_that_is_not_here(
    original: Callable[..., Path], replay: Call, call: Call, tmp_path: Path
) -> None:
    done = replay(original(), "--device", "x86", *TRUST)
    assert done.returncode == 4
    made, reply = reply_of(tmp_path)
    assert reply.outcome == "could_not_run"
    for form in ([], ["--card"], ["--markdown"], ["--html", "page.html"], ["--json"]):
        assert call("show", made, *form).returncode == 0
    assert call("verify", made).returncode == 0
    assert call("diagnose", made).returncode == 4
    assert call("ticket", made).returncode == 0


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--device", "toaster"), "unknown device 'toaster'"),
        (("--release", "nonsense"), "unknown release 'nonsense'"),
        (("--backend", "abacus"), "unknown backend 'abacus'"),
        (("--place", "moon"), "unknown place 'moon'"),
        (("--python", "nowhere"), "there is no Python at nowhere"),
    ],
)
def test_what_the_user_wrote_wrongly_is_no_answer(
    original: Callable[..., Path], replay: Call, tmp_path: Path, option: tuple[str, str], says: str
) -> None:
    done = replay(original(), *option, *TRUST)
    assert done.returncode == 2, done.stderr
    assert f"repro: {says}" in done.stderr
    assert not (tmp_path / "replies").exists()


def test_a_reply_tells_nothing_of_the_vendor_s_machine(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    path = original("tiny", "--builds", "2")
    python = tmp_path / "home-of-the-vendor" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    config = tmp_path / "config" / "trt-repro"
    config.mkdir(parents=True)
    key = next((tmp_path / "reporter" / "config").rglob("signing_key.pub")).read_text()
    (config / "allowed_signers").write_text(f"somebody@our-customers {key}")
    assert replay(path, "--yes", "--python", python, env={"HOME": str(python.parent)}).returncode == 4
    assert replay(path, "--yes").returncode in (0, 1, 3)
    for made in (tmp_path / "replies").glob("*.zip"):
        told = b"\0".join(forge.contents(made).values())
        for private in ("home-of-the-vendor", "our-customers", "allowed_signers:"):
            assert private.encode() not in told


def test_an_alternating_session_alternates_again(call: Call, replay: Call, tmp_path: Path) -> None:
    places = ("--cases", CASES, "--output", tmp_path / "bundles", "--work", tmp_path / "w", "--device", "cpu")
    assert call("ab", "tiny", "tiny+threads=1", "--rounds", "2", *places, *QUICK).returncode in (0, 1, 3)
    assert replay(bundle_of(tmp_path), "--yes").returncode in (0, 1, 3, 4)
    made, reply = reply_of(tmp_path)
    (one,) = reply.answers
    assert [name[:2] for name in one.records] == ["a-", "b-"]
    orders = [next(iter(bundle.read(p).records.values())).protocol.order for p in (made, bundle_of(tmp_path))]
    assert orders[0] == orders[1]


def test_a_user_s_own_network_that_is_shared(call: Call, replay: Call, tmp_path: Path) -> None:
    nets.saved(nets.classifier(), tmp_path)
    shape = ("--shape", "secret_image:1x3x16x12")
    assert call("case", "new", "my-net", "--onnx", "net.onnx", *shape, "--share", "model").returncode == 0
    assert call("run", "my-net", "--cases", "cases", "--device", "cpu", *QUICK).returncode == 0
    done = replay(bundle_of(tmp_path), "--yes")
    assert done.returncode in (0, 1, 3), done.stderr
    assert "GlobalAveragePool" in done.stderr


def test_a_private_network_can_not_be_replayed_and_the_reply_says_so(
    call: Call, replay: Call, tmp_path: Path
) -> None:
    nets.saved(nets.classifier(), tmp_path)
    shape = ("--shape", "secret_image:1x3x16x12")
    assert call("case", "new", "my-net", "--onnx", "net.onnx", *shape).returncode == 0
    assert call("run", "my-net", "--cases", "cases", "--device", "cpu", *QUICK).returncode == 0
    done = replay(bundle_of(tmp_path), "--yes")
    assert done.returncode == 4
    _, reply = reply_of(tmp_path)
    assert reply.outcome == "could_not_run"
    assert reply.reason == "the model of my-net is private and not in the bundle"


# --- failures -----------------------------------------------------------------------------------


def test_a_failure_with_the_same_signature(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    done = replay(original("strict", code=1), *TRUST)
    assert done.returncode == 0, done.stderr
    _, reply = reply_of(tmp_path)
    (one,) = reply.answers
    assert isinstance(one.claim, Fails)
    assert (one.outcome, one.code) == ("reproduced", "same_failure")


@pytest.mark.parametrize(
    ("claim", "outcome", "code"),
    [
        ("wrong_output record=base norm_error=1e-8", "reproduced", "as_wrong"),
        ("wrong_output record=base norm_error=0.5", "not_reproduced", "otherwise_wrong"),
        ("fails stage=run signature=nonsense", "not_reproduced", "other_stage"),
        ("absolute record=base ms=1", "could_not_run", "no_time_there"),
    ],
)
def test_claims_on_a_wrong_output(
    original: Callable[..., Path], replay: Call, tmp_path: Path, claim: str, outcome: str, code: str
) -> None:
    replay(original("strict", "--claim", claim, code=1), *TRUST)
    _, reply = reply_of(tmp_path)
    derived, claimed = reply.answers
    assert (derived.outcome, claimed.outcome, claimed.code) == ("reproduced", outcome, code)
    assert reply.outcome == outcome, "the weakest"


@pytest.mark.parametrize(("percent", "code"), [("10", "arithmetic"), ("5.46", "other_arithmetic")])
def test_a_stated_efficiency_is_calculated_again(
    original: Callable[..., Path], replay: Call, tmp_path: Path, percent: str, code: str
) -> None:
    stated = f"stated_efficiency record=base flop=1e9 peak_flops=1e12 peak_is_sparse=false percent={percent}"
    replay(original("tiny", "--claim", f"{stated} time_ms=10", "--builds", "2"), *TRUST)
    _, reply = reply_of(tmp_path)
    (one,) = reply.answers
    # Where the arithmetic holds, what is left is whether it takes 10 ms.
    assert one.code == (code if code == "other_arithmetic" else "outside")
    assert one.outcome == "not_reproduced"


def test_a_failure_with_another_signature(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    path = original("strict", code=1)
    claims = (Fails(stage="build", signature="build/RuntimeError: another one"),)
    done = replay(forge.forge(path, tmp_path / "other.zip", claims=claims), *TRUST)
    assert done.returncode == 1
    _, reply = reply_of(tmp_path)
    assert [each.code for each in reply.answers] == ["other_stage"]


# --- whoever means no good ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"model": forge.external}, 1, "keeps a tensor in another file"),
        ({"model": forge.declared}, 1, "declares a tensor of [536870912], and doesn't hold it"),
        ({"model": forge.looping}, 4, "the operator Loop"),
        ({"model": forge.doubling()}, 4, "the model's tensors have"),
        (
            {"model": lambda data: data + b"\x0a\x00", "consistent": False},
            1,
            "is not the one that its record",
        ),
    ],
)
def test_a_model_that_means_no_good(
    original: Callable[..., Path], replay: Call, tmp_path: Path, changes: Any, code: int, says: str
) -> None:
    path = forge.forge(original(), tmp_path / "forged.zip", **changes)
    done = replay(path, *TRUST)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert not list((tmp_path / "work").glob("*/job"))


def test_a_case_that_only_calls_itself_one_of_the_kit_s(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    def renamed(resolved: Any) -> Any:
        return replace(resolved, case=replace(resolved.case, id="conv16"))

    path = forge.forge(original(), tmp_path / "forged.zip", case=renamed)
    done = replay(path, *TRUST)
    assert done.returncode == 4
    assert "it calls itself conv16@1, and is another experiment than the kit's" in done.stderr
    _, reply = reply_of(tmp_path)
    assert reply.outcome == "different_experiment"


def test_memory_beyond_the_cap_ends_the_turn_and_is_said(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    if "memory" not in confine.able(gpu=False):
        pytest.skip("this system can't enforce it")
    path = forge.forge(original(), tmp_path / "forged.zip", model=forge.growing(1024))
    done = replay(path, "--memory", "2", *TRUST)
    assert done.returncode == 4, done.stdout
    made, reply = reply_of(tmp_path)
    (record,) = bundle.read(made).records.values()
    assert record.status == "failed"
    assert (reply.outcome, reply.answers[0].code) == ("could_not_run", "memory")


def test_the_same_within_the_cap_runs(original: Callable[..., Path], replay: Call, tmp_path: Path) -> None:
    """Or the test above would pass for another reason."""
    path = forge.forge(original(), tmp_path / "forged.zip", model=forge.growing(64))
    replay(path, "--memory", "2", *TRUST)
    made, _ = reply_of(tmp_path)
    (record,) = bundle.read(made).records.values()
    assert (record.status, record.reason) == ("measured", None)


GUARD = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.bind"):
        raise RuntimeError(f"the network: {event} {arguments}")
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system"):
        program = str(arguments[0])
        if os.path.basename(program) not in ALLOWED:
            raise RuntimeError(f"a program: {program}")
    if event == "open" and isinstance(arguments[0], (str, bytes)) and "trap" in str(arguments[0]):
        raise RuntimeError(f"a file: {arguments[0]}")
ALLOWED = {"ssh-keygen", os.path.basename(sys.executable), "python", "python3"}
sys.addaudithook(watch)
"""


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if path.relative_to(folder).parts[0] not in ("work", "replies")
    }


def test_nothing_is_written_elsewhere_nothing_connects_and_no_program_of_the_bundle_starts(
    original: Callable[..., Path], replay: Call, tmp_path: Path
) -> None:
    trap = tmp_path / "bin" / "trap"
    trap.parent.mkdir()
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for name in ("trtexec", "sh", "python3"):
        (trap.parent / name).symlink_to(trap)

    def with_commands(record: Any) -> Any:
        commands = (Command("build", ("trap", str(trap))), Command("run", (str(trap),)))
        return replace(record, commands=commands)

    path = forge.forge(original(), tmp_path / "forged.zip", record=with_commands)
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    env = {
        "PATH": f"{trap.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{guard}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # The vendor's keys are there already: making them is no part of replaying.
    make_keys = "from repro.bundle import privacy, sign; sign.ensure_key(None); privacy.of_machine()"
    subprocess.run([sys.executable, "-c", make_keys], check=True)
    before = tree(tmp_path)
    # Asking the machine's own Docker engine is a connection, too.
    done = replay(path, "--place", "host", *TRUST, env=env)
    assert done.returncode in (0, 1, 3), done.stderr
    after = tree(tmp_path)
    lock = after.pop("lock", None)
    before.pop("lock", None)
    assert lock == b"", "the machine's lock, empty again"
    assert after == before
    made, _ = reply_of(tmp_path)
    (record,) = bundle.read(made).records.values()
    assert record.status == "measured", "the guard stopped nothing, so nothing of it was tried"
    assert record.commands == ()


def test_the_guard_would_have_noticed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    for act in (
        "import socket; socket.create_connection(('127.0.0.1', 1))",
        "import subprocess; subprocess.run(['trap'])",
        "import os; os.system('true')",
    ):
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", act], env=env, capture_output=True, text=True, check=False
        )
        assert "RuntimeError: " in done.stderr


def test_trtexec_gets_our_commands_and_not_the_bundle_s(
    call: Call, replay: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repro.backends.trtexec import STANDIN_SWITCH

    monkeypatch.setenv(STANDIN_SWITCH, "1")
    monkeypatch.delenv("TRTEXEC", raising=False)
    program = standin.install(tmp_path / "bin", "10.3.0")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    places = ("--cases", CASES, "--output", tmp_path / "bundles", "--work", tmp_path / "w", "--device", "x86")
    quick = (*QUICK, "--no-calibrate", "--iterations", "20")
    assert call("run", "engine", *places, *quick).returncode == 0
    ours = bundle.read(bundle_of(tmp_path)).records

    def with_plugins(record: Any) -> Any:
        return replace(
            record,
            commands=tuple(replace(each, argv=(*each.argv, "--plugins=trap.so")) for each in record.commands),
        )

    path = forge.forge(bundle_of(tmp_path), tmp_path / "forged.zip", record=with_plugins)
    done = replay(path, *TRUST)
    assert done.returncode in (0, 1, 3), done.stderr
    made, _ = reply_of(tmp_path)
    for before, after in zip(ours.values(), bundle.read(made).records.values(), strict=True):
        assert after.status == "measured"
        assert after.commands == before.commands


# --- a replay that could not seal ---------------------------------------------------------------


def test_a_reply_can_be_sealed_later(
    original: Callable[..., Path], replay: Call, call: Call, tmp_path: Path
) -> None:
    path = original("strict", code=1)
    assert replay(path, "--unsigned", *TRUST).returncode == 0
    (work,) = (tmp_path / "work").iterdir()
    done = call("seal", work, "--output", "later", "--yes")
    assert done.returncode == 0, done.stderr
    (later,) = (tmp_path / "later").glob("reply-*.zip")
    told = bundle.read(later).statement.predicate
    assert (told.sealed, told.parent_bundle_id) == ("later", bundle.read(path).id)
    assert call("verify", later, path).returncode == 3
