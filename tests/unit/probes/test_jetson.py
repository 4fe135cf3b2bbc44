"""The Jetson probes over made-up boards: a reading is what the tree says, and nothing else is a number."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from repro.launch import options
from repro.probes import Absent, Reading, jetson
from repro.probes.jetson import MODE_CONTENT, Jetson, present
from repro.probes.jetson_power import JetsonPower
from repro.probes.sysfs import BLOCKED, Files
from repro.schema import Fact
from tests.boards import trees
from tests.boards.trees import BOARDS, Tree, write

pytestmark = pytest.mark.needs("linux")


@pytest.fixture(params=sorted(BOARDS))
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    """Lay each board in turn."""
    return trees.lay(request.param, tmp_path / "root")


@pytest.fixture
def orin(tmp_path: Path) -> Tree:
    """Lay an AGX Orin with JetPack 6."""
    return trees.lay("agx_orin_jp6", tmp_path / "root")


def facts(tree: Tree) -> dict[str, Fact]:
    return {fact.name: fact for fact in Jetson(tree.root).facts()}


def clocks(tree: Tree) -> dict[str, Reading]:
    return dict(Jetson(tree.root).read())


def power(tree: Tree) -> dict[str, Reading]:
    return dict(JetsonPower(tree.root, Files(0.1)).read())


def missed(reason: str) -> Absent:
    return Absent("missed", reason)


GONE = Absent("unsupported", "not on this machine")


# --- each board, value by value -----------------------------------------------------------------


def test_clocks_are_what_the_tree_says(board: Tree) -> None:
    mode = board.current
    highest = max(board.board.gpu_clocks)
    board.gpu_clock(board.board.gpu_clocks[2])
    firsts, off = range(0, board.board.cores, 4), missed("not a number")
    assert clocks(board) == {
        "gpu_clock": 510.0,
        "gpu_clock_cap": (highest if mode.gpu < 0 else mode.gpu) / 1e6,
        "gpu_load": 25.0,
        "gpu_gpc0_clock": 510.0,
        "gpu_gpc1_clock": 510.0,
        "emc_clock": 2133.0,
        "emc_load": 10.0,
        **{
            f"cpu{first}_clock": (729600 + first * 100) / 1e3 if first < mode.cores else off
            for first in firsts
        },
        "throttle_cpu": 0.0,
        "throttle_gpu": 0.0,
        "alert_hot_surface": 0.0,
    }


def test_power_and_heat_are_what_the_tree_says(board: Tree) -> None:
    expected: dict[str, Reading] = {"fan_duty": 100 * 64 / 255, "fan_speed": 1150.0}
    for inputs in board.board.rails.values():
        for label, millivolts, milliamperes in inputs:
            if label != "NC":
                expected[f"power_{label.lower()}"] = millivolts * milliamperes / 1e6
                expected[f"over_current_{label.lower()}"] = 0.0
    for zone, value in board.board.zones:
        name = zone.replace("_", "-").split("-")[0].lower()
        off = missed("the sensor is off (-256 °C)")
        expected[f"temperature_{name}"] = off if value == -256000 else value / 1e3
    for kind in ("under_voltage", "average_over_current", "instantaneous_over_current"):
        expected[f"{kind}_events"] = 0.0
    assert power(board) == expected


def test_what_was_set_is_what_the_tree_says(board: Tree) -> None:
    found, mode = facts(board), board.current
    values = {name: fact.value for name, fact in found.items()}
    assert values["model"] == board.board.model
    assert values["compatible"] == " ".join(board.board.compatible)
    assert values["nv_tegra_release"] == board.board.release
    assert values["power_mode"] == mode.name
    assert values["power_mode_number"] == board.board.mode
    assert values["power_mode_default"] == board.board.modes[board.board.default].name
    assert values["power_mode_table"] == board.board.config
    assert values["power_modes"] == ", ".join(f"{i} {m.name}" for i, m in enumerate(board.board.modes))
    assert values[f"{MODE_CONTENT}cores"] == mode.cores
    assert values[f"{MODE_CONTENT}tpc_mask"] == mode.tpc_mask
    for name, cap, divisor in (("cpu", mode.cpu, 1e3), ("gpu", mode.gpu, 1e6), ("emc", mode.emc, 1e6)):
        expected = ("value", cap / divisor, None) if cap > 0 else ("unsupported", None, "this mode sets none")
        fact = found[f"{MODE_CONTENT}{name}_clock_max"]
        assert (fact.state, fact.value, fact.reason) == expected
    assert values["gpu_clock_highest"] == max(board.board.gpu_clocks) / 1e6
    assert values["emc_clock_max"] == (3199.0 if board.board.cores > 6 else 2133.0)
    assert values["cores_online"] == f"0-{mode.cores - 1}"
    assert values["jetson_clocks"] == "off"
    assert (found["jetson_clocks"].reason or "").startswith("derived")
    assert values["gpu_3d_scaling"] == (None if board.board.jetpack == 7 else "on")


@pytest.mark.parametrize(
    ("name", "l4t", "jetpack", "sms", "module"),
    [
        ("agx_orin_jp5", "35.4.1", "5.1.2", 8, "AGX Orin 64GB"),
        ("agx_orin_jp6", "36.4.3", "6.2", 8, "AGX Orin 64GB"),
        ("agx_orin_jp7", "39.2.0", "7.2", 8, "AGX Orin 64GB"),
        ("orin_nano_jp6", "36.4.3", "6.2", 8, "Orin Nano 8GB"),
        ("thread", "35.4.1", "5.1.2", 14, "AGX Orin"),
    ],
)
def test_versions_module_and_multiprocessors(
    tmp_path: Path, name: str, l4t: str, jetpack: str, sms: int, module: str
) -> None:
    found = facts(trees.lay(name, tmp_path / "root"))
    told = [found[key].value for key in ("l4t", "jetpack", "sm_count", "module_name")]
    assert told == [l4t, jetpack, sms, module]
    assert found["sm_count"].reason == "derived from tpc_pg_mask"


@pytest.mark.parametrize("name", ["thread", "thread_by_table"])
def test_the_board_of_the_thread_is_recognised_with_its_evidence(tmp_path: Path, name: str) -> None:
    tree = trees.lay(name, tmp_path / "root")
    found = facts(tree)
    assert (found["power_mode"].value, found["gpu_clock_max"].value, found["sm_count"].value) == (
        "MODE_40W",
        816.0,
        14,
    )
    assert found["emulated"].value == "AGX Orin 32GB (p3701-0004)"
    evidence = (found["emulated"].reason or "").split("; ")
    assert ("the device tree says p3701-0000-as-p3701-0004" in evidence) == (name == "thread")
    assert evidence[-3:] == [
        "the table of power modes is nvpmodel_p3701_0004.conf",
        "its table has MODE_40W, which is of p3701-0004 only",
        "its table leaves on at most 14 of the 16 SMs of p3701-0000",
    ]


@pytest.mark.parametrize("name", [name for name in sorted(BOARDS) if not name.startswith("thread")])
def test_a_board_that_is_itself_emulates_nothing(tmp_path: Path, name: str) -> None:
    fact = facts(trees.lay(name, tmp_path / "root"))["emulated"]
    assert (fact.state, fact.value) == ("unsupported", None)


def test_power_monitors_say_over_how_long_they_average(orin: Tree) -> None:
    found = {fact.name: (fact.value, fact.unit) for fact in JetsonPower(orin.root).facts()}
    assert found["monitor_1_0040_samples"] == (512, "1")
    assert found["monitor_1_0041_update_interval"] == (430, "ms")
    assert found["current_crit_vdd_gpu_soc"] == (32760, "mA")
    assert found["under_voltage_throttling"] == ("on", None)


def test_an_ina238_tells_power_itself(orin: Tree) -> None:
    home = orin.sys / "bus/i2c/devices/2-0044/hwmon/hwmon9"
    for name, value in {"name": "ina238", "curr1_input": 1500, "power1_input": 28906000}.items():
        write(home / name, value)
    assert power(orin)["power_vin"] == 28.906


# --- events -------------------------------------------------------------------------------------


def test_what_the_board_does_shows_in_the_next_reading(orin: Tree) -> None:
    probe, heat = Jetson(orin.root), JetsonPower(orin.root)
    before = {**probe.read(), **heat.read()}
    orin.gpu_clock(204000000)
    orin.alert("gpu", 1)
    write(orin.clk / "emc/rate", 665600000)
    write(orin.rail("1-0040") / "curr1_crit_alarm", 1)
    write(orin.sys / "class/hwmon/hwmon2/oc3_event_cnt", 37)
    after = {**probe.read(), **heat.read()}
    changed = {name: after[name] for name in after if after[name] != before[name]}
    assert changed == {
        "gpu_clock": 204.0,
        "gpu_gpc0_clock": 204.0,
        "gpu_gpc1_clock": 204.0,
        "emc_clock": 665.6,
        "emc_load": pytest.approx(21330000 / 665600),
        "throttle_gpu": 1.0,
        "over_current_vdd_gpu_soc": 1.0,
        "instantaneous_over_current_events": 37.0,
    }
    assert heat.counters()["instantaneous_over_current_events"] == ("1", 37)


def test_a_sensor_that_vanishes_loses_only_its_own_channel(orin: Tree) -> None:
    heat = JetsonPower(orin.root)
    before = dict(heat.read())
    shutil.rmtree(orin.thermal / "thermal_zone0")
    (orin.rail("1-0040") / "curr1_input").unlink()
    after = dict(heat.read())
    changed = {name: after[name] for name in after if after[name] != before[name]}
    assert changed == {"temperature_cpu": GONE, "power_vdd_gpu_soc": GONE}


def test_a_file_that_blocks_loses_only_its_own_channel(orin: Tree) -> None:
    heat = JetsonPower(orin.root, Files(0.05))
    before = dict(heat.read())
    path = orin.thermal / "thermal_zone1/temp"
    path.unlink()
    os.mkfifo(path)
    for _ in range(3):
        after = dict(heat.read())
        changed = {name: after[name] for name in after if after[name] != before[name]}
        assert changed == {"temperature_gpu": BLOCKED}
    with path.open("w") as answer:
        answer.write("45000")
    path.unlink()
    write(path, 50000)
    for _ in range(500):
        if heat.read()["temperature_gpu"] == 50.0:
            break
    assert heat.read()["temperature_gpu"] == 50.0


def test_held_clocks_are_told_as_derived(orin: Tree) -> None:
    write(orin.devfreq / "min_freq", 612000000)
    assert facts(orin)["jetson_clocks"].value == "in part"
    for policy in (orin.sys / "devices/system/cpu/cpufreq").iterdir():
        write(policy / "scaling_min_freq", 1728000)
    assert facts(orin)["jetson_clocks"].value == "on"


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "channel", "text", "reading"),
    [
        ("devfreq/cur_freq", "gpu_clock", "0", missed("0 Hz")),
        ("devfreq/cur_freq", "gpu_clock", "-306000000", missed("an absurd clock")),
        ("devfreq/cur_freq", "gpu_clock", "99999999999999", missed("an absurd clock")),
        ("devfreq/cur_freq", "gpu_clock", "306 MHz", missed("not a number")),
        ("devfreq/cur_freq", "gpu_clock", "", missed("not a number")),
        ("devfreq/cur_freq", "gpu_clock", "nan", missed("not a number")),
        ("devfreq/cur_freq", "gpu_clock", "\x80\xff", missed("not a number")),
        ("devfreq/cur_freq", "gpu_clock", "9" * 5000, missed("not a number")),
        ("gpu/load", "gpu_load", "1001", missed("an absurd share")),
        ("gpu/load", "gpu_load", "0", 0.0),
        ("clk/emc/rate", "emc_clock", "0", missed("0 Hz")),
        ("clk/emc/rate", "emc_load", "0", missed("0 Hz")),
        ("clk/emc/rate", "emc_load", "1", missed("an absurd share")),
        ("clk/nafll_gpc1/pto_counter", "gpu_gpc1_clock", "0", missed("0 Hz")),
        ("thermal/thermal_zone0/temp", "temperature_cpu", "-256000", missed("the sensor is off (-256 °C)")),
        ("thermal/thermal_zone0/temp", "temperature_cpu", "-273150", missed("an absurd temperature")),
        ("thermal/thermal_zone0/temp", "temperature_cpu", "1000000", missed("an absurd temperature")),
        ("thermal/thermal_zone0/temp", "temperature_cpu", "-5000", -5.0),
        ("rail/curr1_input", "power_vdd_gpu_soc", "-160", missed("a negative power")),
        ("rail/in1_input", "power_vdd_gpu_soc", "9" * 9, missed("an absurd power")),
        ("rail/curr1_input", "power_vdd_gpu_soc", "0", 0.0),
        ("rail/curr1_crit_alarm", "over_current_vdd_gpu_soc", "-1", missed("a negative count")),
        ("rail/curr1_max_alarm", "over_current_vdd_gpu_soc", "1", 1.0),
        ("sys/class/hwmon/hwmon1/pwm1", "fan_duty", "256", missed("an absurd share")),
        ("sys/class/hwmon/hwmon0/rpm", "fan_speed", "-1", missed("a negative count")),
        ("sys/class/hwmon/hwmon2/oc1_event_cnt", "under_voltage_events", "-7", missed("a negative count")),
    ],
)
def test_what_cannot_be_true_is_a_missed_reading(
    orin: Tree, file: str, channel: str, text: str, reading: Reading
) -> None:
    place, _, rest = file.partition("/")
    homes = {name: getattr(orin, name) for name in ("devfreq", "gpu", "clk", "thermal", "sys")}
    home = orin.rail("1-0040") if place == "rail" else homes[place]
    (home / rest).write_bytes(text.encode("latin-1"))
    assert {**clocks(orin), **power(orin)}[channel] == reading


@pytest.mark.needs("root")
def test_what_only_root_may_read_is_denied_to_others(orin: Tree) -> None:
    (orin.sys / "kernel/debug").chmod(0o700)
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            os.chroot(orin.root)
            os.setuid(65534)
            readings = Jetson(Path("/")).read()
            denied = {name for name, r in readings.items() if r == Absent("denied", "no permission")}
            good = denied == {"gpu_gpc0_clock", "emc_clock", "emc_load"} and readings["gpu_clock"] == 306.0
        finally:
            os._exit(not good)
    assert os.waitpid(pid, 0)[1] == 0


def test_two_sensors_of_one_name_are_two_channels(orin: Tree) -> None:
    write(orin.thermal / "thermal_zone1/type", "cpu-thermal")
    names = [spec.name for spec in JetsonPower(orin.root).channels]
    assert len(names) == len(set(names))
    assert (power(orin)["temperature_cpu"], power(orin)["temperature_cpu_2"]) == (52.562, 49.0)


def test_a_machine_that_is_no_jetson_has_no_number(tmp_path: Path) -> None:
    assert not present(tmp_path)
    probe, heat = Jetson(tmp_path), JetsonPower(tmp_path)
    assert {r.state for r in probe.read().values() if isinstance(r, Absent)} == {"unsupported"}
    assert not [r for r in {**probe.read(), **heat.read()}.values() if isinstance(r, float)]
    told = {fact.state for fact in probe.facts() if fact.name != "read_below"}
    assert told <= {"unsupported", "missed"}
    assert heat.counters() == {}


@pytest.mark.parametrize("left", ["etc/nv_tegra_release", "sys/firmware/devicetree/base/compatible"])
def test_a_jetson_is_known_by_either_sign(orin: Tree, left: str) -> None:
    for name in {"etc/nv_tegra_release", "sys/firmware/devicetree/base/compatible"} - {left}:
        (orin.root / name).unlink()
    assert present(orin.root)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("var/lib/nvpmodel/status", "garbage", "the status file names no mode"),
        ("var/lib/nvpmodel/status", "pmode:0009", "the status names mode 9, which is not in the table"),
        (
            "etc/nvpmodel/nvpmodel_p3701_0000.conf",
            "\0\xff<",
            "the status names mode 2, which is not in the table",
        ),
    ],
)
def test_a_power_mode_is_never_guessed(orin: Tree, file: str, text: str, reason: str) -> None:
    (orin.root / file).write_text(text)
    found = facts(orin)
    assert (found["power_mode"].state, found["power_mode"].reason) == ("missed", reason)
    assert found[f"{MODE_CONTENT}gpu_clock_max"].value is None


def test_without_a_status_file_the_mode_is_unsupported(orin: Tree) -> None:
    (orin.root / "var/lib/nvpmodel/status").unlink()
    assert facts(orin)["power_mode"].state == "unsupported"


def test_without_a_mask_the_multiprocessors_follow_from_the_mode(orin: Tree) -> None:
    (orin.gpu / "tpc_pg_mask").unlink()
    fact = facts(orin)["sm_count"]
    assert (fact.value, fact.reason) == (8, "derived from the power mode's mask of TPCs")


def test_an_unknown_release_has_no_jetpack(orin: Tree) -> None:
    write(orin.root / "etc/nv_tegra_release", "# R99 (release), REVISION: 1.0, GCID: 1")
    found = facts(orin)
    assert (found["l4t"].value, found["jetpack"].state) == ("99.1.0", "unsupported")


def test_where_the_boards_files_are_is_told(
    orin: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(jetson.BOARD_VARIABLE, raising=False)
    assert jetson.root() == Path("/")
    inside = tmp_path / "inside"
    (inside / "sys/class").mkdir(parents=True)
    monkeypatch.setattr(jetson, "BOARD", inside)
    assert jetson.root() == inside, "a container has them where the launcher mounts them"
    read_below = next(fact for fact in Jetson(inside).facts() if fact.name == "read_below")
    assert read_below.value == str(inside)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(jetson.BOARD_VARIABLE, str(orin.root.relative_to(tmp_path)))
    assert jetson.root() == orin.root
    # The path of somebody's folder is nobody else's business.
    assert facts(orin)["read_below"].value == "another folder"


# --- a container --------------------------------------------------------------------------------


def mounted(tree: Tree, board: Path) -> Path:
    """Make what a container sees: each path below /board, where a mount follows a link to its file."""
    for there, inside in options.board_mounts(tree.root, local=True):
        source, target = Path(there), board / inside.removeprefix(f"{options.BOARD}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            shutil.copyfile(tree.root / str(source.readlink()).lstrip("/"), target)
        elif source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copyfile(source, target)
    return board


def test_a_container_with_the_boards_paths_reads_the_same(board: Tree, tmp_path: Path) -> None:
    inside = mounted(board, tmp_path / "board")
    for kind in (Jetson, JetsonPower):
        host, container = kind(board.root), kind(inside)
        assert container.channels == host.channels
        assert dict(container.read()) == dict(host.read())
        assert list(container.facts()) == list(host.facts())
        assert container.counters() == host.counters()
