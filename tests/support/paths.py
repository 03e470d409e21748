"""Paths of the repository and of the files beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
"""Images, reference matrices and seeds outside the repository; the folder may not exist."""
