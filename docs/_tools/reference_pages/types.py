"""Types and ranges in words, from the JSON schema that pydantic makes of a field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reference_pages.markdown import alternatives, code
from stitch_sweep.core.bounds import LONGEST_TEXT

Schema = Mapping[str, Any]

_LARGEST_SEED = 2**63 - 1


def describe_type(schema: Schema) -> str:
    """Describe the allowed values of a key.

    Raises:
        ValueError: the schema says nothing about the values.
    """
    if "$ref" in schema:
        return "section"
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return alternatives([code(value) for value in values])
    if "anyOf" in schema:
        options = [s for s in schema["anyOf"] if s.get("type") != "null"]
        return alternatives(list(dict.fromkeys(map(describe_type, options))))
    kind = schema.get("type")
    if kind == "array":
        size = f", at most {_number(schema['maxItems'])}" if "maxItems" in schema else ""
        items = schema.get("items") or {}
        entries = "sections" if "$ref" in items else _plural(describe_type(items)) if items else ""
        return f"list of {entries or 'values'}{size}"
    if kind == "object":
        further = schema.get("additionalProperties")
        if isinstance(further, Mapping):
            return f"mapping to {_plural(describe_type(further))}"
        return "mapping"
    if kind == "boolean":
        return "`true` or `false`"
    if kind == "string":
        longest = schema.get("maxLength", LONGEST_TEXT)
        return "text" if longest == LONGEST_TEXT else f"text, at most {_number(longest)} characters"
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}{_range(schema)}"
    raise ValueError(f"no type in the JSON schema {dict(schema)}; give json_schema_input_type")


def _plural(words: str) -> str:
    return re.sub(r"^(whole number|number|section|text|list|mapping)", r"\1s", words)


def _range(schema: Schema) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if high == _LARGEST_SEED:
        return f" from {low} to 2^63 - 1"
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    words = [
        f"{word} {_number(limit)}"
        for word, limit in (
            ("of at least", low),
            ("above", above),
            ("of at most" if above is None else "at most", high),
            ("below", below),
        )
        if limit is not None
    ]
    return f" {' and '.join(words)}" if words else ""


def _number(value: float) -> str:
    if abs(value) >= 1e15:
        return f"{value:g}"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
