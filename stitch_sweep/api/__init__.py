"""The public Python API, one file per subject; `stitch_sweep` offers its names."""
