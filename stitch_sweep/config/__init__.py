"""The configuration file: one module per section, reading, and checks of the search space."""
