"""Section `data`: the images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stitch_sweep.config.components import Component
from stitch_sweep.core.bounds import Images, ImageSize, Seed, Text
from stitch_sweep.core.registry import DATASETS, Registry


class DataConfig(Component):
    """Data set, splits, number of images, augmentation and loader.

    ```yaml
    data: {name: cifar10, path: data, train_images: 10000}
    ```

    `loader: ffcv` needs [FFCV](https://ffcv.io), whose installation compiles code. First install a
    compiler and libraries, on Debian with `apt-get install g++ pkg-config python3-dev libopencv-dev
    libturbojpeg0-dev`. Then run `make ffcv` or `pip install 'ffcv>=1.0.2'`. The loader works for every
    data set: it writes the decoded and resized images of each split to a file with a checksum, and
    rewrites the file if it is damaged. The loaders `ffcv` and `torch` use the same image order and
    augmentation, so you may change the loader before a resume.
    """

    registry: ClassVar[Registry] = DATASETS
    section: ClassVar[str] = "data"

    name: str = Field(
        description="Name of a registered data set. Its options are keys of this section, too."
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="Side of the images in pixels, after resizing. Default: the size in the data set.",
    )
    split_seed: Seed = Field(
        default=0,
        description="Seed of the random choice of validation images, and of subsets. Sweeps with the "
        "same `split_seed` and `val_fraction` never train on each other's validation images.",
    )
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1,
        description="Share of the official training images that is used for validation. Not used for "
        "data sets with official validation images.",
    )
    train_images: Images | None = Field(
        default=None,
        description="Number of training images to use, with the class proportions of the data set. "
        "Default: all.",
    )
    test_images: Images | None = Field(
        default=None,
        description="Number of test images to use, with the class proportions of the data set. "
        "Default: all.",
    )
    augment: Literal["none", "crop_flip"] = Field(
        default="none",
        description="Augmentation of training images: `crop_flip` pads, crops at random, and flips "
        "horizontally at random. In an epoch, all trials get the same augmented images.",
    )
    loader: Literal["torch", "ffcv"] = Field(
        default="torch",
        description="Loader of the batches: `torch` reads from memory, `ffcv` from a file. Results "
        "don't depend on the loader.",
    )
    beton_folder: Text = Field(
        default="beton",
        description="Folder of FFCV's files. Each node of a cluster writes its own files.",
    )
