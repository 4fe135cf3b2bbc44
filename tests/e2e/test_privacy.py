"""Nothing leaked: what a bundle must not hold, planted on the machine and looked for in every member."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

from repro import bundle
from repro.bundle import archive
from tests.e2e.conftest import CASES, Call, bundle_of, command, run_arguments
from tests.e2e.test_loss import work_of

pytestmark = pytest.mark.needs("ssh-keygen", "linux")


def _own_terminal() -> None:
    """Make standard input the terminal that this process is controlled by, so that Ctrl-C reaches it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def converse(folder: Path, answer: str, *arguments: str) -> tuple[int, str]:
    """Run the command line on a terminal, and answer its one question."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(
        command(*arguments),
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        preexec_fn=_own_terminal,
    ) as process:
        os.close(theirs)
        seen = b""
        deadline = time.monotonic() + 60
        answered = -math.inf
        while time.monotonic() < deadline:
            ready, _, _ = select.select([ours], [], [], 0.2)
            if ready:
                try:
                    seen += os.read(ours, 65536)
                except OSError:
                    break
            elif process.poll() is not None:
                break
            # Once more where it was lost: Ctrl-C in the moment before readline waits is not seen by it.
            if answer and b"Seal it?" in seen and time.monotonic() > answered + 2:
                os.write(ours, answer.encode())
                answered = time.monotonic()
        else:
            process.kill()
    os.close(ours)
    return process.returncode, seen.decode(errors="replace")


def test_the_first_interactive_run_shows_the_preview_and_asks(tmp_path: Path) -> None:
    code, seen = converse(tmp_path, "y\n", *run_arguments("tiny", tmp_path))
    assert code == 0, seen
    assert "would hold" in seen
    assert "Seal it?" in seen
    assert bundle.read(bundle_of(tmp_path)).records
    code, seen = converse(tmp_path, "y\n", *run_arguments("tiny", tmp_path))
    assert code == 0
    assert "Seal it?" not in seen, "asked once"


CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.mark.parametrize("answer", ["n\n", CTRL_C, CTRL_D], ids=["no", "ctrl-c", "ctrl-d"])
def test_anything_but_yes_seals_nothing_and_keeps_the_work(tmp_path: Path, call: Call, answer: str) -> None:
    code, seen = converse(tmp_path, answer, *run_arguments("tiny", tmp_path))
    assert code == 130
    assert not list((tmp_path / "bundles").iterdir())
    assert f"repro seal {work_of(tmp_path)}" in seen.replace("\r\n", "")
    assert call("seal", work_of(tmp_path)).returncode == 0


def test_yes_asks_nothing_and_says_where_to_look(tmp_path: Path) -> None:
    code, seen = converse(tmp_path, "", *run_arguments("tiny", tmp_path, "--yes"))
    assert code == 0
    assert "Seal it?" not in seen
    assert "what it reveals: work/" in seen
    assert (work_of(tmp_path) / "preview.html").read_text().startswith("<!doctype html>")


SECRET = "nvapi-" + "0123456789abcdefghij"


def secret_case(folder: Path) -> Path:
    """Return a folder of cases with a secret in one's title."""
    text = (CASES / "tiny" / "case.toml").read_text().replace("Two small convolutions", f"With {SECRET}")
    home = folder / "secret-cases" / "tiny"
    home.mkdir(parents=True)
    (home / "case.toml").write_text(text)
    return home.parent


def test_a_secret_stops_sealing_and_is_named_without_being_repeated(
    tmp_path: Path, run_case: Call, call: Call
) -> None:
    done = run_case("tiny", "--cases", str(secret_case(tmp_path)))
    assert done.returncode == 1
    assert "looks like a secret (nvidia_key)" in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert not list((tmp_path / "bundles").iterdir())
    work = work_of(tmp_path)
    preview = call("preview", work)
    assert preview.returncode == 1
    finding = next(word for word in preview.stdout.split() if word.startswith("nvidia_key-"))
    assert finding in done.stderr
    assert call("seal", work, "--allow-finding", "nvidia_key-00000000").returncode == 1
    assert call("seal", work, "--allow-finding", finding).returncode == 0
    assert bundle.read(bundle_of(tmp_path)).statement.predicate.allowed_findings == (finding,)


def test_a_secret_in_a_claim_stops_sealing_too(run_case: Call, tmp_path: Path) -> None:
    done = run_case("tiny", "--claim", f"absolute record=x ms=1 note='token {SECRET}'")
    assert done.returncode == 1
    assert "looks like a secret" in done.stderr


