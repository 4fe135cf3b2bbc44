"""HOST=ssh://…: a board behind a real sshd on loopback does what the local engine does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from repro import bundle, containers, delivery, images, releases
from repro.bundle import archive
from repro.containers import Engine
from repro.errors import Lost, Unavailable
from repro.launch import lock
from tests.docker.conftest import RELEASE, Call, run_arguments
from tests.docker.lab import ALIAS, Board
from tests.docker.test_cpu import record_of

pytestmark = pytest.mark.needs("sshd", "mount")
ON_CPU = ("--device", "cpu", "--release", RELEASE)


def test_an_image_is_delivered_whole_and_only_where_it_can_run(
    engine: Engine, cpu: Callable[[str], str], far: Call, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = cpu(RELEASE)
    push = ("images", "push", board.url, RELEASE, "--device", "cpu")
    row = releases.row_of(RELEASE, "cpu")
    assert row is not None
    monkeypatch.setenv(images.STANDIN_SWITCH, "1")
    there = containers.connect(board.local_url)
    if images.inspect(there, name):
        there.client.images.remove(name, force=True)
    arm = msgspec.structs.replace(there, architecture="arm64")
    with pytest.raises(Unavailable, match="is for amd64, Docker is arm64"):
        delivery.push(engine, arm, row, lambda _: None)
    with board.full():
        full = far(*push)
    assert full.returncode == 4
    assert "GiB are free on Docker on 127.0.0.1" in full.stderr
    over_ssh = containers.connect(board.url)

    def cut(line: str) -> None:
        if line.startswith(name):
            board.kill_link()

    with pytest.raises(Lost, match="while sending"):
        delivery.push(engine, over_ssh, row, cut)
    over_ssh.close()
    assert images.inspect(there, name) is None, "what came in part is no image"
    done = far(*push)
    assert done.returncode == 0, done.stderr
    arrived, sent = images.inspect(there, name), images.inspect(engine, name)
    there.close()
    assert arrived is not None
    assert sent is not None
    assert (arrived.id, arrived.labels) == (sent.id, sent.labels)
    assert arrived.id in done.stdout
    assert f"sending {name} to Docker on 127.0.0.1" in done.stderr
    assert len([line for line in done.stderr.splitlines() if " MiB" in line]) > 5, "it tells how far it is"
    again = far(*push)
    assert again.returncode == 0, again.stderr
    assert f"has {name} already" in again.stderr


def test_a_case_runs_on_a_board_end_to_end(far: Call, board: Board, delivered: str, tmp_path: Path) -> None:
    # The workstation's own lock is another machine's.
    with lock.held("run-1", "conv16"):
        done = far(*run_arguments("tiny", *ON_CPU, "--host", board.url))
    assert done.returncode == 0, done.stderr
    record = record_of(tmp_path)
    place = record.runtime.place
    assert (record.status, place.kind, place.remote) == ("measured", "docker", True)
    assert place.image_id == delivered
    far_engine = containers.connect(board.local_url)
    assert far_engine.client.containers.list(all=True) == []
    assert far_engine.client.volumes.list() == []
    far_engine.close()
    assert board.sessions() == [], "no connection is left"
    (path,) = (tmp_path / "bundles").iterdir()
    replied = far("replay", path, "--host", board.url, "--output", "replies", "--yes")
    assert "Traceback" not in replied.stderr
    (reply,) = (tmp_path / "replies").iterdir()
    (again,) = bundle.read(reply).records.values()
    assert (again.status, again.runtime.place.remote) == ("measured", True)
    for each in (path, reply):
        with archive.opened(each) as zipped:
            assert not any(b"127.0.0.1" in zipped.read(name) for name in zipped.names)


def test_a_board_by_its_name_in_the_configuration_of_ssh_or_of_docker(
    far: Call, board: Board, delivered: str, tmp_path: Path
) -> None:
    meta = tmp_path / "docker" / "contexts" / "meta" / hashlib.sha256(b"lab").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": f"ssh://{ALIAS}", "SkipTLSVerify": False}
    (tmp_path / "docker" / "config.json").write_text('{"currentContext": "lab"}')
    meta.write_text(json.dumps({"Name": "lab", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    no_host = {"DOCKER_HOST": "", "DOCKER_CONFIG": str(tmp_path / "docker")}
    ways = {
        "--host": (("--host", f"ssh://{ALIAS}"), {}),
        "DOCKER_HOST": ((), {"DOCKER_HOST": f"ssh://{ALIAS}"}),
        "context": ((), no_host),
    }
    for way, (arguments, env) in ways.items():
        done = far("images", "list", "--device", "cpu", *arguments, env=env)
        lines = [line for line in done.stdout.splitlines() if RELEASE in line]
        assert "stand-in" in str(lines), (way, done.stderr)
    done = far("images", "list", env={**no_host, "DOCKER_CONTEXT": "nowhere"})
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "repro: there is no Docker context nowhere: `docker context ls` lists them",
    )


@pytest.mark.parametrize(
    ("known", "told", "mends"),
    [
        ("", "the host key of 127.0.0.1 is not known here", "compare its fingerprint: ssh -p"),
        ("another", "the host key of 127.0.0.1 has changed", "ssh-keygen -R '[127.0.0.1]:"),
    ],
    ids=["unknown", "changed"],
)
def test_a_host_key_that_is_not_the_known_one(
    far: Call, board: Board, tmp_path: Path, known: str, told: str, mends: str
) -> None:
    usual = board.known_hosts.read_text()
    public = (board.folder / "user_key.pub").read_text()
    board.known_hosts.write_text(f"[127.0.0.1]:{board.port} {public}" if known else "")
    try:
        done = far(*run_arguments("tiny", *ON_CPU, "--host", board.url))
    finally:
        board.known_hosts.write_text(usual)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert told in line
    assert mends in line
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("host", "code", "told"),
    [
        ("ssh://root@127.0.0.1:1", 4, "Connection refused"),
        ("ssh://nobody@{place}", 4, "takes none of your keys"),
        ("ssh://root@{place}/nowhere.sock", 4, "no Docker engine answers on 127.0.0.1"),
        ("root@{place}", 2, "write ssh://user@board"),
        ("ssh://root:secret@{place}", 2, "use a key"),
    ],
)
def test_what_can_t_be_reached_is_one_line(
    far: Call, board: Board, tmp_path: Path, host: str, code: int, told: str
) -> None:
    place = board.url.partition("@")[2]
    done = far(*run_arguments("tiny", *ON_CPU, "--host", host.format(place=place)))
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert told in line
    assert not (tmp_path / "work").exists()


def test_a_shell_that_talks_on_log_in_is_told(far: Call, board: Board) -> None:
    config = board.folder / "sshd_config"
    usual = config.read_text()
    config.write_text(f'{usual}ForceCommand echo Welcome to the lab; eval "$SSH_ORIGINAL_COMMAND"\n')
    board.reload_sshd()
    try:
        done = far("images", "list", "--host", board.url)
    finally:
        config.write_text(usual)
        board.reload_sshd()
    assert "prints 'Welcome to the lab' on log-in" in done.stderr
