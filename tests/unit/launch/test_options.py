"""The exact request for each device's container: what needs NVIDIA's runtime can be asserted only here."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from repro.errors import UsageError
from repro.launch import options
from repro.launch.options import Wanted

COMMON: dict[str, Any] = {
    "NetworkMode": "none",
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "IpcMode": "private",
    "Tmpfs": {"/tmp": "rw,nosuid,nodev,noexec,mode=0700,uid=65532,gid=65532,size=4096"},
    "Mounts": [{"Type": "volume", "Target": "/repro"}],
    "LogConfig": {"Type": "none"},
    "PidsLimit": 100,
    "Memory": 2**30,
    "MemorySwap": 2**30,
}
ON_A_GPU: dict[str, Any] = {
    "ShmSize": 2**30,
    "Ulimits": [
        {"Name": "memlock", "Soft": -1, "Hard": -1},
        {"Name": "stack", "Soft": 67108864, "Hard": 67108864},
    ],
}


def wanted(device: str, **more: Any) -> Wanted:
    limits = {"memory_bytes": 2**30, "pids": 100, "scratch_bytes": 4096}
    return Wanted(device=device, image="sha256:1", **{**limits, **more})


def test_the_whole_request_for_the_processor() -> None:
    assert options.request(wanted("cpu", labels={"trt-repro.run": "r"})) == {
        "Image": "sha256:1",
        "User": "65532:65532",
        "Cmd": ["/opt/repro/venv/bin/python", "-m", "repro.worker", "/repro/job", "/repro/out"],
        "Env": [
            "HOME=/tmp",
            "LC_ALL=C.UTF-8",
            "PYTHONPATH=/repro/kit",
            "PYTHONPYCACHEPREFIX=/tmp/pycache",
            "TMPDIR=/tmp",
        ],
        "WorkingDir": "/tmp",
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "NetworkDisabled": True,
        "Labels": {"trt-repro.run": "r"},
        "HostConfig": COMMON,
    }


@pytest.mark.parametrize("gpu", ["1", "GPU-8a4d0f9e-0000-1111-2222-333344445555"])
def test_x86_asks_for_one_gpu_by_index_or_uuid(gpu: str) -> None:
    device = {"Driver": "nvidia", "DeviceIDs": [gpu], "Capabilities": [["gpu", "compute", "utility"]]}
    body = options.request(wanted("x86", gpu=gpu))
    assert body["HostConfig"] == {**COMMON, **ON_A_GPU, "DeviceRequests": [device]}
    assert not [entry for entry in body["Env"] if "NVIDIA" in entry]


def test_x86_by_cdi() -> None:
    device = {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}
    assert options.request(wanted("x86", cdi=True))["HostConfig"] == {
        **COMMON,
        **ON_A_GPU,
        "DeviceRequests": [device],
    }


def test_orin_is_reached_by_the_runtime_with_the_boards_paths_read_only() -> None:
    body = options.request(
        wanted("orin", groups=(44, 104), mounts=options.board_mounts(Path("/nowhere"), local=True))
    )
    assert body["HostConfig"] == {
        **COMMON,
        **ON_A_GPU,
        "Runtime": "nvidia",
        "GroupAdd": ["44", "104"],
        "Mounts": [
            {"Type": "volume", "Target": "/repro"},
            {"Type": "bind", "Source": "/nowhere/sys", "Target": "/board/sys", "ReadOnly": True},
            {
                "Type": "bind",
                "Source": "/nowhere/etc/nv_tegra_release",
                "Target": "/board/etc/nv_tegra_release",
                "ReadOnly": True,
            },
        ],
    }
    assert "NVIDIA_VISIBLE_DEVICES=all" in body["Env"]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in body["Env"]
    assert "TRT_REPRO_BOARD=/board" in body["Env"], "where the board's probes look"
    without = options.request(wanted("orin"))
    assert not [each for each in without["Env"] if each.startswith("TRT_REPRO_BOARD")]
    assert options.board_mounts(local=False)[0] == ("/sys", "/board/sys")


@pytest.mark.parametrize("device", ["cpu", "x86", "orin"])
def test_no_device_gets_rights_that_another_lacks(device: str) -> None:
    host = options.request(wanted(device))["HostConfig"]
    assert "Privileged" not in host
    assert "CapAdd" not in host
    assert "Devices" not in host
    assert {name: host[name] for name in ("NetworkMode", "ReadonlyRootfs", "CapDrop", "SecurityOpt")} == {
        name: COMMON[name] for name in ("NetworkMode", "ReadonlyRootfs", "CapDrop", "SecurityOpt")
    }


def test_what_the_kernel_can_t_limit_is_not_asked_for() -> None:
    host = options.request(wanted("cpu", memory_bytes=None, pids=None))["HostConfig"]
    assert not {"Memory", "MemorySwap", "PidsLimit"} & set(host)
    assert options.limits(10 * 2**30, {"memory", "pids"}) == (9 * 2**30, options.PIDS)  # type: ignore[arg-type]
    assert options.limits(10 * 2**30, frozenset()) == (None, None)
    assert options.limits(0, frozenset({"memory"})) == (None, None)


def test_the_scratch_grows_with_the_largest_model(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b", 1000)):
        (tmp_path / name).write_bytes(bytes(size))
    assert options.scratch_bytes([]) == options.SCRATCH_BYTES
    assert options.scratch_bytes(tmp_path.iterdir()) == options.SCRATCH_BYTES + 8000


def test_more_of_the_board_is_mounted_where_it_is_this_machine(tmp_path: Path) -> None:
    (tmp_path / "etc/nvpmodel").mkdir(parents=True)
    (tmp_path / "etc/nvpmodel/of_this_board.conf").touch()
    (tmp_path / "etc/nvpmodel.conf").symlink_to("/etc/nvpmodel/of_this_board.conf")
    local = options.board_mounts(tmp_path, local=True)
    # The engine would follow the link out of the folder.
    table = str(tmp_path / "etc/nvpmodel/of_this_board.conf")
    assert (table, "/board/etc/nvpmodel.conf") in local
    assert "/board/var/lib/nvpmodel" not in dict(local).values()
    assert options.board_mounts(tmp_path, local=False) == local[:2]


def test_jtops_socket_goes_in_for_own_cases_only_and_only_if_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "jtop.sock"
    with pytest.raises(UsageError, match="there is no jtop socket"):
        options.jtop_mount(path, own=True)
    path.mkdir()
    with pytest.raises(UsageError, match="is no socket"):
        options.jtop_mount(path, own=True)
    path.rmdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        assert options.jtop_mount(path, own=True) == (str(path), "/run/jtop.sock")
        with pytest.raises(UsageError, match="never given to somebody else"):
            options.jtop_mount(path, own=False)


@pytest.mark.needs("root")
def test_the_worker_is_in_the_groups_of_closed_device_nodes(tmp_path: Path) -> None:
    for name, mode, group in (("nvidia0", 0o666, 7), ("nvmap", 0o660, 44), ("nvidiactl", 0o660, 0)):
        node = tmp_path / name
        node.touch()
        os.chown(node, 0, group)
        node.chmod(mode)
    assert options.device_groups("orin", tmp_path, local=True) == (44,)
    assert options.device_groups("cpu", tmp_path, local=True) == ()
    assert options.device_groups("orin", tmp_path, local=False) == (44,)
    assert options.device_groups("x86", tmp_path, local=False) == ()
