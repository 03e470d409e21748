"""Section `parts`: a network assembled from pieces of networks and stitches."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from stitch_sweep.config.stitch import StitchConfig
from stitch_sweep.core.problems import errors_at
from stitch_sweep.core.registry import Options


class PartConfig(Options):
    """A part of an assembled network: a piece of a network between two cut points, or a stitch.

    ```yaml
    parts:
      - {network: a, end: layer1.0}
      - stitch: {name: paper, start: least_squares}
      - {network: b, start: layer1.0, end: 3, frozen: false}
      - stitch: {name: conv1x1}
      - {network: a, start: layer3.0}
    order: in_turn
    ```

    The first part begins at the image, and the last part ends at the logits. A stitch stands between
    two pieces. If the shapes agree, two pieces can follow each other without a stitch. `stitch-sweep
    assemble` builds and trains the network; [Assemble networks from parts](../guides/assembly.md) shows
    an example.
    """

    network: str | None = Field(default=None, description="Name of the network of the piece.")
    start: str | int | None = Field(
        default=None,
        description="Layer index or cut point after which the piece begins. Default: the image.",
    )
    end: str | int | None = Field(
        default=None,
        description="Layer index or cut point after which the piece ends. Default: the logits.",
    )
    frozen: bool = Field(
        default=True,
        description="Whether the piece stays unchanged. With `false`, a copy of the piece is trained, "
        "with fixed BatchNorm statistics.",
    )
    stitch: StitchConfig | None = Field(
        default=None,
        description="A stitch instead of a piece, with the keys of section `stitch`. It joins the "
        "pieces before and after it.",
    )

    @model_validator(mode="after")
    def _validate_kind(self) -> PartConfig:
        if (self.network is None) == (self.stitch is None):
            raise errors_at("part", [((), "needs either network or stitch, not both")])
        given = [key for key in ("start", "end", "frozen") if key in self.model_fields_set]
        if self.stitch is not None and given:
            problem = "only allowed with network; a stitch joins the parts before and after it"
            raise errors_at("part", [((key,), problem) for key in given])
        return self

    @model_serializer(mode="wrap")
    def _drop_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree = {k: v for k, v in handler(self).items() if v is not None}
        return {"stitch": tree["stitch"]} if "stitch" in tree else tree
