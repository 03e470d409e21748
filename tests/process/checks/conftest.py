"""A subject for sanity checks."""

from tests.support.subjects import subject  # noqa: F401  (a fixture)
