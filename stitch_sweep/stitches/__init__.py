"""Stitches: the small trainable maps that join two frozen networks."""
