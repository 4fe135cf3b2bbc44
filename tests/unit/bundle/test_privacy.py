"""Private values get keyed pseudonyms or go; what a reader needs stays."""

from __future__ import annotations

import base64
import hashlib
import hmac
import multiprocessing
import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.bundle import privacy
from repro.bundle.privacy import Pseudonyms, Redactor
from repro.errors import ReproError
from repro.schema import Fact, StateChange
from tests.builders import make_failed, make_record

NAMES = Pseudonyms(bytes(range(32)))


# --- pseudonyms ---------------------------------------------------------------------------------


def test_a_pseudonym_is_the_documented_hmac() -> None:
    mac = hmac.new(NAMES.key, b"host\0box7", hashlib.sha256).digest()
    assert NAMES.of("host", "box7") == "host-" + base64.b32encode(mac).decode()[:12].lower()


def test_pseudonyms_depend_on_key_kind_and_value() -> None:
    other = Pseudonyms(bytes(32))
    seen = {NAMES.of("host", "a"), NAMES.of("host", "b"), NAMES.of("user", "a"), other.of("host", "a")}
    assert len(seen) == 4
    assert NAMES.key_id != other.key_id
    assert len(NAMES.key_id) == 12


def read_key(folder: Path) -> bytes:
    return privacy.pseudonyms(folder).key


def test_of_many_processes_at_once_one_makes_the_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        keys = set(pool.map(read_key, [tmp_path] * 32, chunksize=1))
    assert len(keys) == 1
    (path,) = tmp_path.iterdir()
    assert path.name == "pseudonym.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes()) == 32


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_damaged_key_is_told_and_never_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pseudonym.key").write_bytes(content)
    with pytest.raises(ReproError, match="is not a key of 32 bytes"):
        privacy.pseudonyms(tmp_path)


def test_a_key_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "pseudonym.key").mkdir()
    with pytest.raises(ReproError, match="can't use") as caught:
        privacy.pseudonyms(tmp_path)
    assert "XDG_CONFIG_HOME" in caught.value.hint


# --- the redactor -------------------------------------------------------------------------------

VALUES = (("host", "box7"), ("user", "jane"), ("home", "/home/jane"), ("path", "/data/Project X"))


def redacted(text: str) -> str:
    return Redactor(VALUES).text(text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("on box7 and BOX7, not box77 or abox7", "on <host> and <host>, not box77 or abox7"),
        ("box7.lab.example.org:22", "<host>:22"),
        ("jane's janet", "<user>'s janet"),
        ("/home/jane/work/net.onnx failed", "<home> failed"),
        ("/data/Project X/net.onnx failed", "<path> failed"),
        ("/opt/tensorrt/lib/libnvinfer.so.10", "<path>"),
        ("C:\\Users\\Jane\\net.onnx", "<path>"),
        ("mail jane.doe+x@mail.example.org now", "mail <mail> now"),
        ("jane@box7.lab", "<mail>"),
        ("jane@box7", "<user>@<host>"),
        ("00:1b:44:11:3a:b7 or 00-1B-44-11-3A-B7", "<mac> or <mac>"),
        ("10.1.2.3, 192.168.0.17:8080", "<ip>, <ip>:8080"),
        ("fe80::1ff:fe23:4567:890a and 2001:db8::1", "<ip> and <ip>"),
        ("GPU-5a2f1c9e-1111-2222-3333-444455556666", "GPU-<uuid>"),
    ],
)
def test_private_values_go(text: str, left: str) -> None:
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "TensorRT 10.3.0.30 with CUDA 12.6.68.1",
        "onnxruntime==1.31.1.0, driver 580.65.06",
        "--fp16 --inputIOFormats=fp16:chw --iterations=100 --useCudaGraph",
        "1x16x1920x1080, 3x3, 1/2, a/b",
        "clock 1377 MHz, 99.9 %, 12:34:56, 2026-01-01T00:00:00Z",
        "Conv_3 + Relu_4 -> {ForeignNode[/a...]}".replace("/a", "a"),
        "std::vector<int>::at, a::b::c",
        "sm_87, 0x7f00, 1.7.1",
        "localhost and root",
    ],
)
def test_what_must_stay_readable_stays(text: str) -> None:
    assert redacted(text) == text


