"""Section `knock_out`: layers of a network that a stitch replaces."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from stitch_sweep.config.components import check_integers
from stitch_sweep.core.registry import Options


def _expected(least: int) -> str:
    return f"'all' or a list of whole numbers of at least {least}"


FirstLayers = Annotated[
    Literal["all"] | list[int],
    PlainValidator(
        partial(check_integers, least=0, expected=_expected(0)),
        json_schema_input_type=Literal["all"] | list[Annotated[int, Field(ge=0)]],
    ),
]
RemovedCounts = Annotated[
    Literal["all"] | list[int],
    PlainValidator(
        partial(check_integers, least=1, expected=_expected(1)),
        json_schema_input_type=Literal["all"] | list[Annotated[int, Field(ge=1)]],
    ),
]


class KnockOutConfig(Options):
    """Layers of a network that a stitch replaces.

    ```yaml
    knock_out:
      - {network: a}
      - {network: b, first: [2, 3], removed: [1, 2]}
    ```

    Stitch Sweep runs all combinations of `first` and `removed` that fit into the network. To remove the
    n layers from f to f + n - 1, it stitches the network to itself, from layer f - 1 to layer f + n - 1.
    The results list this cell. `first: all` excludes the stem, because a stitch in place of the stem
    would have the raw image as input. Knock-outs have no controls.
    """

    network: str = Field(description="Name of the network whose layers are removed.")
    first: FirstLayers = Field(
        default="all",
        description="First removed layer: 0 is the stem, 1 the first block. `all` excludes 0.",
    )
    removed: RemovedCounts = Field(
        default="all",
        description="Number of consecutive layers that are removed, starting at `first`.",
    )

    def cells(self, last: int) -> list[tuple[int, int]]:
        """Return (sender layer, receiver layer) of each combination of `first` and `removed`.

        Removing n layers from layer f keeps the network up to layer f - 1 and after layer f + n - 1. This
        is the network stitched to itself in the cell (f - 1, f + n - 1).

        Args:
            last: index of the network's last layer.
        """
        firsts = range(1, last + 1) if self.first == "all" else _limit(self.first, last)
        counts = range(1, last + 2) if self.removed == "all" else _limit(self.removed, last + 1)
        return [(f - 1, f + n - 1) for f in firsts for n in counts if f + n - 1 <= last]


def _limit(numbers: list[int], largest: int) -> list[int]:
    """Return the distinct numbers up to `largest`, in order."""
    return [number for number in dict.fromkeys(numbers) if number <= largest]
