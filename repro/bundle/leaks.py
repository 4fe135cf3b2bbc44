"""Does a file hold something that nobody meant to publish? The last look before sealing.

Rules of the kit's own, as measured in the reference trials: nine kinds of planted secrets are found and
host names, UUIDs and MAC addresses alone are not taken for secrets (those are the redactor's work).
A hit has an id that follows from rule, file and text, so that a person can allow exactly this one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

MAX_HITS = 100

# What fails only after a long look ahead is bounded, so that a search takes linear time.
_NAME = (
    r"[A-Za-z0-9_.-]{0,40}(?:SECRET|TOKEN|PASSW(?:OR)?D|API_?KEY|ACCESS_?KEY|CREDENTIAL)[A-Za-z0-9_.-]{0,40}"
)
RULES: dict[str, re.Pattern[bytes]] = {
    name: re.compile(pattern.encode(), re.IGNORECASE if name in ("named_secret", "bearer") else 0)
    for name, pattern in {
        "private_key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
        "aws_access_key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        "github_token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
        "gitlab_token": r"\bglpat-[A-Za-z0-9_-]{20,}",
        "nvidia_key": r"\bnvapi-[\w-]{20,}",
        "hugging_face_token": r"\bhf_[A-Za-z0-9]{20,}",
        "slack_token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
        "pypi_token": r"\bpypi-[A-Za-z0-9_-]{16,}",
        "openai_key": r"\bsk-[A-Za-z0-9_-]{20,}",
        "google_key": r"\bAIza[0-9A-Za-z_-]{35}",
        "web_token": r"\beyJ[A-Za-z0-9_-]{10,200}\.[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{5,}",
        "registry_auth": r'"(?:auth|identitytoken|registrytoken)"\s*:\s*"[^"]{4,}"',
        "url_password": r"\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@\"']{1,100}:[^\s/@\"']{1,500}@",
        "bearer": r"\b(?:bearer|basic)\s+[A-Za-z0-9+/_=.-]{16,}",
        "named_secret": rf"\b{_NAME}[\"']?\s{{0,4}}[=:]\s{{0,4}}[\"']?[^\s\"',}}\]]{{6,}}",
    }.items()
}


class Hit(msgspec.Struct, frozen=True):
    """A place that looks like a secret; the text itself is never repeated."""

    id: str
    rule: str
    file: str
    line: int


def scan(files: Mapping[str, bytes]) -> Iterator[Hit]:
    """Give what looks like a secret in `files`, at most `MAX_HITS` times."""
    left = MAX_HITS
    for name in sorted(files):
        for rule, pattern in RULES.items():
            for match in pattern.finditer(files[name]):
                if not left:
                    return
                left -= 1
                digest = hashlib.sha256(b"\0".join([rule.encode(), name.encode(), match[0]])).hexdigest()
                line = files[name].count(b"\n", 0, match.start()) + 1
                yield Hit(f"{rule}-{digest[:8]}", rule, name, line)


def not_allowed(hits: Iterable[Hit], allowed: Iterable[str]) -> list[Hit]:
    """Return the hits that nobody allowed."""
    known = set(allowed)
    return [hit for hit in hits if hit.id not in known]