def test_every_replacement_is_counted() -> None:
    redactor = Redactor(VALUES)
    redactor.text("jane on box7 at 10.1.2.3, TensorRT 10.3.0.30")
    assert redactor.count == 3


def test_short_and_common_names_are_left_alone() -> None:
    assert Redactor([("user", "me"), ("user", "root"), ("host", "localhost")]).text(
        "me and root at localhost"
    ) == ("me and root at localhost")


@given(
    st.sampled_from(["host", "user", "home", "path"]),
    st.text(string.ascii_letters + string.digits + "-_.", min_size=3, max_size=20),
    st.text(" \t,;()[]'\"", min_size=1, max_size=2),
)
def test_a_known_value_is_never_left(kind: str, value: str, around: str) -> None:
    if value in ("root", "localhost"):
        return
    text = Redactor([(kind, value)]).text(f"x{around}{value}{around}y")
    assert text == f"x{around}<{kind}>{around}y" or value not in text


@given(st.text(max_size=200))
def test_redacting_is_safe_for_any_text(text: str) -> None:
    Redactor(VALUES).text(text)


@pytest.mark.parametrize("unit", ["/", "/a", "a.", "1.", "a@", "::", "1:", "0-", "a@b.", "C:\\", "box7."])
def test_hostile_text_takes_linear_time(unit: str) -> None:
    redacted(unit * (100_000 // len(unit)))


# --- records ------------------------------------------------------------------------------------


def publish(**changes: Any) -> tuple[Any, Redactor]:
    record = make_failed("can't open /home/jane/x for jane", boot="5a2f1c9e", **changes)
    redactor = Redactor(VALUES)
    return privacy.publish(record, NAMES, redactor), redactor


def test_a_record_is_published_without_private_values() -> None:
    record, _ = publish()
    text = msgspec.json.encode(record).decode()
    assert "jane" not in text
    assert "5a2f1c9e" not in text
    assert record.reason == "can't open <home> for <user>"
    (failed,) = (stage for stage in record.stages if stage.status == "failed")
    assert failed.error.message == "can't open <home> for <user>"
    assert record.boot == NAMES.of("boot", "5a2f1c9e")
    assert record.privacy.pseudonym_key_id == NAMES.key_id


def test_redactions_are_counted_once() -> None:
    record, redactor = publish()
    assert record.privacy.redactions == redactor.count + 1  # and the boot's id


def test_private_facts_become_pseudonyms_and_others_stay() -> None:
    facts = (
        Fact("nvml", "gpu_uuid", None, "value", "GPU-1", private=True),
        Fact("nvml", "board_id", None, "value", 7, private=True),
        Fact("nvml", "serial", None, "unsupported", None, private=True),
        Fact("host", "cpu_model", None, "value", "Made-up CPU"),
    )
    changes = (
        StateChange("nvml", "gpu_uuid", "GPU-1", "GPU-2"),
        StateChange("nvml", "serial", None, "4711"),
        StateChange("host", "cpu_model", "Made-up CPU", "another"),
    )
    told = make_record().telemetry
    record, _ = publish(telemetry=msgspec.structs.replace(told, facts=facts, state_changed=changes))
    values = [fact.value for fact in record.telemetry.facts]
    assert values == [NAMES.of("gpu-uuid", "GPU-1"), NAMES.of("board", "7"), None, "Made-up CPU"]
    assert [(change.before, change.after) for change in record.telemetry.state_changed] == [
        (NAMES.of("gpu-uuid", "GPU-1"), NAMES.of("gpu-uuid", "GPU-2")),
        (None, NAMES.of("serial", "4711")),
        ("Made-up CPU", "another"),
    ]


def test_what_a_probe_found_and_a_message_repeats_is_taken_out() -> None:
    facts = (
        Fact("nvml", "gpu_serial", None, "value", "1652222004711", private=True),
        Fact("nvml", "pci_bus_id", None, "value", "00000000:3B:00.0", private=True),
        Fact("nvml", "gpu_name", None, "value", "NVIDIA H200"),
    )
    record = make_record(telemetry=msgspec.structs.replace(make_record().telemetry, facts=facts))
    redactor = Redactor(privacy.of_records([record]))
    message = "NVIDIA H200 1652222004711 at 00000000:3b:00.0 fell off the bus"
    assert redactor.text(message) == "NVIDIA H200 <gpu_serial> at <pci_bus_id> fell off the bus"
