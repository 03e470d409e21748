"""The content of a function or class, as a hash."""

from __future__ import annotations

import hashlib
import inspect
from types import CodeType
from typing import Any


def hash_object(factory: Any) -> str:
    """Return the SHA-256 (hex) of the source of a function or class.

    Without its source, as in Python's prompt, it is that of the bytecode of its functions.
    """
    try:
        text = inspect.getsource(factory)
    except (OSError, TypeError):
        functions = vars(factory).values() if inspect.isclass(factory) else [factory]
        codes = [getattr(function, "__code__", None) for function in functions]
        text = repr([_describe_code(code) for code in codes if code is not None])
    return hashlib.sha256(text.encode()).hexdigest()


def _describe_code(code: CodeType) -> list[Any]:
    """Describe compiled code without its place."""
    return [code.co_code, code.co_names, [_describe_constant(c) for c in code.co_consts]]


def _describe_constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _describe_code(value)
    # The order of a set of texts differs between processes.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value
