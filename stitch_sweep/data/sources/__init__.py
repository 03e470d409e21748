"""Sources of images: one module per data set, and helpers that find its files."""
