"""Each rule: what makes it fire, with which strength, and what must leave it silent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import attained, cases, diagnose, facts
from repro.attained import Calibration
from repro.diagnose import RULES, Finding, Strength
from repro.facts import Facts
from repro.observed import key_figure
from repro.schema import (
    CaseRef,
    ConvStack,
    Effective,
    Flag,
    Layer,
    LayerTensor,
    LayerWork,
    Mismatch,
    Record,
    Reference,
    StateChange,
    StatedEfficiency,
    Substitution,
    Work,
)
from tests.builders import make_failed, make_predicate, make_record, make_run, seal

replace = msgspec.structs.replace

CLAIM = StatedEfficiency(
    record="elsewhere", flop=1e12, peak_flops=1e14, peak_is_sparse=False, time_ms=100.0, percent=10.0
)
WORK = Work(
    flop=10**9,
    bytes_low=10**8,
    bytes_high=3 * 10**8,
    unknown_ops=(),
    bytes_ends=8 * 10**7,
    other_ops=1,
    layers=tuple(LayerWork(f"conv{i}", "Conv", 10**9 // 3, 1, 10**8, 4 * 10**7) for i in range(3)),
)
CONV = Layer("kernel 0", "kernel", tactic="sm80_xmma_fprop_f16f16_f16f32_f32_nhwc_tilesize128x64x32_stage4")
WIDE = LayerTensor("fp16", "hwc8", (1, 128, 8, 8))


def reference(name: str, board: str, release: str = "trt-8.6.1.6") -> Reference:
    return Reference(name, "x86", board, release, {"median_ms": 1.0}, "a thread")


def on_gpu(medians_ms: tuple[float, ...] = (10.0, 10.1, 9.9), **changes: Any) -> Record:
    """Return a record on an H200 whose clocks were read."""
    record = make_record(medians_ms)
    board = replace(
        record.board,
        matched_id="h200-sxm",
        compute_capability="9.0",
        sm_count=132,
        integrated=False,
    )
    runs = tuple(replace(run, sm_clock_mhz=1980.0, memory_clock_mhz=3201.0) for run in record.runs)
    runtime = replace(record.runtime, device="x86", provider="CUDA")
    return replace(
        record,
        **{"board": board, "runs": runs, "runtime": runtime, "work": WORK, "layers": (CONV,), **changes},
    )


def variant(record: Record, name: str) -> Record:
    return replace(record, record_name=f"{name}-ort-1.0", case=CaseRef("made-up", 1, name, "d" * 64, "full"))


NOTHING = Calibration()


def of(*records: Record, calibrated: Calibration = NOTHING, **more: Any) -> Facts:
    bounded = {}
    for record in records:
        figure = key_figure(record)
        if figure and (found := attained.of(record, figure.value_ns / 1e9, calibrated)):
            bounded[record.record_name] = found
    start = Facts("made-up", False, (), (), records, bounded)
    return start._replace(**more)


def flagged(code: str) -> Record:
    return on_gpu(runs=(make_run(0, 10.0, flags=(Flag(code, "why"),), sm_clock_mhz=1980.0),))


def changed(setting: str) -> Record:
    record = on_gpu()
    change = StateChange("jetson", setting, "before", "after")
    return replace(record, telemetry=replace(record.telemetry, state_changed=(change,)))


def layered(*tactics: str, **changes: Any) -> Record:
    return on_gpu(layers=tuple(Layer("k", "kernel", tactic=name) for name in tactics), **changes)


BIAS = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::Half>>"
FAST = Calibration(bytes_s=3e10, flop_s=None)
"""With it, 3e8 bytes take 10 ms."""
BUSY = Calibration(bytes_s=3e10, flop_s=1.1e11, precision="fp32")
MODES = tuple(10 + 0.001 * i for i in range(3)) + tuple(10.4 + 0.001 * i for i in range(3))
ORIN = "Jetson AGX Orin 32GB, 40W"

FIRES: list[tuple[str, Strength, Facts]] = [
    ("sparse_peak", "proven", of(claims=(replace(CLAIM, peak_is_sparse=True),))),
    ("arithmetic", "proven", of(claims=(replace(CLAIM, percent=9.0),))),
    (
        "accumulator_mismatch",
        "proven",
        of(references=(reference("a", ORIN), reference("b", "GeForce RTX 3080 10GB"))),
    ),
    (
        "different_releases",
        "proven",
        of(references=(reference("a", ORIN), reference("b", ORIN, "trt-10.3.0"))),
    ),
    ("emulated_module", "proven", of(references=(reference("a", f"{ORIN} emulated"),))),
    (
        "emulated_module",
        "proven",
        of(replace(on_gpu(), board=replace(on_gpu().board, emulated="agx-orin-32gb"))),
    ),
    ("memory_bound", "supported", of(on_gpu(), calibrated=FAST)),
    ("reformats", "proven", of(on_gpu(layers=(CONV, replace(CONV, is_reformat=True))))),
    ("launch_bound", "supported", of(on_gpu(runs=(make_run(0, 10.0, enqueue_median_ns=9.5e6),)))),
    ("launch_bound", "supported", of(on_gpu(), variant(on_gpu((9.0,)), "graph"))),
    ("unfused_pass", "proven", of(layered(CONV.tactic or "", BIAS))),
    (
        "tile_padding",
        "possible",
        of(on_gpu(), networks={"base-ort-1.0": ConvStack("s", 1, 8, 8, (16, 16), 3, True)}),
    ),
    ("winograd", "proven", of(layered("sm80_cudnn_winograd_fprop_f16"))),
    ("winograd", "possible", of(on_gpu(work=replace(WORK, flop=10**13)))),
    ("clock_low", "proven", of(on_gpu(runs=(make_run(0, 10.0, sm_clock_mhz=1200.0),)))),
    ("throttled", "proven", of(flagged("slowed"))),
    ("clock_moved", "proven", of(flagged("clock_moved"))),
    ("settings_changed", "proven", of(changed("power_mode"))),
    ("clock_unread", "proven", of(on_gpu(runs=(make_run(0, 10.0),)))),
    ("emc_unread", "proven", of(references=(reference("a", ORIN),))),
    (
        "emc_unread",
        "proven",
        of(on_gpu(runs=(make_run(0, 10.0),), board=replace(on_gpu().board, integrated=True))),
    ),
    ("unsteady", "proven", of(flagged("trend"))),
    (
        "unsteady",
        "proven",
        of(on_gpu(runs=(make_run(0, 10.0, summary=replace(make_run(0, 10.0).summary, p90_ns=10.6e6)),))),
    ),
    (
        "modes",
        "proven",
        of(
            on_gpu(
                builds=tuple(
                    replace(b, structure_hash=f"{i % 2}" * 64) for i, b in enumerate(on_gpu().builds)
                )
            )
        ),
    ),
    ("modes", "possible", of(on_gpu(MODES))),
    (
        "wrong_output",
        "proven",
        of(
            on_gpu(
                builds=tuple(
                    replace(b, check=replace(b.check, ok=False, problems=("nan",)))
                    for b in on_gpu().builds
                    if b.check
                )
            )
        ),
    ),
    ("not_as_asked", "proven", of(on_gpu(mismatches=(Mismatch("precision", "fp16", "fp32", "graph"),)))),
    (
        "not_as_asked",
        "proven",
        of(on_gpu(substitutions=(Substitution("precision", "fp16", "fp32", "on.cpu"),))),
    ),
    (
        "not_as_asked",
        "proven",
        of(on_gpu(runtime=replace(on_gpu().runtime, provider="CPUExecutionProvider"))),
    ),
    ("failed", "proven", of(make_failed("no kernel"))),
    ("not_counted", "proven", of(on_gpu(work=replace(WORK, unknown_ops=("MyOp 'a'",))))),
]

SILENT: list[tuple[str, Facts]] = [
    ("sparse_peak", of(claims=(CLAIM,))),
    ("sparse_peak", of(claims=(replace(CLAIM, peak_is_sparse=True),), sparsity=True)),
    ("arithmetic", of(claims=(replace(CLAIM, percent=10.05),))),
    (
        "accumulator_mismatch",
        of(references=(reference("a", "GeForce RTX 3080 10GB"), reference("b", "GeForce RTX 4090"))),
    ),
    ("different_releases", of(references=(reference("a", ORIN), reference("b", "GeForce RTX 4090")))),
    ("emulated_module", of(on_gpu(), references=(reference("a", ORIN),))),
    # As much of the multipliers is used.
    ("memory_bound", of(make_record(work=WORK), calibrated=BUSY)),
    ("memory_bound", of(on_gpu((30.0,)), calibrated=FAST)),
    ("memory_bound", of(on_gpu())),
    ("reformats", of(on_gpu(layers=(replace(CONV, is_reformat=False),)))),
    ("launch_bound", of(on_gpu(runs=(make_run(0, 10.0, enqueue_median_ns=8e6),)))),
    ("launch_bound", of(on_gpu(), variant(on_gpu((9.9,)), "graph"))),
    # An elementwise network of its own, and a bias that is part of its kernel.
    ("unfused_pass", of(layered(BIAS))),
    ("unfused_pass", of(layered("cudnn_fprop_bias_relu_f16"))),
    ("tile_padding", of(on_gpu(layers=(replace(CONV, outputs=(WIDE,)),)))),
    ("tile_padding", of(layered("some_kernel"))),
    ("winograd", of(on_gpu())),
    ("clock_low", of(on_gpu())),
    ("throttled", of(flagged("clock_moved"))),
    ("clock_moved", of(flagged("slowed"))),
    # What a machine does by itself is no setting.
    ("settings_changed", of(changed("pcie_generation"))),
    ("clock_unread", of(on_gpu())),
    ("clock_unread", of(make_record())),
    ("emc_unread", of(on_gpu(), references=(reference("a", f"{ORIN}, EMC 3199 MHz"),))),
    ("unsteady", of(flagged("slowed"))),
    ("modes", of(on_gpu((10.0, 10.2, 10.4, 10.6, 10.8, 11.0)))),
    # One odd build is no second kind.
    ("modes", of(on_gpu((10.0, 10.001, 10.002, 10.003, 10.4)))),
    ("wrong_output", of(on_gpu())),
    ("not_as_asked", of(on_gpu(), make_record())),
    ("failed", of(on_gpu())),
    ("not_counted", of(on_gpu())),
]


def fired(name: str, given: Facts) -> list[Finding]:
    return list(RULES[name](given))


@pytest.mark.parametrize(
    ("name", "strength", "given"), FIRES, ids=[f"{i}-{f[0]}" for i, f in enumerate(FIRES)]
)
def test_a_rule_fires(name: str, strength: Strength, given: Facts) -> None:
    found = fired(name, given)
    assert {(each.rule, each.strength) for each in found} == {(name, strength)}
    for each in found:
        assert each.evidence
        assert all(one.what and one.value and one.where for one in each.evidence)
        assert each.next
        if strength != "proven":
            assert re.search(r"\bmay\b", each.says)
            assert not re.search(r"\b(?:is|are)\b", each.says)


@pytest.mark.parametrize(("name", "given"), SILENT, ids=[f"{i}-{s[0]}" for i, s in enumerate(SILENT)])
def test_a_rule_stays_silent(name: str, given: Facts) -> None:
    assert fired(name, given) == []


def test_every_rule_has_both() -> None:
    assert {name for name, *_ in FIRES} == {name for name, _ in SILENT} == RULES.keys()


def test_the_case_of_the_thread_shows_its_peak_and_its_arithmetic_without_a_run() -> None:
    found = {
        (each.rule, each.strength): each for each in diagnose.diagnose(facts.of_case(cases.load("conv16")))
    }
    assert ("sparse_peak", "proven") in found
    says = found["arithmetic", "proven"].says
    assert says == "the claim on thread-orin does not close: its figures give 6.74 %, and it says 5.46 %"


def test_the_strongest_comes_first() -> None:
    given = of(on_gpu(), calibrated=FAST, claims=(replace(CLAIM, percent=9.0),))
    given = given._replace(networks={"base-ort-1.0": ConvStack("s", 1, 8, 8, (16, 16), 3, True)})
    assert [each.strength for each in diagnose.diagnose(given)] == ["proven", "supported", "possible"]


def test_the_gain_of_a_variant_beside_it_is_evidence() -> None:
    slow = on_gpu(layers=(CONV, replace(CONV, is_reformat=True)))
    (finding,) = fired("reformats", of(slow, variant(on_gpu((7.0,)), "hwc8")))
    assert "7.000 ms beside 10.00 ms" in [each.value for each in finding.evidence]


@pytest.mark.parametrize(
    ("planned", "channels", "beside"),
    [
        ({"io_layout": "hwc8"}, 16, True),
        ({"io_layout": "hwc8", "precision": "int8"}, 16, False),
        ({"io_layout": "hwc8"}, 64, False),
    ],
)
def test_a_variant_is_evidence_only_where_nothing_else_differs(
    planned: dict[str, str], channels: int, beside: bool
) -> None:
    slow = on_gpu(layers=(CONV, replace(CONV, is_reformat=True)))
    fast = variant(on_gpu((7.0,)), "hwc8")
    settings = replace(slow.settings, planned={"precision": "fp16", "io_layout": "chw"})
    slow = replace(slow, settings=settings)
    fast = replace(fast, settings=replace(settings, planned={**settings.planned, **planned}))
    given = of(slow, fast)._replace(
        networks={
            slow.record_name: ConvStack("s", 1, 8, 8, (16, 16), 3, True),
            fast.record_name: ConvStack("s", 1, 8, 8, (channels, channels), 3, True),
        }
    )
    (finding,) = fired("reformats", given)
    assert ("time of hwc8" in [each.what for each in finding.evidence]) == beside


def test_the_bytes_of_a_pass_are_those_of_the_outputs_twice() -> None:
    conv = CONV.tactic or ""
    precision = {"precision": Effective("fp16", "graph")}
    record = layered(conv, BIAS, conv, BIAS, conv, BIAS)
    record = replace(record, settings=replace(record.settings, effective=precision))
    (finding,) = fired("unfused_pass", of(record))
    written = 3 * 4 * 10**7 + 4 * 12 * 10 * 2
    assert f"{2 * written:,} beside 300,000,000" in [each.value for each in finding.evidence]


def test_a_command_names_only_variants_that_the_case_has() -> None:
    given = of(on_gpu())
    assert given.command("base,hwc8", "otherwise") == "otherwise"
    given = given._replace(variants=("hwc8",))
    assert given.command("base,hwc8", "otherwise") == "repro run made-up:base,hwc8 --device x86"


def test_a_bundle_gives_its_records_claims_and_networks(tmp_path: Path) -> None:
    from repro import bundle

    record = make_record(work=WORK)
    path = seal(tmp_path, record, claims=(CLAIM,)).path
    given = facts.of_bundle(bundle.read(path))
    assert [each.record_name for each in given.records] == ["base-ort-1.0"]
    assert given.claims == make_predicate(claims=(CLAIM,)).claims
    assert given.attained.keys() == given.networks.keys() == {"base-ort-1.0"}
    assert given.variants == ()
