"""Lays the files of /proc that a jtop service reads, and keeps its stat moving: procfs.py FOLDER BOARD."""

import os
import sys
import time
from pathlib import Path

MEMORY = {
    "MemTotal": 64325272,
    "MemFree": 55104212,
    "MemAvailable": 58712340,
    "Buffers": 102400,
    "Cached": 3512320,
    "SwapCached": 0,
    "SwapTotal": 32162624,
    "SwapFree": 32162624,
    "SReclaimable": 204800,
    "NvMapMemFree": 262144,
    "NvMapMemUsed": 124160,
}
CORE = (
    "processor\t: {0}\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nBogoMIPS\t: 62.50\n"
    "Features\t: fp asimd aes\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
    "CPU part\t: 0xd42\nCPU revision\t: 1\n\n"
)


def main(folder: Path, board: Path) -> None:
    """Write them, then a busier stat ten times a second."""
    cpus = board / "sys/devices/system/cpu"
    cores = [i for i in range(64) if (cpus / f"cpu{i}/online").exists()]
    on = [i for i in cores if (cpus / f"cpu{i}/online").read_text().strip() == "1"]
    (folder / "meminfo").write_text("".join(f"{k}: {v} kB\n" for k, v in MEMORY.items()))
    (folder / "cpuinfo").write_text("".join(CORE.format(i) for i in on))
    (folder / "buddyinfo").write_text("Node 0, zone   Normal    418 289 139 60 40 31 14\n")
    tick = 0
    while True:
        busy = {i: (16735 + (2 + i % 3) * tick, 4611 + tick, 592803 + (7 - i % 3) * tick) for i in on}
        lines = [
            f"cpu{i} {user} 18 {system} {idle} 557 0 103 0 0 0" for i, (user, system, idle) in busy.items()
        ]
        total = [sum(column) for column in zip(*busy.values(), strict=True)]
        text = f"cpu {total[0]} 18 {total[1]} {total[2]} 557 0 103 0 0 0\n" + "\n".join(lines) + "\nintr 0\n"
        (folder / ".stat").write_text(text)
        os.replace(folder / ".stat", folder / "stat")
        tick += 1
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
