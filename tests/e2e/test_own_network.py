"""A user's own network through the whole path: private unless said otherwise."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import onnx
import pytest

from repro import bundle
from repro.bundle import archive
from tests import nets
from tests.e2e.conftest import QUICK, Call, bundle_of

pytestmark = pytest.mark.needs("ssh-keygen", "linux")


def made(call: Call, folder: Path, *more: str) -> Path:
    """Make a case of a network full of names, and run it; return the case's folder."""
    nets.saved(nets.classifier(), folder, "secret_file.onnx")
    new = ["case", "new", "my-net", "--onnx", "secret_file.onnx", "--shape", "secret_image:1x3x16x12"]
    done = call(*new, *more)
    assert done.returncode == 0, done.stderr
    assert call("case", "check", "my-net", "--cases", "cases").returncode == 0
    done = call("run", "my-net", "--cases", "cases", "--device", "cpu", *QUICK)
    assert done.returncode == 0, done.stderr
    return folder / "cases" / "my-net"


def contents(path: Path) -> dict[str, bytes]:
    with archive.opened(path) as zipped:
        return {name: zipped.read(name) for name in zipped.names}


def test_a_private_network_leaves_no_name_no_weight_and_no_digest(call: Call, tmp_path: Path) -> None:
    folder = made(call, tmp_path)
    path = bundle_of(tmp_path)
    told = contents(path)
    everything = b"\0".join((*map(str.encode, told), *told.values()))
    assert not [name for name in told if name.endswith(".onnx")]
    for name in (*nets.SECRETS, "secret", "Ann"):
        assert name.encode() not in everything
    for weight in nets.weights():
        raw = weight.tobytes()
        assert not [i for i in range(0, len(raw) - 8, 4) if raw[i : i + 8] in everything]
        assert not [v for v in weight.ravel() if repr(float(v)).encode() in everything]
    # Neither of the original, nor of what was built, nor of what the case's identity is made of.
    models = [(tmp_path / "secret_file.onnx").read_bytes(), (folder / "model.onnx").read_bytes()]
    from repro import cases

    experiment = cases.resolve(cases.load("my-net", tmp_path / "cases"), None)
    digests = [hashlib.sha256(data).hexdigest() for data in models] + [experiment.ref.digest]
    for found in (tmp_path / "work").glob("*/out/records/*/record.json"):
        plain = msgspec.json.decode(found.read_bytes())
        digests += [build["structure_hash"] for build in plain["builds"]]
        assert plain["case"]["digest"] == experiment.ref.digest
    assert len(digests) == 4
    for digest in digests:
        assert digest.encode() not in everything
    (record,) = bundle.read(path).records.values()
    assert record.work is not None
    assert [layer.name for layer in record.work.layers] == [
        "Conv_0",
        "Relu_1",
        "GlobalAveragePool_2",
        "Gemm_4",
    ]
    assert "no, because the model is private" in call("show", path, "--card").stdout


def test_a_shared_network_is_in_the_bundle_and_said_to_be(call: Call, tmp_path: Path) -> None:
    folder = made(call, tmp_path, "--share", "model")
    path = bundle_of(tmp_path)
    (name,) = [name for name in contents(path) if name.endswith(".onnx")]
    assert contents(path)[name] == (folder / "model.onnx").read_bytes()
    (record,) = bundle.read(path).records.values()
    assert record.case.share == "model"
    assert "the user's own model is in the bundle" in call("show", path, "--card").stdout


def test_sharing_names_the_file_and_its_size(call: Call, tmp_path: Path) -> None:
    nets.saved(nets.classifier(), tmp_path)
    new = ["case", "new", "my-net", "--onnx", "net.onnx", "--shape", "secret_image:1x3x16x12"]
    done = call(*new, "--share", "model")
    said = "share = model: cases/my-net/model.onnx, 1.7 KiB, will be in every bundle of my-net\n"
    assert done.stderr == said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shape", "secret_image:1x4x16x12"], "repro: input 'secret_image' is"),
        (["--shape", "nonsense"], "repro: 'nonsense' is no shape"),
        ([], "repro: input 'secret_image' has the open shape"),
    ],
)
def test_what_does_not_fit_is_one_line(call: Call, tmp_path: Path, arguments: list[str], says: str) -> None:
    nets.saved(nets.classifier(), tmp_path)
    done = call("case", "new", "my-net", "--onnx", "net.onnx", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(says)
    assert not (tmp_path / "cases").exists()


def test_a_file_that_is_not_there_is_one_line(call: Call) -> None:
    done = call("case", "new", "my-net", "--onnx", "nowhere.onnx")
    assert (done.returncode, done.stderr) == (
        1,
        "repro: can't read nowhere.onnx (No such file or directory)\n",
    )


def test_its_owner_can_repeat_a_private_bundle(call: Call, tmp_path: Path) -> None:
    made(call, tmp_path)
    path = bundle_of(tmp_path)
    done = call("run", "--like", path, "--cases", "cases", "--output", "again")
    assert done.returncode == 0, done.stderr
    # With one bit of one weight changed, the pseudonym is another one.
    file = tmp_path / "cases" / "my-net" / "model.onnx"
    model = onnx.load(str(file))
    weight = model.graph.initializer[0]
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    nets.saved(model, file.parent, file.name)
    done = call("run", "--like", path, "--cases", "cases", "--output", "again")
    assert (done.returncode, "is another experiment here" in done.stderr) == (4, True)
