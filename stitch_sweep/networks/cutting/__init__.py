"""Cutting a network at a layer: traced graphs, hooks, and the blocks to cut between."""
