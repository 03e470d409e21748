"""One stitching matrix: its values, order parameters, verdict and uncertainty."""
