"""Twenty thousand damaged bundles, in parts that run in parallel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import fuzz

pytestmark = pytest.mark.needs("ssh-keygen", "linux")


@pytest.mark.parametrize("seed", range(4))
def test_a_mutant_is_refused_or_identical(seed: int) -> None:
    # A process of its own: its memory is measured from the start.
    program = (
        f"import sys; sys.path.insert(0, {str(Path(fuzz.ROOT))!r})\n"
        f"from tests import fuzz\nprint(fuzz.run(5000, {1000 + seed}).total())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr[-500:]) == ("5000", "")


def test_the_fuzzer_would_notice_a_reader_that_accepts_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.bundle.unpack.extract", lambda path, target: target.mkdir())
    honest = fuzz.contents
    monkeypatch.setattr(fuzz, "contents", lambda path: {} if path.name == "mutant.zip" else honest(path))
    with pytest.raises(fuzz.Broken, match="accepted with other content"):
        fuzz.run(50, 1)
