"""The board of a record: by its driver, and on a Jetson by its device tree and its table of modes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from repro import identity
from repro.backends.cuda import Gpu
from repro.probes.jetson import Jetson
from repro.schema import Board, Fact, ReleaseSeen
from tests.boards import trees
from tests.boards.trees import Tree, write

pytestmark = pytest.mark.needs("linux")

ORIN = Gpu("Orin", "GPU-1", "8.7", 14, True, 4 << 20, 32 << 30, "11.4")
CPU = Fact("host", "cpu_model", None, "value", "Made-up CPU")


def board(tree: Tree, found: Gpu | None = ORIN, *, gpu: bool = True) -> Board:
    return identity.board([CPU, *Jetson(tree.root).facts()], found, gpu=gpu, cores=8, threads=7)


@pytest.mark.parametrize(
    ("name", "row", "emulated", "mode", "sms"),
    [
        ("agx_orin_jp5", "agx-orin-64gb", None, "MODE_30W", 8),
        ("agx_orin_jp6", "agx-orin-64gb", None, "MODE_30W", 8),
        ("agx_orin_jp7", "agx-orin-64gb", None, "MODE_30W", 8),
        ("orin_nano_jp6", "orin-nano-8gb", None, "15W", 8),
        ("thread", "agx-orin-32gb", "AGX Orin 32GB (p3701-0004)", "MODE_40W", 14),
        ("thread_by_table", "agx-orin-32gb", "AGX Orin 32GB (p3701-0004)", "MODE_40W", 14),
    ],
)
def test_each_board_with_and_without_its_driver(
    tmp_path: Path, name: str, row: str, emulated: str | None, mode: str, sms: int
) -> None:
    tree = trees.lay(name, tmp_path / name)
    for found in (msgspec.structs.replace(ORIN, sm_count=sms), None):
        seen = board(tree, found)
        assert (seen.matched_id, seen.emulated, seen.sm_count) == (row, emulated, sms)
        assert (seen.name, seen.compute_capability, seen.integrated) == (tree.board.model, "8.7", True)
        assert seen.power_mode is not None
        assert seen.power_mode.name == mode


def test_a_mode_is_its_content(tmp_path: Path) -> None:
    seen = board(trees.lay("thread", tmp_path / "board"))
    assert seen.power_mode is not None
    assert seen.power_mode.content == {
        "cores": 8,
        "cpu_clock_max_mhz": 1497.6,
        "gpu_clock_max_mhz": 816.0,
        "tpc_mask": 128,
    }, "what the mode leaves as it is stands nowhere"


def test_the_drivers_multiprocessors_come_before_what_is_derived(tmp_path: Path) -> None:
    tree = trees.lay("thread", tmp_path / "board")
    assert board(tree, msgspec.structs.replace(ORIN, sm_count=12)).sm_count == 12


def test_a_run_on_the_boards_processor_has_its_mode_and_no_gpu(tmp_path: Path) -> None:
    seen = board(trees.lay("thread", tmp_path / "board"), None, gpu=False)
    assert (seen.name, seen.cores, seen.threads) == ("Jetson AGX Orin", 8, 7)
    assert (seen.compute_capability, seen.sm_count, seen.matched_id) == (None, None, None)
    assert seen.power_mode is not None


def test_a_mode_that_was_not_read_is_none(tmp_path: Path) -> None:
    tree = trees.lay("thread", tmp_path / "board")
    write(tree.root / "var/lib/nvpmodel/status", "garbage")
    assert board(tree).power_mode is None


def test_the_faster_twin_of_a_module_is_known_by_its_table(tmp_path: Path) -> None:
    tree = trees.lay("orin_nano_jp6", tmp_path / "board")
    table = tree.root / "etc/nvpmodel" / tree.board.config
    faster = table.with_name("nvpmodel_p3767_0003_super.conf")
    table.rename(faster)
    (tree.root / "etc/nvpmodel.conf").unlink()
    (tree.root / "etc/nvpmodel.conf").symlink_to(f"/etc/nvpmodel/{faster.name}")
    assert board(tree, None).matched_id == "orin-nano-8gb-super"


def test_elsewhere_nothing_of_a_jetson_is_told() -> None:
    h200 = Gpu("NVIDIA H200", "GPU-2", "9.0", 132, False, 50 << 20, 140 << 30, "12.8")
    seen = identity.board([CPU], h200, gpu=True, cores=16, threads=15)
    assert (seen.name, seen.power_mode, seen.emulated, seen.threads) == ("NVIDIA H200", None, None, None)
    cpu = identity.board([CPU], None, gpu=False, cores=2, threads=1)
    assert cpu == Board(name="Made-up CPU", cores=2, threads=1)


def test_the_release_has_the_boards_linux(tmp_path: Path) -> None:
    facts = Jetson(trees.lay("thread", tmp_path / "board").root).facts()
    release = ReleaseSeen("trt-8.5.2", "8.5.2")
    assert identity.on_board(release, facts).l4t == "35.4.1"
    assert identity.on_board(release, [CPU]) is release
