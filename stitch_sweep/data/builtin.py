"""The data sets that come with Stitch Sweep; importing this module registers them."""

from stitch_sweep.data.sources import (  # noqa: F401
    digits,
    image_folder,
    in_memory,
    numpy,
    parquet,
    save_to_disk,
    torchvision,
    webdataset,
)
