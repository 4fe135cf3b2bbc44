"""Lock the wheels of every image with uv: `python images/lock.py UV`, as `make lock` does.

One file a release of ONNX Runtime, and one for the TensorRT images, which bring their runtime along and
need ONNX Runtime for the check of operators that the kit has no rule for.
All are for the one Python of the images, and name the hashes of every platform's wheels.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent
PYTHON = "3.11"


def constraints(*, runtime: bool) -> str:
    """Return the kit's own lock, with its ONNX Runtime or without, as constraints.

    So image and host compute with the same NumPy.
    """
    pins = []
    for line in (IMAGES.parent / "requirements.lock").read_text().splitlines():
        requirement = line.removesuffix("\\").strip()
        if "==" in requirement.split(";")[0] and (runtime or not requirement.startswith("onnxruntime")):
            pins.append(requirement)
    return "\n".join(pins)


def compile_lock(uv: str, target: Path, extra: str, folder: Path) -> None:
    """Write the lock `target`, for the dependency group `image` and one more requirement."""
    (folder / "extra.in").write_text(extra)
    (folder / "constraints.txt").write_text(constraints(runtime="==" not in extra))
    options = f"-q --generate-hashes --no-header --no-annotate --no-config --python-version {PYTHON}"
    # Versions are the same on both architectures; hashes of all wheels are listed whatever the platform.
    options += " --python-platform x86_64-manylinux_2_28 --group image"
    files = ["-c", str(folder / "constraints.txt"), "-o", str(target), str(folder / "extra.in")]
    subprocess.run([uv, "pip", "compile", *options.split(), *files], check=True, cwd=IMAGES.parent)


def main(uv: str) -> None:
    """Lock the images anew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_lock(uv, IMAGES / "trtexec.lock", "onnxruntime", folder)
        for target in sorted((IMAGES / "cpu").glob("ort-*.lock")):
            compile_lock(uv, target, f"onnxruntime=={target.stem.removeprefix('ort-')}", folder)


if __name__ == "__main__":
    main(sys.argv[1])
