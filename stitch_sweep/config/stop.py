"""Section `search.stop`: when a study, or the whole sweep, gets no further trials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from stitch_sweep.config.defaults import without_defaults
from stitch_sweep.core.bounds import Number, Positive
from stitch_sweep.core.problems import Location, errors_at
from stitch_sweep.core.registry import Options


class StopConfig(Options):
    """Conditions under which further trials are skipped; each condition is optional.

    ```yaml
    search:
      space: {training.optimizer.lr: {type: float, low: 0.001, high: 0.1, log: true}}
      samples: 50
      stop: {trials: 2000, target: 0.95, patience: 10}
    ```

    All conditions depend only on the configuration and on a study's own results, so the same trials are
    skipped after a resume, and with any number of workers. A round of `parallel_per_study` trials always
    runs to its end. `--resume` with looser conditions runs more trials.
    """

    trials: Positive | None = Field(
        default=None,
        description="Maximum number of trials of the sweep. Each study gets an equal share of this "
        "number, and runs only that many of its trials; a remainder goes to the first studies. Default: "
        "all.",
    )
    metric: Literal["val_accuracy", "val_loss"] | None = Field(
        default=None, description="Metric that `target` refers to. Default: `search.metric`."
    )
    target: Number | None = Field(
        default=None,
        description="Value of `metric` that is good enough: a study with a finished trial that "
        "reaches this value gets no further trials.",
    )
    patience: Positive | None = Field(
        default=None,
        description="Number of trials in a row without a new best value of `search.metric` after "
        "which a study gets no further trials. Failed and stopped trials count, too, but only after the "
        "first finished trial.",
    )

    @model_validator(mode="after")
    def _validate(self) -> StopConfig:
        if problems := list(self._find_problems()):
            raise errors_at("stop", problems)
        return self

    def _find_problems(self) -> Iterator[tuple[Location, str]]:
        if self.trials is self.target is self.patience is None:
            yield (), "has no condition; set trials, target or patience"
        if self.metric is not None and self.target is None:
            yield ("metric",), "is the metric of target, which is missing"

    @property
    def ends_studies(self) -> bool:
        """Whether a study's results may end it."""
        return self.target is not None or self.patience is not None

    @model_serializer(mode="wrap")
    def _drop_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return without_defaults(self, handler(self), list(type(self).model_fields))
