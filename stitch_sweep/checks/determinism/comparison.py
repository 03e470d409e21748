"""Find the first difference between two recordings, its size, and its usual cause."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stitch_sweep.checks.determinism.causes import explain_difference
from stitch_sweep.checks.determinism.items import (
    ComparedItem,
    compare_configurations,
    compare_data,
    compare_environments,
    compare_generators,
    compare_outputs,
    compare_steps,
    compare_transforms,
    compare_weights,
)
from stitch_sweep.checks.determinism.recording import Recording, read_recording
from stitch_sweep.checks.differences import largest_difference

CONTEXT = ("configuration", "environment")
"""Stages that describe the circumstances; a difference here is a cause and not a finding."""
COMPUTED = ("data", "transform", "weights", "forward", "backward", "generators")
"""Stages of the computation; each depends on those before it."""

_CONTENTS = {
    "configuration": "settings",
    "environment": "versions, flags, facts of the device",
    "data": "indices, labels, pixels of batches",
    "transform": "settings and transformed batches",
    "weights": "parameters and buffers",
    "forward": "outputs of layers",
    "backward": "losses, gradients and parameters",
    "generators": "states",
}


@dataclass(frozen=True)
class Stage:
    """One stage of the comparison.

    Attributes:
        name: one of `CONTEXT` or `COMPUTED`.
        compared: number and kind of the compared items.
        differing: number of items that differ.
        place: the first item that differs; None, like the following attributes, if none does.
        difference: the difference as a phrase.
        largest: the largest absolute difference of its values; infinite where a shape, a type or a
            non-finite value differs, None where there are no numbers to subtract.
        values: number of values behind `largest`.
        total: number of values of the tensor.
        cause: the usual cause.
    """

    name: str
    compared: str
    differing: int = 0
    place: str | None = None
    difference: str | None = None
    largest: float | None = None
    values: int | None = None
    total: int | None = None
    cause: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON data; infinity becomes the text `inf`."""
        infinite = self.largest is not None and math.isinf(self.largest)
        return {**asdict(self), "largest": "inf" if infinite else self.largest}


@dataclass(frozen=True)
class Comparison:
    """The differences between two recordings.

    Attributes:
        stages: every stage, `CONTEXT` first.
        changes: the differences in configuration and environment, a sentence each.
    """

    stages: tuple[Stage, ...]
    changes: tuple[str, ...]

    @property
    def agree(self) -> bool:
        """Whether nothing differs, environment included."""
        return self.first is None

    @property
    def first(self) -> Stage | None:
        """The first stage that differs, in the order of `COMPUTED`; else configuration, environment."""
        order = {name: k for k, name in enumerate((*COMPUTED, *CONTEXT))}
        differing = [stage for stage in self.stages if stage.differing]
        return min(differing, key=lambda stage: order[stage.name], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: `agree`, `first` (a stage or None), `stages`, `changes`."""
        return {
            "agree": self.agree,
            "first": None if self.first is None else self.first.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
            "changes": list(self.changes),
        }


def compare(first: Path, second: Path) -> Comparison:
    """Compare two recordings.

    Args:
        first: folder of the reference recording.
        second: folder of the recording to compare with it.

    Raises:
        InputError: a folder holds no complete recording.

    Example:
        >>> comparison = compare(Path("check1"), Path("check2"))
        >>> comparison.agree, comparison.first
        (True, None)
    """
    return compare_recordings(read_recording(first), read_recording(second))


def compare_recordings(first: Recording, second: Recording) -> Comparison:
    """Compare two recordings in memory; see `compare`."""
    settings = list(compare_configurations(first, second))
    environment = list(compare_environments(first, second))
    changed_settings = [item for item in settings if item.difference]
    changed_facts = [item for item in environment if item.difference]
    items: dict[str, Sequence[ComparedItem] | Iterator[ComparedItem]] = {
        "configuration": settings,
        "environment": environment,
        "data": compare_data(first, second),
        "transform": compare_transforms(first, second),
        "weights": compare_weights(first, second),
        "forward": compare_outputs(first, second),
        "backward": compare_steps(first, second),
        "generators": compare_generators(first, second),
    }
    changed_paths = [item.place for item in changed_settings]
    stages = []
    for name, compared in items.items():
        stage, kind = _summarize_stage(name, list(compared), first, second)
        if kind is not None:
            cause = explain_difference(kind, changed_paths, bool(changed_facts))
            stage = Stage(**{**vars(stage), "cause": cause})
        stages.append(stage)
    changes = [
        sentence(item.place, item.difference) for item in (*changed_settings, *changed_facts)
    ]
    return Comparison(tuple(stages), tuple(changes))


def _summarize_stage(
    name: str, items: Sequence[ComparedItem], first: Recording, second: Recording
) -> tuple[Stage, str | None]:
    """Return a stage without its cause, and the kind of its first difference."""
    compared = f"{len(items):,} {_CONTENTS[name]}"
    differing = [item for item in items if item.difference]
    if not differing:
        return Stage(name, compared), None
    item = differing[0]
    largest, values, total = item.gap, None, None
    if item.tensor in first.tensors and item.tensor in second.tensors:
        kept_pair = first.tensors[item.tensor], second.tensors[item.tensor]
        largest, values, total = largest_difference(*kept_pair), kept_pair[0].numel(), item.total
    stage = Stage(
        name, compared, len(differing), item.place, item.difference, largest, values, total
    )
    return stage, item.kind


def sentence(place: str | None, difference: str | None) -> str:
    """Join a place and its difference."""
    verb = str(difference).startswith(("is ", "has ", "had ", "predicts ", "exists"))
    return f"{place}{'' if verb else ':'} {difference}"
