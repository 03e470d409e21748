"""Registries: names that a configuration may use for stitches, losses, network families and data sets.

An object is registered where it is defined. Its options are the keyword-only parameters of the registered
function or class, with their annotations and defaults. The registry makes a pydantic model of them, which
validates the configuration, so a new stitch needs no second description. The package, plugins (see
`core/plugins.py`) and users in a notebook register in the same way.

Example:
    >>> @STITCHES.register("scale")
    ... def scale(sender: Shape, receiver: Shape, *, factor: float = 1.0) -> nn.Module: ...
    >>> STITCHES.options("scale")(factor=2.0).model_dump()
    {'factor': 2.0}
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.core.object_hash import hash_object

F = TypeVar("F", bound=Callable[..., Any])
Resolver = Callable[[str], tuple[str, dict[str, Any]] | None]

_registries: dict[str, Registry] = {}
"""The registries by kind."""


class Options(BaseModel):
    """Base class of option models. Unknown keys and implicit type conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Registration:
    """A registered function or class.

    Attributes:
        kind: kind of the registry.
        name: its name in the registry.
        factory: the function or class.
        parameters: its options by name, each with its type and its default (`...` if it has none).
        module: name of the module that registered it.
        place: file and line of the registration, for messages.
        sha256: hash of the function or class (see `hash_object`); empty for objects of Stitch Sweep.
        options: the model of its options.
    """

    kind: str
    name: str
    factory: Callable[..., Any]
    parameters: Mapping[str, tuple[Any, Any]]
    module: str
    place: str
    sha256: str
    options: type[Options]

    @property
    def summary(self) -> str:
        """First line of the factory's docstring."""
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]

    @property
    def is_built_in(self) -> bool:
        """Whether Stitch Sweep itself registered it."""
        return _is_built_in(self.module)

    def replaces(self, other: Registration) -> bool:
        """Whether it is the same object, from a later run of its module."""
        paths = (getattr(e.factory, "__qualname__", None) for e in (self, other))
        return self.module == other.module and len(set(paths)) == 1

    @property
    def is_always_used(self) -> bool:
        """Whether every sweep uses it, without naming it."""
        return _registries[self.kind].always_used

    @property
    def decides_results(self) -> bool:
        """Whether it may change a result."""
        return _registries[self.kind].decides_results

    def __reduce__(self) -> tuple[Any, ...]:
        # Not the model: an annotation may name what only the registering process knows.
        values = (self.kind, self.name, self.factory, dict(self.parameters))
        return _receive, (*values, self.module, self.place, self.sha256)


