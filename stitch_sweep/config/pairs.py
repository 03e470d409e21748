"""Section `pairs`: which layers are stitched to which."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from stitch_sweep.config.components import check_integers
from stitch_sweep.core.registry import Options

IMAGE_LAYER = -1
"""The layer index that means the image itself."""

_EXPECTED = "'all' or a list of layer indices, -1 (the image) or above"

# Not a plain union, because pydantic would report an error for each member.
LayerSelection = Annotated[
    Literal["all"] | list[int],
    PlainValidator(
        partial(check_integers, least=IMAGE_LAYER, expected=_EXPECTED),
        json_schema_input_type=Literal["all"] | list[Annotated[int, Field(ge=IMAGE_LAYER)]],
    ),
]


class PairConfig(Options):
    """A sender and a receiver, and the layers to stitch: one matrix.

    ```yaml
    pairs:
      - {sender: a, receiver: b}
      - {sender: a, receiver: a, sender_layers: [-1, 0, 4], receiver_layers: [1, 2]}
    ```

    A cell that belongs to two pairs is run once.
    """

    sender: str = Field(description="Name of the network whose first layers are used.")
    receiver: str = Field(description="Name of the network whose last layers are used.")
    sender_layers: LayerSelection = Field(
        default="all",
        description="Layers after which the sender is cut: 0 is the stem, k the k-th block, -1 the "
        "image. `all` excludes -1.",
    )
    receiver_layers: LayerSelection = Field(
        default="all", description="Layers after which the receiver continues. `all` excludes -1."
    )
