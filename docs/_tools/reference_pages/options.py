"""The names of registered objects, and their options as a table."""

from __future__ import annotations

from reference_pages.docstrings import Docstring
from reference_pages.markdown import code, table
from reference_pages.types import describe_type
from stitch_sweep.core.registry import Registration, Registry


def built_in_names(registry: Registry) -> list[str]:
    """Return the names that Stitch Sweep itself has registered."""
    return [name for name in registry.names() if registry.get(name).is_built_in]


def describe_options(entry: Registration, documented: Docstring) -> str:
    """Describe the options of an object; empty if it has none.

    Raises:
        KeyError: the docstring lacks an option.
    """
    schema = entry.options.model_json_schema().get("properties", {})
    rows = []
    for name, field in entry.options.model_fields.items():
        default = "required" if field.is_required() else code(field.default)
        if field.default is None:
            default = "none"
        rows.append((f"`{name}`", describe_type(schema[name]), default, documented.arguments[name]))
    return table(["option", "value", "default", "meaning"], rows)
