"""Section `loss`: the training objective of a stitch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    model_serializer,
    model_validator,
)

from stitch_sweep.config.components import Component
from stitch_sweep.config.shorthand import lengthen
from stitch_sweep.core.bounds import Above0
from stitch_sweep.core.problems import errors_at, mismatch, refusal
from stitch_sweep.core.registry import LOSSES, Registry


class LossTerm(Component):
    """The training objective of a stitch: names of losses with weights.

    ```yaml
    loss: {task: 1.0, soft_task: {weight: 0.5, temperature: 4}}
    ```

    A number is short for `{weight: number}`. The options of a loss are keys next to its `weight`. You
    can cross and search weights and options, such as `loss.soft_task.temperature`. Before a sweep
    starts, Stitch Sweep lists the cells in which a loss can't train the stitch. The keys of each term of
    the sum are:
    """

    registry: ClassVar[Registry] = LOSSES
    name_is_key: ClassVar[bool] = True

    name: str = Field(description="Name of a registered loss: the key of the term.")
    weight: Above0 = Field(
        default=1.0, description="Factor of this term in the weighted sum of losses."
    )

    @property
    def label(self) -> str:
        """Name, the weight unless it is 1, and the options that differ from their defaults."""
        defaults = LOSSES.get(self.name).options().model_dump()
        changed = {key: value for key, value in self.options.items() if value != defaults[key]}
        return _label(self.name, self.weight, changed)


def _label(name: str, weight: float, options: Mapping[str, Any]) -> str:
    text = name if weight == 1 else f"{weight:g}*{name}"
    return text + (f"({', '.join(f'{k}={v}' for k, v in options.items())})" if options else "")


class LossConfig(RootModel[dict[str, LossTerm]]):
    """A weighted sum of losses: `{task: 1.0, mse: {weight: 0.5}}` in the file."""

    model_config = ConfigDict(strict=True)
    root: Annotated[dict[str, LossTerm], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _add_names(cls, value: Any) -> Any:
        value = lengthen("loss", value)
        if isinstance(value, list):
            expected = "a name, or names with weights, such as {task: 1.0, mse: 1.0}"
            raise refusal(f"{mismatch(expected, value)}; search.cross.loss compares several losses")
        if not isinstance(value, Mapping):
            return value
        if not value:
            raise refusal("expected at least one loss, such as task: 1.0")
        terms = {}
        for name, body in value.items():
            body = body if isinstance(body, Mapping) else {"weight": body}
            if "name" in body:
                problem = "not allowed, because the key of the term is its name"
                raise errors_at("loss", [((name, "name"), problem)])
            terms[name] = {**body, "name": name}
        return terms

    @model_serializer
    def _to_mapping(self) -> dict[str, Any]:
        return {
            term.name: {"weight": term.weight, **term.options} if term.options else term.weight
            for term in self.terms
        }

    @classmethod
    def further_keys(cls) -> Iterator[str]:
        """Iterate over the options of all losses, each below its loss's name."""
        for name in LOSSES.names():
            yield from (f"{name}.{option}" for option in LOSSES.options(name).model_fields)

    @property
    def terms(self) -> list[LossTerm]:
        """The terms in the order of the file."""
        return list(self.root.values())

    @property
    def label(self) -> str:
        """Short name of the sum: `task`, `task+0.5*mse`, `soft_task(temperature=8.0)`."""
        return "+".join(term.label for term in self.terms)


def recorded_label(loss: Any) -> str | None:
    """Return the label of the loss in a trial's record; None if it isn't a loss.

    The label of a loss of a plugin that isn't loaded contains all its options, because their defaults
    aren't known.
    """
    try:
        return LossConfig.model_validate(loss).label
    except ValidationError:
        names = list(loss) if isinstance(loss, Mapping) else []
    if all(name in LOSSES.names() for name in names):
        return None
    labels = []
    for name, body in loss.items():
        options = dict(body) if isinstance(body, Mapping) else {"weight": body}
        weight = options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            return None
        labels.append(_label(name, weight, options))
    return "+".join(labels)
