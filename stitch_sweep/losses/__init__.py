"""Losses that stitches are trained for. The same functions measure similarity."""
