"""JSON Schemas (2020-12) of what a bundle carries; `python -m repro.schemas` writes them from the types."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from repro.schema import Comparison, Record, ResolvedCase, Statement

FILES = {
    "record.v1.json": Record,
    "statement.v1.json": Statement,
    "case.v1.json": ResolvedCase,
    "comparison.v1.json": Comparison,
}
FOLDER = Path(__file__).parent


def text(kind: type) -> str:
    """Return the schema of a type, stable byte for byte."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
