"""Secrets are found by the kit's own rules, and named without being repeated."""

from __future__ import annotations

import pytest

from repro.bundle import leaks

# Put together here, so that no scanner takes this file for a leak.
NINE = {
    "aws_access_key": "AKIA" + "IOSFODNN7EXAMPLE",
    "github_token": "ghp_" + "a1B2c3D4" * 5,
    "private_key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "url_password": "https://user:" + "hunter2@registry.example.org/v2",
    "nvidia_key": "nvapi-" + "Abc123_-" * 8,
    "hugging_face_token": "hf_" + "AbCdEfGhIj" * 3,
    "named_secret": "WANDB_API" + "_KEY=0123456789abcdef",
    "registry_auth": '"au' + 'th": "dXNlcjpwYXNzd29yZA=="',
    "bearer": "Authorization: Bea" + "rer abcdefghijklmnop0123",
}
"""Nine kinds, one for each rule that the trials of secret scanners planted."""
MORE = {
    "named_secret": "aws_secret_access" + '_key = "wJalrXUtnFEMI/K7MDENG"',
    "gitlab_token": "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "slack_token": "xoxb-" + "123456789012-abcdef",
    "pypi_token": "pypi-" + "AgEIcHlwaS5vcmcCJ",
    "openai_key": "sk-" + "proj-abcdefghijklmnop1234",
    "google_key": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "web_token": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".abcdefghij",
}


@pytest.mark.parametrize(("rule", "secret"), [*NINE.items(), *MORE.items()])
@pytest.mark.parametrize("around", ["{}", "x = '{}'", "line\n{}\nline", '{{"stderr": "{}"}}'])
def test_every_planted_kind_is_found_wherever_it_stands(rule: str, secret: str, around: str) -> None:
    hits = list(leaks.scan({"a.json": around.format(secret).encode()}))
    assert rule in {hit.rule for hit in hits}
    assert all(secret not in str(hit) for hit in hits)


def test_every_rule_has_its_plant() -> None:
    assert set(NINE) | set(MORE) == set(leaks.RULES)
    assert len(NINE) == 9


@pytest.mark.parametrize(
    "text",
    [
        "host-abcdefghijkl gpu-mnopqrstuvwx",
        "GPU-5a2f1c9e-1111-2222-3333-444455556666",
        "00:1b:44:11:3a:b7",
        "sha256:" + "0123456789abcdef" * 4,
        "SHA256:uNiVztksCsDhcc0u9e8BrrJXVGIb/pjLkqYMfyVxv/Q",
        "--fp16 --inputIOFormats=fp16:chw --useCudaGraph",
        "TensorRT 10.3.0.30, driver 580.65.06, https://forums.example.org/t/12345/2",
        "tokens per second: 120; password is not shown; the key is missing",
        "max_token: 5; token = 12345",
        "task-abcdefghijklmnopqrstuvwxyz",
        "nvapi- hf_ ghp_ AKIA",
    ],
)
def test_what_is_no_secret_is_let_through(text: str) -> None:
    assert list(leaks.scan({"a.txt": text.encode()})) == []


def test_a_hit_tells_file_line_and_rule() -> None:
    (hit,) = leaks.scan({"b.txt": b"fine", "a.txt": b"one\ntwo\n" + NINE["nvidia_key"].encode()})
    assert (hit.file, hit.line, hit.rule) == ("a.txt", 3, "nvidia_key")
    assert hit.id.startswith("nvidia_key-")


def test_an_id_names_one_place_and_stays_the_same() -> None:
    secret = NINE["nvidia_key"].encode()
    (one,) = leaks.scan({"a.txt": secret})
    (again,) = leaks.scan({"a.txt": b"moved\n" + secret})
    (elsewhere,) = leaks.scan({"b.txt": secret})
    (another,) = leaks.scan({"a.txt": secret + b"x"})
    assert one.id == again.id
    assert len({one.id, elsewhere.id, another.id}) == 3
    assert leaks.not_allowed([one, elsewhere], [again.id]) == [elsewhere]
    assert leaks.not_allowed([one], ["nvidia_key", ""]) == [one]


def test_the_number_of_hits_is_bounded() -> None:
    text = "\n".join(f"{NINE['aws_access_key'][:-3]}{i:03}" for i in range(300))
    assert len(list(leaks.scan({"a.txt": text.encode()}))) == leaks.MAX_HITS


def test_bytes_that_are_no_text_are_looked_through_too() -> None:
    (hit,) = leaks.scan({"a.bin": bytes(range(256)) + b" " + NINE["nvidia_key"].encode() + b"\0"})
    assert hit.rule == "nvidia_key"


@pytest.mark.parametrize(
    "unit", ["a", "A.", "eyJ", "token", "https://", "https://a:", "-----BEGIN ", "bearer "]
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    list(leaks.scan({"a.txt": (unit * (200_000 // len(unit))).encode()}))
