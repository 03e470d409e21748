"""Tables that need networks, images and stored stitches: what an analysis starts from beside results.

Example:
    >>> measure("experiments/quickstart/digits").notes  # doctest: +SKIP
    []
"""

from stitch_sweep.measuring.pictures import Picture, Pictures, read_pictures
from stitch_sweep.measuring.tables import TABLES, Measured, measure

__all__ = ["TABLES", "Measured", "Picture", "Pictures", "measure", "read_pictures"]
