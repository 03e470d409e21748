"""Which versions of what a result was made with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

import torch

PACKAGES = (
    *("stitch-sweep", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas"),
    *("pyarrow", "pillow", "safetensors", "ray", "optuna", "mlflow", "ffcv"),
)
"""What figures, or the files that they are stored in, may depend on."""
MAIN = ("stitch-sweep", "torch", "ray", "optuna")
"""What a reader asks of first."""


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Python's version and those of packages; None for one that is not installed.

    Example:
        >>> versions(["torch", "none-of-that-name"])  # doctest: +SKIP
        {'python': '3.11.7', 'torch': '2.15.0+cu130', 'none-of-that-name': None}
    """
    found = {"python": platform.python_version(), **{name: _version(name) for name in packages}}
    if "torch" in found:
        # The package's number leaves out how torch was built.
        found["torch"] = torch.__version__
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
