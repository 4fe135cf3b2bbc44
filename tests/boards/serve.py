"""Starts the jtop service of the Python that it runs under, with two patches and nothing else changed."""

import os
import platform
import sys
from typing import Any

machine: Any = lambda: "aarch64"  # noqa: E731 - a namespace can't make another architecture
platform.machine = machine
sys.base_prefix = "/run/jtop"  # The service writes its settings below it.
os.environ["JTOP_SERVICE"] = "True"
sys.argv = ["jtop", "--force"]

from jtop.__main__ import main  # noqa: E402

main()
