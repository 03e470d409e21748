"""Versions of the packages that a result was made with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

import torch

PACKAGES = (
    *("stitch-sweep", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas"),
    *("pyarrow", "pillow", "safetensors", "ray", "optuna", "mlflow", "ffcv"),
)
"""Packages that results, or the files that store them, may depend on."""
MAIN_PACKAGES = ("stitch-sweep", "torch", "ray", "optuna")
"""Packages whose versions are printed first."""


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Return the versions of Python and of packages; None for a package that is not installed.

    Example:
        >>> versions(["torch", "no-such-package"])  # doctest: +SKIP
        {'python': '3.11.7', 'torch': '2.15.0+cu130', 'no-such-package': None}
    """
    result = {"python": platform.python_version(), **{name: _version(name) for name in packages}}
    if "torch" in result:
        # The package metadata lacks the build, such as +cu130.
        result["torch"] = torch.__version__
    return result


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
