"""Section `resources`: CPUs, GPUs and memory of a trial."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from stitch_sweep.core.bounds import From0
from stitch_sweep.core.problems import mismatch, refusal
from stitch_sweep.core.registry import Options

_MOST_GPUS = 1024
_WIDEST_PACK = 256


def _check_pack(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value != "auto" and not (is_number and 1 <= value <= _WIDEST_PACK):
        raise refusal(mismatch(f"'auto' or a whole number from 1 to {_WIDEST_PACK}", value))
    return value


def _check_gpu(value: Any) -> Any:
    if value == "auto":
        return value
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (0 <= number <= 1 or (1 < number < math.inf and number == int(number))):
        expected = "'auto', 0, a share of one GPU or a whole number of GPUs"
        raise refusal(mismatch(expected, value))
    if number > _MOST_GPUS:
        raise refusal(mismatch(f"a number of at most {_MOST_GPUS}", value))
    return float(number)


class ResourcesConfig(Options):
    """Resources of one trial.

    ```yaml
    resources: {cpu: 2, gpu: 0.25, pack: auto}
    ```

    Each process is held to its share of a GPU's memory. A trial that needs more is tried again once
    with twice the share, and recorded as failed if that isn't enough. `gpu: auto` trains the largest
    cell of the sweep for an epoch, gives every worker a quarter more memory than that took, and packs
    as many as fit, at most 32. Networks are trained on a whole GPU each. [Share a
    GPU](../guides/gpu.md) shows both.

    The number of places of a pack changes the last bits of results, as the batch size does; which
    stitches share a pass changes none. `pack: auto` depends on the device, the batch size, and the
    multiply-adds of the receiver after the layer.
    """

    cpu: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1,
        description="CPUs of a trial, and torch's number of intra-op threads in all commands. It changes "
        "the last bits of results.",
    )
    gpu: Annotated[
        Literal["auto"] | float,
        PlainValidator(
            _check_gpu,
            json_schema_input_type=Literal["auto"] | Annotated[float, Field(ge=0, le=_MOST_GPUS)],
        ),
    ] = Field(
        default=0.0,
        description="GPUs of a trial: 0, a share of one GPU (0.25: four trials share one), a whole "
        "number, or `auto` for a share that is measured when the sweep starts.",
    )
    cache_gb: From0 = Field(
        default=1.0,
        description="Largest size in GiB of a frozen network's representation of one split that is kept "
        "in memory. A worker keeps those of the stitches that it trains side by side, for each split the "
        "sender's and, if the loss needs it, the receiver's, and at most those of one earlier stitch.",
    )
    # Excluded if it has its default, so that descriptions of older sweeps keep their hashes.
    pack: Annotated[
        Literal["auto"] | int,
        PlainValidator(
            _check_pack,
            json_schema_input_type=Literal["auto"] | Annotated[int, Field(ge=1, le=_WIDEST_PACK)],
        ),
        Field(exclude_if=lambda pack: pack == 1),
    ] = Field(
        default=1,
        description="Number of stitches into one receiver layer that a worker trains side by side, in "
        "one pass of the frozen rest of the receiver; `auto` chooses a number per layer. It changes "
        "the last bits of results; which stitches share a pass does not.",
    )

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device of a trial's computations."""
        return "cuda" if self.gpu_at_most > 0 else "cpu"

    @property
    def gpu_at_most(self) -> float:
        """Largest number of GPUs of a trial: `gpu`, or 1 for `auto`."""
        return 1.0 if self.gpu == "auto" else self.gpu
