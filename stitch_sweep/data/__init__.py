"""A data set has training and test images. Stitch Sweep takes validation images from the training
images.

Stitch Sweep uses official splits where a set has them:

- These sets have official validation images: `Country211`, `DTD`, `FGVCAircraft`, `Flowers102`, `PCAM`,
  `RenderedSST2`.
- If the labels of the test images are not public, the official validation images serve as the test
  split: `CLEVRClassification`, `ImageNet`, `Imagenette`, `Places365`.
- If there are no official splits, a stratified quarter, always the same, serves as the test split:
  `Caltech101`, `Caltech256`, `EuroSAT`, `SEMEION`, `SUN397`, `digits`.

All images are held in memory, so set `image_size` for large sets. The key is required if the images
differ in size or are not square. Pixels are normalized with the mean and the standard deviation of the
training images.

`sweep --dry-run`, `sweep` and `sanity` report duplicates: images that are equal in every pixel at
`image_size`. They count the duplicates within each split and between splits, and separately those with
different labels, with two examples. Copies that were compressed or resized again are not found.

For `parquet` and `webdataset`, `path` may be a pattern: `{000..009}` stands for ten numbers and
`{train,test}` for two words. A file must exist for each of them.
"""
