"""Stitch Sweep: model stitching between frozen networks, swept, tracked and read."""

from importlib.metadata import version

__version__ = version("stitch-sweep")
