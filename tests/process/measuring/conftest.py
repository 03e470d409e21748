"""Experiment folders of one small sweep; the sweep runs once per session."""

from tests.support.measured_sweep import finished, measured, told  # noqa: F401  (fixtures)
