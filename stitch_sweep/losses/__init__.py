"""Losses for the training of stitches. The same functions measure similarity."""
