"""What a bundle would reveal, before it is sealed: every member, its size, and why it is there."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from repro.report.text import quantity, safe

WHY = (
    (r"README\.txt", "how to check the bundle with stock tools"),
    (r"META/statement\.json", "lists every file with its sha256; this is what is signed"),
    (r"META/sig/.*", "the signature; it holds the public key, and no name"),
    (r"records/[^/]+/record\.json", "versions, settings, times, checks, and the state of the machine"),
    (r"records/[^/]+/case/case\.json", "the experiment, so that others can run it"),
    (r"records/[^/]+/case/model\..*\.onnx", "the model, so that others can build it"),
    (r"records/[^/]+/samples/.*", "the time of every iteration"),
    (r"records/[^/]+/logs/.*", "lines of the runtime's log whose form is known"),
    (r"replay/comparison\.json", "the original set against its replay"),
    (r"telemetry/.*", "load, clocks and memory while it ran"),
)
SHOWN_CHARACTERS = 200_000


class Member(msgspec.Struct, frozen=True):
    """A file that the bundle would hold."""

    name: str
    size: int
    why: str
    text: str | None
    """Its content where it is text, safe to show."""


class Preview(msgspec.Struct, frozen=True):
    """All of it."""

    title: str
    members: tuple[Member, ...]
    redactions: int
    leaks: tuple[str, ...]
    """What looks like a secret, by id and place."""

    @property
    def size(self) -> int:
        """Bytes of all members, unpacked."""
        return sum(member.size for member in self.members)


def preview(title: str, files: Mapping[str, bytes], redactions: int, leaks: tuple[str, ...]) -> Preview:
    """Describe the files of a bundle to be."""
    members = tuple(
        Member(safe(name), len(files[name]), why(name), _text(name, files[name])) for name in sorted(files)
    )
    return Preview(safe(title), members, redactions, tuple(map(safe, leaks)))


def why(name: str) -> str:
    """Return why a member is in a bundle."""
    return next((reason for pattern, reason in WHY if re.fullmatch(pattern, name)), "not foreseen")


def _text(name: str, data: bytes) -> str | None:
    if not name.endswith((".json", ".txt")):
        return None
    text = data[:SHOWN_CHARACTERS].decode("utf-8", "replace")
    return "\n".join(safe(line, 2_000) for line in text.split("\n"))


def as_text(found: Preview) -> str:
    """Return the preview for a terminal."""
    lines = [f"{found.title} would hold {len(found.members)} files, {quantity(found.size, 'bytes')} in all:"]
    width = max(len(member.name) for member in found.members)
    lines += [f"  {safe(member.name):<{width}}  {member.size:>9} B  {member.why}" for member in found.members]
    lines.append(f"Private values replaced or taken out: {found.redactions}.")
    lines += [f"Looks like a secret: {leak}" for leak in found.leaks]
    lines.append("A file attached to a public ticket can be read by everybody, without an account.")
    return "\n".join(lines) + "\n"


_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ found.title }}: what it would reveal</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
         color: #1c2024; background: #fff; }
  h1 { font-size: 1.4rem; } table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #d9dde1;
           vertical-align: top; }
  td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  code, pre { font: 13px/1.45 ui-monospace, monospace; } pre { background: #f5f6f7; padding: .8rem;
         overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 30rem; }
  .leak { background: #fdecea; padding: .4rem .8rem; } summary { cursor: pointer; }
</style>
<h1>{{ found.title }}: what it would reveal</h1>
<p>{{ found.members | length }} files, {{ size }} in all.
Private values replaced or taken out: {{ found.redactions }}.
A file attached to a public ticket can be read by everybody, without an account.</p>
{% for leak in found.leaks %}<p class="leak">Looks like a secret: {{ leak }}</p>
{% endfor -%}
<table>
<tr><th>File</th><th>Bytes</th><th>Why it is there</th></tr>
{% for member in found.members %}
<tr><td><code>{{ member.name }}</code></td><td class="n">{{ member.size }}</td><td>{{ member.why }}
{%- if member.text is not none %}
<details><summary>content</summary><pre>{{ member.text }}</pre></details>
{%- endif %}</td></tr>
{% endfor %}
</table>
</html>
"""


def as_html(found: Preview) -> str:
    """Return the preview as one self-contained page: no script, nothing loaded."""
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    return template.render(found=found, size=quantity(found.size, "bytes"))
