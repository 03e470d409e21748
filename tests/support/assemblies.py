"""Configurations of assemblies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.sweeps import SMALL, write_config


def three_parts(a: str = "a", b: str = "b", **stitch: Any) -> list[dict[str, Any]]:
    """Describe a piece of a, a piece of b and a piece of a, with a stitch between them."""
    return [
        {"network": a, "end": "layer1.0"},
        {"stitch": {"name": "paper", **stitch}},
        {"network": b, "start": "layer1.0", "end": "layer3.0"},
        {"stitch": {"name": "conv1x1"}},
        {"network": a, "start": 3},
    ]


def write_assembly(folder: Path, zoo: Path, trees: list[dict[str, Any]], **changes: Any) -> Path:
    """Write the configuration of an assembly of these parts, and return its path."""
    return write_config(
        folder,
        zoo,
        **{
            "networks": SMALL["networks"][:2],
            "pairs": [],
            "search": {},
            "parts": trees,
            "training": {"epochs": 2, "batch_size": 64},
            **changes,
        },
    )
