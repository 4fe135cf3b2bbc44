"""From a bundle's own files to a job: what is taken from it, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro import bundle, cases, devices, lowering, plan, rebuild
from repro.backends import onnxruntime
from repro.errors import Refused, Unavailable
from repro.launch import confine
from repro.places import Where
from repro.plan import Request
from repro.schema import Limits, Place, Protocol, Record, ResolvedCase, SettingsSeen, Substitution, Turn
from tests.builders import make_predicate, make_record

pytestmark = pytest.mark.needs("linux")

CASES = Path(__file__).parents[1] / "e2e" / "cases"
replace = msgspec.structs.replace
Change = Callable[[Any], Any]


def same(value: Any) -> Any:
    return value


def experiment(case: str = "tiny", variant: str | None = None) -> cases.Experiment:
    return cases.resolve(cases.load(case, CASES), variant)


def record_of(made: cases.Experiment, name: str | None = None) -> Record:
    planned = lowering.plan(
        made.settings, made.case.on.get("cpu", {}), "cpu", onnxruntime.settings(gpu=False)
    )
    base, installed = make_record(), onnxruntime.release(gpu=False)
    name = name or f"{made.variant or 'base'}-{installed.name}"
    return replace(
        base,
        record_name=name,
        case=made.ref,
        model=replace(base.model, digests=made.model_digests),
        settings=SettingsSeen(made.settings, planned.planned, {}, planned.inapplicable),
        substitutions=planned.substitutions,
        runtime=replace(base.runtime, release=installed),
        protocol=replace(
            base.protocol,
            planned=Protocol("brief", 4, 1, 0.5, 20, 1.0, 50.0),
            seed=99,
            order=(Turn(0, 0, name, 0, 0),),
        ),
    )


def sealed(
    folder: Path,
    *made: cases.Experiment,
    record: Change = same,
    case: Change = same,
    onnx: Callable[[str, bytes], bytes | None] = lambda _, data: data,
) -> bundle.Bundle:
    files: dict[str, bytes] = {"telemetry/host.bin": bytes(160)}
    records = []
    for each in made or (experiment(),):
        seen = record(record_of(each))
        records.append(seen)
        home = f"records/{seen.record_name}"
        files[f"{home}/record.json"] = msgspec.json.encode(seen)
        resolved = ResolvedCase(each.ref, "t", "q", "s", each.model, each.settings, each.case.tolerance)
        files[f"{home}/case/case.json"] = msgspec.json.encode(case(resolved))
        for run in seen.runs:
            files[f"{home}/{run.samples.file}"] = bytes(48)
        for precision, data in each.onnx.items():
            if (kept := onnx(precision, data)) is not None:
                files[f"{home}/case/model.{precision}.onnx"] = kept
    told = make_predicate(*records)
    return bundle.read(bundle.seal(files, told, key=None, target=folder / "b.zip", stem="b").path)


def make(opened: bundle.Bundle, memory_bytes: int | None = None, **asked: Any) -> rebuild.Rebuilt:
    return rebuild.make(Request(**{"place": "host", **asked}), opened, memory_bytes, lambda _: None)


def test_the_job_is_that_of_the_bundle_from_its_own_files(tmp_path: Path) -> None:
    opened = sealed(tmp_path, experiment(), experiment(variant="wide"))
    made = make(opened)
    assert [subject.record_name for subject in made.job.subjects] == list(opened.records)
    assert (made.job.seed, made.job.protocol.builds, made.job.parent) == (99, 4, opened.id)
    for name, each in made.experiments.items():
        assert each.ref == opened.records[name].case
        assert (len(each.case.claims), len(each.case.references)) == (0, 0), (
            "the reply answers the bundle's own"
        )
    assert made.surveys["wide-" + onnxruntime.release(gpu=False).name].operators == ("Conv",)
    assert [subject.threads for subject in made.job.subjects] == [1, 1], "as the records say"
    assert made.job.place.labels == {"confined": ", ".join(sorted(confine.able(gpu=False)))}
    assert made.seconds > 0


def test_what_is_written_down_is_what_was_in_the_bundle(tmp_path: Path) -> None:
    made = make(sealed(tmp_path))
    plan.write_job(made.job, made.experiments, (), tmp_path / "job")
    (subject,) = made.job.subjects
    for precision, data in experiment().onnx.items():
        assert (tmp_path / "job" / subject.model_file).with_name(
            f"model.{precision}.onnx"
        ).read_bytes() == data


def test_a_known_case_keeps_what_its_devices_replace(tmp_path: Path) -> None:
    made = make(sealed(tmp_path, experiment("conv16")))
    (subject,) = made.job.subjects
    assert subject.planned["precision"] == "fp32"
    assert [each.declared_by for each in subject.substitutions] == ["on.cpu"]


def test_an_unknown_case_keeps_what_its_record_says_was_replaced(tmp_path: Path) -> None:
    known = experiment("engine")

    def on_cpu(record: Record) -> Record:
        substitution = Substitution("precision", "fp16", "fp32", "on.cpu")
        planned = {**record.settings.planned, "precision": "fp32"}
        seen = replace(record.settings, planned=planned)
        return replace(record, settings=seen, substitutions=(substitution,))

    (subject,) = make(sealed(tmp_path, known, record=on_cpu)).job.subjects
    assert subject.planned["precision"] == "fp32"


def runtime(**changes: Any) -> Change:
    return lambda record: replace(record, runtime=replace(record.runtime, **changes))


def protocol(**changes: Any) -> Change:
    return lambda record: replace(
        record, protocol=replace(record.protocol, planned=replace(record.protocol.planned, **changes))
    )


def requested(**changes: Any) -> Change:
    return lambda resolved: replace(resolved, settings=replace(resolved.settings, **changes))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"record": lambda r: replace(r, case=replace(r.case, share="none"))}, Unavailable, "is private"),
        ({"record": runtime(device="toaster")}, Unavailable, "unknown device"),
        ({"record": runtime(device="../x")}, Refused, "names things as the kit never does"),
        ({"record": runtime(backend="abacus")}, Unavailable, "unknown backend 'abacus'"),
        ({"record": protocol(builds=10**9)}, Refused, "builds=1000000000"),
        ({"record": protocol(seconds=1e9)}, Refused, "seconds="),
        (
            {"record": lambda r: replace(r, board=replace(r.board, threads=4096))},
            Unavailable,
            "it ran on 4096 threads",
        ),
        ({"record": lambda r: replace(r, origin="imported")}, Unavailable, "was imported"),
        ({"case": requested(warm_up_ms=3)}, Refused, "is not of the case that lies beside it"),
        ({"onnx": lambda _, data: data + b"\x0a\x00"}, Refused, "is not the one that its record is of"),
        ({"onnx": lambda p, data: data if p == "fp32" else None}, Refused, "is not in the bundle"),
        (
            {"record": lambda r: replace(r, model=replace(r.model, digests={"../../x": "0" * 64}))},
            Refused,
            "names precisions",
        ),
        (
            {"record": lambda r: replace(r, settings=replace(r.settings, planned={"precision": "fp32"}))},
            rebuild.AnotherExperiment,
            "this kit plans",
        ),
    ],
)
def test_what_can_not_be_rebuilt(tmp_path: Path, changes: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make(sealed(tmp_path, **changes))


def test_a_digest_of_another_case(tmp_path: Path) -> None:
    def lie(value: Any) -> Any:
        return replace(value, case=replace(value.case, digest="0" * 64))

    with pytest.raises(Refused, match="is not that of its model and settings"):
        make(sealed(tmp_path, record=lie, case=lie))


def test_a_missing_file_of_the_models(tmp_path: Path) -> None:
    one = experiment()
    digests = {"fp32": hashlib.sha256(one.onnx["fp32"]).hexdigest()}

    def only_fp32(record: Record) -> Record:
        return replace(record, model=replace(record.model, digests=digests))

    with pytest.raises(Refused, match="has not the models that its case has"):
        make(sealed(tmp_path, record=only_fp32))


def test_a_map_beyond_the_memory_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"the input of .* has 23\.8 GiB, and the replay may use 8 GiB"):
        make(sealed(tmp_path, experiment("huge")), memory_bytes=2**33)


def test_an_experiment_twice(tmp_path: Path) -> None:
    numbers = iter("ab")

    def named(record: Record) -> Record:
        name = f"{next(numbers)}-x"
        order = (Turn(0, 0, name, 0, 0),)
        return replace(record, record_name=name, protocol=replace(record.protocol, order=order))

    with pytest.raises(Refused, match="holds an experiment twice"):
        make(sealed(tmp_path, experiment(), experiment(), record=named))


def test_what_the_user_names_goes_before_the_bundle(tmp_path: Path) -> None:
    opened = sealed(tmp_path)
    with pytest.raises(Unavailable, match=r"ort-1\.29\.0 is not here"):
        make(opened, release="ort-1.29.0")
    with pytest.raises(Unavailable):
        make(opened, device="orin")


def test_a_small_machine_keeps_a_part_of_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert make(sealed(tmp_path)).limits.memory_bytes == 3 * 2**30
    pages["SC_PHYS_PAGES"] = 2**30
    assert make(sealed(tmp_path)).limits.memory_bytes == rebuild.MEMORY_BYTES


def test_nothing_is_counted_beyond_the_memory(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"the model can't be read within 0\.0\d+ GiB"):
        make(sealed(tmp_path), memory_bytes=2**26)


# --- a container goes before the host -----------------------------------------------------------


def test_a_container_that_is_there_goes_before_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []
    inside = Where(
        device=devices.DEVICES["cpu"],
        backend="onnxruntime",
        place=Place("docker", limits=Limits(None, 2**40, None)),
        release=onnxruntime.release(gpu=False).name,
        engine=object(),  # type: ignore[arg-type]
    )

    def choose(request: Request, *_: Any, **__: Any) -> Where:
        asked.append((request.place, request.pull))
        return inside

    monkeypatch.setattr(plan, "choose_place", choose)
    made = make(sealed(tmp_path), memory_bytes=2**33, place="auto", pull=True)
    assert asked == [("docker", False)], "and none is made for a bundle"
    assert made.enforced == set(confine.PARTS)
    limits = made.where.place.limits
    assert limits is not None
    assert limits.memory_bytes == 2**33, "with no more memory than a replay may have"


def test_without_one_it_is_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = plan.choose_place
    asked: list[str] = []

    def choose(request: Request, *rest: Any, **more: Any) -> Where:
        asked.append(request.place)
        if request.place == "docker":
            raise Unavailable("there is no Docker engine")
        return chosen(request, *rest, **more)

    monkeypatch.setattr(plan, "choose_place", choose)
    assert make(sealed(tmp_path), place="auto").where.place.kind == "host"
    assert asked == ["docker", "host"]
