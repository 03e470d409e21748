"""Training one stitch: representations, loop, convergence, checkpoints; assemblies."""
