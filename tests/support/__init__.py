"""Helpers that several test files use, one module per subject."""
