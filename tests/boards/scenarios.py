"""What happens on a made-up board with a real jtop service, run inside of it; prints what was found as JSON.

`enter.sh ROOT PYTHON -m tests.boards.scenarios NAME ROOT SERVICE_PYTHON CLIENT_PYTHON`
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from repro import telemetry
from repro.probes import Absent, Reading
from repro.probes.jetson import Jetson
from repro.probes.jetson_power import JetsonPower
from repro.probes.jtop import Jtop, problem
from tests.boards.trees import BOARDS, Tree, write

SOCKET = Path("/run/jtop.sock")
SERVE = Path(__file__).with_name("serve.py")
WAIT_S = 30.0


class Here:
    """The board that this runs on, and the two Pythons with jetson-stats."""

    def __init__(self, board: str, root: str, service: str, client: str) -> None:
        self.tree = Tree(Path(root), BOARDS[board])
        self.service_python, self.client_python = service, client

    @contextlib.contextmanager
    def service(self) -> Iterator[int]:
        """Run the service; give the number of its process group."""
        with Path("/run/service.log").open("wb") as log:
            process = subprocess.Popen(
                [self.service_python, str(SERVE)], stdout=log, stderr=log, start_new_session=True
            )
        try:
            until("the service listens", SOCKET.is_socket)
            time.sleep(1)
            yield process.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def probe(self) -> Jtop:
        return Jtop(Path("/"), self.client_python)


def until(what: str, test: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not test():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


def facts(probe: Jtop | Jetson) -> dict[str, Any]:
    return {fact.name: fact.value for fact in probe.facts()}


def readings(here: Here) -> Any:
    """Read everything by the service and by the kernel's files."""
    with here.service():
        probe = here.probe()
        try:
            until("a reading", lambda: isinstance(probe.read().get("emc_clock"), float))
            own = Jetson(Path("/"))
            return {
                "jtop": probe.read(),
                "jtop_facts": facts(probe),
                "rate_hz": probe.rate_hz,
                "sysfs": {**own.read(), **JetsonPower(Path("/")).read()},
                "sysfs_facts": facts(own),
            }
        finally:
            probe.close()


def events(here: Here) -> Any:
    """Let the GPU fall and the memory change while both read."""
    with here.service():
        probe, own = here.probe(), Jetson(Path("/"))
        try:
            until("a reading", lambda: isinstance(probe.read().get("gpu_clock"), float))
            before = {"jtop": probe.read(), "sysfs": own.read()}
            here.tree.gpu_clock(204000000)
            write(here.tree.clk / "emc/rate", 665600000)
            until("the event", lambda: probe.read()["gpu_clock"] == 204.0)
            return {"before": before, "after": {"jtop": probe.read(), "sysfs": own.read()}}
        finally:
            probe.close()


def vanished(here: Here) -> Any:
    """Take a thermal sensor away while both read."""
    with here.service():
        probe, own = here.probe(), JetsonPower(Path("/"))
        try:
            until("a reading", lambda: isinstance(probe.read().get("temperature_cpu"), float))
            before = {"jtop": probe.read(), "sysfs": own.read()}
            zone = next(z for z in here.tree.thermal.glob("thermal_zone*") if "cpu" in zone_of(z))
            (zone / "temp").unlink()
            until("the event", lambda: not isinstance(probe.read().get("temperature_cpu"), float))
            return {"before": before, "after": {"jtop": probe.read(), "sysfs": own.read()}}
        finally:
            probe.close()


def zone_of(zone: Path) -> str:
    return (zone / "type").read_text().lower()


def killed(here: Here) -> Any:
    """Kill the service while a client listens, then let another one come."""
    with here.service() as group:
        probe = here.probe()
        until("a reading", lambda: isinstance(probe.read().get("gpu_clock"), float))
        os.killpg(group, signal.SIGKILL)
        lost: Mapping[str, Reading] = {}

        def ended() -> bool:
            nonlocal lost
            lost = probe.read()
            return isinstance(lost["gpu_clock"], Absent)

        until("the end", ended)
        probe.close()
    late = here.probe()
    try:
        return {"lost": lost, "socket": SOCKET.is_socket(), "late": late.read()}
    finally:
        late.close()


def once(here: Here) -> Any:
    """Read once with the service that there is."""
    with here.service():
        probe = here.probe()
        try:
            return probe.read()
        finally:
            probe.close()


def outsider(here: Here) -> Any:
    """Ask as somebody outside the service's group, then as a member of it."""
    with here.service():
        gid = SOCKET.stat().st_gid
        return {"outside": as_nobody([]), "inside": as_nobody([gid])}


def as_nobody(groups: list[int]) -> str:
    """Return what stands in the way of a user with these groups alone."""
    there, here = os.pipe()
    if os.fork() == 0:
        os.setgroups(groups)
        os.setgid(65534)
        os.setuid(65534)
        os.write(here, repr(problem(SOCKET)).encode())
        os._exit(0)
    os.wait()
    return os.read(there, 4096).decode()


def interval(here: Here) -> Any:
    """Come second, after a client that set another interval."""
    with here.service():
        first = (
            "import jtop\nwith jtop.jtop(interval=0.4) as j:\n while j.ok(): print(j.interval, flush=True)"
        )
        other = subprocess.Popen([here.client_python, "-c", first], stdout=subprocess.PIPE)
        assert other.stdout is not None
        other.stdout.readline()
        probe = here.probe()
        try:
            probe.read()
            return probe.rate_hz
        finally:
            probe.close()
            other.kill()
            other.wait()


def nothing(here: Here) -> Any:
    """Ask where there is no service, and where Docker has made a folder of its socket."""
    told = [here.probe().read()]
    SOCKET.mkdir()
    return [*told, here.probe().read()]


def sampler(here: Here) -> Any:
    """Sample everything, let the clock fall and a counter run, and collect it."""
    os.environ["TRT_REPRO_JTOP_PYTHON"] = here.client_python
    here.tree.gpu_clock(510000000)
    folder = Path("/run/sampler")
    with here.service():
        origin = time.perf_counter_ns()
        with telemetry.Sampler(folder, os.getpid()) as running:
            until("jtop", lambda: rows(folder / "jtop.rows") and rows(folder / "jetson_power.rows"))
            here.tree.gpu_clock(204000000)
            here.tree.alert("gpu", 1)
            write(here.tree.sys / "class/hwmon/hwmon2/oc3_event_cnt", 37)
            time.sleep(2)
            recording = running.end(origin)
    return {
        "telemetry": recording.telemetry,
        "clock": recording.probes["jetson"].columns[1],
        "log": (folder / "sampler.log").read_text(),
    }


def rows(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


if __name__ == "__main__":
    name, *where = sys.argv[1:]
    found = globals()[name](Here(*where))
    sys.stdout.buffer.write(msgspec.json.encode(found))
    sys.stdout.flush()
    os._exit(0)
