"""Checks that rule out bugs, on a configuration's networks and on tiny ones."""
