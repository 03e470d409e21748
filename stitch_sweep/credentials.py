"""What must not get into files, messages or reports: credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(r"passw|secret|token|credential|auth|bearer|(api|access)_?key", re.IGNORECASE)
# Up to the last @ and all parameters: a password may hold any sign, and rather too much goes.
_USER_INFO = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)\S*@")
_PARAMETERS = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s?]*)\?\S*")


def public(value: Any) -> Any:
    """Plain data without credentials: those in URIs, and values whose key sounds like one.

    Example:
        >>> public({"uri": "https://me:word@host/x", "api_key": "123"})
        {'uri': 'https://host/x', 'api_key': '(not shown)'}
    """
    if isinstance(value, Mapping):
        return {
            str(key): "(not shown)" if _SECRET.search(str(key)) and item else public(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    return _PARAMETERS.sub(r"\1", _USER_INFO.sub(r"\1", value)) if isinstance(value, str) else value
