"""Checks of a configuration's computations: `sanity` rules out bugs, `determinism` compares two runs."""
