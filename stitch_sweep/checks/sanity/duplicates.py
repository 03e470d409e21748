"""Whether an image occurs more than once."""

from __future__ import annotations

from dataclasses import asdict

from stitch_sweep.checks.sanity.subject import Finding, Subject
from stitch_sweep.data.duplicates import find_duplicates


def duplicates(subject: Subject) -> Finding:
    """Warn of images that are equal in every pixel, within a split or in two splits."""
    found = find_duplicates(subject.whole)
    return Finding(
        "duplicates",
        "the pixels of all images, within each split and between splits",
        None,
        "warn" if found else "pass",
        "; ".join(map(str, found)),
        {"duplicates": [asdict(entry) for entry in found]},
    )
