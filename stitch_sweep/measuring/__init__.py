"""Measures of a finished sweep that need its networks, images and stored stitches."""
