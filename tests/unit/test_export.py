"""The proof that a torch module and the kit's ONNX are one network, and that it can fail."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from repro import cases, export, models
from repro.errors import ReproError, UsageError
from repro.schema import ConvStack
from tests.conftest import ROOT

MODULE = ROOT / "cases" / "conv16" / "model.py"
SPEC = ConvStack("made-up", 1, 8, 6, (4, 6, 4), 3, True)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("label", [None, "nobias", "c16to32", "k5", "sparse"])
def test_the_shipped_variants_are_their_torch_module(label: str | None) -> None:
    assert export.check(cases.resolve(cases.load("conv16"), label)) <= export.SAME_OUTPUT


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": 5}, "operator 1: .*kernel_shape"),
        ({"bias": False}, "operator 1: .*constant"),
        ({"channels": (4, 6, 4, 4)}, "2 operators, torch exports 3"),
        ({"seed": "other"}, "the weights differ"),
    ],
)
def test_another_module_is_told_by_its_first_difference(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    experiment = cases.resolve(cases.load("conv16"), None)
    experiment = msgspec.structs.replace(experiment, model=SPEC)
    other = msgspec.structs.replace(SPEC, **change)
    network = export.network
    monkeypatch.setattr(cases, "module", lambda ref, settings: MODULE)
    monkeypatch.setattr(
        export, "network", lambda path, spec, model: network(path, other, models.build(other, "fp32"))
    )
    with pytest.raises(ReproError, match=words) as caught:
        export.check(experiment)
    assert "\n" not in str(caught.value)


@pytest.mark.needs("torch")
def test_only_a_shipped_module_is_executed(tmp_path: Path) -> None:
    folder = tmp_path / "conv16"
    folder.mkdir()
    text = (ROOT / "cases" / "conv16" / "case.toml").read_text()
    (folder / "case.toml").write_text(text.replace('seed = "conv16"', 'seed = "mine"'))
    (folder / "model.py").write_text("raise SystemExit('executed')")
    with pytest.raises(UsageError, match="not one that this kit ships"):
        export.check(cases.resolve(cases.load("conv16", tmp_path), None))


def test_a_quantised_network_has_no_module() -> None:
    assert not export.has_module(cases.resolve(cases.load("conv16"), "int8"))
    assert export.has_module(cases.resolve(cases.load("conv16"), None))
