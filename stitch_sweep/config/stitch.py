"""Section `stitch`: the trainable part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationError

from stitch_sweep.config.components import Component
from stitch_sweep.core.bounds import From0
from stitch_sweep.core.registry import STITCHES, Registry

Start = Literal["random", "identity", "permutation", "least_squares", "procrustes", "auto"]
STARTS: tuple[Start, ...] = get_args(Start)
"""All starts: the ways to initialize a stitch."""
DATA_STARTS = ("permutation", "least_squares", "procrustes")
"""Starts that depend on the training set. So does `auto`, where it chooses one of them."""


def options_for(section: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a raw section `stitch` without the options that another stitch lacks or doesn't allow.

    Args:
        section: of the first stitch, with its options.
        name: of the other stitch. Unknown names change nothing: validation reports them.

    Example:
        >>> options_for({"name": "mlp", "hidden": 64, "start": "auto"}, "conv1x1")
        {'name': 'mlp', 'start': 'auto'}
    """
    if name == section.get("name") or name not in STITCHES.names():
        return dict(section)
    model = STITCHES.options(name)
    options = {key: value for key, value in section.items() if key not in StitchConfig.model_fields}
    try:
        model.model_validate(options)
        refused: set[int | str] = set()
    except ValidationError as error:
        refused = {details["loc"][0] for details in error.errors() if details["loc"]}
    return {key: value for key, value in section.items() if key not in refused}


class StitchConfig(Component):
    """Type of the stitch, its initialization, its sparsity penalty, and its options.

    ```yaml
    stitch: {name: lowrank, rank: 8, start: auto}
    ```

    If a stitch can't join the layers of a cell, or can't have the initial weights `start` there, Stitch
    Sweep refuses the configuration and lists the cell. With `training: {epochs: 0}`, a stitch is
    evaluated with its initial weights. If `stitch.name` is crossed or searched, an option of this
    section applies to all stitches that allow it. A searched option that only some of these stitches
    allow needs a `when`.
    """

    registry: ClassVar[Registry] = STITCHES
    section: ClassVar[str] = "stitch"

    name: str = Field(
        default="paper",
        description="Name of a registered stitch. Its options are keys of this section, too.",
    )
    start: Start = Field(
        default="random",
        description="Initial weights: `random`; `identity`; `permutation`, which matches channels one "
        "to one by correlation; `least_squares`, the weights with the smallest squared error on the "
        "training images; `procrustes`, the orthogonal weights with the smallest squared error; `auto`, "
        "which is `least_squares` (often on a sample of these images) if the stitch has this closed "
        "form, and `random` otherwise.",
    )
    l1: From0 = Field(
        default=0.0,
        description="Weight of the sparsity penalty (sum of absolute weights), which is added to the "
        "loss.",
    )

    @property
    def label(self) -> str:
        """Name, and the settings that differ from their defaults: `mlp(hidden=64)`."""
        defaults = type(self).model_validate({"name": self.name}).model_dump()
        changed = {k: v for k, v in self.model_dump().items() if v != defaults[k]}
        return self.name + (
            f"({', '.join(f'{k}={v}' for k, v in changed.items())})" if changed else ""
        )
