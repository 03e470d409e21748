"""Pydantic's findings in plain words: where in the file, what is wanted, what was found."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from stitch_sweep.core.bounds import LARGEST_NUMBER
from stitch_sweep.core.credentials import public
from stitch_sweep.core.errors import nearest

Place = tuple[int | str, ...]

MOST_PROBLEMS = 100
"""Problems of one configuration that are described."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What may be a network's name: names become folder names, so nothing that could leave a folder."""

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "key: value pairs",
    "model_type": "key: value pairs",
    "model_attributes_type": "key: value pairs",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length} in the list",
    "too_long": "at most {max_length} in the list",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "a name that starts with a letter or digit and goes on with these, "
    "'.', '_' or '-'",
}
"""Pydantic's types of error, as what the place wants."""


def describe_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Pydantic's findings as sentences: path, what is wanted, what was found, the nearest right key.

    Args:
        error: what pydantic found.
        model: what was being validated; it knows the keys that are allowed.

    Example:
        >>> try:
        ...     TrainingConfig.model_validate({"epochs": "4"})
        ... except ValidationError as error:
        ...     describe_problems(error, TrainingConfig)
        ["epochs: wants a whole number, got '4'"]
    """
    sentences = []
    errors = error.errors(include_url=False)
    for found in errors[:MOST_PROBLEMS]:
        where = dotted(found["loc"])
        what = _sentence(found, model)
        sentences.append(f"{where}: {what}" if where else what)
    if len(errors) > MOST_PROBLEMS:
        sentences.append(f"... and {len(errors) - MOST_PROBLEMS} more problems")
    return list(dict.fromkeys(sentences))


def dotted(place: Place) -> str:
    """A place as it is written in messages: `networks[1].blocks`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_cut(part)}" for part in place)
    return text.removeprefix(".")


def show(value: Any) -> str:
    """A value as a user would write it, cut to a line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "key: value pairs"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 10_000:
        return (
            f"a whole number of {value.bit_length()} bits"  # Python writes none out that is so long
        )
    return _cut(repr(public(value)), len(value) if isinstance(value, str) else None)


def _cut(text: str, length: int | None = None) -> str:
    if len(text) <= 60:
        return text
    return f"{text[:40]}... ({len(text) if length is None else length} characters)"


def wants(wanted: str, got: Any) -> str:
    """The sentence of every wrong value."""
    return f"wants {wanted}, got {show(got)}"


def at_places(title: str, found: Iterable[tuple[Place, str]]) -> ValidationError:
    """Problems of our own as an error that pydantic moves to its place in the file."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("ours", "{why}", {"why": why}), loc=place, input=0
        )
        for place, why in found
    ]
    return ValidationError.from_exception_data(title, details)


def joined(title: str, errors: Iterable[ValidationError]) -> ValidationError:
    """Several errors as one."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                found["type"],
                "{why}",
                {**found.get("ctx", {}), "why": found["msg"]},
            ),
            loc=found["loc"],
            input=found["input"],
        )
        for error in errors
        for found in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(title, details)


def argument_problems(
    function: Callable[..., Any], given: Mapping[str, Any], hidden: Collection[str] = ()
) -> Iterator[tuple[Place, str]]:
    """What is wrong with arguments for a function of another library, as its defaults tell.

    Args:
        function: a function or class.
        given: arguments by name.
        hidden: parameters that can't be given here.
    """
    parameters = inspect.signature(function).parameters
    allowed = [name for name in parameters if name not in hidden]
    for name, value in given.items():
        if name not in allowed:
            yield (name,), f"unknown argument of {function.__name__}: {nearest(name, allowed)}"
        elif (wanted := _too_large(value) or _like(parameters[name].default, value)) is not None:
            yield (name,), wants(wanted, value)


def _too_large(value: Any) -> str | None:
    """What is wanted where a number, or one in a list, is out of range; None where none is."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(
        not isinstance(x, int | float) or not math.isfinite(x) or abs(x) <= LARGEST_NUMBER
        for x in numbers
    ):
        return None
    return f"numbers from {-LARGEST_NUMBER} to {LARGEST_NUMBER}"


def _like(default: Any, value: Any) -> str | None:
    """What is wanted where `value` can't take the place of `default`; None where it can."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and math.isfinite(value) else "a finite number"
    if isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(default)
        if fits and all(_like(d, v) is None for d, v in zip(default, value, strict=True)):
            return None
        return f"a list of {len(default)} numbers"
    if isinstance(default, str):
        return None if isinstance(value, str) else "text"
    if callable(default) and default is not inspect.Parameter.empty:
        return "a function, which a file can't hold"
    return None


def _sentence(found: ErrorDetails, model: type[BaseModel]) -> str:
    kind, place = found["type"], found["loc"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key: {nearest(str(place[-1]), _keys_at(model, place[:-1]))}"
    if kind == "value_error":
        return found["msg"].removeprefix("Value error, ")
    if kind not in _WANTED:
        return found["msg"]
    limits = {name: _plain(value) for name, value in found.get("ctx", {}).items()}
    sentence = wants(_WANTED[kind].format(**limits), found["input"])
    if found["input"] is None:
        sentence += "; leave the key out for its default, if it has one"
    return sentence


def _plain(value: Any) -> Any:
    """A limit as a user would write it: 1000000 for 1e6."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_NUMBER
    return int(value) if is_whole else value


def _keys_at(model: Any, place: Place) -> list[str]:
    """The keys allowed at a place of the configuration."""
    for part in place:
        field = getattr(model, "model_fields", {}).get(part)
        if field is not None:
            model = _model_in(field.annotation)
    return list(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
