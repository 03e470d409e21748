"""Validation errors of pydantic as sentences: the place in the file, the expected and the given value."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from stitch_sweep.core.bounds import LARGEST_NUMBER
from stitch_sweep.core.credentials import redact
from stitch_sweep.core.errors import nearest
from stitch_sweep.core.key_places import find_model, find_places

Location = tuple[int | str, ...]
"""Keys and list indices that lead to a value in a configuration."""

MOST_PROBLEMS = 100
"""Largest number of problems of one configuration that are described."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Pattern of a network's name. Names become folder names, so paths such as `../x` are excluded."""

_UNKNOWN_KEY = "unknown_key"
"""Error type of an `UnknownKey`."""

_EXPECTED = {
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
    "string_pattern_mismatch": "a name of letters, digits, '.', '_' or '-' that starts with a letter or "
    "digit",
}
"""Expected values, for each error type of pydantic."""


def describe_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Describe validation errors in sentences: path, expected value, given value, nearest valid key.

    Args:
        error: errors that pydantic found.
        model: the validated model, which defines the valid keys.

    Example:
        >>> try:
        ...     TrainingConfig.model_validate({"epochs": "4"})
        ... except ValidationError as error:
        ...     describe_problems(error, TrainingConfig)
        ["epochs: expected a whole number, got '4'"]
    """
    sentences = []
    errors = error.errors(include_url=False)
    for details in errors[:MOST_PROBLEMS]:
        path = dotted(details["loc"])
        sentence = _describe(details, model)
        sentences.append(f"{path}: {sentence}" if path else sentence)
    if len(errors) > MOST_PROBLEMS:
        sentences.append(f"... and {len(errors) - MOST_PROBLEMS} more problems")
    return list(dict.fromkeys(sentences))


def dotted(location: Location) -> str:
    """Return a location as messages write it: `networks[1].blocks`."""
    text = "".join(
        f"[{part}]" if isinstance(part, int) else f".{_shorten(part)}" for part in location
    )
    return text.removeprefix(".")


def show(value: Any) -> str:
    """Return a value as a user would write it, shortened to one line and without credentials."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "key: value pairs"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 10_000:
        # Python refuses to print such a long number.
        return f"a whole number of {value.bit_length()} bits"
    return _shorten(repr(redact(value)), len(value) if isinstance(value, str) else None)


def _shorten(text: str, length: int | None = None) -> str:
    if len(text) <= 60:
        return text
    return f"{text[:40]}... ({len(text) if length is None else length} characters)"


def mismatch(expected: str, value: Any) -> str:
    """Return the sentence for a value that is not as expected."""
    return f"expected {expected}, got {show(value)}"


class UnknownKey(str):
    """The message about a key that its section doesn't have; another section may have it."""


def refusal(problem: str) -> PydanticCustomError:
    """Return an error for a pydantic validator to raise, with this message."""
    kind = _UNKNOWN_KEY if isinstance(problem, UnknownKey) else "stitch_sweep"
    return PydanticCustomError(kind, "{problem}", {"problem": str(problem)})


def errors_at(title: str, problems: Iterable[tuple[Location, str]]) -> ValidationError:
    """Return problems as a validation error, which pydantic places relative to the validated model.

    Args:
        title: name of the model; not shown to users.
        problems: location within the model, and message.
    """
    details = [
        InitErrorDetails(type=refusal(problem), loc=location, input=0)
        for location, problem in problems
    ]
    return ValidationError.from_exception_data(title, details)


def join_errors(title: str, errors: Iterable[ValidationError]) -> ValidationError:
    """Return several validation errors as one."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                details["type"],
                "{problem}",
                {**details.get("ctx", {}), "problem": details["msg"]},
            ),
            loc=details["loc"],
            input=details["input"],
        )
        for error in errors
        for details in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(title, details)


def argument_problems(
    function: Callable[..., Any], given: Mapping[str, Any], hidden: Collection[str] = ()
) -> Iterator[tuple[Location, str]]:
    """Check arguments for a function of another library against its signature and defaults.

    Args:
        function: a function or class.
        given: arguments by name.
        hidden: parameters that a configuration can't set.

    Yields:
        Location and message of each problem.
    """
    parameters = _parameters(function)
    allowed = [name for name in parameters if name not in hidden]
    for name, value in given.items():
        if name not in allowed:
            hint = f"unknown argument of {function.__name__}: {nearest(name, allowed)}"
            yield (name,), UnknownKey(hint)
            continue
        expected = _expected_range(value) or _expected_type(parameters[name].default, value)
        if expected is not None:
            yield (name,), mismatch(expected, value)


@functools.cache
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function or class; checking a search space asks thousands of times."""
    return inspect.signature(function).parameters


def _expected_range(value: Any) -> str | None:
    """Return the allowed range, if a number or a number in a list is outside of it; else None."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(
        not isinstance(x, int | float) or not math.isfinite(x) or abs(x) <= LARGEST_NUMBER
        for x in numbers
    ):
        return None
    return f"numbers from {-LARGEST_NUMBER} to {LARGEST_NUMBER}"


def _expected_type(default: Any, value: Any) -> str | None:
    """Return the expected type, if `value` can't replace `default`; else None."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number and math.isfinite(value) else "a finite number"
    if isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(default)
        if fits and all(_expected_type(d, v) is None for d, v in zip(default, value, strict=True)):
            return None
        return f"a list of {len(default)} numbers"
    if isinstance(default, str):
        return None if isinstance(value, str) else "text"
    if callable(default) and default is not inspect.Parameter.empty:
        return "a function, which a configuration can't contain"
    return None


def _describe(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, location = details["type"], details["loc"]
    if kind == "missing":
        return "is missing"
    if kind in (_UNKNOWN_KEY, "extra_forbidden"):
        if places := find_places(dotted(location), model):
            return f"unknown key: set {' or '.join(places)}"
        if kind == _UNKNOWN_KEY:
            return details["msg"]
        return f"unknown key: {nearest(str(location[-1]), _keys_at(model, location[:-1]))}"
    if kind == "value_error":
        return details["msg"].removeprefix("Value error, ")
    if kind not in _EXPECTED:
        return details["msg"]
    limits = {name: _plain(value) for name, value in details.get("ctx", {}).items()}
    sentence = mismatch(_EXPECTED[kind].format(**limits), details["input"])
    if details["input"] is None:
        sentence += "; remove the key to use its default, if it has one"
    return sentence


def _plain(value: Any) -> Any:
    """Return a limit as a user would write it: 1000000 for 1e6."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_NUMBER
    return int(value) if is_whole else value


def _keys_at(model: Any, location: Location) -> list[str]:
    """Return the valid keys at a location of the configuration."""
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is not None:
            model = find_model(field.annotation, in_mappings=True)[0]
    return list(getattr(model, "model_fields", {}))
