"""Data sets as uint8 tensors: sources, splits, augmentation and loaders."""
