"""The official training and test images of a data set.

A data set is a factory that is registered under the name a configuration uses:

    @DATASETS.register("squares")
    def squares(image_size: int | None, *, path: str) -> Source: ...

It is called with the requested image size (None: keep the stored size) and returns a `Source` whose
images have that size. Its keyword-only parameters are the data set's options.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from stitch_sweep.data.decoding import resize
from stitch_sweep.data.images import Images

OFFICIAL_SPLITS = ("train", "test")
"""The splits that a data set comes with. Validation images are usually cut from `train`."""


@dataclass(frozen=True, eq=False)
class Source:
    """A data set in its official splits.

    Args:
        train: official training images.
        test: official test images, of the same shape.
        classes: name of each class; label k means `classes[k]`.
        notes: remarks for the user on how the files were read, a sentence each.
        validation: official validation images; None if they are cut from `train`.
        normalization: mean and standard deviation of each channel, both `C` float32 in units where 255 is
            1, that networks expect; None for those of the training images.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    validation: Images | None = None
    normalization: tuple[Tensor, Tensor] | None = None

    def resized(self, size: int | None) -> Source:
        """Return the same data set with images of `size x size` pixels; None keeps them as they are."""

        def resize_split(split: Images) -> Images:
            return replace(split, images=resize(split.images, size))

        return replace(
            self,
            train=resize_split(self.train),
            test=resize_split(self.test),
            validation=None if self.validation is None else resize_split(self.validation),
        )
