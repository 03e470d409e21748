"""Fixtures of the tests of tracking with processes."""

from tests.support.tracking import no_tracking_settings  # noqa: F401  (a fixture)
