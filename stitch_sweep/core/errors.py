"""Exceptions that the command line explains without a traceback, and the nearest-name hint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

LONGEST_MESSAGE = 1950
"""Largest number of characters of one problem. A problem may quote foreign text of any length. The
printed line has a prefix."""


class InputError(Exception):
    """The user's input is invalid. Nothing was started and nothing was written.

    The command line prints the problems and exits with status 2, without a traceback.

    Args:
        problems: one sentence each: where the problem is, what the value is, what is allowed.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = [_shorten(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


def _shorten(text: str) -> str:
    if len(text) <= LONGEST_MESSAGE:
        return text
    gap = " [...] "
    half = (LONGEST_MESSAGE - len(gap)) // 2
    return f"{text[:half]}{gap}{text[-half:]}"


def check_all(*checks: Callable[[], object]) -> None:
    """Run all checks and raise their problems together.

    Raises:
        InputError: at least one check raised an `InputError`.
    """
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)


class StoppedError(Exception):
    """A problem with the machine ended a sweep. All ended trials are recorded, and `--resume`
    continues.

    The command line prints the message and exits with status 1, without a traceback.
    """


class DivergedError(Exception):
    """The training of a network produced NaN or infinite values. Nothing is stored."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return a hint for a message: the allowed word most similar to `word`, or all allowed words.

    Example:
        >>> nearest("stich", ["stitch", "loss"])
        "did you mean 'stitch'?"
    """
    allowed = sorted(allowed)
    # Longer words are similar to no allowed word, and comparing them would take long.
    word = word[: 2 * max(map(len, allowed), default=0) + 1]
    match = get_close_matches(word, allowed, n=1, cutoff=0.6)
    if match:
        return f"did you mean {match[0]!r}?"
    return "allowed: " + ", ".join(allowed) if allowed else "nothing is allowed here"