class Registry:
    """A table of names of one kind, such as stitches or losses.

    Args:
        kind: word for the kind in messages, such as "stitch".
        module: dotted name of the module that registers the built-in objects when imported.
        always_used: whether every sweep uses all objects, without naming them.
        decides_results: whether the objects may change a result, so that their content belongs to a
            trial's identity.
        attributes: attributes that every object must have.
        base: the class that declares the attributes, for messages.
    """

    def __init__(
        self,
        kind: str,
        module: str,
        *,
        always_used: bool = False,
        decides_results: bool = True,
        attributes: Collection[str] = (),
        base: str = "",
    ) -> None:
        self.kind = kind
        self._attributes, self._base = attributes, base
        self.always_used = always_used
        self.decides_results = decides_results
        self._module = module
        self._entries: dict[str, Registration] = {}
        self._resolvers: list[Resolver] = []
        _registries[kind] = self

    def register(self, name: str) -> Callable[[F], F]:
        """Return a decorator that registers a factory (function or class) under `name`.

        Raises:
            InputError: another object has the name. A module that is executed again, such as the cell of
                a notebook, replaces its own object.
        """
        frame = sys._getframe(1)
        module = str(frame.f_globals.get("__name__"))
        place = f"{frame.f_code.co_filename}, line {frame.f_lineno}"

        def add(factory: F) -> F:
            sha256 = "" if _is_built_in(module) else hash_object(factory)
            self.add(
                _make_registration(
                    self.kind, name, factory, _read_parameters(factory), module, place, sha256
                )
            )
            return factory

        return add

    def add(self, entry: Registration) -> None:
        """Add an entry to the table.

        Raises:
            InputError: another object has its name, or it lacks an attribute.
        """
        if missing := [key for key in self._attributes if not hasattr(entry.factory, key)]:
            raise InputError(
                f"{self.kind} {entry.name!r} at {entry.place}: lacks {', '.join(missing)}; see "
                f"{self._base}"
            )
        if not entry.is_built_in:
            importlib.import_module(self._module)  # so that no built-in object comes second
        previous = self._entries.get(entry.name)
        if previous is not None and not entry.replaces(previous):
            raise InputError(
                f"two objects are registered as {self.kind} {entry.name!r}, at {previous.place} and "
                f"at {entry.place}; rename one of them"
            )
        self._entries[entry.name] = entry

    def drop(self, module: str) -> list[Registration]:
        """Remove everything that a module has registered, and return it."""
        names = [name for name, entry in self._entries.items() if entry.module == module]
        return [self._entries.pop(name) for name in names]

    def extensions(self) -> list[Registration]:
        """Return everything that Stitch Sweep itself has not registered, in the order of registration."""
        return [entry for entry in self._entries.values() if not entry.is_built_in]

    def has_extension(self, name: Any) -> bool:
        """Return whether a value is the name of an object that Stitch Sweep itself has not registered."""
        entry = self._entries.get(name) if isinstance(name, str) else None
        return entry is not None and not entry.is_built_in

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
        """Return all registered names, sorted; installed plugins are loaded first."""
        importlib.import_module(self._module)
        importlib.import_module("stitch_sweep.core.plugins").load_installed()
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
        """Call the factory of `name` with the positional `args` and the validated `options`.

        Raises:
            InputError: a factory outside of Stitch Sweep raised an exception.
        """
        entry = self.get(name)
        chosen = entry.options.model_validate(dict(options or {}))
        values = {key: getattr(chosen, key) for key in type(chosen).model_fields}
        if entry.is_built_in:
            return entry.factory(*args, **values)
        try:
            return entry.factory(*args, **values)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"{self.kind} {name!r} (registered at {entry.place}): {describe_error(error)}"
            ) from error


def accept_registered(registry: Registry, value: Any, handler: Callable[[Any], Any]) -> Any:
    """Validate a name: one that a plugin has registered, or one that `handler` accepts."""
    return value if registry.has_extension(value) else handler(value)


def drop_module(module: str) -> list[Registration]:
    """Remove everything that a module has registered, of all kinds, and return it."""
    return [entry for registry in _registries.values() for entry in registry.drop(module)]


def restore(entries: Iterable[Registration]) -> None:
    """Register again what `drop_module` has removed."""
    for entry in entries:
        _registries[entry.kind].add(entry)


def extensions() -> Iterator[Registration]:
    """Iterate over everything that Stitch Sweep itself has not registered."""
    for registry in _registries.values():
        yield from registry.extensions()


def _receive(kind: str, *values: Any) -> Registration:
    """Register an object of another process in this one."""
    entry = _make_registration(kind, *values)
    _registries[kind].add(entry)
    return entry


def _make_registration(
    kind: str,
    name: str,
    factory: Callable[..., Any],
    parameters: Mapping[str, tuple[Any, Any]],
    module: str,
    place: str,
    sha256: str,
) -> Registration:
    fields: dict[str, Any] = dict(parameters)
    options = create_model(f"{name}_options", __base__=Options, **fields)
    return Registration(kind, name, factory, parameters, module, place, sha256, options)


def _is_built_in(module: str) -> bool:
    return module.partition(".")[0] == "stitch_sweep"


def _read_parameters(factory: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return type and default of each keyword-only parameter."""
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(target, include_extras=True)
    return {
        key: (hints[key], ... if parameter.default is parameter.empty else parameter.default)
        for key, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


STITCHES = Registry("stitch", "stitch_sweep.stitches.builtin")
LOSSES = Registry(
    "loss",
    "stitch_sweep.losses.builtin",
    attributes=("needs_logits", "needs_expected", "default_lr", "invariance", "calibration"),
    base="stitch_sweep.losses.base.Loss",
)
FAMILIES = Registry("network family", "stitch_sweep.networks.families.builtin")
DATASETS = Registry("data set", "stitch_sweep.data.builtin")
CONTROLS = Registry("control", "stitch_sweep.config.controls")
SHRINKING_RULES = Registry("rule for an axis that shrinks", "stitch_sweep.stitches.resizing")
GROWING_RULES = Registry("rule for an axis that grows", "stitch_sweep.stitches.resizing")
CALLBACKS = Registry("callback", "stitch_sweep.core.registry", decides_results=False)
