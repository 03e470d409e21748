"""Cutting of networks at layers: traced graphs, hooks, and the search for blocks."""
