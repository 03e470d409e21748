"""Weights in files: read a state dict, and fit it into a network."""
