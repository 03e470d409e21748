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
    """CPUs, GPUs and memory of one trial.

    ```yaml
    resources: {cpu: 2, gpu: 0.25, pack: auto}
    ```

    Each worker can use only its share of a GPU's memory. A trial that needs more memory runs once more
    with twice the share, and is recorded as failed if that isn't enough. `gpu: auto` first trains, for
    one epoch, the trials that together need the most memory in a worker. Every worker then gets at least
    a quarter more memory than this training took. A GPU gets as many workers as its memory and the CPUs
    allow, at most 32. Each network of the zoo is trained on a whole GPU. [Share a GPU](../guides/gpu.md)
    shows examples.

    The value of `pack` changes the rounding, and so the last bits of results. Results don't depend on
    which stitches share a pack. The number that `pack: auto` chooses depends on the device, the batch
    size, and the multiply-adds of the receiver after the cut.
    """

    cpu: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1,
        description="Number of CPUs of a trial, and of torch's intra-op threads in all commands. This "
        "number changes the last bits of results.",
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
        description="Size limit in GiB for the representations of one layer on one split. A worker keeps "
        "smaller ones in memory: those for the stitches that it trains together (the sender's and, if "
        "the loss needs them, the receiver's), and those for at most one earlier stitch.",
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
        description="Number of stitches into the same receiver layer that a worker trains together, in "
        "one pass through the receiver's frozen layers. `auto` chooses a number per receiver layer.",
    )

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device of a trial's computations."""
        return "cuda" if self.gpu_at_most > 0 else "cpu"

    @property
    def gpu_at_most(self) -> float:
        """Largest number of GPUs of a trial: `gpu`, or 1 for `auto`."""
        return 1.0 if self.gpu == "auto" else self.gpu
