"""A ladder of network sizes: its points, the fitted models and the phase transition."""
