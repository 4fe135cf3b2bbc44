"""Who may be replayed, and how a reply hangs together with what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from repro import answer, bundle, observed, replay
from repro.bundle import Finding, archive, statement
from repro.errors import ExitCode, Refused, ReproError, Unavailable, Unknown, UsageError
from repro.schema import REPLAY_PREDICATE, RUN_PREDICATE, Absolute, Outcome, Reply
from tests.builders import make_record, seal

replace = msgspec.structs.replace
STATES = {
    "own": (Finding("good", ""), Finding("own", "")),
    "known": (Finding("good", ""), Finding("known", "")),
    "unknown": (Finding("good", ""), Finding("unknown", "")),
    "nobody": (Finding("none", ""), Finding("none", "")),
    "revoked": (Finding("good", ""), Finding("revoked", "REVOKED")),
    "expired": (Finding("good", ""), Finding("expired", "EXPIRED")),
}


def by(folder: Path, state: str) -> bundle.Bundle:
    opened = bundle.read(seal(folder / "b.zip").path)
    signature, signer = STATES[state]
    return opened._replace(inspection=replace(opened.inspection, signature=signature, signer=signer))


@pytest.mark.parametrize(
    ("state", "without", "with_word"),
    [
        ("own", None, None),
        ("known", None, None),
        ("unknown", Unknown, None),
        ("nobody", Unavailable, None),
        ("revoked", Refused, Refused),
        ("expired", Refused, Refused),
    ],
)
def test_who_may_be_replayed(
    tmp_path: Path, state: str, without: type[ReproError] | None, with_word: type[ReproError] | None
) -> None:
    for word, expected in ((False, without), (True, with_word)):
        if expected is None:
            replay.admit(by(tmp_path, state), unknown_signer=word)
        else:
            with pytest.raises(expected):
                replay.admit(by(tmp_path, state), unknown_signer=word)


def test_the_exit_codes_are_those_of_the_design() -> None:
    assert set(replay.EXIT_CODES) == set(get_args(Outcome))
    assert [replay.EXIT_CODES[each] for each in get_args(Outcome)] == [
        ExitCode.DONE,
        ExitCode.NEGATIVE,
        ExitCode.UNDECIDED,
        ExitCode.DOES_NOT_APPLY,
        ExitCode.DOES_NOT_APPLY,
    ]


CLAIM = Absolute(record="base", ms=10.0)


def pair(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Seal an original, and a reply to it with changes."""
    original = seal(folder / "original.zip", make_record(), claims=(CLAIM,))
    there = observed.load(original.path).observed
    said = answer.answer((CLAIM,), (), there, there)
    told: dict[str, Any] = {
        "claims": (CLAIM,),
        "reply": said,
        "parent_bundle_id": original.id,
        "signer_role": "vendor",
    }
    return seal(folder / "reply.zip", make_record(), **{**told, **changes}).path, original.path


def states(reply: Path, original: Path) -> dict[str, str]:
    return {each.about: each.state for each in replay.chain(reply, original)}


def test_a_chain_that_holds(tmp_path: Path) -> None:
    assert states(*pair(tmp_path)) == {"Chain": "good", "Claims": "good", "Answers": "good"}


def test_a_reply_to_another_bundle(tmp_path: Path) -> None:
    assert states(*pair(tmp_path, parent_bundle_id="6" * 64)) == {"Chain": "bad"}


def test_a_reply_to_other_claims(tmp_path: Path) -> None:
    assert states(*pair(tmp_path, claims=())) == {"Chain": "good", "Claims": "bad"}


def test_a_reply_that_its_records_do_not_give(tmp_path: Path) -> None:
    lie = Reply(outcome="not_reproduced", answers=())
    assert states(*pair(tmp_path, reply=lie))["Answers"] == "differs"


def test_what_is_no_reply(tmp_path: Path) -> None:
    reply, original = pair(tmp_path)
    with pytest.raises(UsageError, match=r"original\.zip is no reply"):
        replay.chain(original, reply)


@pytest.mark.parametrize("parent", [None, "", "x" * 64, "5" * 63])
def test_a_reply_to_nothing_is_refused(tmp_path: Path, parent: str | None) -> None:
    reply, _ = pair(tmp_path, parent_bundle_id=parent)
    with pytest.raises(Refused, match="is a reply and doesn't say to what"):
        bundle.read(reply)


@pytest.mark.parametrize("kind", [RUN_PREDICATE, REPLAY_PREDICATE])
def test_a_statement_is_of_the_type_that_it_holds(tmp_path: Path, kind: str) -> None:
    reply, original = pair(tmp_path)
    with archive.opened(reply if kind == RUN_PREDICATE else original) as zipped:
        told = msgspec.json.decode(zipped.read(statement.NAME))
    told["predicateType"] = kind
    with pytest.raises(Refused, match="is of another type than what it holds"):
        statement.parse(msgspec.json.encode(told))