def test_preview_of_a_bundle_lists_every_member(run_case: Call, call: Call, tmp_path: Path) -> None:
    run_case("tiny")
    done = call("preview", bundle_of(tmp_path))
    assert done.returncode == 0
    with archive.opened(bundle_of(tmp_path)) as zipped:
        for name in zipped.names:
            assert f"{name} " in done.stdout
    page = tmp_path / "page.html"
    assert call("preview", bundle_of(tmp_path), "--html", page).returncode == 0
    assert "record.json" in page.read_text()


def test_extract_unpacks_into_a_new_folder_only(run_case: Call, call: Call, tmp_path: Path) -> None:
    run_case("tiny")
    target = tmp_path / "unpacked"
    assert call("extract", bundle_of(tmp_path), target).returncode == 0
    assert oct(target.stat().st_mode & 0o777) == "0o700"
    with archive.opened(bundle_of(tmp_path)) as zipped:
        found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
        assert found == set(zipped.names)
        assert all((target / name).read_bytes() == zipped.read(name) for name in zipped.names)
    assert call("extract", bundle_of(tmp_path), target).returncode == 2


def test_extract_of_a_damaged_bundle_leaves_nothing(run_case: Call, call: Call, tmp_path: Path) -> None:
    run_case("tiny")
    path = bundle_of(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert call("extract", path, tmp_path / "unpacked").returncode == 1
    assert not (tmp_path / "unpacked").exists()


# Each of these is planted somewhere on the machine or in a log; none may be in any member.
HOST = "build-host-7.corp.example.net"
PLANTED = {
    "user": "hiro.tanaka",
    "home": "/home/hiro.tanaka",
    "case_path": "/home/hiro.tanaka/projects/falcon/model.onnx",
    "windows_path": r"C:\Users\hiro.tanaka\models\falcon.onnx",
    "mount": "/mnt/nfs/falcon-weights/v3",
    "mail": "hiro.tanaka@falcon-robotics.example",
    "ip": "10.21.33.47",
    "public_ip": "203.0.113.77",
    "ipv6": "fe80::1ff:fe23:4567:890a",
    "ipv6_global": "2001:db8:85a3::8a2e:370:7334",
    "mac": "02:42:ac:11:00:02",
    "mac_dashes": "02-42-AC-11-00-03",
    "gpu_uuid": "GPU-5d2a5f6e-8a4b-4c6d-9e8f-0a1b2c3d4e5f",
    "mig_uuid": "MIG-5d2a5f6e-8a4b-4c6d-9e8f-0a1b2c3d4e60",
    "disk_uuid": "0f3ce1a2-7b64-4c7e-9d21-aa55cc771199",
    "machine_id": "4f1c2d3e4b5a69788796a5b4c3d2e1f0",
    "board_serial": "1424021099713",
    "disk_serial": "S5GXNX0T812345L",
    "bios_serial": "VMW-56-4d-2f-11-aa",
    "asset_tag": "FALCON-ASSET-00417",
    "container": "falcon-ci-runner-3f9a",
    "container_id": "9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0",
    "image_registry": "registry.falcon-robotics.example:5000/perception/trt",
    "private_git": "git@git.falcon-robotics.example:perception/falcon.git",
    "branch": "feature/falcon-secret-sauce",
    "process": "falcon_perception_node --calib=rig42",
    "module": "libfalcon_plugin.so",
    "layer": "falcon_backbone/stage3/secret_attention",
    "tensor": "falcon_input_lidar",
    "customer": "Acme-Falcon-Customer-0093",
    "ticket": "FALCON-8812",
    "wifi": "FalconOfficeWiFi",
    "timezone_city": "Asia/Falconville",
    "locale": "xx_FALCON.UTF-8",
    "proxy": "http://proxy.falcon-robotics.example:3128",
    "proxy_password": "http://hiro:falconpw1@proxy.falcon-robotics.example:3128",
    "url_password": "https://hiro:falconpw2@files.falcon-robotics.example/model",
    "s3": "s3://falcon-bucket-0017/models/v3",
    "phone": "+81-3-5555-0199",
    "aws_id": "AKIAFALCON0000000001"[:20],
    "aws_secret": "AWS_SECRET_ACCESS_KEY=falconfalconfalconfalconfalconfalcon1234",
    "github": "ghp_falconfalconfalconfalconfalconfalcon12",
    "gitlab": "glpat-falconfalconfalcon12",
    "nvapi": "nvapi-falconfalconfalconfalcon01",
    "hf": "hf_falconfalconfalconfalcon02",
    "openai": "sk-falconfalconfalconfalcon03",
    "slack": "xoxb-falcon-falcon-falcon-04",
    "pypi": "pypi-falconfalconfalconfalcon05",
    "google": "AIzafalconfalconfalconfalconfalconfalcon",
    "jwt": "eyJmYWxjb24iOjF9.eyJmYWxjb24iOjJ9.falconsignature06",
    "bearer": "Bearer falconfalconfalconfalcon07",
    "basic": "Basic ZmFsY29uOmZhbGNvbmZhbGNvbg==",
    "docker_auth": '"auth": "ZmFsY29uOnB3ZmFsY29u"',
    "wandb": "WANDB_API_KEY=falconfalconfalconfalconfalconfalcon08",
    "password": "DB_PASSWORD=falconfalcon09",
    "npm": "//registry.npmjs.example/:_authToken=falconfalcon10",
    "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "ssh_public": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5falconfalcon hiro@falcon",
    "cookie": "session=falconcookiefalconcookie11",
    "kube": "client-key-data: ZmFsY29uZmFsY29uZmFsY29u",
    "licence": "FALC-ON00-1234-5678-9ABC",
    "cuda_env": "FALCON_CUDA_TUNING=17",
}


def test_sixty_kinds_are_planted() -> None:
    assert len({*PLANTED, "host"}) >= 60


def readable() -> list[str]:
    """Return what must stay readable in a log."""
    return ["opset 13", "1x16x1920x1080", "version 1.31.1", "8.5.2.2-1+cuda11.4", "816 MHz", "--fp16"]


def test_none_of_what_was_planted_is_in_any_member(run_case: Call, call: Call, tmp_path: Path) -> None:
    environment = {f"PLANTED_{kind.upper()}": value for kind, value in PLANTED.items()}
    environment |= {"USER": PLANTED["user"], "LOGNAME": PLANTED["user"], "HOME": str(tmp_path)}
    environment |= {"HTTP_PROXY": PLANTED["proxy_password"], "AWS_SECRET_ACCESS_KEY": PLANTED["aws_secret"]}
    run_case("tiny", env=environment)
    bundle_of(tmp_path).unlink()
    work = work_of(tmp_path)
    # Logs: each value once on a line of unknown form, and once inside an error of known form.
    (log,) = (work / "out" / "records").glob("*/logs/b0r0.txt")
    lines = [f"using {value} now" for value in PLANTED.values()]
    known = "2026-11-24 13:57:20.750385486 [E:onnxruntime:, session.cc:12 Run] "
    inside = ["user", "home", "case_path", "mount", "mail", "ip", "ipv6", "mac", "gpu_uuid", "disk_uuid"]
    lines += [f"{known}cannot use {PLANTED[kind]} here" for kind in inside]
    lines += [f"{known}{word}" for word in readable()]
    log.write_text("\n".join(lines))
    # A failure's message: the same, from a library.
    (record_path,) = (work / "out" / "records").glob("*/record.json")
    record = json.loads(record_path.read_text())
    message = "; ".join(PLANTED[kind] for kind in inside)
    error = {
        "stage": "run",
        "code": "Fail",
        "signal": None,
        "message": message,
        "signature": f"run/Fail: {message}",
    }
    record["stages"][-1] |= {"status": "failed", "error": error}
    record |= {"status": "failed", "reason": message}
    record_path.write_text(json.dumps(record))
    sealed = call("seal", work, env=environment)
    assert sealed.returncode == 1, sealed.stderr  # 1: the record failed
    with archive.opened(bundle_of(tmp_path)) as zipped:
        members = {name: zipped.read(name) for name in zipped.names}
    for kind, value in PLANTED.items():
        found = [name for name, data in members.items() if value.encode() in data]
        assert found == [], f"{kind} is in {found}"
    left = [
        data[max(0, at - 60) : at + 40]
        for data in members.values()
        if (at := data.lower().find(b"falcon")) >= 0
    ]
    assert left == []
    kept = members[next(name for name in members if name.endswith("logs/b0r0.txt"))].decode()
    for word in readable():
        assert word in kept
    assert f"<{len(PLANTED)} lines left out>" in kept
