#!/usr/bin/env python3
"""Plays trtexec of one release for tests: its options, refusals, log lines and exports, on invented times.

Nothing here is measured, and everything that is written says so. Options, defaults and refusals come
from `facts.json`, log forms from the repository's fixtures, never from the kit: this imports nothing of
`repro`. The release is TRT_STANDIN_RELEASE, or stands in the file's own name (`trtexec-8.5.2`); what
happens is told by the JSON file TRT_STANDIN_SCENARIO (see `Scenario`). `tests.standin.install` sets both.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.standin.engine import build, load
from tests.standin.inference import export_layers, infer
from tests.standin.options import Options, echo
from tests.standin.release import FACTS, MARK, RELEASE, SCENARIO, Stop, banner, log


def device() -> None:
    """Print the device block in this release's form."""
    version = RELEASE.version
    name, uuid = SCENARIO.device, "GPU-00000000-0000-0000-0000-0000000057d1"
    log("=== Device Information ===")
    if version >= (10,):
        log("Available Devices:")
        log(f'  Device 0: "{name}" UUID: {uuid}')
    log(f"Selected Device: {name}")
    if version >= (10,):
        log("Selected Device ID: 0")
        log(f"Selected Device UUID: {uuid}")
    log("Compute Capability: 8.7")
    log("SMs: 14")
    old = version < (8, 6)
    if old:
        log("Compute Clock Rate: 0.816 GHz")
    log("Device Global Memory: 30592 MiB")
    log("Shared Memory per SM: 164 KiB")
    log("Memory Bus Width: 256 bits (ECC disabled)")
    if old:
        log("Memory Clock Rate: 0.816 GHz")
    else:
        log("Application Compute Clock Rate: 0.816 GHz")
        log("Application Memory Clock Rate: 0.816 GHz")
        log()
        log(
            "Note: The application clock rates do not reflect the actual clock rates that the GPU is currently running at."
        )
    log()
    log(f"TensorRT version: {RELEASE.text}")


def main() -> int:
    banner("RUNNING")
    log(f"*** {MARK} ***")
    try:
        options = Options(sys.argv[1:])
        if RELEASE.version >= (10,):
            log(
                "TF32 is enabled by default. Add --noTF32 flag to further improve accuracy with some performance cost."
            )
        echo(options)
        device()
        log("Loading standard plugins")
        engine = load(options) if "--loadEngine" in options else build(options)
        if "--exportLayerInfo" in options:
            export_layers(options.values["--exportLayerInfo"], engine)
        if options.skip:
            log(RELEASE.at(FACTS["skip_message"]))
        else:
            infer(options, engine)
    except Stop as stop:
        if stop.end_line:
            banner("PASSED" if stop.passed else "FAILED")
        return 0 if stop.passed else 1
    banner("PASSED")
    return 0


if __name__ == "__main__":
    sys.exit(main())
