"""Base class of the sections that name a registered object, and checks that several sections share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from stitch_sweep.config.shorthand import lengthen
from stitch_sweep.core.bounds import LONGEST_LIST
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import UnknownKey, errors_at, join_errors, mismatch, refusal
from stitch_sweep.core.registry import Registry


class Component(BaseModel):
    """Settings of a registered object: its name, the fields of the section, and the object's options.

    The options are keys of the same section as the fields. The registry validates them.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    registry: ClassVar[Registry]
    name_field: ClassVar[str] = "name"
    name_is_key: ClassVar[bool] = False
    """Whether the name is the key of the section, as in `loss: {mse: ...}`, and not a field in it."""
    section: ClassVar[str] = ""
    """Key of the section in a configuration, if a name may stand for the section."""

    @classmethod
    def further_keys(cls) -> Iterator[str]:
        """Iterate over the options of all registered objects, which aren't fields of the section."""
        keys = (
            key for name in cls.registry.names() for key in cls.registry.options(name).model_fields
        )
        return iter(dict.fromkeys(keys))

    @property
    def options(self) -> dict[str, Any]:
        """Validated options of the registered object, with defaults."""
        return dict(self.model_extra or {})

    @model_validator(mode="wrap")
    @classmethod
    def _validate_options(
        cls, values: Any, handler: ModelWrapValidatorHandler[Component]
    ) -> Component:
        if isinstance(values, cls):
            return handler(values)
        values = lengthen(cls.section, values)
        errors, options = [], {}
        try:
            component = handler(values)
        except ValidationError as error:
            errors.append(error)
        try:
            options = cls._check_options(values)
        except ValidationError as error:
            errors.append(error)
        if errors:
            raise join_errors(cls.__name__, errors)
        component.__pydantic_extra__ = options
        return component

    @classmethod
    def _check_options(cls, values: Any) -> dict[str, Any]:
        """Validate the options among raw `values` of any type, and fill in defaults."""
        if not isinstance(values, Mapping):
            return {}
        name = values.get(cls.name_field, cls.model_fields[cls.name_field].default)
        if not isinstance(name, str):
            return {}
        try:
            entry = cls.registry.get(name)
        except InputError as error:
            location = () if cls.name_is_key else (cls.name_field,)
            raise errors_at(cls.__name__, [(location, str(error))]) from None
        given = {key: value for key, value in values.items() if key not in cls.model_fields}
        allowed = {*entry.options.model_fields, *cls.model_fields}
        if cls.name_is_key:
            allowed.remove(cls.name_field)
        errors = []
        if unknown := unknown_keys(given, allowed):
            errors.append(errors_at(cls.__name__, unknown))
        try:
            options = entry.options.model_validate({k: v for k, v in given.items() if k in allowed})
        except ValidationError as error:
            errors.append(error)
        if errors:
            raise join_errors(cls.__name__, errors)
        return options.model_dump()


def unknown_keys(
    given: Mapping[str, Any], allowed: set[str]
) -> list[tuple[tuple[int | str, ...], str]]:
    """Return location and message of every key that is not allowed."""
    return [
        ((key,), UnknownKey(f"unknown key: {nearest(key, allowed)}"))
        for key in given
        if key not in allowed
    ]


def check_length(items: list[Any], value: Any) -> Any:
    """Return `value` if its list of `items` is not too long.

    Raises:
        PydanticCustomError: the list is longer than `LONGEST_LIST`.
    """
    if len(items) > LONGEST_LIST:
        raise refusal(mismatch(f"at most {LONGEST_LIST} in the list", items))
    return value


def check_integers(value: Any, least: int, expected: str) -> Any:
    """Return `value` if it is "all" or a non-empty list of whole numbers from `least`.

    Args:
        value: raw value of any type.
        least: smallest number allowed.
        expected: description of the allowed values for the message.

    Raises:
        PydanticCustomError: the value is different, or the list is too long.
    """
    if value == "all":
        return value
    numbers = value if isinstance(value, list) else []
    wrong = [x for x in numbers if not isinstance(x, int) or isinstance(x, bool) or x < least]
    if not numbers or wrong:
        raise refusal(mismatch(expected, wrong[0] if wrong else value))
    return check_length(numbers, value)
