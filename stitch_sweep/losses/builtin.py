"""The losses of Stitch Sweep; importing this module registers them."""

from stitch_sweep.losses import alignment, cca, cka, correlation, cosine, mse, task  # noqa: F401
