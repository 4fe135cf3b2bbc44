"""A made-up driver that the tests compile."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from repro.backends import cuda

STUB = Path(__file__).with_name("cuda_stub.c")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the made-up driver; return its folder."""
    folder = tmp_path_factory.mktemp("cuda")
    argv = ["cc", "-std=gnu11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    library = folder / cuda.LIBRARY
    subprocess.run([*argv, f"-Wl,-soname,{library.name}", "-o", library, STUB], check=True, timeout=60)
    return folder
