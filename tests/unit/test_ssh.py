"""Addresses of boards, and what is said when there is no connection."""

from __future__ import annotations

import pytest

from repro import ssh
from repro.errors import ExitCode, UsageError
from repro.ssh import Target


@pytest.mark.parametrize(
    ("url", "target", "place"),
    [
        ("ssh://orin", Target("orin"), ["--", "orin"]),
        ("ssh://me@Orin-A:2222", Target("Orin-A", "me", 2222), ["-l", "me", "-p", "2222", "--", "Orin-A"]),
        ("ssh://me@[fe80::1%25eth0]:22", Target("fe80::1%25eth0", "me", 22), None),
        ("ssh://orin/", Target("orin"), None),
        ("ssh://orin/run/user/1000/docker.sock", Target("orin", socket="/run/user/1000/docker.sock"), None),
        ("ssh://a%40b@orin", Target("orin", "a@b"), None),
    ],
)
def test_an_address_has_user_host_port_and_socket(url: str, target: Target, place: list[str] | None) -> None:
    assert ssh.parse(url) == target
    assert place is None or ssh.parse(url).place == place


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("orin", "no address of a board"),
        ("tcp://orin:2375", "no address of a board"),
        ("ssh://", "no address of a board"),
        ("ssh://orin:99999", "Port out of range"),
        ("ssh://orin:abc", "no address of a board"),
        ("ssh://me:secret@orin", "a password in the address would be seen by everybody"),
        ("ssh://-oProxyCommand=touch", "no address of a board"),
        ("ssh://-x@orin", "no address of a board"),
        ("ssh://orin?x=1", "no address of a board"),
        ("ssh://me@ori;n", "no address of a board"),
        ("ssh://orin/run/a'b", "no address of a board"),
    ],
)
def test_what_is_no_address_is_a_usage_error(url: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        ssh.parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        (
            "Host key verification failed.\n",
            "the host key of orin is not known here",
            "compare its fingerprint: ssh -p 2222 me@orin true",
        ),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\n",
            "the host key of orin has changed",
            "ssh-keygen -R '[orin]:2222' && ssh -p 2222 me@orin true",
        ),
        (
            "me@orin: Permission denied (publickey).",
            "orin takes none of your keys",
            "ssh-copy-id -p 2222 me@orin",
        ),
        ("ssh: connect to host orin port 2222: Connection refused", "Connection refused", "try `ssh -p 2222"),
        ("ssh: Could not resolve hostname orin: Name or service not known", "Could not resolve", "try `ssh"),
        ("", "it does not answer", "try `ssh"),
    ],
)
def test_each_refusal_is_one_line_with_the_command_that_mends_it(said: str, what: str, hint: str) -> None:
    error = ssh.refused(Target("orin", "me", 2222), said)
    assert what in error.what
    assert hint in error.hint
    assert "\n" not in str(error)
    assert error.code is ExitCode.DOES_NOT_APPLY


def test_a_known_host_on_the_usual_port_has_no_port() -> None:
    assert (Target("orin").known_as, Target("orin", port=22).known_as) == ("orin", "orin")
