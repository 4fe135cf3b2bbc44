"""Pythons beside the one that runs the tests.

A twin has links to what a turn needs and nothing else, and calls its ONNX Runtime another version: the
library is real, its release is made up.
"""

from __future__ import annotations

import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

NEEDED = frozenset({"msgspec", "numpy", "onnx", "google", "ml_dtypes", "typing_extensions", "onnxruntime"})


def bare(home: Path) -> Path:
    """Make a Python without any package; return its interpreter."""
    venv.create(home, symlinks=True)
    return home / "bin" / "python"


def twin(home: Path, version: str = "9.9.9", without: Iterable[str] = ()) -> Path:
    """Make a Python that can run a turn, but for the packages it is `without`; return its interpreter."""
    python = bare(home)
    (site,) = home.glob("lib/python3*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        name = path.name.partition(".")[0].partition("-")[0]
        if name in NEEDED - set(without) and not path.name.startswith("onnxruntime-"):
            (site / path.name).symlink_to(path)
    if "onnxruntime" not in without:
        stated = site / f"onnxruntime-{version}.dist-info"
        stated.mkdir()
        (stated / "METADATA").write_text(f"Metadata-Version: 2.1\nName: onnxruntime\nVersion: {version}\n")
    return python
