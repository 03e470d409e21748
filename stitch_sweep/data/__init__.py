"""A data set has training and test images. Stitch Sweep takes validation images from the training
images.

Stitch Sweep uses official splits if a data set has them:

- These data sets have official validation images: `Country211`, `DTD`, `FGVCAircraft`, `Flowers102`,
  `PCAM`, `RenderedSST2`.
- If test images are missing or their labels are not public, the official validation images serve as
  the test split: `CLEVRClassification`, `ImageNet`, `Imagenette`, `Places365`.
- If there are no official splits, a fixed stratified quarter of the images serves as the test split:
  `Caltech101`, `Caltech256`, `EuroSAT`, `SEMEION`, `SUN397`, `digits`.
- Of `datasets`, `image_folder`, `parquet` and `webdataset`, only training and test splits are read.

All images are held in memory, so set a small `image_size` for large data sets. This key is required if
the images differ in size or are not square. Pixels are normalized with the mean and the standard
deviation of all official training images.

`sweep --dry-run`, `sweep` and `sanity` report duplicates: images whose pixels are all equal after
resizing to `image_size`. These commands count the duplicates within each split and between every two
splits, and how many of these have different labels. They print up to two examples for each count.
Copies that were compressed or resized again are not found.

For `parquet` and `webdataset`, `path` may be a pattern: `{000..009}` stands for ten numbers and
`{train,test}` for two words. A file must exist for each number and word.
"""
