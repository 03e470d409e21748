"""Experiment folders whose content a stranger may have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.reports import make_folder


def small_sweep(tmp_path: Path) -> Path:
    """A folder of a small sweep."""
    return make_folder(tmp_path / "sweep", losses=("task",), layers=2)


def rewrite(folder: Path, **changes: Any) -> None:
    """Replace sections of the folder's configuration."""
    path = folder / "config.resolved.yml"
    tree = yaml.safe_load(path.read_text())
    for network in tree["networks"]:
        network["width"] = 4
    tree["networks"] = [{**n, "blocks": [1, 1, 1, 1]} for n in tree["networks"]]
    path.write_text(yaml.safe_dump({**tree, **changes}))


RECIPE = {"recipe": {"weights": "trained", "options": {}}, "seconds": 1.0, "versions": {},
          "accuracy": {"train": 1.0, "validation": 0.9, "test": 0.8}}  # fmt: skip
