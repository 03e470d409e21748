"""The check for images that occur more than once."""

from __future__ import annotations

from dataclasses import asdict

from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.data.duplicates import find_duplicates


def duplicates(subject: Subject) -> Finding:
    """Warn about images with equal pixels, within a split or in two splits."""
    groups = find_duplicates(subject.all_data)
    return Finding(
        "duplicates",
        "the pixels of all images, within each split and between splits",
        None,
        "warn" if groups else "pass",
        "; ".join(map(str, groups)),
        {"duplicates": [asdict(group) for group in groups]},
    )
