"""The one exception that means "the input was wrong", and the nearest-name hint it often carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

LONGEST_MESSAGE = 2000
"""Characters of one problem: what somebody else wrote may be in it, of any length."""


class InputError(Exception):
    """What the user gave can't be used; nothing was started and nothing was written.

    The command line prints the problems and exits with status 2, without a traceback.

    Args:
        problems: one sentence each: where it is, what was found, what is allowed.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = [_cut(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


def _cut(text: str) -> str:
    if len(text) <= LONGEST_MESSAGE:
        return text
    half = LONGEST_MESSAGE // 2
    return f"{text[:half]} [...] {text[-half:]}"


def check_all(*checks: Callable[[], object]) -> None:
    """Run every check, and raise what they found together.

    Raises:
        InputError: some check raised one.
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
    """The machine ended a sweep, not the input: what had ended is recorded, and `--resume` goes on.

    The command line prints it and exits with status 1, without a traceback.
    """


class DivergedError(Exception):
    """A network's training stopped being finite: not a result, and nothing of it was stored."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint to append to a message: the allowed word most like `word`, or all allowed ones.

    Example:
        >>> nearest("stich", ["stitch", "loss"])
        "did you mean 'stitch'?"
    """
    allowed = sorted(allowed)
    word = word[: 2 * max(map(len, allowed), default=0) + 1]  # a longer one is like none of them
    match = get_close_matches(word, allowed, n=1, cutoff=0.6)
    if match:
        return f"did you mean {match[0]!r}?"
    return "allowed: " + ", ".join(allowed) if allowed else "nothing is allowed here"
