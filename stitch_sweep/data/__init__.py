"""A data set has training and test images, from which Stitch Sweep cuts validation images.

Splits follow the official ones where the set has them:

- Official validation images are used as such: `Country211`, `DTD`, `FGVCAircraft`, `Flowers102`, `PCAM`,
  `RenderedSST2`.
- If the labels of the test images are not public, the official validation images are the test split:
  `CLEVRClassification`, `ImageNet`, `Imagenette`, `Places365`.
- If there are no official splits, a stratified quarter, always the same, is the test split: `Caltech101`,
  `Caltech256`, `EuroSAT`, `SEMEION`, `SUN397`, `digits`.

All images are held in memory, so set `image_size` for large sets. It is required if the images differ
in size or are not square. Pixels are normalized with the mean and the standard deviation of the
training images.

Images that occur more than once, equal in every pixel at `image_size`, are counted within each split
and between splits, those with another label apart. `sweep --dry-run`, `sweep` and `sanity` report them,
with two examples. Copies that were compressed or resized again are not found.

A `path` of `parquet` and `webdataset` may be a pattern: `{000..009}` stands for ten numbers and
`{train,test}` for two words, each of which must exist.
"""
