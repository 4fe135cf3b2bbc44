"""Text to paste: the template's fields, the records' words, and no markup of a stranger's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import bundle
from repro.errors import Unavailable
from repro.report import ticket
from repro.schema import Absolute, Command, Figure, Record, ReleaseSeen, Reply
from tests.builders import make_failed, make_predicate, make_record, seal
from tests.unit.report.test_reply import PARENT, one, sealed

replace = msgspec.structs.replace

# As the issues of NVIDIA/TensorRT have them.
FIELDS = (
    "## Description",
    "## Environment",
    "**TensorRT Version**",
    "**NVIDIA GPU**",
    "**NVIDIA Driver Version**",
    "**CUDA Version**",
    "**CUDNN Version**",
    "Operating System",
    "Python Version (if applicable)",
    "Tensorflow Version (if applicable)",
    "PyTorch Version (if applicable)",
    "Baremetal or Container (if so, version)",
    "## Relevant Files",
    "**Model link**",
    "## Steps To Reproduce",
    "**Commands or scripts**",
    "**Have you tried the latest release?**",
    "**Can this model run on other frameworks?**",
)


def written(folder: Path, *records: Record, **changes: Any) -> str:
    return ticket.render(bundle.read(seal(folder / "b.zip", *records, **changes).path))


def field(text: str, name: str) -> str:
    (value,) = re.findall(rf"^{re.escape(name)}: (.*?) *$", text, re.MULTILINE)
    return str(value)


def test_the_fields_are_those_of_the_template_in_their_order(tmp_path: Path) -> None:
    text = written(tmp_path)
    at = [text.index(f"\n{name}") for name in FIELDS]
    assert at == sorted(at)
    assert not re.search(r"\bNone\b", text)


def on_gpu(record: Record) -> Record:
    release = ReleaseSeen("trt-8.6.1.6", "8.6.1.6", "b1", "12.0", "8.9.0", "535.1")
    runtime = replace(record.runtime, product="TensorRT", release=release)
    board = replace(record.board, name="NVIDIA X", compute_capability="8.7")
    return replace(record, runtime=runtime, board=board)


def test_what_a_gpu_and_tensorrt_say_of_themselves(tmp_path: Path) -> None:
    text = written(tmp_path, on_gpu(make_record()))
    assert field(text, "**TensorRT Version**") == "8.6.1.6 \\(build b1\\)"
    assert field(text, "**NVIDIA GPU**") == "NVIDIA X"
    assert field(text, "**NVIDIA Driver Version**") == "535.1"
    assert field(text, "**CUDA Version**") == "12.0"
    assert field(text, "**CUDNN Version**") == "8.9.0"
    assert text.startswith(
        "<!-- Title: Performance of TensorRT 8.6.1.6 when running made\\-up on NVIDIA X -->"
    )
    assert "not in this bundle" in field(text, "**Can this model run on other frameworks?**")


def test_what_is_not_there_is_said_and_never_left_empty(tmp_path: Path) -> None:
    record = on_gpu(make_record())
    bare = ReleaseSeen("trt-8.6.1.6", "8.6.1.6")
    text = written(tmp_path, replace(record, runtime=replace(record.runtime, release=bare)))
    for name in ("**NVIDIA Driver Version**", "**CUDA Version**", "**CUDNN Version**"):
        assert field(text, name) == ticket.UNKNOWN


def test_numbers_have_their_intervals_and_claims_come_first(tmp_path: Path) -> None:
    claim = Absolute(record="base", ms=9.0, expected="4 ms", note="as on Orin")
    text = written(tmp_path, make_record(), claims=(claim,))
    assert "- **base takes 9 ms** (expected\\: 4 ms; as on Orin)" in text
    assert re.search(r"10\.00 ms \\\(9\.75\d to 10\.25, 95 % over 3 builds\\\)", text)


def test_bundle_and_key_are_named_so_that_they_can_be_searched_for(tmp_path: Path) -> None:
    sealed_at = seal(tmp_path / "b.zip")
    assert f"`id {sealed_at.id}`" in ticket.render(bundle.read(sealed_at.path))


def test_commands_stand_as_they_are(tmp_path: Path) -> None:
    record = replace(make_record(), commands=(Command("build", ("trtexec", "--fp16", "a b")),))
    text = written(tmp_path, record)
    assert "```\nrepro verify b.zip\nrepro replay b.zip --replay-unknown-signer\n```" in text
    assert "trtexec --fp16 'a b'" in text


def test_a_failure_has_its_stage_and_message(tmp_path: Path) -> None:
    text = written(tmp_path, make_failed("no kernel for `this` ``` one"))
    assert "<!-- Title: Failure in build of " in text
    assert "base\\-ort\\-1.0 fails in build" in text
    assert "````\nno kernel for `this` ``` one\n````" in text


def test_a_private_model_is_said_to_be(tmp_path: Path) -> None:
    record = make_record()
    text = written(tmp_path, replace(record, case=replace(record.case, share="none")))
    assert "the model is private and not in it" in field(text, "**Model link**")


def test_a_bundle_without_a_record_is_no_report(tmp_path: Path) -> None:
    made = bundle.seal({}, make_predicate(), key=None, target=tmp_path / "b.zip", stem="b")
    with pytest.raises(Unavailable, match="holds no record"):
        ticket.render(bundle.read(made.path))


def test_a_reply_is_the_answer_to_paste_back(tmp_path: Path) -> None:
    said = Reply(outcome="reproduced", answers=(one(here=Figure(0.5345, "ratio", 0.5334, 0.5357)),))
    text = ticket.render(sealed(tmp_path, said, make_record()))
    assert text.startswith(
        "**REPRODUCED**\n\n- wide takes 0.53 times the time of base: **reproduced\\: 0.5345 "
    )
    assert f"This answers the bundle `{PARENT}`." in text
    assert "repro verify r.zip ORIGINAL.zip" in text


def test_a_reply_of_nothing_run_has_its_reason(tmp_path: Path) -> None:
    text = ticket.render(sealed(tmp_path, Reply(outcome="could_not_run", answers=(), reason="no GPU here")))
    assert text.startswith("**COULD NOT RUN because no GPU here**\n")


NASTY = "x --> <b> @all #1 https://x.y [a](b) | `c` \x1b[2J\nnew"


@given(st.text(max_size=80) | st.just(NASTY))
def test_foreign_words_stay_words(tmp_path_factory: pytest.TempPathFactory, words: str) -> None:
    folder = tmp_path_factory.mktemp("t")
    record = make_record()
    record = replace(
        record,
        board=replace(record.board, name=words),
        runtime=replace(record.runtime, product=words, release=ReleaseSeen("ort-1.0", words)),
    )
    claim = Absolute(record=words, ms=1.0, note=words, expected=words)
    text = written(folder, record, claims=(claim,))
    assert "\x1b" not in text
    assert text.count("-->") == 1, "the title's comment ends where it should"
    outside = re.sub(r"^(`{3,})\n.*?^\1$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for mark in (r"<b>", r"(?<!\\)@all", r"\]\(b\)", r"https://"):
        assert not re.search(mark, outside)
