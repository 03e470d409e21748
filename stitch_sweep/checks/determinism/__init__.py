"""Record the computations at the start of a run, and compare two recordings."""
