"""Interpreters that have a release: which are good enough, and where the kit's own ones lie."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro import environments, proc, releases
from repro.errors import ReproError, Unavailable, UsageError
from repro.proc import Finished
from repro.releases import Row
from repro.schema import ReleaseSeen
from tests.twins import bare, twin

OWN = ReleaseSeen("ort-2.1.0", "2.1.0")
ROW = Row("ort-2.0.9", "cpu", True, "made up", requirements=("onnxruntime==2.0.9", "sympy==1.14.0"))


def look(python: Path) -> environments.Environment:
    return environments.look(python, "onnxruntime", gpu=False)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "table", lambda: (ROW,))
    monkeypatch.setattr(environments, "own", lambda *args, **kwargs: OWN)


def choose(name: str | None, python: Path | None = None) -> environments.Environment:
    return environments.choose(name, "cpu", "onnxruntime", gpu=False, python=python, say=lambda text: None)


# --- interpreters -------------------------------------------------------------------------------


def test_a_python_with_what_a_turn_needs_is_good_enough(tmp_path: Path) -> None:
    python = twin(tmp_path / "twin", "9.9.9")
    found = look(python)
    assert found == (ReleaseSeen("ort-9.9.9", "9.9.9"), python)
    assert look(tmp_path / "twin") == found, "the folder that venv made names its Python"


@pytest.mark.parametrize("package", ["msgspec", "numpy", "onnx", "onnxruntime"])
def test_a_python_that_lacks_a_package_is_told_which(tmp_path: Path, package: str) -> None:
    python = twin(tmp_path / "twin", without=[package])
    with pytest.raises(Unavailable) as caught:
        look(python)
    shown = "ONNX Runtime" if package == "onnxruntime" else f"'{package}'"
    assert shown in caught.value.what
    assert caught.value.hint == "its environment needs msgspec, numpy, onnx and onnxruntime"


def test_a_runtime_that_is_there_but_does_not_load_is_told(tmp_path: Path) -> None:
    python = twin(tmp_path / "twin", without=["onnxruntime"])
    (site,) = (tmp_path / "twin").glob("lib/python3*/site-packages")
    (site / "onnxruntime-9.9.9.dist-info").mkdir()
    (site / "onnxruntime-9.9.9.dist-info" / "METADATA").write_text("Name: onnxruntime\nVersion: 9.9.9\n")
    (site / "onnxruntime.py").write_text("raise ImportError('libsomething.so.1 is missing')\n")
    with pytest.raises(Unavailable, match=r"libsomething\.so\.1 is missing"):
        look(python)


@pytest.mark.parametrize("program", ["/bin/true", "/bin/ls", "/bin/cat"])
def test_a_program_that_is_no_python_is_told(program: str) -> None:
    with pytest.raises(Unavailable, match=f"{program} is no Python"):
        look(Path(program))


def test_a_file_that_can_not_be_started_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("words")
    with pytest.raises(Unavailable, match="is no Python"):
        look(tmp_path / "text")


@pytest.mark.parametrize("name", ["nothing", "folder"])
def test_where_there_is_no_python_it_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="there is no Python at"):
        look(tmp_path / name)


def test_a_backend_that_is_no_package_takes_no_interpreter() -> None:
    with pytest.raises(UsageError, match="trtexec is no package"):
        environments.look(Path(sys.executable), "trtexec", gpu=False)


def test_another_interpreter_sees_the_kit_and_nothing_that_is_installed_beside_it(tmp_path: Path) -> None:
    environments.expose(tmp_path / "source")
    env = environments.surroundings(tmp_path / "source")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the file of a user')\n")
    script = (
        "import repro.schema, importlib.util as u; print([bool(u.find_spec(n)) for n in ('numpy', 'click')])"
    )
    python = bare(tmp_path / "bare")
    # The package is found, and stops at its first import from outside.
    done = subprocess.run(
        [str(python), "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "No module named 'msgspec'" in done.stderr
    script = script.replace("repro.schema", "repro.errors")
    done = subprocess.run(
        [str(python), "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    safe = sys.version_info >= (3, 11)  # Older ones don't know PYTHONSAFEPATH.
    assert done.stdout == ("[False, False]\n" if safe else "[True, False]\n")


def test_settings_of_the_own_interpreter_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONHOME", "VIRTUAL_ENV", "PYTHONPATH"):
        monkeypatch.setenv(name, "/elsewhere")
    env = environments.surroundings(tmp_path)
    assert env["PYTHONPATH"] == str(tmp_path)
    assert "/elsewhere" not in env.values()
    assert env["PATH"] == os.environ["PATH"]


# --- which one ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("name", [None, "ort-2.1.0", "ort-2.1"])
def test_the_installed_release_needs_no_other_interpreter(name: str | None) -> None:
    assert choose(name) == (OWN, None)


@pytest.mark.usefixtures("table")
def test_a_named_python_has_the_last_word(tmp_path: Path) -> None:
    python = twin(tmp_path / "twin", "3.0.1")
    assert choose(None, python).release.name == "ort-3.0.1"
    assert choose("ort-3.0", python).release.name == "ort-3.0.1"
    with pytest.raises(Unavailable, match=r"has ort-3\.0\.1, not ort-2\.1\.0"):
        choose("ort-2.1.0", python)


@pytest.mark.usefixtures("table")
def test_a_release_of_the_host_gets_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Row] = []

    def make(row: Row, home: Path) -> None:
        seen.append(row)
        twin(home, "2.0.9")

    monkeypatch.setattr(environments, "_make", make)
    first = choose("ort-2.0")
    assert first == (ReleaseSeen("ort-2.0.9", "2.0.9"), environments.place(ROW) / "bin" / "python")
    assert choose("ort-2.0.9") == first
    assert seen == [ROW], "made once"


def test_without_a_release_of_its_own_the_kit_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from repro.backends import onnxruntime

    def absent(*, gpu: bool) -> ReleaseSeen:
        raise Unavailable("ONNX Runtime is not installed", "install it")

    monkeypatch.setattr(onnxruntime, "release", absent)
    assert environments.own("onnxruntime", gpu=False) is None
    with pytest.raises(Unavailable, match="not installed"):
        choose(None)


# --- environments that the kit makes ------------------------------------------------------------


def test_they_lie_in_the_cache_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environments.folder() == tmp_path / "cache" / "trt-repro" / "releases"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert environments.folder() == Path.home() / ".cache" / "trt-repro" / "releases"


def test_the_place_tells_what_is_pinned() -> None:
    assert environments.place(ROW).name.startswith(
        f"ort-2.0.9-py{sys.version_info.major}.{sys.version_info.minor}-"
    )
    other = Row("ort-2.0.9", "cpu", True, "made up", requirements=("onnxruntime==2.0.9",))
    assert environments.place(ROW) != environments.place(other)


def test_all_but_the_release_has_the_version_of_the_kit() -> None:
    import numpy as np

    pins = environments._pins(ROW)
    assert f"numpy=={np.__version__}" in pins
    names = {pin.partition("==")[0] for pin in pins}
    assert not names & {"onnxruntime", "sympy"}


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        (
            b"WARNING: Retrying (Retry(total=0)) after connection broken\nERROR: Cannot install a==1\n",
            "the package index can't be reached",
        ),
        (b"ERROR: No matching distribution found for a==1\nERROR: see b\n", "pip: No matching distribution"),
        (b"Segmentation fault\n", "pip: Segmentation fault"),
        (b"", "pip: it does not say why"),
    ],
)
def test_a_failed_installation_leaves_nothing_and_says_why(
    monkeypatch: pytest.MonkeyPatch, stderr: bytes, words: str
) -> None:
    def run(argv: list[str], *, timeout_s: float) -> Finished:
        if "venv" in argv:
            (Path(argv[-1]) / "bin").mkdir(parents=True)
            return Finished(0, b"", b"")
        return Finished(1, b"", stderr)

    monkeypatch.setattr(proc, "run", run)
    said: list[str] = []
    with pytest.raises(Unavailable) as caught:
        environments.made(ROW, said.append)
    assert words in caught.value.what
    assert "it needs the network once" in caught.value.hint
    assert said[0].startswith("making an environment for ort-2.0.9 in ")
    assert [path.name for path in environments.folder().iterdir()] == [".lock"]


def test_what_somebody_left_unfinished_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = environments.folder() / ".ort-1-py3.11-abcdef.01234567.part"
    unfinished.mkdir(parents=True)
    monkeypatch.setattr(environments, "_make", lambda row, home: home.mkdir())
    environments.made(ROW, lambda text: None)
    assert not unfinished.exists()


def test_an_environment_whose_python_has_gone_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (environments.place(ROW) / "bin").mkdir(parents=True)
    (environments.place(ROW) / "bin" / "python").symlink_to(tmp_path / "gone")
    assert not environments.is_made(ROW)

    def run(argv: list[str], *, timeout_s: float) -> Finished:
        if "venv" in argv:
            twin(Path(argv[-1]))
        return Finished(0, b"", b"")

    monkeypatch.setattr(proc, "run", run)
    environments.made(ROW, lambda text: None)
    assert environments.is_made(ROW)


def test_a_cache_folder_that_can_not_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ReproError, match="can't make") as caught:
        environments.made(ROW, lambda text: None)
    assert "XDG_CACHE_HOME" in caught.value.hint
