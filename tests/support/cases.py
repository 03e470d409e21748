"""Loop over many cases inside one test, and name the cases that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def check_all(cases: Iterable[tuple[Any, ...]], check: Callable[..., None]) -> None:
    """Call `check(*case)` for every case; fail with the name and error of each case that fails.

    Raises:
        AssertionError: a case failed, or there was no case.
    """
    failures, count = [], 0
    for case in cases:
        count += 1
        try:
            check(*case)
        except pytest.fail.Exception as error:
            failures.append(f"{name_case(case)}: {error}")
        except Exception as error:
            failures.append(f"{name_case(case)}: {type(error).__name__}: {error}")
    assert count, "there is no case to check"
    assert not failures, f"{len(failures)} of {count} cases fail:\n" + "\n".join(failures)


def name_case(case: Iterable[Any]) -> str:
    """Name a case in a message: `conv1x1 down=max 3x4x4 2x4x4`."""
    return " ".join(name_value(value) or str(value) for value in case)


def name_value(value: object) -> str | None:
    """Name a shape or options, for a test's id or a message; None for other values."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"
    return None
