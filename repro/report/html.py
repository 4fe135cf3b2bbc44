"""Reports as one self-contained page: no script, nothing loaded, light and dark, all text escaped.

    html.render("{% extends 'page' %}{% block main %}…{% endblock %}", title="…", tables=…)

A page is a Jinja2 template that extends `page` and fills its block `main`; `parts` has the macros for
tables and figures. Templates lie in the folder beside this module and are named without their suffix.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import ReproError

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_BYTES = 2 * 2**20
"""A page fits into a ticket."""
TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str | None:
        path = TEMPLATES / f"{name}.html"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(load),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, /, **values: object) -> str:
    """Return the page that the template of this name (or this text) makes of `values`.

    `values` needs a `title`. Strings are escaped; figures of `plot` are the only markup that passes.
    Raise `ReproError` for a page above `MAX_BYTES`.
    """
    environment = _environment()
    named = (TEMPLATES / f"{template}.html").is_file() if template.isidentifier() else False
    chosen = environment.get_template(template) if named else environment.from_string(template)
    page = chosen.render(**values)
    if (size := len(page.encode())) > MAX_BYTES:
        raise ReproError(
            f"the page would have {size / 2**20:.1f} MiB, and {MAX_BYTES >> 20} MiB are allowed",
            "name fewer bundles",
        )
    return page
