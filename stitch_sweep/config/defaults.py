"""Leave keys that have their defaults out of a section's dump."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel


def without_defaults(
    section: BaseModel, values: Mapping[str, Any], keys: Collection[str]
) -> dict[str, Any]:
    """Return dumped values without those of some keys that are the keys' defaults.

    Descriptions of sweeps, identities of trials, and hashes of them, must not change when a version adds
    a key.

    Args:
        section: the section.
        values: its dump.
        keys: names of fields that dumps lack while they have their defaults.
    """
    fields = type(section).model_fields
    return {
        key: value
        for key, value in values.items()
        if key not in keys or value != fields[key].get_default(call_default_factory=True)
    }
