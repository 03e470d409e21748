"""Registries: names that a configuration may use for stitches, losses, network families and data sets.

An object is registered where it is defined. Its options are the keyword-only parameters of the registered
function or class, with their annotations and defaults. The registry makes a pydantic model of them, which
validates the configuration, so a new stitch needs no second description.

Example:
    >>> @STITCHES.register("scale")
    ... def scale(sender: Shape, receiver: Shape, *, factor: float = 1.0) -> nn.Module: ...
    >>> STITCHES.options("scale")(factor=2.0).model_dump()
    {'factor': 2.0}
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from stitch_sweep.core.errors import InputError, nearest

F = TypeVar("F", bound=Callable[..., Any])
Resolver = Callable[[str], tuple[str, dict[str, Any]] | None]


class Options(BaseModel):
    """Base class of option models. Unknown keys and implicit type conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Registration:
    """A registered function or class: its name, the factory, and the model of its options."""

    name: str
    factory: Callable[..., Any]
    options: type[Options]

    @property
    def summary(self) -> str:
        """First line of the factory's docstring."""
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]


class Registry:
    """A table of names of one kind, such as stitches or losses.

    Args:
        kind: word for the kind in messages, such as "stitch".
        module: dotted name of the module that registers the built-in objects when imported.
    """

    def __init__(self, kind: str, module: str) -> None:
        self.kind = kind
        self._module = module
        self._entries: dict[str, Registration] = {}
        self._resolvers: list[Resolver] = []

    def register(self, name: str) -> Callable[[F], F]:
        """Return a decorator that registers a factory (function or class) under `name`.

        Raises:
            ValueError: the name is registered already.
        """

        def add(factory: F) -> F:
            if name in self._entries:
                raise ValueError(f"a {self.kind} named {name!r} is registered already")
            self._entries[name] = Registration(name, factory, _make_options_model(name, factory))
            return factory

        return add

    def register_resolver(self, resolver: Resolver) -> Resolver:
        """Register a function that turns a short name ("resnet18") into (name, options), or None.

        Use it as a decorator.
        """
        self._resolvers.append(resolver)
        return resolver

    def resolve(self, name: str) -> tuple[str, dict[str, Any]]:
        """Return the name and options of a short name; other names are returned without options."""
        if name not in self.names():
            for resolver in self._resolvers:
                if (resolved := resolver(name)) is not None:
                    return resolved
        return name, {}

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        importlib.import_module(self._module)
        return sorted(self._entries)

    def get(self, name: str) -> Registration:
        """Return the registration of a name.

        Raises:
            InputError: the name is not registered; the message suggests the nearest name.
        """
        # Importing the module and sorting all names takes longer than the look-up itself.
        if name not in self._entries and name not in self.names():
            raise InputError(f"no {self.kind} is named {name!r}: {nearest(name, self._entries)}")
        return self._entries[name]

    def options(self, name: str) -> type[Options]:
        """Return the pydantic model of the options of `name`."""
        return self.get(name).options

    def build(self, name: str, *args: Any, options: Mapping[str, Any] | None = None) -> Any:
        """Call the factory of `name` with the positional `args` and the validated `options`."""
        entry = self.get(name)
        chosen = entry.options.model_validate(dict(options or {}))
        return entry.factory(
            *args, **{key: getattr(chosen, key) for key in type(chosen).model_fields}
        )


def _make_options_model(name: str, factory: Callable[..., Any]) -> type[Options]:
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(target, include_extras=True)
    fields: dict[str, Any] = {
        key: (hints[key], ... if parameter.default is parameter.empty else parameter.default)
        for key, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return create_model(f"{name}_options", __base__=Options, **fields)


STITCHES = Registry("stitch", "stitch_sweep.stitches.builtin")
LOSSES = Registry("loss", "stitch_sweep.losses.builtin")
FAMILIES = Registry("network family", "stitch_sweep.networks.families.builtin")
DATASETS = Registry("data set", "stitch_sweep.data.builtin")
