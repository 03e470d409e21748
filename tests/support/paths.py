"""Where the repository and the files beside it lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
"""Images, reference matrices and seeds that are not part of the repository; may be absent."""
