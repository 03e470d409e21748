"""Keys `optimizer` and `schedule` of the sections `training` and `pretraining`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from torch import nn

from stitch_sweep.core.bounds import LearningRate
from stitch_sweep.core.errors import nearest
from stitch_sweep.core.problems import (
    Location,
    argument_problems,
    errors_at,
    join_errors,
    refusal,
)

# LBFGS needs a closure, SparseAdam needs sparse gradients, and Muon needs matrices: these optimizers
# can't train a convolution.
_UNSUPPORTED = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}
_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and name not in _UNSUPPORTED
}

# These arguments (differentiable steps, CUDA graphs, maximization) are useless for training a stitch.
_HIDDEN = {"params", "lr", "differentiable", "capturable", "maximize"}


def _avoid_compiler_import() -> None:
    """Keep `torch.optim` from importing torch's compiler, which takes 1.5 s at each command's start.

    The methods below import `torch._dynamo` to exclude themselves from its tracing. Stitch Sweep does not
    trace optimizers, so the methods can run unwrapped. If torch has changed this, nothing happens.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None:
            vars(method).setdefault("__dynamo_disable", method)


_avoid_compiler_import()


class OptimizerConfig(BaseModel):
    """An optimizer of torch.optim: its name in upper or lower case, and arguments of its class.

    ```yaml
    optimizer: {name: adamw, lr: 0.003, weight_decay: 0.01}
    ```

    Without `lr`, the learning rate of a stitch is the smallest default of its losses for this optimizer;
    in `pretraining`, it is 0.1. LBFGS, SparseAdam and Muon can't train a stitch and are refused.

    Example:
        >>> OptimizerConfig.model_validate({"name": "sgd", "lr": 0.1, "momentum": 0.9}).options
        {'momentum': 0.9}
    """

    model_config = ConfigDict(extra="allow", strict=True)

    name: str = Field(
        default="adam",
        description="Name of a class of torch.optim, in upper or lower case. All further keys are "
        "arguments of the class.",
    )
    lr: LearningRate | None = Field(
        default=None,
        description="Base learning rate. Default: depends on the loss and the optimizer.",
    )

    @classmethod
    def further_keys(cls) -> Iterator[str]:
        """Iterate over the arguments of all optimizers, which aren't fields of the section."""
        arguments = (name for c in _CLASSES.values() for name in inspect.signature(c).parameters)
        return iter(dict.fromkeys(name for name in arguments if name not in _HIDDEN))

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the class except `params` and `lr`."""
        return dict(self.model_extra or {})

    @model_validator(mode="wrap")
    @classmethod
    def _validate_arguments(
        cls, values: Any, handler: ModelWrapValidatorHandler[OptimizerConfig]
    ) -> OptimizerConfig:
        if isinstance(values, cls):
            return handler(values)
        errors = []
        try:
            optimizer = handler(values)
        except ValidationError as error:
            errors.append(error)
        if isinstance(values, Mapping) and (problems := list(_find_problems(values))):
            errors.append(errors_at("optimizer", problems))
        if errors:
            raise join_errors("optimizer", errors)
        # Build it now for the weight of a convolution, so that no worker meets an invalid optimizer.
        parameter = nn.Parameter(torch.zeros(1, 1, 1, 1))
        try:
            optimizer.build([parameter], default_lr=1e-3)
        except (TypeError, ValueError, RuntimeError) as error:
            name = _CLASSES[optimizer.name.lower()].__name__
            raise refusal(f"{name} refuses these settings: {error}") from None
        return optimizer

    def build(self, parameters: Iterable[nn.Parameter], default_lr: float) -> torch.optim.Optimizer:
        """Build the optimizer of `parameters`; `default_lr` is used if `lr` is None."""
        lr = self.lr if self.lr is not None else default_lr
        cls: Any = _CLASSES[self.name.lower()]
        return cls(parameters, lr=lr, **self.options)

    def arguments(self, default_lr: float) -> dict[str, Any]:
        """Return all arguments that define the optimizer made by `build`, with defaults."""
        cls = _CLASSES[self.name.lower()]
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(cls).parameters.items()
            if name not in _HIDDEN
        }
        lr = self.lr if self.lr is not None else default_lr
        return {**defaults, **self.options, "name": self.name.lower(), "lr": lr}


def _find_problems(values: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Check an optimizer's name and its arguments other than `lr`."""
    name = values.get("name", OptimizerConfig.model_fields["name"].default)
    if not isinstance(name, str):
        return
    optimizer_class = _CLASSES.get(name.lower())
    if optimizer_class is None:
        hint = nearest(name.lower(), _CLASSES)
        yield ("name",), f"no optimizer of torch.optim is named {name!r}: {hint}"
        return
    given = {key: value for key, value in values.items() if key not in {"name", "lr"}}
    yield from argument_problems(optimizer_class, given, _HIDDEN)
