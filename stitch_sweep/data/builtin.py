"""The data sets that come with Stitch Sweep; importing this module registers them."""

from stitch_sweep.data import parquet, sources  # noqa: F401
