"""Checks that rule out bugs; each is tested with a planted fault."""
