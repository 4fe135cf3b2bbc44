"""The house has floors: a module imports only what stands below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import repro

PACKAGE = Path(repro.__file__).parent

# From the roof down; each may import only modules named after it.
ORDER = """
__main__ cli
report.bundle_page report.timeline report.figures report.page report.terminal report.ticket report.reply
diagnose facts report.markdown
report.imported report.layers report.comparison report.content report.commands report.listing
report.preview report.plot report.html report.state report.roofs report.text report
replay answer grounds
compare verdict estimate sides comparable power alignment observed
launch.compose
run rebuild repeat doctor offline steady imported gather plan spec places
launch.docker launch.host launch.holder launch.confine launch.options launch.lock launch worker records turn
identity clocks telemetry sampling
probes.jetson probes.jetson_power probes.nvpmodel probes.tegrastats probes.jtop probes.jtop_client
probes.stream probes.sysfs probes.nvml probes.host probes
delivery images supplies containers ssh devices environments releases
backends.tensorrt_rtx backends.tensorrt backends.nvinfer backends.said backends.bindings backends.api
backends.trtexec backends.torch export backends.onnxruntime backends.cuda backends
bundle.unpack bundle bundle.logs bundle.privacy bundle.leaks
bundle.statement bundle.sign bundle.survey bundle.model bundle.archive
attained thread claims cases lowering adopt check models work roofline boards measure stats proc
trtexec.log trtexec.process trtexec.forms trtexec.seen trtexec.tuning
trtexec.exports trtexec.layers trtexec.heard trtexec.readback trtexec.flags trtexec
schemas.__main__ schemas schema errors __init__
""".split()


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        names[name if name == "__init__" else name.removesuffix(".__init__")] = path
    return names


def imports(path: Path) -> Iterator[str]:
    known = set(modules())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "repro":
            module = (node.module or "").removeprefix("repro").removeprefix(".")
            for alias in node.names:
                full = f"{module}.{alias.name}" if module else alias.name
                yield full if full in known else module or "__init__"
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("repro.") for a in node.names if a.name.startswith("repro."))


def test_every_module_has_its_floor() -> None:
    assert sorted(modules()) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_downwards(name: str) -> None:
    above = set(ORDER[: ORDER.index(name) + 1])
    assert sorted(set(imports(modules()[name])) & above - {name}) == []


@pytest.mark.parametrize(
    "library", ["numpy", "onnx", "onnxruntime", "scipy", "rich", "docker", "torch", "jinja2", "matplotlib"]
)
def test_a_library_is_imported_late_or_in_its_own_module(library: str) -> None:
    homes = {
        "numpy": {
            "models",
            "check",
            "export",
            "measure",
            "stats",
            "backends.onnxruntime",
            "trtexec.exports",
            "imported",
        },
        "rich": {"report.terminal"},
    }
    found = set()
    for name, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any((each or "").split(".")[0] == library for each in names):
                found.add(name)
    assert found <= homes.get(library, set())
