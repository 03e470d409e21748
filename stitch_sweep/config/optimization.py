"""Settings of optimizers and learning-rate schedules, shared by zoo networks and stitches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from torch import nn

from stitch_sweep.core.bounds import LearningRate
from stitch_sweep.core.errors import nearest
from stitch_sweep.core.problems import Place, argument_problems, at_places, joined
from stitch_sweep.core.registry import Options

# LBFGS needs a closure, SparseAdam sparse gradients, Muon matrices: none trains a convolution.
_UNSUPPORTED = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}
_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and name not in _UNSUPPORTED
}

# A step that is differentiated, captured in a CUDA graph or taken uphill trains no stitch.
_HIDDEN = {"params", "lr", "differentiable", "capturable", "maximize"}


def _spare_the_compiler() -> None:
    """Keep `torch.optim` from importing torch's compiler, 1.5 s of every command's start.

    The methods below ask `torch._dynamo` not to trace them, and import it for that. Nobody traces
    optimizers here, so they may run as they are. Where torch has changed this, nothing happens.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None:
            vars(method).setdefault("__dynamo_disable", method)


_spare_the_compiler()


class OptimizerConfig(BaseModel):
    """An optimizer of torch.optim: its name in any case, and the arguments of its class.

    `lr` may be left out; the loss that is trained then decides it.

    Example:
        >>> OptimizerConfig.model_validate({"name": "sgd", "lr": 0.1, "momentum": 0.9}).options
        {'momentum': 0.9}
    """

    model_config = ConfigDict(extra="allow", strict=True)

    name: str = "adam"
    lr: LearningRate | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The class's arguments other than `params` and `lr`."""
        return dict(self.model_extra or {})

    @model_validator(mode="wrap")
    @classmethod
    def _fits_its_class(
        cls, values: Any, handler: ModelWrapValidatorHandler[OptimizerConfig]
    ) -> OptimizerConfig:
        if isinstance(values, cls):
            return handler(values)
        errors = []
        try:
            optimizer = handler(values)
        except ValidationError as error:
            errors.append(error)
        if isinstance(values, Mapping) and (found := list(_problems(values))):
            errors.append(at_places("optimizer", found))
        if errors:
            raise joined("optimizer", errors)
        # A convolution's weight: what can't be trained must be refused now, not in a worker.
        parameter = nn.Parameter(torch.zeros(1, 1, 1, 1))
        try:
            optimizer.build([parameter], default_lr=1e-3)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PydanticCustomError(
                "ours", "{name} refuses these settings: {why}",
                {"name": _CLASSES[optimizer.name.lower()].__name__, "why": str(error)},
            ) from None  # fmt: skip
        return optimizer

    def build(self, parameters: Iterable[nn.Parameter], default_lr: float) -> torch.optim.Optimizer:
        """The optimizer over `parameters`, with `default_lr` where no learning rate was given."""
        lr = self.lr if self.lr is not None else default_lr
        cls: Any = _CLASSES[self.name.lower()]
        return cls(parameters, lr=lr, **self.options)

    def arguments(self, default_lr: float) -> dict[str, Any]:
        """Everything that decides the optimizer that `build` makes, defaults filled in."""
        cls = _CLASSES[self.name.lower()]
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(cls).parameters.items()
            if name not in _HIDDEN
        }
        lr = self.lr if self.lr is not None else default_lr
        return {**defaults, **self.options, "name": self.name.lower(), "lr": lr}


def _problems(values: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """What is wrong with an optimizer's name or with arguments other than `lr`."""
    name = values.get("name", OptimizerConfig.model_fields["name"].default)
    if not isinstance(name, str):
        return
    chosen = _CLASSES.get(name.lower())
    if chosen is None:
        hint = nearest(name.lower(), _CLASSES)
        yield ("name",), f"no optimizer of torch.optim is named {name!r}: {hint}"
        return
    given = {key: value for key, value in values.items() if key not in {"name", "lr"}}
    yield from argument_problems(chosen, given, _HIDDEN)


class ScheduleConfig(Options):
    """How the learning rate moves over a training, as a factor of its base value.

    With T steps in all and W = round(warmup * T), the factor at step t (counted from 0) is

        (t + 1) / W                                    for t < W
        1                                              afterwards, `constant`
        (1 + cos(pi * (t - W) / (T - W))) / 2          afterwards, `warmup_cosine`
        1 - (t - W) / (T - W)                          afterwards, `linear`

    The cosine is that of Loshchilov & Hutter 2017 (arXiv 1608.03983), without restarts. Warm-up is a
    share of the training and below 1, so it can't outlast it.
    """

    name: Literal["warmup_cosine", "linear", "constant"] = "warmup_cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def factor(self, step: int, total: int) -> float:
        """The factor for the `step`-th (from 0) of `total` steps."""
        warmup = round(self.warmup * total)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        if self.name == "warmup_cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1.0 if self.name == "constant" else 1 - progress
